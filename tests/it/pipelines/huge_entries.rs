//! Entries that say more than a status holds: they touch their own pipeline alone, what they ask for takes effect, and
//! where a status cannot be written, something else says so.

use super::*;

/// An entry of 58 KB with 7,000 fields that nobody reads.
fn crowded(version: &str) -> String {
    let fields: String = (0..7_000).map(|number| format!(",\"{number:x}\":1")).collect();
    let entry = format!(r#"{{"status":"published","version":"{version}"{fields}}}"#);
    assert!((56_000..64_000).contains(&entry.len()), "{}", entry.len());
    entry
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_with_seven_thousand_unknown_fields_takes_effect_and_its_status_says_how_many_more_there_are() {
    require!("nats-server", "database");
    let stage = Stage::set().await;
    let jetstream = stage.nats.jetstream().await;
    let entries = jetstream.get_key_value("alpha").await.unwrap();
    let configs = jetstream.get_object_store("alpha-configs").await.unwrap();
    for (version, collection) in [("1", "first"), ("2", "second")] {
        let metadata = jetstream::object_store::ObjectMetadata { name: format!("metrics/{version}"), ..Default::default() };
        configs.put(metadata, &mut plain(collection).as_bytes()).await.unwrap();
    }
    entries.put("metrics", r#"{"status":"published","version":"1"}"#.into()).await.unwrap();
    stage.send("alpha.metrics", 0..0).await;
    stage.says("metrics", "Ready", true, "AsDesired").await;
    entries.put("metrics", crowded("2").into()).await.unwrap();
    eventually("version 2 runs", SOON, || async {
        let status = stage.status("metrics").await;
        status["observed"]["version"] == "2" && has(&status, "Ready", true, "AsDesired")
    })
    .await;
    stage.send("alpha.metrics", 0..100).await;
    stage.exactly("second", 0..100).await;
    let status = stage.status("metrics").await;
    let unknown: Vec<_> = status["conditions"].as_array().unwrap().iter().filter(|one| one["reason"] == "UnknownEntryField").collect();
    assert_eq!(unknown.len(), 8, "{unknown:?}");
    assert!(unknown.iter().any(|one| one["message"].as_str().unwrap().starts_with("6993 more")), "{unknown:?}");
    let stored = jetstream.get_key_value("alpha-status").await.unwrap().get("metrics").await.unwrap().unwrap();
    assert!(stored.len() < 256 << 10, "{} bytes", stored.len());
    entries.put("metrics", r#"{"status":"paused"}"#.into()).await.unwrap();
    stage.phase_is("metrics", "stopped").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_that_the_server_does_not_take_is_said_by_health_the_log_and_a_metric_until_it_is_written() {
    require!("nats-server", "database");
    // Smaller than an entry may be, and than a status with it.
    let (nats, mongo) = tokio::join!(Nats::start_with("max_payload: 65536\n"), Mongo::start());
    let stage = Stage::of(nats, mongo).await;
    let entries = stage.nats.jetstream().await.get_key_value("alpha").await.unwrap();
    stage.publish_plain("healthy").await;
    let entry = serde_json::json!({ "status": "draft", "labels": { "quotes": "\"".repeat(30_000) } });
    entries.put("metrics", entry.to_string().into()).await.unwrap();
    eventually("health says so", SOON, || async {
        let (code, body) = stage.sluice.get("/health/pipelines").await;
        let health: Value = serde_json::from_str(&body).unwrap();
        let check =
            health["checks"].as_array().unwrap().iter().find(|check| check["name"] == "status" && check["pipeline"] == "metrics").cloned();
        code == 503 && check.is_some_and(|check| check["message"].as_str().unwrap().contains("max_payload"))
    })
    .await;
    assert!(stage.sluice.log().contains("the status cannot be written, what it says is old"));
    let (_, metrics) = stage.sluice.get("/metrics").await;
    let failures = metrics.lines().find_map(|line| line.strip_prefix("sluice_status_write_failures_total ")).unwrap();
    assert!(failures.parse::<u64>().unwrap() > 0);
    stage.send("alpha.healthy", 0..100).await;
    stage.exactly("healthy", 0..100).await;
    entries.put("metrics", r#"{"status":"draft"}"#.into()).await.unwrap();
    eventually("it is written", SOON, || async { stage.sluice.get("/health/pipelines").await.0 == 200 }).await;
}
