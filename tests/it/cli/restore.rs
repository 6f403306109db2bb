//! The ways out of a broken or deleted entry, and what an editor's command does where there is nothing to edit.

use super::{CONFIG, Cli, entries, entry, stderr};
use crate::support::Nats;

#[tokio::test]
async fn restore_puts_the_last_readable_entry_back_also_after_a_delete_and_not_what_was_rolled_back() {
    require!("nats-server");
    let nats = Nats::start().await;
    let cli = Cli::installed(&nats).await;
    let (one, two) = (cli.file("1.yml", CONFIG), cli.file("2.yml", format!("{CONFIG}    max_in_flight: 4\n")));
    let first = cli.json(&["publish", "metrics", "-f", &one, "--name", "Metrics", "--replicas", "3"]).await["version"].clone();
    cli.ok(&["publish", "metrics", "-f", &two]).await;
    cli.ok(&["rollback", "metrics"]).await;
    let bucket = entries(&nats).await;
    bucket.put("metrics", "garbage".into()).await.unwrap();
    let done = cli.json(&["restore", "metrics"]).await;
    assert_eq!((&done["version"], done["status"].as_str()), (&first, Some("published")), "what ran before the garbage");
    let restored = entry(&nats, "metrics").await;
    assert_eq!((restored["name"].as_str(), restored["replicas"].as_u64()), (Some("Metrics"), Some(3)));

    // Doing it again is nothing to do, and writes nothing.
    let revision = bucket.entry("metrics").await.unwrap().unwrap().revision;
    let output = cli.run(&["restore", "metrics"]).await;
    assert!(output.status.success() && stderr(&output).contains("nothing to restore"), "{}", stderr(&output));
    assert_eq!(bucket.entry("metrics").await.unwrap().unwrap().revision, revision);

    cli.ok(&["pause", "metrics"]).await;
    cli.ok(&["delete", "metrics", "--yes"]).await;
    let done = cli.json(&["restore", "metrics"]).await;
    assert_eq!((&done["version"], done["status"].as_str()), (&first, Some("paused")), "as it was when it was deleted");
    assert_eq!(entry(&nats, "metrics").await["name"], "Metrics");

    // One revision of many, and what is none.
    let done = cli.json(&["restore", "metrics", "--revision", "2"]).await;
    assert!(done["version"].as_str().unwrap().starts_with("2-"), "{done}");
    assert!(cli.fails(4, &["restore", "metrics", "--revision", "99"]).await.contains("no revision 99"));
    assert!(cli.fails(3, &["restore", "metrics", "--revision", "4"]).await.contains("sluice history metrics"));
    assert!(cli.fails(4, &["restore", "other"]).await.contains("'other'"));
}

#[tokio::test]
async fn restore_without_a_history_takes_what_the_status_keeps() {
    require!("nats-server");
    let nats = Nats::start().await;
    let cli = Cli::installed(&nats).await;
    super::status::put_status(&nats, "metrics", 9, "run").await;
    let error = cli.fails(4, &["restore", "metrics"]).await;
    assert!(error.contains("sluice publish metrics -f FILE"), "{error}");
    let bucket = nats.jetstream().await.get_key_value("alpha-status").await.unwrap();
    let mut status: serde_json::Value = serde_json::from_slice(&bucket.get("metrics").await.unwrap().unwrap()).unwrap();
    status["kept"]["entry"] = r#"{"schema":1,"status":"paused","name":"Kept"}"#.into();
    bucket.put("metrics", status.to_string().into()).await.unwrap();
    assert_eq!(cli.json(&["restore", "metrics"]).await["status"], "paused");
    assert_eq!(entry(&nats, "metrics").await["name"], "Kept");
}

#[tokio::test]
async fn an_edit_that_changes_nothing_writes_no_revision() {
    require!("nats-server");
    let nats = Nats::start().await;
    let cli = Cli::installed(&nats).await;
    let file = cli.file("metrics.yml", CONFIG);
    cli.ok(&["publish", "metrics", "-f", &file]).await;
    for args in [&["publish", "metrics", "-f", &file][..], &["publish", "metrics"], &["publish", "metrics", "-f", &file]] {
        let output = cli.run(args).await;
        assert!(output.status.success() && stderr(&output).contains("nothing to do"), "{args:?}: {}", stderr(&output));
        assert_eq!(entries(&nats).await.entry("metrics").await.unwrap().unwrap().revision, 1, "{args:?}");
    }
    assert_eq!(cli.json(&["pause", "metrics"]).await["revision"], 2);
    assert_eq!(cli.json(&["pause", "metrics"]).await["revision"], 2);
    assert_eq!(cli.json(&["publish", "metrics", "--name", "Metrics"]).await["revision"], 3);
}

#[tokio::test]
async fn a_typo_in_the_namespace_creates_nothing_and_names_the_installations_that_are_there() {
    require!("nats-server");
    let nats = Nats::start().await;
    let cli = Cli::installed(&nats).await;
    let file = cli.file("metrics.yml", CONFIG);
    let before = nats.jetstream().await.query_account().await.unwrap().streams;
    let typo = ["--set", "namespace=alhpa"];
    for args in [
        &["publish", "metrics", "-f", &file][..],
        &["pause", "metrics"],
        &["draft", "metrics"],
        &["rollback", "metrics"],
        &["delete", "metrics", "--yes"],
        &["list"],
        &["status"],
    ] {
        let error = cli.fails(4, &[args, &typo].concat()).await;
        assert!(error.contains("namespace 'alhpa'") && error.contains("there is alpha"), "{args:?}: {error}");
    }
    assert_eq!(nats.jetstream().await.query_account().await.unwrap().streams, before);
}
