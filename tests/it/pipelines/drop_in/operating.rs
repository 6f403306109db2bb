//! What operators do with pipelines of the first parent's producers, and what those producers cannot undo.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_add_unpauses_nothing_and_keeps_our_version_until_the_key_is_deleted() {
    require!("nats-server", "database");
    let mut stage = stage().await;
    stage.publish("metrics", &plain("ours")).await;
    let version = stage.status("metrics").await["observed"]["version"].as_str().unwrap().to_owned();
    stage.sluice.cli_ok(&["pause", "metrics", "--wait"]).await;
    let producer = Producer::of(&stage, "metrics").await.into("theirs");
    // From now on the bucket keeps three revisions: ours is soon gone from the history.
    producer.create_or_update_bucket().await;
    for _ in 0..5 {
        producer.add().await;
    }
    let still_paused = async |stage: &Stage, revision: u64| {
        has_read(stage, "metrics", revision).await;
        let status = stage.status("metrics").await;
        assert_eq!((&status["desired"]["status"], &status["admitted"]["phase"]), (&"paused".into(), &"stopped".into()), "{status:#}");
        assert_eq!(status["desired"]["version"], version.as_str());
    };
    let entry = r#"{"key":"metrics","subs":null,"description":"Metrics stream","collection":"theirs"}"#;
    let revision = producer.put(entry).await;
    still_paused(&stage, revision).await;
    let listed = stage.sluice.cli_ok(&["list"]).await;
    assert!(listed.contains("paused") && listed.contains(&version), "{listed}");
    stage.send("alpha.metrics", 0..300).await;
    stage.sluice.cli_ok(&["publish", "metrics", "--wait"]).await;
    stage.exactly("ours", 0..300).await;

    // The status lost as well: then the newest entry of ours in the history counts.
    stage.sluice.cli_ok(&["pause", "metrics", "--wait"]).await;
    stage.sluice.kill9();
    stage.nats.jetstream().await.delete_stream("KV_alpha-status").await.unwrap();
    producer.add().await;
    let revision = producer.put(entry).await;
    stage.sluice.respawn();
    stage.sluice.wait_ready().await;
    still_paused(&stage, revision).await;
    stage.send("alpha.metrics", 300..400).await;

    // What the key's deletion ends: the next add begins anew. What waits in the stream of a paused pipeline is kept.
    producer.remove().await;
    eventually("the deletion is through", SOON, || async { stage.status("metrics").await["admitted"]["phase"] != "stopped" }).await;
    assert_eq!(stage.waiting("metrics").await, Some(100));
    producer.add().await;
    runs_derived(&stage, "metrics").await;
    stage.exactly("theirs", 300..400).await;
    assert_eq!(stage.mongo.count("ours").await, 300);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_derived_pipeline_is_paused_published_adopted_and_rolled_back_like_any_other() {
    require!("nats-server", "database");
    let stage = stage().await;
    let producer = Producer::of(&stage, "metrics").await;
    producer.add().await;
    runs_derived(&stage, "metrics").await;
    let derived = stage.status("metrics").await["observed"]["version"].as_str().unwrap().to_owned();
    for command in [&["list"] as &[&str], &["status", "metrics"]] {
        let shown = stage.sluice.cli_ok(command).await;
        assert!(shown.contains("published") && shown.contains(&derived) && shown.contains("running"), "{shown}");
    }
    let output = stage.sluice.cli(&["rollback", "metrics"]).await;
    assert_eq!(output.status.code(), Some(4), "there is nothing to go back to: {}", String::from_utf8_lossy(&output.stderr));
    stage.sluice.cli_ok(&["pause", "metrics", "--wait"]).await;
    producer.add().await;
    stage.send("alpha.metrics", 0..100).await;
    stage.says("metrics", "Ready", true, "Paused").await;
    assert_eq!(stage.mongo.count("metrics").await, 0, "its start unpauses nothing");
    stage.sluice.cli_ok(&["publish", "metrics", "--wait"]).await;
    stage.exactly("metrics", 0..100).await;
    assert_eq!(stage.status("metrics").await["observed"]["version"], derived.as_str());

    // Adopted: a version of our own in the same collection, which the producer's next start leaves alone.
    stage.publish("metrics", &plain("metrics")).await;
    producer.add().await;
    stage.send("alpha.metrics", 100..200).await;
    stage.exactly("metrics", 0..200).await;
    let revision = producer.put(r#"{"key":"metrics","subs":null,"description":"","collection":"elsewhere"}"#).await;
    has_read(&stage, "metrics", revision).await;
    let version = stage.status("metrics").await["observed"]["version"].as_str().unwrap().to_owned();
    assert!(version.starts_with("1-"), "{version}");
    stage.sluice.cli_ok(&["rollback", "metrics", "--wait"]).await;
    assert_eq!(stage.status("metrics").await["observed"]["version"], derived.as_str());
    stage.send("alpha.metrics", 200..300).await;
    stage.exactly("metrics", 0..300).await;
    assert_eq!(stage.mongo.count("elsewhere").await, 0);
}
