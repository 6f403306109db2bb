//! `--wait` and the words of `status`, with a controller that has something to say.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn publish_with_wait_never_says_running_while_mongodb_is_away() {
    require!("nats-server", "database");
    let (nats, mongo) = (Nats::start().await, Mongo::start().await);
    let mut run = Run::new(&nats, &mongo);
    run.mongo_url = "mongodb://127.0.0.1:1/?directConnection=true".into();
    let stage = Stage { sluice: run.start().await, nats, mongo };
    let file = stage.config_file("metrics", &plain("metrics"));
    let output = stage.sluice.cli(&["publish", "metrics", "-f", &file, "--wait=12s"]).await;
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(6), "{error}{}", String::from_utf8_lossy(&output.stdout));
    assert!(error.contains("DatabaseUnavailable: no MongoDB answers at 127.0.0.1:1: connection refused"), "{error}");
    assert_eq!(error.matches("no MongoDB answers").count(), 1, "{error}");
    assert!(!error.contains("Topology"), "{error}");
    for command in [["list", "-o", "json"], ["status", "-o", "json"]] {
        let rows: Value = serde_json::from_str(&stage.sluice.cli_ok(&command).await).unwrap();
        assert_eq!(rows[0]["state"], "blocked", "{rows:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn publish_with_wait_fails_at_once_where_the_version_cannot_run() {
    require!("nats-server", "database");
    let stage = Stage::set().await;
    let began = std::time::Instant::now();
    // The settings of this command know a connection that the controller's do not.
    let config = plain("metrics").replace("collection:", "connection: archive\n    collection:");
    let file = stage.config_file("metrics", &config);
    let set = ["--set", "mongodb.connections.archive.url=mongodb://a:1"];
    let output = stage.sluice.cli(&[&["publish", "metrics", "-f", &file, "--wait"], set.as_slice()].concat()).await;
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{error}");
    assert!(error.contains("no connection 'archive'") && error.contains("-> "), "{error}");
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_with_wait_ends_when_stream_and_status_are_gone() {
    require!("nats-server", "database");
    let stage = Stage::set().await;
    stage.publish_plain("metrics").await;
    stage.send("alpha.metrics", 0..2_000).await;
    stage.sluice.cli_ok(&["delete", "metrics", "--wait"]).await;
    assert_eq!(stage.waiting("metrics").await, None, "the stream is gone");
    assert_eq!(stage.status("metrics").await, Value::Null, "so is the status");
    assert_each_once(&stage.mongo, "metrics", 0..2_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_with_wait_says_what_is_kept() {
    require!("nats-server", "database");
    let stage = Stage::set().await;
    stage.publish_plain("metrics").await;
    stage.sluice.cli_ok(&["pause", "metrics", "--wait"]).await;
    stage.send("alpha.metrics", 0..7).await;
    let output = stage.sluice.cli(&["delete", "metrics", "--wait"]).await;
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && error.contains("sluice restore metrics"), "{error}");
    stage.publish("kept", &format!("{}on_delete: keep\n", plain("kept"))).await;
    let output = stage.sluice.cli(&["delete", "kept", "--wait"]).await;
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && error.contains("its stream is kept"), "{error}");
    assert_eq!(stage.waiting("kept").await, Some(0));
}
