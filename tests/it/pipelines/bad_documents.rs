//! Bad input by a producer: one bad document in a thousand costs one dead letter and nothing else.

use super::*;
use bson::oid::ObjectId;

/// 999 good ones around one bad payload; exactly the bad one is in the dead letters, with its reason.
async fn one_bad_in_a_thousand(stage: &Stage, bad: Vec<u8>, reason: &str) {
    let jetstream = stage.nats.jetstream().await;
    stage.send("alpha.metrics", 0..500).await;
    jetstream.publish("alpha.metrics", bad.into()).await.unwrap().await.unwrap();
    stage.send("alpha.metrics", 500..999).await;
    eventually("one dead letter is there", LONG, || async { stage.dead_letters("metrics").await == 1 }).await;
    stage.settled("metrics").await;
    let good: Vec<_> = stage.mongo.documents("metrics").await.into_iter().filter(|document| document.contains_key("n")).collect();
    assert_eq!(good.len(), 999);
    let list = stage.sluice.cli_ok(&["dlq", "list", "metrics", "-o", "json"]).await;
    assert!(list.contains(reason), "{list}");
    stage.says("metrics", "Advisory", true, "DocumentsRefused").await;
    stage.says("metrics", "Ready", true, "AsDesired").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_id_in_a_thousand_is_one_dead_letter() {
    require!("nats-server", "database");
    let stage = Stage::set().await;
    stage.publish_plain("metrics").await;
    let id = ObjectId::new();
    let collection = stage.mongo.client().await.database(stage.mongo.database()).collection::<Document>("metrics");
    collection.insert_one(doc! {"_id": id, "other": true}).await.unwrap();
    one_bad_in_a_thousand(&stage, doc! {"_id": id, "n": 7_i64}.to_vec().unwrap(), "duplicate_id").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_that_is_no_bson_in_a_thousand_is_one_dead_letter() {
    require!("nats-server", "database");
    let stage = Stage::set().await;
    stage.publish_plain("metrics").await;
    one_bad_in_a_thousand(&stage, br#"{"n": 7}"#.to_vec(), "not_bson").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_a_validator_refuses_in_a_thousand_is_one_dead_letter() {
    require!("nats-server", "database");
    let stage = Stage::set().await;
    let database = stage.mongo.client().await.database(stage.mongo.database());
    let schema = doc! {"$jsonSchema": {"bsonType": "object", "required": ["n"]}};
    database.run_command(doc! {"create": "metrics", "validator": schema}).await.unwrap();
    stage.publish_plain("metrics").await;
    one_bad_in_a_thousand(&stage, doc! {"m": 7}.to_vec().unwrap(), "121").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_time_field_dead_letters_nothing_and_the_status_says_what_to_do() {
    require!("nats-server", "database");
    let stage = Stage::set().await;
    let series = |field: &str| format!("{}    time_series: {{time_field: {field}}}\n", plain("metrics"));
    stage.publish("metrics", &series("when")).await;
    stage.send_with("alpha.metrics", 0..300, |n| doc! {"ts": bson::DateTime::now(), "n": n}).await;
    stage.says("metrics", "Progressing", false, "NothingStoredYet").await;
    assert_eq!((stage.dead_letters("metrics").await, stage.waiting("metrics").await), (0, Some(300)));
    let shown = stage.sluice.cli_ok(&["status", "metrics"]).await;
    assert!(shown.contains("time_field"), "{shown}");
    // The remedy: another collection with the right field. What was refused stays held by the durable until its lease has
    // ended twice over, since only then is it certain that nothing of it went into the first collection.
    let file = stage.config_file("right", &series("ts").replace("collection: metrics", "collection: right"));
    stage.sluice.cli_ok(&["publish", "metrics", "-f", &file, "--wait=9m"]).await;
    stage.exactly("right", 0..300).await;
    assert_eq!(stage.dead_letters("metrics").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_that_sends_json_is_told_so_and_nothing_is_a_dead_letter() {
    require!("nats-server", "database");
    let stage = Stage::set().await;
    stage.publish_plain("metrics").await;
    let jetstream = stage.nats.jetstream().await;
    for n in 0..50 {
        jetstream.publish("alpha.metrics", format!("{{\"n\": {n}}}").into()).await.unwrap().await.unwrap();
    }
    stage.says("metrics", "Progressing", false, "PayloadsNotBson").await;
    let shown = stage.sluice.cli_ok(&["status", "metrics"]).await;
    assert!(shown.contains("looks like JSON") && !shown.contains("time_field"), "{shown}");
    assert_eq!((stage.dead_letters("metrics").await, stage.waiting("metrics").await), (0, Some(50)));
    // One good document proves the config; what is no document becomes dead letters that say the same.
    stage.send("alpha.metrics", 0..1).await;
    eventually("all of them are dead letters", LONG, || async { stage.dead_letters("metrics").await == 50 }).await;
    stage.exactly("metrics", 0..1).await;
    let list = stage.sluice.cli_ok(&["dlq", "list", "metrics", "-o", "json"]).await;
    assert!(list.contains("looks like JSON"), "{list}");
}
