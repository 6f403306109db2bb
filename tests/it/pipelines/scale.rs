//! Many pipelines and many documents.

use super::*;
use async_nats::jetstream::object_store::ObjectMetadata;

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_entries_at_once_are_all_running() {
    require!("nats-server", "database");
    let stage = Stage::set().await;
    let jetstream = stage.nats.jetstream().await;
    let entries = &jetstream.get_key_value("alpha").await.unwrap();
    let configs = &jetstream.get_object_store("alpha-configs").await.unwrap();
    let puts = (0..1_000).map(|n| async move {
        let metadata = ObjectMetadata { name: format!("p{n}/1"), ..ObjectMetadata::default() };
        configs.put(metadata, &mut plain(&format!("p{n}")).as_bytes()).await.unwrap();
        entries.put(format!("p{n}"), r#"{"status":"published","version":"1"}"#.into()).await.unwrap();
    });
    stream::iter(puts).buffer_unordered(50).collect::<Vec<_>>().await;
    eventually("a thousand run", LONG, || async { stage.running().await == 1_000 }).await;
    for n in [0, 499, 999] {
        stage.send(&format!("alpha.p{n}"), 0..10).await;
        stage.exactly(&format!("p{n}"), 0..10).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_thousand_documents_sent_by_the_cli_arrive_exactly_once() {
    require!("nats-server", "database");
    let stage = Stage::set().await;
    stage.publish_plain("metrics").await;
    let file = stage.sluice.dir.join("readings.jsonl");
    let lines: String =
        (0..200_000).map(|n| format!("{{\"n\":{{\"$numberLong\":\"{n}\"}},\"at\":{{\"$date\":\"2026-01-01T00:00:00Z\"}}}}\n")).collect();
    std::fs::write(&file, lines).unwrap();
    stage.sluice.cli_ok(&["send", "metrics", file.to_str().unwrap()]).await;
    stage.exactly("metrics", 0..200_000).await;
    stage.settled("metrics").await;
    let (_, metrics) = stage.sluice.get("/metrics").await;
    assert!(metrics.contains("sluice_written_documents_total{pipeline=\"metrics\"} 200000"), "{metrics}");
}
