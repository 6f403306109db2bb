//! Versions that cannot run, and a process around what cannot be reached: what ran goes on, and health says why.

use super::*;
use crate::support::{free_port, http_get};

#[tokio::test(flavor = "multi_thread")]
async fn a_version_whose_target_is_of_another_kind_is_named_and_documents_go_on_arriving() {
    require!("nats-server", "database");
    let stage = Stage::set().await;
    stage.publish_plain("metrics").await;
    stage.send("alpha.metrics", 0..100).await;
    stage.exactly("metrics", 0..100).await;
    let bad = stage.config_file("bad", "schema: 1\noutput:\n  mongodb: {collection: metrics, time_series: {time_field: at}}\n");
    stage.sluice.cli_ok(&["publish", "metrics", "-f", &bad]).await;
    stage.says("metrics", "Ready", false, "CollectionKindDiffers").await;
    tokio::time::sleep(Duration::from_secs(11)).await;
    stage.send("alpha.metrics", 100..300).await;
    stage.exactly("metrics", 0..300).await;
    let (code, body) = stage.sluice.get("/health/pipelines").await;
    assert!(code == 503 && body.contains("CollectionKindDiffers"), "{body}");
    stage.sluice.cli_ok(&["rollback", "metrics"]).await;
    stage.says("metrics", "Ready", true, "AsDesired").await;
    stage.send("alpha.metrics", 300..400).await;
    stage.exactly("metrics", 0..400).await;
    eventually("it is ready again", SOON, || async { stage.sluice.get("/health/pipelines").await.0 == 200 }).await;
    eventually("one execution is left", SOON, || async { stage.running().await == 1 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http_says_what_the_start_waits_for_and_the_process_ends_while_nats_is_away() {
    require!("nats-server", "database");
    let (nats, mongo) = tokio::join!(Nats::start(), Mongo::start());
    let nowhere = format!("nats://127.0.0.1:{}", free_port());
    let mut sluice = Run { nats_url: nowhere, ..Run::new(&nats, &mongo) }.spawn();
    eventually("http listens", SOON, || async { sluice.http_url().is_some() }).await;
    let url = sluice.http_url().unwrap();
    assert_eq!(http_get(&url, "/health/live", None).await.unwrap().0, 200);
    let (code, body) = http_get(&url, "/health/ready", None).await.unwrap();
    assert!(code == 503 && body.contains("waiting for a connection to NATS"), "{body}");
    assert_eq!(sluice.sigterm().await.code(), Some(0));

    // And one that has run: nothing hangs on a connection that is not there.
    let mut stage = Stage::of(nats, mongo).await;
    stage.nats.kill9();
    let begun = std::time::Instant::now();
    stage.sluice.sigterm().await;
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}\n{}", begun.elapsed(), stage.sluice.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn buckets_deleted_while_it_runs_are_made_again_and_nothing_stops() {
    require!("nats-server", "database");
    let stage = Stage::set().await;
    stage.publish_plain("metrics").await;
    stage.send("alpha.metrics", 0..100).await;
    stage.exactly("metrics", 0..100).await;
    let jetstream = stage.nats.jetstream().await;
    let epoch = stage.status("metrics").await["epoch"].as_u64().unwrap();
    for stream in ["KV_alpha-status", "KV_alpha-lease", "alpha-dlq", "OBJ_alpha-configs"] {
        jetstream.delete_stream(stream).await.unwrap();
    }
    for stream in ["KV_alpha-status", "KV_alpha-lease", "alpha-dlq", "OBJ_alpha-configs"] {
        eventually(&format!("{stream} is made again"), LONG, || async { jetstream.get_stream(stream).await.is_ok() }).await;
    }
    eventually("the status is written again, under a newer epoch", LONG, || async {
        let output = stage.sluice.cli(&["status", "metrics", "--output", "json"]).await;
        let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let record = jetstream.get_key_value("alpha-status").await.unwrap().get("metrics").await.unwrap();
        let stored: Value = record.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        stored["admitted"]["phase"] == "run" && stored["epoch"].as_u64().is_some_and(|new| new > epoch) && status.is_object()
    })
    .await;
    stage.send("alpha.metrics", 100..200).await;
    stage.exactly("metrics", 0..200).await;
}
