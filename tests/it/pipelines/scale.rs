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
async fn two_hundred_thousand_documents_by_the_demos_own_path_arrive_exactly_once() {
    require!("nats-server", "database");
    let stage = Stage::set().await;
    let project = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = project.join("config/examples/readings.yml");
    stage.sluice.cli_ok(&["publish", "readings", "-f", config.to_str().unwrap(), "--wait"]).await;
    // The bundled readings over and over, each with a number of its own.
    let bundled = std::fs::read_to_string(project.join("deploy/local/readings.jsonl")).unwrap();
    let bundled: Vec<Value> = bundled.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut lines = String::new();
    for (n, mut reading) in bundled.iter().cloned().cycle().take(200_000).enumerate() {
        reading["n"] = serde_json::json!({"$numberLong": n.to_string()});
        lines.push_str(&reading.to_string());
        lines.push('\n');
    }
    let file = stage.sluice.dir.join("readings.jsonl");
    std::fs::write(&file, lines).unwrap();
    let sent = stage.sluice.cli_ok(&["send", "readings", file.to_str().unwrap()]).await;
    assert!(sent.starts_with("200000 documents"), "{sent}");
    stage.exactly("readings", 0..200_000).await;
    stage.settled("readings").await;
    let (_, metrics) = stage.sluice.get("/metrics").await;
    assert!(metrics.contains("sluice_written_documents_total{pipeline=\"readings\"} 200000"), "{metrics}");
}
