//! `history`; and `schema` and `completions`, which need no server.

use super::{CONFIG, Cli, entries};
use crate::support::Nats;
use std::io::Write;
use std::process::{Command, Stdio};

#[tokio::test]
async fn history_shows_every_edit_with_its_author_markers_and_garbage_included() {
    require!("nats-server");
    let nats = Nats::start().await;
    let cli = Cli::installed(&nats).await;
    assert!(cli.fails(4, &["history", "metrics"]).await.contains("'metrics'"));
    cli.ok(&["publish", "metrics", "-f", &cli.file("metrics.yml", CONFIG)]).await;
    cli.ok(&["pause", "metrics"]).await;
    let bucket = entries(&nats).await;
    bucket.put("metrics", "\u{1b}[31mgarbage".into()).await.unwrap();
    bucket.put("metrics", r#"{"key":"metrics","subs":[]}"#.into()).await.unwrap();
    cli.ok(&["delete", "metrics", "--yes"]).await;
    let history = cli.json(&["history", "metrics"]).await;
    let puts = history["entry"].as_array().unwrap();
    let shown: Vec<_> = puts.iter().map(|put| (put["operation"].as_str().unwrap(), put["status"].as_str())).collect();
    let expected = [("put", Some("published")), ("put", Some("paused")), ("put", None), ("put", Some("derived")), ("delete", None)];
    assert_eq!(shown, expected);
    assert_eq!(puts.iter().map(|put| put["revision"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    assert!(puts[0]["author"].as_str().unwrap().contains('@') && puts[2]["problem"].as_str().unwrap().contains("not JSON"));
    let table = cli.ok(&["history", "metrics"]).await;
    assert!(!table.contains('\u{1b}') && table.lines().count() == 6, "{table}");
    let newest = cli.ok(&["history", "metrics", "--limit", "1"]).await;
    assert!(newest.contains("deleted") && newest.lines().count() == 2, "{newest}");
}

#[tokio::test]
async fn completions_are_made_without_settings_and_bash_takes_them() {
    let cli = Cli::new("nats://127.0.0.1:1");
    let missing = cli.file("broken.yml", "no: [settings");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = cli.command(&["completions", shell]).env("SLUICE_SETTINGS", &missing).output().await.unwrap();
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && script.contains("sluice") && script.contains("replay"), "{shell}");
        if shell == "bash" {
            let mut bash = Command::new("bash").arg("-n").stdin(Stdio::piped()).spawn().unwrap();
            bash.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
            assert!(bash.wait().unwrap().success());
        }
    }
    cli.fails(2, &["completions", "cmd"]).await;
}

#[tokio::test]
async fn schemas_are_printed_without_settings_and_say_what_they_are_of() {
    let cli = Cli::new("nats://127.0.0.1:1");
    let missing = cli.file("broken.yml", "no: [settings");
    for (of, field) in [("entry", "status"), ("config", "output"), ("settings", "mongodb"), ("status", "conditions")] {
        let output = cli.command(&["schema", of]).env("SLUICE_SETTINGS", &missing).output().await.unwrap();
        let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(output.status.success() && schema["properties"][field].is_object(), "{of}: {schema}");
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    }
    cli.fails(2, &["schema", "nothing"]).await;
}
