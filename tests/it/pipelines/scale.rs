//! Many pipelines and many documents.

use super::*;
use async_nats::jetstream::object_store::ObjectMetadata;
use std::time::Instant;

/// How many entries: two thousand, or `SLUICE_ENTRIES`.
fn entries() -> usize {
    std::env::var("SLUICE_ENTRIES").ok().and_then(|text| text.parse().ok()).unwrap_or(2_000)
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_entries_at_once_all_run_in_bounded_memory_and_a_bad_one_among_them_touches_itself_alone() {
    require!("nats-server", "database");
    const BAD: usize = 777;
    let (stage, many) = (Stage::set().await, entries());
    let jetstream = stage.nats.jetstream().await;
    let entries = &jetstream.get_key_value("alpha").await.unwrap();
    let configs = &jetstream.get_object_store("alpha-configs").await.unwrap();
    let before = memory(stage.sluice.pid());
    let begun = Instant::now();
    let puts = (0..many).map(|n| async move {
        let metadata = ObjectMetadata { name: format!("p{n}/1"), ..ObjectMetadata::default() };
        configs.put(metadata, &mut plain(&format!("p{n}")).as_bytes()).await.unwrap();
        let entry = if n == BAD { r#"{"status":"published","version":["1"]}"# } else { r#"{"status":"published","version":"1"}"# };
        entries.put(format!("p{n}"), entry.into()).await.unwrap();
    });
    stream::iter(puts).buffer_unordered(50).collect::<Vec<_>>().await;
    let put = begun.elapsed();
    let limit = LONG + many as u32 * Duration::from_millis(30);
    while stage.running().await < many - 1 {
        assert!(begun.elapsed() < limit, "{} of {many} run after {:?}", stage.running().await, begun.elapsed());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let (all, now) = (begun.elapsed(), memory(stage.sluice.pid()));
    println!("{many} entries: put within {put:?}, all run after {all:?}, {} KiB each", now.saturating_sub(before) / many as u64);
    assert!(now < before + (96 << 10) + 64 * many as u64, "memory grew from {before} to {now} KiB for {many} entries");
    stage.says(&format!("p{BAD}"), "Valid", false, "EntryUnreadable").await;
    eventually("it alone is red", LONG, || async { wrong(&stage).await == (vec![format!("p{BAD}")], Vec::new()) }).await;
    for n in [0, BAD - 1, BAD + 1, many - 1] {
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
