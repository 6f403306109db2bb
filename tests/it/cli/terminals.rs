//! What others wrote, through every command that shows it: nothing of it acts on a terminal, as text and as JSON.

use super::{CONFIG, Cli, entries};
use crate::support::{Mongo, Nats, Sluice, eventually};
use async_nats::HeaderMap;
use async_nats::jetstream::stream;
use bson::doc;
use futures_util::StreamExt;
use sluice::pipeline::text::acts;
use std::process::Stdio;
use std::time::Duration;

/// C1, C0, DEL, what turns the direction of writing, a line end that is none.
const HOSTILE: &str = "\u{9b}31m\u{1b}]0;owned\u{7}\u{202e}gnp\u{2066}\u{7f}\u{85}\u{2028}";

/// A process that answers requests for log lines with what it likes.
async fn hostile_logger(nats: &Nats) {
    let client = nats.client().await;
    let mut requests = client.subscribe("alpha-logs.metrics").await.unwrap();
    tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            let line = serde_json::json!({
                "number": 1, "timestamp": "2026-01-01T00:00:00Z", "level": HOSTILE, "message": HOSTILE, "error": HOSTILE, HOSTILE: HOSTILE
            });
            let reply = serde_json::json!({ "schema": 1, "process": uuid::Uuid::new_v4(), "host": HOSTILE, "lines": [line] });
            client.publish(request.reply.unwrap(), reply.to_string().into()).await.unwrap();
        }
    });
    // So that it is there before anybody asks.
    nats.client().await.flush().await.unwrap();
}

async fn hostile_letter(nats: &Nats) {
    let jetstream = nats.jetstream().await;
    let config = stream::Config { name: "alpha-dlq".into(), subjects: vec!["alpha-dlq.>".into()], ..stream::Config::default() };
    jetstream.get_or_create_stream(config).await.unwrap();
    let documents = [bson::serialize_to_vec(&doc! { HOSTILE: HOSTILE }).unwrap(), HOSTILE.as_bytes().to_vec()];
    for (number, payload) in documents.into_iter().enumerate() {
        let mut headers = HeaderMap::new();
        let line = HOSTILE.replace(['\u{85}', '\u{2028}'], "");
        for name in ["Sluice-Reason", "Sluice-Detail", "Sluice-Version", "Sluice-Original-X"] {
            headers.insert(name, line.as_str());
        }
        let subject = format!("alpha-dlq.metrics.{number:024x}");
        jetstream.publish_with_headers(subject, headers, payload.into()).await.unwrap().await.unwrap();
    }
}

