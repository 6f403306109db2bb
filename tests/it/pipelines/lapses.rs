//! Entries that go by themselves, by a TTL or a limit: nobody has deleted them, so what ran goes on, and whoever does want
//! the pipeline to go can say so.

use super::*;
use async_nats::jetstream::kv;
use sluice::transfer::Transfer;

/// A bucket of the entries whose keys may have a TTL, and in which the server leaves a marker for a second.
async fn with_markers() -> Stage {
    let (nats, mongo) = (Nats::start().await, Mongo::start().await);
    let bucket = kv::Config { bucket: "alpha".into(), history: 1, limit_markers: Some(Duration::from_secs(4)), ..kv::Config::default() };
    nats.jetstream().await.create_key_value(bucket).await.unwrap();
    Stage::of(nats, mongo).await
}

/// Why the server put the newest message under the key, where it did: `None` for any other.
async fn marker(stage: &Stage) -> Option<String> {
    let stream = stage.nats.jetstream().await.get_stream("KV_alpha").await.unwrap();
    let newest = stream.get_last_raw_message_by_subject("$KV.alpha.metrics").await.ok()?;
    Some(newest.headers.get("Nats-Marker-Reason")?.as_str().to_owned())
}

async fn entry_is_there(stage: &Stage) -> bool {
    let stream = stage.nats.jetstream().await.get_stream("KV_alpha").await.unwrap();
    stream.get_last_raw_message_by_subject("$KV.alpha.metrics").await.is_ok()
}

/// Puts the entry again as it is, with a TTL, and waits until the server has removed it.
async fn lapse(stage: &Stage) {
    let jetstream = stage.nats.jetstream().await;
    let entry = jetstream.get_key_value("alpha").await.unwrap().get("metrics").await.unwrap().unwrap();
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Nats-TTL", "1s");
    jetstream.publish_with_headers("$KV.alpha.metrics", headers, entry).await.unwrap().await.unwrap();
    eventually("the server has removed it", SOON, || async { marker(stage).await.is_some() }).await;
    assert_eq!(marker(stage).await.as_deref(), Some("MaxAge"));
}

/// The entry is missed, and what ran goes on.
async fn goes_on(stage: &Stage, numbers: Range<i64>) {
    stage.says("metrics", "Valid", false, "EntryMissing").await;
    stage.phase_is("metrics", "run").await;
    stage.send("alpha.metrics", numbers.clone()).await;
    stage.exactly("metrics", 0..numbers.end).await;
}

async fn gone(stage: &Stage) {
    eventually("stream and status are gone", LONG, || async {
        stage.waiting("metrics").await.is_none() && stage.status("metrics").await.is_null()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_expires_by_its_own_ttl_stops_and_deletes_nothing() {
    require!("nats-server", "database");
    let stage = with_markers().await;
    stage.publish_plain("metrics").await;
    stage.send("alpha.metrics", 0..10).await;
    lapse(&stage).await;
    goes_on(&stage, 10..20).await;
    let listed = stage.sluice.cli_ok(&["list"]).await;
    assert!(listed.contains("missing") && !listed.contains("deleted"), "{listed}");
    // The marker goes, too, and nothing changes by that.
    eventually("the marker is gone", SOON, || async { !entry_is_there(&stage).await }).await;
    goes_on(&stage, 20..30).await;
    // What the reason names leads out: put again, it is as it was.
    stage.publish_plain("metrics").await;
    stage.says("metrics", "Ready", true, "AsDesired").await;
    // So does the word that it is really to go, of a producer as well as of `sluice delete`.
    lapse(&stage).await;
    goes_on(&stage, 30..40).await;
    let transfer = Transfer::new("alpha", stage.nats.client().await).await.unwrap();
    transfer.remove("metrics").await.unwrap();
    gone(&stage).await;
    stage.publish_plain("metrics").await;
    lapse(&stage).await;
    goes_on(&stage, 40..50).await;
    eventually("the marker is gone", SOON, || async { !entry_is_there(&stage).await }).await;
    stage.sluice.cli_ok(&["delete", "metrics", "--yes", "--wait"]).await;
    gone(&stage).await;
    assert_each_once(&stage.mongo, "metrics", 0..50).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_of_the_buckets_stream_deletes_no_pipeline_and_a_purge_of_the_key_does() {
    require!("nats-server", "database");
    let stage = with_markers().await;
    stage.publish_plain("metrics").await;
    stage.send("alpha.metrics", 0..10).await;
    let stream = stage.nats.jetstream().await.get_stream("KV_alpha").await.unwrap();
    stream.purge().filter("$KV.alpha.metrics").await.unwrap();
    eventually("the entry is gone", SOON, || async { marker(&stage).await.is_some() || !entry_is_there(&stage).await }).await;
    println!("the server left a marker: {:?}", marker(&stage).await);
    // A controller that saw nothing of it comes to the same.
    goes_on(&stage, 10..20).await;
    stage.publish_plain("metrics").await;
    stage.says("metrics", "Ready", true, "AsDesired").await;
    // A person's purge is a decision, and what it rolls up is gone.
    stage.nats.jetstream().await.get_key_value("alpha").await.unwrap().purge("metrics").await.unwrap();
    gone(&stage).await;
    assert_each_once(&stage.mongo, "metrics", 0..20).await;
}
