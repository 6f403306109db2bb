//! What a pipeline's past looks like to whoever asks: the entry's revisions and the transitions of its conditions.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn the_history_of_a_pipeline_tells_who_did_what_and_what_became_of_it() {
    require!("nats-server", "database");
    let mut stage = Stage::set().await;
    stage.publish_plain("metrics").await;
    stage.sluice.cli_ok(&["pause", "metrics", "--wait"]).await;
    stage.nats.jetstream().await.get_key_value("alpha").await.unwrap().put("metrics", "garbage".into()).await.unwrap();
    stage.says("metrics", "Valid", false, "EntryUnreadable").await;
    stage.publish("metrics", &plain("other")).await;
    let history: Value = serde_json::from_str(&stage.sluice.cli_ok(&["history", "metrics", "-o", "json"]).await).unwrap();
    let puts = history["entry"].as_array().unwrap();
    let status: Vec<_> = puts.iter().map(|put| put["status"].as_str()).collect();
    assert_eq!(status, [Some("published"), Some("paused"), None, Some("published")]);
    assert!(puts[0]["author"].as_str().unwrap().contains('@') && puts[2]["problem"].is_string(), "{history}");
    let seen = |kind: &str, holds: bool, reason: &str| {
        let changes = history["conditions"].as_array().unwrap();
        changes.iter().position(|change| change["type"] == kind && change["status"] == holds && change["reason"] == reason)
    };
    let told = [seen("Ready", true, "AsDesired"), seen("Ready", true, "Paused"), seen("Valid", false, "EntryUnreadable")];
    assert!(told.iter().all(Option::is_some) && told.is_sorted(), "{told:?} {history}");
    // The same by HTTP, and in words.
    let (code, body) = stage.sluice.get("/api/v1/pipelines/metrics/history").await;
    let served: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((code, served["conditions"].as_array().unwrap().len() >= 3), (200, true), "{body}");
    let table = stage.sluice.cli_ok(&["history", "metrics"]).await;
    assert!(table.contains("EntryUnreadable") && table.contains("unreadable: the entry is not JSON"), "{table}");
    // It is in the document, so that the next controller goes on with it.
    let before = stage.status("metrics").await["history"].as_array().unwrap().clone();
    stage.sluice.sigterm().await;
    stage.sluice.respawn();
    stage.sluice.wait_ready().await;
    stage.sluice.cli_ok(&["pause", "metrics", "--wait"]).await;
    let after = stage.status("metrics").await["history"].as_array().unwrap().clone();
    assert!(after.len() > before.len() && after.starts_with(&before), "{after:?}");
}