/// Asserts that these bytes do nothing to a terminal; our own colours may.
fn harmless(what: &str, bytes: &[u8], colors: bool) {
    let text = std::str::from_utf8(bytes).unwrap_or_else(|error| panic!("{what}: {error}"));
    let ours = [
        "\u{1b}[0m",
        "\u{1b}[31m",
        "\u{1b}[32m",
        "\u{1b}[33m",
        "\u{1b}[2m",
        "\u{1b}[1m",
        "\u{1b}[39m",
        "\u{1b}[38;5;9m",
        "\u{1b}[38;5;10m",
        "\u{1b}[38;5;11m",
    ];
    let rest = if colors { ours.iter().fold(text.to_owned(), |text, ours| text.replace(ours, "")) } else { text.to_owned() };
    let found: Vec<char> = rest.chars().filter(|c| acts(*c) && *c != '\n' && *c != '\r').collect();
    assert!(found.is_empty(), "{what}: {found:?} in {text:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_others_wrote_acts_on_the_terminal_of_any_command() {
    require!("nats-server", "database");
    let (nats, mongo) = (Nats::start().await, Mongo::start().await);
    let controller = Sluice::start(&nats, &mongo).await;
    let cli = Cli::new(&nats.url());
    hostile_letter(&nats).await;
    hostile_logger(&nats).await;
    let config = cli.file("metrics.yml", format!("# {}\n{CONFIG}", HOSTILE.replace(['\u{1b}', '\u{7}', '\u{7f}', '\u{9b}'], "")));
    // A config with controls is no config: it is read as it is only where it is stored by somebody else.
    let _ = cli.run(&["publish", "metrics", "-f", &config]).await;
    let configs = nats.jetstream().await.get_object_store("alpha-configs").await.unwrap();
    for version in ["1", "2"] {
        let text = format!("# {HOSTILE}{version}\n{HOSTILE}: {version}\n");
        configs.put(format!("metrics/{version}").as_str(), &mut text.as_bytes()).await.unwrap();
    }
    let bucket = entries(&nats).await;
    for version in ["1", "2"] {
        let entry = serde_json::json!({
            "status": "published", "version": version, "name": HOSTILE, "description": HOSTILE, "author": HOSTILE, HOSTILE: HOSTILE,
            "labels": { HOSTILE: HOSTILE }
        });
        bucket.put("metrics", entry.to_string().into()).await.unwrap();
    }
    bucket.put("other", format!("{{\"status\":\"{}\"}}", HOSTILE.replace(['\u{1b}', '\u{7}'], "")).into()).await.unwrap();
    eventually("the status says it", Duration::from_secs(30), || async {
        controller.get("/api/v1/pipelines/metrics").await.1.contains("UnknownEntryField")
            && controller.get("/api/v1/pipelines/other").await.0 == 200
    })
    .await;
    let hostile_argument = format!("a{HOSTILE}");
    let bad = cli.file(
        "bad.yml",
        format!(
            "schema: 1\noutput:\n  mongodb:\n    {}: x\n",
            HOSTILE.replace(['\u{1b}', '\u{7}', '\u{7f}', '\u{9b}', '\u{85}', '\u{2028}'], "")
        ),
    );
    let commands: &[&[&str]] = &[
        &["list"],
        &["status"],
        &["status", "metrics"],
        &["status", "other"],
        &["status", &hostile_argument],
        &["history", "metrics"],
        &["diff", "metrics"],
        &["diff", "metrics", "1", "2"],
        &["config", "versions", "metrics"],
        &["config", "show", "metrics", "9"],
        &["logs", "metrics"],
        &["dlq", "list"],
        &["dlq", "list", "metrics"],
        &["dlq", "show", "metrics", "1"],
        &["dlq", "show", "metrics", "2"],
        &["dlq", "drop", "metrics", "--all", "--dry-run"],
        &["lint", &bad],
        &["doctor"],
        &["publish", "other", "-f", &bad],
    ];
    let mut shown = Vec::new();
    for command in commands {
        for more in [&[][..], &["--output", "json"], &["--color", "always"]] {
            let all = [command, more].concat();
            let output = cli.run(&all).await;
            let (what, colors) = (format!("sluice {all:?}"), more.first() == Some(&"--color"));
            harmless(&what, &output.stdout, colors);
            harmless(&what, &output.stderr, colors);
            if more.contains(&"json") && !output.stdout.is_empty() {
                let lines = String::from_utf8(output.stdout).unwrap();
                let whole = serde_json::from_str::<serde_json::Value>(&lines).is_ok();
                assert!(whole || lines.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()), "{what}: {lines}");
            } else {
                shown.push((what, String::from_utf8(output.stdout).unwrap()));
            }
        }
    }
    for command in
        ["status\", \"metrics", "history", "logs", "dlq\", \"show\", \"metrics\", \"1", "dlq\", \"show\", \"metrics\", \"2", "diff"]
    {
        let said = shown.iter().any(|(what, text)| what.contains(command) && text.contains(r"\u{202e}") || text.contains(r"\u202e"));
        assert!(said, "what is left out proves nothing: {command}");
    }
    // A config goes to a file as it is, and to a terminal harmless.
    let settings = cli.command(&["config", "show", "metrics/1"]);
    let words: Vec<String> = std::iter::once(settings.as_std().get_program())
        .chain(settings.as_std().get_args())
        .map(|word| format!("'{}'", word.to_string_lossy()))
        .collect();
    let terminal =
        tokio::process::Command::new("script").args(["-qec", &words.join(" "), "/dev/null"]).stdin(Stdio::null()).output().await.unwrap();
    let text = String::from_utf8_lossy(&terminal.stdout);
    assert!(text.contains(r"\u{202e}"), "{text:?}");
    harmless("config show on a terminal", &terminal.stdout, true);
    assert!(cli.run(&["config", "show", "metrics/1"]).await.stdout.starts_with(format!("# {HOSTILE}").as_bytes()), "its very bytes");
    harmless("the controller's log", controller.log().as_bytes(), false);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_no_pipeline_ids_cost_one_line_of_the_log_each_and_not_one_a_look() {
    require!("nats-server", "database");
    let (nats, mongo) = (Nats::start().await, Mongo::start().await);
    let controller = Sluice::start(&nats, &mongo).await;
    let bucket = entries(&nats).await;
    for _ in 0..5 {
        for key in ["no.id", "-x"] {
            bucket.put(key, "x".into()).await.unwrap();
        }
    }
    let told = || controller.log().lines().filter(|line| line.contains("a key that is no pipeline id")).count();
    eventually("both are told", Duration::from_secs(30), || async { told() == 2 }).await;
    bucket.put("no.id", "y".into()).await.unwrap();
    bucket.put("real", r#"{"status":"draft"}"#.into()).await.unwrap();
    eventually("what came after it is read", Duration::from_secs(30), || async { controller.get("/api/v1/pipelines/real").await.0 == 200 })
        .await;
    assert_eq!(told(), 2);
}
