//! Publishing, pausing, drafting, versions: what an operator does in a day.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_by_the_nats_cli_makes_documents_arrive() {
    require!("nats-server", "database", "nats");
    let stage = Stage::set().await;
    let file = stage.config_file("metrics", &plain("metrics"));
    stage.nats.nats_cli(&["object", "put", "alpha-configs", &file, "--name", "metrics/1", "--force", "--no-progress"]).await;
    stage.nats.nats_cli(&["kv", "put", "alpha", "metrics", r#"{"status":"published","version":"1"}"#]).await;
    stage.phase_is("metrics", "run").await;
    stage.nats.nats_cli(&["pub", "alpha.metrics", "--count", "1", "not bson but it is kept until something is proven"]).await;
    stage.send("alpha.metrics", 0..2_500).await;
    stage.exactly("metrics", 0..2_500).await;
    stage.settled("metrics").await;
    assert_eq!(stage.dead_letters("metrics").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_pipeline_keeps_what_comes_and_goes_on_without_a_duplicate() {
    require!("nats-server", "database");
    let stage = Stage::set().await;
    stage.publish_plain("metrics").await;
    stage.send("alpha.metrics", 0..3_000).await;
    stage.sluice.cli_ok(&["pause", "metrics"]).await;
    stage.says("metrics", "Ready", true, "Paused").await;
    let written = stage.mongo.count("metrics").await;
    stage.send("alpha.metrics", 3_000..4_000).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(stage.mongo.count("metrics").await, written, "a paused pipeline writes nothing");
    assert!(stage.waiting("metrics").await.unwrap() >= 1_000);
    stage.sluice.cli_ok(&["publish", "metrics", "--wait"]).await;
    stage.exactly("metrics", 0..4_000).await;
    stage.settled("metrics").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draft_leaves_no_execution_and_keeps_stream_and_data() {
    require!("nats-server", "database");
    let stage = Stage::set().await;
    stage.publish_plain("metrics").await;
    stage.send("alpha.metrics", 0..500).await;
    stage.exactly("metrics", 0..500).await;
    stage.sluice.cli_ok(&["draft", "metrics"]).await;
    stage.says("metrics", "Ready", true, "Draft").await;
    assert_eq!(stage.status("metrics").await["admitted"]["phase"], "absent");
    stage.send("alpha.metrics", 500..700).await;
    assert_eq!(stage.waiting("metrics").await, Some(200));
    assert_eq!(stage.mongo.count("metrics").await, 500);
    stage.sluice.cli_ok(&["publish", "metrics", "--wait"]).await;
    stage.exactly("metrics", 0..700).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_change_under_load_loses_and_doubles_nothing_and_leaves_no_gap() {
    require!("nats-server", "database");
    let stage = Stage::set().await;
    stage.publish_plain("metrics").await;
    let load = stage.send("alpha.metrics", 0..30_000);
    let changes = async {
        for count in [500, 700, 900] {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let config = plain("metrics").replace("count: 1000", &format!("count: {count}"));
            stage.publish("metrics", &config).await;
        }
    };
    eventually("the first one is seen to run", SOON, || async { stage.running().await > 0 }).await;
    let mut looks = 0;
    let never_none = async {
        loop {
            assert!(stage.running().await > 0, "nothing runs at look {looks}\n{}", stage.sluice.log());
            looks += 1;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        _ = async { tokio::join!(load, changes) } => {}
        () = never_none => {}
    }
    assert!(looks > 50, "looked only {looks} times");
    stage.exactly("metrics", 0..30_000).await;
    stage.settled("metrics").await;
    let status = stage.status("metrics").await;
    assert!(status["admitted"]["spec"]["version"].as_str().unwrap().starts_with("4-"), "{status:#}");
    assert_eq!(stage.dead_letters("metrics").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_runs_the_version_before() {
    require!("nats-server", "database");
    let stage = Stage::set().await;
    stage.publish("metrics", &plain("metrics")).await;
    let first = stage.status("metrics").await["admitted"]["spec"]["version"].clone();
    stage.publish("metrics", &plain("metrics").replace("count: 1000", "count: 10")).await;
    assert_ne!(stage.status("metrics").await["admitted"]["spec"]["version"], first);
    stage.sluice.cli_ok(&["rollback", "metrics"]).await;
    eventually("the first version runs", SOON, || async { stage.status("metrics").await["observed"]["version"] == first }).await;
    stage.send("alpha.metrics", 0..100).await;
    stage.exactly("metrics", 0..100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_collection_is_written_to_only_when_the_old_one_is_left() {
    require!("nats-server", "database");
    let stage = Stage::set().await;
    stage.publish("metrics", &plain("one")).await;
    stage.send("alpha.metrics", 0..1_000).await;
    stage.exactly("one", 0..1_000).await;
    stage.settled("metrics").await;
    stage.publish("metrics", &plain("two")).await;
    stage.send("alpha.metrics", 1_000..2_000).await;
    stage.exactly("two", 1_000..2_000).await;
    assert_eq!(stage.mongo.count("one").await, 1_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_with_a_partial_batch_stores_it_and_exits_with_0() {
    require!("nats-server", "database");
    let mut stage = Stage::set().await;
    let config = "schema: 1\noutput:\n  mongodb:\n    collection: metrics\n    batching: {count: 1000, period: 5s}\n";
    stage.publish("metrics", config).await;
    stage.send("alpha.metrics", 0..100).await;
    eventually("the batch is held", SOON, || async {
        let (_, body) = stage.sluice.get("/api/v1/executions").await;
        body.contains("\"buffered\":100")
    })
    .await;
    assert_eq!(stage.mongo.count("metrics").await, 0);
    let status = stage.sluice.sigterm().await;
    assert_eq!(status.code(), Some(0), "{}", stage.sluice.log());
    assert_each_once(&stage.mongo, "metrics", 0..100).await;
    assert_eq!(stage.waiting("metrics").await, Some(0), "what was stored is acknowledged");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_that_cannot_run_leaves_the_old_one_running_and_says_so() {
    require!("nats-server", "database");
    let stage = Stage::set().await;
    stage.publish_plain("metrics").await;
    stage.send("alpha.metrics", 0..1_000).await;
    stage.exactly("metrics", 0..1_000).await;
    let good = stage.status("metrics").await["observed"]["version"].clone();
    // The collection is there, and it is a normal one.
    let series = "schema: 1\noutput:\n  mongodb:\n    collection: metrics\n    time_series: {time_field: at}\n";
    let file = stage.config_file("series", series);
    let output = stage.sluice.cli(&["publish", "metrics", "-f", &file, "--wait=10s"]).await;
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(matches!(output.status.code(), Some(3 | 6)) && error.contains("CollectionKindDiffers"), "{error}");
    assert!(error.contains("-> drop or rename the collection"), "{error}");
    stage.send("alpha.metrics", 1_000..2_000).await;
    stage.exactly("metrics", 0..2_000).await;
    let status = stage.status("metrics").await;
    assert_eq!(status["observed"]["version"], good, "{status:#}");
    stage.sluice.cli_ok(&["rollback", "metrics", "--wait"]).await;
    assert_eq!(stage.status("metrics").await["admitted"]["spec"]["version"], good);
}
