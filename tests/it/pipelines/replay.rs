//! Dead letters replayed: each document once, whatever is repeated, interrupted or refused again.

use super::*;
use async_nats::HeaderMap;
use std::collections::BTreeSet;

/// A stage whose collection refuses documents without `n`, with `refused` documents without it in the dead letters.
async fn with_letters(refused: Range<i64>) -> Stage {
    let stage = Stage::set().await;
    let schema = doc! {"$jsonSchema": {"bsonType": "object", "required": ["n"]}};
    database(&stage).await.run_command(doc! {"create": "metrics", "validator": schema}).await.unwrap();
    stage.publish_plain("metrics").await;
    stage.send("alpha.metrics", 0..10).await;
    stage.send_with("alpha.metrics", refused.clone(), |m| doc! {"m": m}).await;
    // They are blamed once another one is stored beside or after them.
    stage.send("alpha.metrics", 10..11).await;
    let letters = u64::try_from(refused.end - refused.start).unwrap();
    eventually("they are dead letters", LONG, || async { stage.dead_letters("metrics").await == letters }).await;
    stage.settled("metrics").await;
    stage
}

async fn database(stage: &Stage) -> mongodb::Database {
    stage.mongo.client().await.database(stage.mongo.database())
}

/// The remedy: the collection takes every document from now on.
async fn correct(stage: &Stage) {
    database(stage).await.run_command(doc! {"collMod": "metrics", "validator": {}}).await.unwrap();
}

async fn replay(stage: &Stage) -> Value {
    serde_json::from_str(&stage.sluice.cli_ok(&["dlq", "replay", "metrics", "-o", "json"]).await).unwrap()
}

/// The dead letters, by identity and sequence.
async fn letters(stage: &Stage) -> BTreeSet<(String, u64)> {
    let list = stage.sluice.cli_ok(&["dlq", "list", "metrics", "-o", "json", "--limit", "100000"]).await;
    let list: Vec<Value> = serde_json::from_str(&list).unwrap();
    list.iter().map(|letter| (letter["identity"].as_str().unwrap().to_owned(), letter["sequence"].as_u64().unwrap())).collect()
}

/// The stream forgets message ids almost at once, so that nothing but identities keeps repeats apart.
async fn forget_message_ids(stage: &Stage) {
    let jetstream = stage.nats.jetstream().await;
    let mut config = jetstream.get_stream("alpha_metrics").await.unwrap().get_info().await.unwrap().config;
    config.duplicate_window = Duration::from_millis(100);
    jetstream.update_stream(config).await.unwrap();
}

