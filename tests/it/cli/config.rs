//! `config show`, `config versions` and `diff`: what lies in the Object Store, and how versions and entries differ.

use super::{CONFIG, Cli, entries};
use crate::support::Nats;
use serde_json::{Value, json};

fn other() -> String {
    format!("{CONFIG}    max_in_flight: 4\n")
}

/// Publishes [`CONFIG`], then [`other`]; their versions.
async fn two_versions(cli: &Cli) -> [String; 2] {
    let mut versions = Vec::new();
    for config in [CONFIG.to_owned(), other()] {
        let file = cli.file("metrics.yml", config);
        versions.push(cli.json(&["publish", "metrics", "-f", &file]).await["version"].as_str().unwrap().to_owned());
    }
    versions.try_into().unwrap()
}

#[tokio::test]
async fn a_config_is_printed_byte_by_byte_as_it_was_published() {
    require!("nats-server");
    let nats = Nats::start().await;
    let cli = Cli::installed(&nats).await;
    let [first, second] = two_versions(&cli).await;
    assert_eq!(cli.ok(&["config", "show", &format!("metrics/{first}")]).await, CONFIG);
    assert_eq!(cli.ok(&["config", "show", "metrics"]).await, other(), "the entry's version");
    let shown = cli.json(&["config", "show", "metrics"]).await;
    assert_eq!((shown["version"].as_str(), shown["config"].as_str()), (Some(second.as_str()), Some(other().as_str())));
    assert!(shown["digest"].as_str().unwrap().starts_with("SHA-256="));
}

#[tokio::test]
async fn versions_are_listed_with_what_each_is_in_use_for() {
    require!("nats-server");
    let nats = Nats::start().await;
    let cli = Cli::installed(&nats).await;
    let [first, second] = two_versions(&cli).await;
    // A controller runs the first one; the entry names the second.
    super::status::put_status(&nats, "metrics", 1, "run").await;
    let list = cli.json(&["config", "versions", "metrics"]).await;
    let shown: Vec<_> = list.as_array().unwrap().iter().map(|row| (row["version"].as_str().unwrap(), row["uses"].clone())).collect();
    assert_eq!(shown, [(first.as_str(), json!(["admitted", "running"])), (second.as_str(), json!(["entry"]))]);
    assert_eq!(list[0]["bytes"], CONFIG.len());
    let table = cli.ok(&["config", "versions", "metrics"]).await;
    assert!(table.lines().count() == 3 && table.contains("admitted running"), "{table}");
}

#[tokio::test]
async fn what_is_not_stored_exits_4_and_what_is_no_name_2() {
    require!("nats-server");
    let nats = Nats::start().await;
    let cli = Cli::installed(&nats).await;
    for args in [["config", "show", "metrics"], ["config", "versions", "metrics"]] {
        assert!(cli.fails(4, &args).await.contains("'metrics'"));
    }
    cli.fails(4, &["diff", "metrics"]).await;
    two_versions(&cli).await;
    let error = cli.fails(4, &["config", "show", "metrics/9-00000000"]).await;
    assert!(error.contains("is not stored") && error.contains("sluice config versions metrics"), "{error}");
    assert!(cli.fails(4, &["diff", "metrics", "9-00000000"]).await.contains("is not stored"));
    assert!(cli.fails(4, &["diff", "metrics", "@99"]).await.contains("sluice history metrics"));
    for wrong in ["metrics/../x", "../x", "metrics/"] {
        cli.fails(2, &["config", "show", wrong]).await;
    }
}

#[tokio::test]
async fn an_object_that_is_no_config_of_ours_is_named_with_what_is_wrong_with_it() {
    require!("nats-server");
    let nats = Nats::start().await;
    let cli = Cli::installed(&nats).await;
    two_versions(&cli).await;
    let bucket = nats.jetstream().await.get_object_store("alpha-configs").await.unwrap();
    bucket.put("metrics/large", &mut vec![b'#'; 2 << 20].as_slice()).await.unwrap();
    assert!(cli.fails(3, &["config", "show", "metrics/large"]).await.contains("larger than allowed"));
}

#[tokio::test]
async fn diff_shows_what_would_change_and_once_it_has_what_has_changed() {
    require!("nats-server");
    let nats = Nats::start().await;
    let cli = Cli::installed(&nats).await;
    let [first, second] = two_versions(&cli).await;
    super::status::put_status(&nats, "metrics", 1, "run").await;
    let text = cli.ok(&["diff", "metrics"]).await;
    assert!(text.contains(&format!("--- metrics/{first}\n+++ metrics/{second}\n")) && text.contains("\n+    max_in_flight: 4\n"), "{text}");
    assert!(
        text.contains("--- entry metrics@1\n+++ entry metrics@2\n") && text.contains(&format!("-  \"version\": \"{first}\"")),
        "{text}"
    );
    let reversed = cli.json(&["diff", "metrics", &second, &first]).await;
    assert!(reversed["config"].as_str().unwrap().contains("\n-    max_in_flight: 4\n"), "{reversed}");
    assert_eq!((reversed["from"]["version"].as_str(), reversed["to"]["revision"].as_u64()), (Some(second.as_str()), Some(1)));
    // Without a status, against the version before.
    nats.jetstream().await.delete_key_value("alpha-status").await.unwrap();
    let published = cli.json(&["diff", "metrics"]).await;
    assert_eq!((published["from"]["version"].as_str(), published["to"]["version"].as_str()), (Some(first.as_str()), Some(second.as_str())));
}

#[tokio::test]
async fn entries_are_compared_by_revision_and_the_order_of_fields_is_no_difference() {
    require!("nats-server");
    let nats = Nats::start().await;
    let cli = Cli::installed(&nats).await;
    cli.ok(&["publish", "metrics", "-f", &cli.file("metrics.yml", CONFIG)]).await;
    cli.ok(&["pause", "metrics"]).await;
    let bucket = entries(&nats).await;
    let paused: serde_json::Map<String, Value> = serde_json::from_slice(&bucket.get("metrics").await.unwrap().unwrap()).unwrap();
    let turned: Vec<String> = paused.iter().rev().map(|(name, value)| format!("{}:{value}", Value::from(name.as_str()))).collect();
    bucket.put("metrics", format!("{{{}}}", turned.join(",")).into()).await.unwrap();
    bucket.put("metrics", "\u{1b}[31mgarbage".into()).await.unwrap();
    let changed = cli.json(&["diff", "metrics", "@1", "@2"]).await;
    assert_eq!((changed["same"].as_bool(), changed["config"].as_str()), (Some(false), Some("")));
    assert!(changed["entry"].as_str().unwrap().contains("+  \"status\": \"paused\""), "{changed}");
    assert_eq!(cli.json(&["diff", "metrics", "@2", "@3"]).await["same"], true);
    // Garbage now, against the newest that was none; its control characters stay away from the terminal.
    let text = cli.ok(&["diff", "metrics", "@3"]).await;
    assert!(text.contains("garbage") && !text.contains('\u{1b}'), "{text}");
    assert!(cli.ok(&["diff", "metrics", "--color", "always"]).await.contains("\u{1b}[31m-"));
}