/// Exactly `wanted` in `m`, each once, and nothing waits.
async fn stored_once(stage: &Stage, wanted: Range<i64>) {
    let count = usize::try_from(wanted.end - wanted.start).unwrap();
    let found = || async {
        let documents = stage.mongo.documents("metrics").await;
        documents.iter().filter_map(|document| document.get_i64("m").ok()).collect::<Vec<_>>()
    };
    eventually("they are stored", LONG, || async { found().await.len() >= count }).await;
    stage.settled("metrics").await;
    let mut found = found().await;
    found.sort_unstable();
    assert_eq!(found, wanted.collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn replayed_letters_are_stored_once_under_the_identity_of_their_message() {
    require!("nats-server", "database");
    let stage = with_letters(0..25).await;
    correct(&stage).await;
    let identities: BTreeSet<String> = letters(&stage).await.into_iter().map(|(identity, _)| identity).collect();
    let report = replay(&stage).await;
    assert_eq!((report["matched"].as_u64(), report["done"].as_u64(), report["repeated"].as_u64()), (Some(25), Some(25), Some(0)));
    stored_once(&stage, 0..25).await;
    let documents = stage.mongo.documents("metrics").await;
    let replayed = documents.iter().filter(|document| document.contains_key("m"));
    assert_eq!(replayed.map(|document| document.get_object_id("_id").unwrap().to_hex()).collect::<BTreeSet<_>>(), identities);
    assert_eq!(stage.dead_letters("metrics").await, 0);
    assert_eq!(replay(&stage).await["matched"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_again_is_a_dead_letter_again_and_can_be_replayed_at_once() {
    require!("nats-server", "database");
    let stage = with_letters(0..5).await;
    let first = letters(&stage).await;
    let mut before = first.clone();
    for turn in 0..3 {
        assert_eq!(replay(&stage).await["done"], 5);
        stage.send("alpha.metrics", 20 + turn..21 + turn).await;
        // All of them anew: other sequences, and other identities, so that none is taken for the one that was removed.
        eventually("they are refused again", LONG, || async {
            let now = letters(&stage).await;
            now.len() == 5 && now.is_disjoint(&before)
        })
        .await;
        before = letters(&stage).await;
    }
    correct(&stage).await;
    assert_eq!(replay(&stage).await["done"], 5);
    stored_once(&stage, 0..5).await;
    let ids: BTreeSet<String> = first.into_iter().map(|(identity, _)| identity).collect();
    let documents = stage.mongo.documents("metrics").await;
    let found =
        documents.iter().filter(|document| document.contains_key("m")).map(|document| document.get_object_id("_id").unwrap().to_hex());
    assert_eq!(found.collect::<BTreeSet<_>>(), ids, "the identity of the very first message");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_killed_again_and_again_loses_and_doubles_nothing() {
    require!("nats-server", "database");
    let stage = with_letters(0..400).await;
    correct(&stage).await;
    forget_message_ids(&stage).await;
    let mut interrupted = 0;
    for turn in 0..60 {
        let run = stage.sluice.cli(&["dlq", "replay", "metrics"]);
        // Dropped, it is killed, wherever it is.
        if tokio::time::timeout(Duration::from_millis(40 + 10 * turn), run).await.is_err() {
            interrupted += 1;
        }
        if stage.dead_letters("metrics").await == 0 {
            break;
        }
    }
    assert!(interrupted > 0, "it was never interrupted");
    replay(&stage).await;
    assert_eq!(stage.dead_letters("metrics").await, 0);
    stored_once(&stage, 0..400).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replays_at_the_same_time_store_each_document_once() {
    require!("nats-server", "database");
    let stage = with_letters(0..100).await;
    correct(&stage).await;
    forget_message_ids(&stage).await;
    let (one, two) = tokio::join!(replay(&stage), replay(&stage));
    let sum = |name: &str| one[name].as_u64().unwrap() + two[name].as_u64().unwrap();
    assert!(sum("done") >= 100 && one["failed"] == serde_json::json!([]) && two["failed"] == serde_json::json!([]), "{one} {two}");
    assert_eq!(stage.dead_letters("metrics").await, 0);
    stored_once(&stage, 0..100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_original_stored_after_all_and_its_replay_are_one_document() {
    require!("nats-server", "database");
    let stage = with_letters(0..1).await;
    forget_message_ids(&stage).await;
    let jetstream = stage.nats.jetstream().await;
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", "m-1");
    let payload = doc! {"m": 1_i64}.to_vec().unwrap();
    let send =
        async || jetstream.publish_with_headers("alpha.metrics", headers.clone(), payload.clone().into()).await.unwrap().await.unwrap();
    send().await;
    // Blamed once another one is stored after it.
    stage.send("alpha.metrics", 20..21).await;
    eventually("it is a dead letter", LONG, || async { stage.dead_letters("metrics").await == 2 }).await;
    correct(&stage).await;
    // The producer sends it once more, as does a server that lost the end of the first delivery.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!send().await.duplicate);
    eventually("it is stored", LONG, || async { stage.mongo.documents("metrics").await.iter().any(|document| document.contains_key("m")) })
        .await;
    assert_eq!(replay(&stage).await["done"], 2);
    stored_once(&stage, 0..2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_kept_by_reference_is_shown_replayed_and_removed_with_its_letter() {
    require!("nats-server", "database");
    let stage = with_letters(0..1).await;
    let jetstream = stage.nats.jetstream().await;
    let filling = "x".repeat(stage.nats.client().await.max_payload() - 400);
    let payload = doc! {"m": 1_i64, "filling": filling}.to_vec().unwrap();
    jetstream.publish("alpha.metrics", payload.into()).await.unwrap().await.unwrap();
    stage.send("alpha.metrics", 20..21).await;
    eventually("it is a dead letter", LONG, || async { stage.dead_letters("metrics").await == 2 }).await;
    let objects = async || jetstream.get_stream("OBJ_alpha-dlq-payloads").await.unwrap().get_info().await.unwrap().state.messages;
    assert!(objects().await > 1);
    let (_, sequence) = letters(&stage).await.into_iter().max_by_key(|(_, sequence)| *sequence).unwrap();
    let shown = stage.sluice.cli_ok(&["dlq", "show", "metrics", &sequence.to_string(), "-o", "json"]).await;
    assert!(shown.contains("filling") && shown.contains("Sluice-Object"), "{}", &shown[..500]);
    // Refused again, it is by reference again, under its new identity.
    assert_eq!(replay(&stage).await["done"], 2);
    stage.send("alpha.metrics", 21..22).await;
    eventually("it is refused again", LONG, || async {
        let now = letters(&stage).await;
        now.len() == 2 && now.iter().all(|(_, now)| *now > sequence)
    })
    .await;
    correct(&stage).await;
    assert_eq!(replay(&stage).await["done"], 2);
    stored_once(&stage, 0..2).await;
    assert_eq!((objects().await, stage.dead_letters("metrics").await), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_replayed_into_a_paused_pipeline_waits_there() {
    require!("nats-server", "database");
    let stage = with_letters(0..3).await;
    correct(&stage).await;
    stage.sluice.cli_ok(&["pause", "metrics", "--wait"]).await;
    assert_eq!(replay(&stage).await["done"], 3);
    assert_eq!((stage.waiting("metrics").await, stage.dead_letters("metrics").await), (Some(3), 0));
    stage.sluice.cli_ok(&["publish", "metrics", "--wait"]).await;
    stored_once(&stage, 0..3).await;
}
