//! The collector on a real nats-server and a real database.

use crate::collector_support::{COLLECTION, SUBJECT, World};
use crate::support::eventually;
use futures_util::StreamExt;
use mongodb::bson::{Document, doc};
use sluice::pipeline::config::{Batching, TimeSeries};
use sluice::pipeline::report::ExecutionPhase;
use sluice::pipeline::status::Reason;
use std::sync::Arc;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(20);

fn readings(numbers: std::ops::Range<i64>) -> impl Iterator<Item = Document> {
    numbers.map(|n| doc! { "n": n, "device": format!("device-{}", n % 7), "value": n as f64 / 3.0 })
}

#[tokio::test]
async fn documents_arrive_exactly_once_and_are_acknowledged() {
    require!("nats-server", "database");
    let world = World::start(10_000).await;
    let running = world.run(world.output(), false).await;
    world.publish(readings(0..5_000)).await;
    world.drained(SOON).await;
    assert_eq!(world.counted().await, (5_000, 5_000));
    let counters = running.state.counters();
    assert_eq!((counters.received, counters.written, counters.dead_lettered), (5_000, 5_000, 0));
    assert!(running.state.proven() && running.state.troubles().is_empty());
    assert_eq!(running.state.phase(), ExecutionPhase::Running);
    running.stop().await;
}

#[tokio::test]
async fn one_bad_in_a_thousand_of_three_kinds_leaves_the_others_stored_the_first_time() {
    require!("nats-server", "database");
    for (kind, code) in [("taken", Some("11000")), ("no BSON", None), ("refused", Some("121"))] {
        let world = World::start(10_000).await;
        let database = world.mongo.client().await.database(world.mongo.database());
        database.create_collection(COLLECTION).validator(doc! { "bad": { "$exists": false } }).await.unwrap();
        if kind == "taken" {
            database.collection::<Document>(COLLECTION).insert_one(doc! { "_id": "mine", "n": -1i64 }).await.unwrap();
        }
        let mut payloads: Vec<Vec<u8>> = readings(0..1_000).map(|d| mongodb::bson::serialize_to_vec(&d).unwrap()).collect();
        payloads[500] = match kind {
            "taken" => mongodb::bson::serialize_to_vec(&doc! { "_id": "mine", "n": 500i64 }).unwrap(),
            "no BSON" => b"{\"n\": 500}".to_vec(),
            _ => mongodb::bson::serialize_to_vec(&doc! { "n": 500i64, "bad": true }).unwrap(),
        };
        let poison = payloads[500].clone();
        world.publish_bytes(payloads).await;
        let running = world.run(world.output(), false).await;
        world.drained(SOON).await;
        let stored = world.mongo.documents(COLLECTION).await.iter().filter(|d| d.get_i64("n").is_ok_and(|n| n >= 0)).count();
        assert_eq!(stored, 999, "{kind}");
        assert_eq!(world.dead().await, 1, "{kind}");
        let counters = running.state.counters();
        assert_eq!((counters.received, counters.redelivered, counters.dead_lettered), (1_000, 0, 1), "{kind}");
        running.stop().await;

        let letter = world.jetstream.get_stream("it-dlq").await.unwrap().get_raw_message(1).await.unwrap();
        assert_eq!(letter.payload, poison, "{kind}");
        assert_eq!(letter.headers.get("Sluice-Sequence").map(|v| v.as_str()), Some("501"), "{kind}");
        assert_eq!(letter.headers.get("Sluice-Code").map(|v| v.as_str()), code, "{kind}");
    }
}

#[tokio::test]
async fn a_message_that_was_stored_under_its_own_id_before_is_done() {
    require!("nats-server", "database");
    let world = World::start(10_000).await;
    let database = world.mongo.client().await.database(world.mongo.database());
    database.collection::<Document>(COLLECTION).insert_one(doc! { "_id": 7, "n": 7i64, "a": { "b": 1 } }).await.unwrap();
    world.publish([doc! { "n": 7i64, "a": { "b": 1 }, "_id": 7 }]).await;
    let running = world.run(world.output(), false).await;
    world.drained(SOON).await;
    assert_eq!((world.dead().await, running.state.counters().duplicates), (0, 1));
    running.stop().await;
}

#[tokio::test]
async fn a_wrong_time_field_dead_letters_nothing_and_the_status_says_so() {
    require!("nats-server", "database");
    let world = World::start(10_000).await;
    let series = TimeSeries { time_field: "wrong".into(), meta_field: None, granularity: None, expire_after: None };
    world.publish(readings(0..300)).await;
    let running = world.run(sluice::pipeline::config::OutputConfig { time_series: Some(series), ..world.output() }, false).await;
    eventually("the trouble is told", SOON, || async {
        running.state.troubles().iter().any(|t| t.reason == Reason::NothingStoredYet && !t.message.is_empty())
    })
    .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((world.dead().await, world.waiting().await), (0, 300));
    assert!(!running.state.proven());
    running.stop().await;
    assert_eq!((world.dead().await, world.waiting().await), (0, 300));
}

#[tokio::test]
async fn a_stream_of_json_is_not_emptied_into_the_dead_letters() {
    require!("nats-server", "database");
    let world = World::start(10_000).await;
    world.publish_bytes((0..50).map(|n| format!("{{\"n\": {n}}}").into_bytes())).await;
    let running = world.run(world.output(), false).await;
    eventually("the trouble is told", SOON, || async { running.state.troubles().iter().any(|t| t.reason == Reason::PayloadsNotBson) })
        .await;
    assert_eq!(world.dead().await, 0);
    // One good document proves the config: now the others are about themselves.
    world.publish(readings(0..1)).await;
    world.drained(SOON).await;
    assert_eq!((world.dead().await, world.counted().await), (50, (1, 1)));
    assert!(running.state.troubles().is_empty());
    running.stop().await;
}

#[tokio::test]
async fn a_database_that_is_killed_and_restarted_under_load_loses_and_doubles_nothing() {
    require!("nats-server", "database");
    let mut world = World::start(10_000).await;
    if !world.mongo.is_own() {
        return crate::support::skipped("the server of SLUICE_TEST_MONGO_URL is not ours to kill");
    }
    let running = world.run(world.output(), false).await;
    for round in 0..3i64 {
        world.publish(readings(round * 4_000..round * 4_000 + 2_000)).await;
        world.mongo.kill9();
        world.publish(readings(round * 4_000 + 2_000..(round + 1) * 4_000)).await;
        eventually("the trouble is told", SOON, || async {
            running.state.troubles().iter().any(|t| t.reason == Reason::DatabaseUnavailable)
        })
        .await;
        world.mongo.restart().await;
        let back = Instant::now();
        world.drained(SOON).await;
        assert!(back.elapsed() < Duration::from_secs(10), "resumed only after {:?}", back.elapsed());
    }
    assert_eq!(world.counted().await, (12_000, 12_000));
    assert_eq!(world.dead().await, 0);
    eventually("no trouble is left", SOON, || async { running.state.troubles().is_empty() }).await;
    running.stop().await;
}

#[tokio::test]
async fn a_nats_server_that_is_killed_and_restarted_under_load_loses_and_doubles_nothing() {
    require!("nats-server", "database");
    let mut world = World::start(10_000).await;
    world.publish(readings(0..30_000)).await;
    let output = world.output();
    let running =
        world.run(sluice::pipeline::config::OutputConfig { batching: Batching { count: 100, ..output.batching }, ..output }, false).await;
    for round in 1..=3u64 {
        eventually("documents flow", SOON, || async { world.mongo.count(COLLECTION).await > round * 2_000 }).await;
        world.nats.kill9();
        world.nats.restart().await;
    }
    // What was in flight is delivered again after its lease.
    world.drained(Duration::from_secs(60)).await;
    assert_eq!(world.counted().await, (30_000, 30_000));
    assert_eq!(world.dead().await, 0);
    running.stop().await;
}

#[tokio::test]
async fn stopping_with_a_partial_batch_stores_it() {
    require!("nats-server", "database");
    let world = World::start(10_000).await;
    let output = world.output();
    let batching = Batching { period: Duration::from_secs(60), ..output.batching };
    let running = world.run(sluice::pipeline::config::OutputConfig { batching, ..output }, false).await;
    world.publish(readings(0..100)).await;
    eventually("all are held", SOON, || async { running.state.counters().buffered == 100 }).await;
    assert_eq!(world.counted().await, (0, 0));
    let begun = Instant::now();
    running.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(8), "stopped after {:?}", begun.elapsed());
    assert_eq!(world.counted().await, (100, 100));
    eventually("all are acknowledged", SOON, || async { world.waiting().await == 0 }).await;
}

/// How many deliveries the durable has made, and how many messages the stream has ever had.
async fn deliveries(world: &World) -> (u64, u64) {
    let stream = world.jetstream.get_stream(crate::collector_support::STREAM).await.unwrap();
    let last = stream.cached_info().state.last_sequence;
    let consumer: async_nats::jetstream::consumer::PullConsumer = stream.get_consumer("default").await.unwrap();
    (consumer.cached_info().delivered.consumer_sequence, last)
}

#[tokio::test(flavor = "multi_thread")]
async fn rolling_restarts_under_any_load_redeliver_nothing() {
    require!("nats-server", "database");
    let world = Arc::new(World::start(10_000).await);
    let stop = tokio_util::sync::CancellationToken::new();
    // From a few documents a second, which is where requests are hardly ever used up, to more than is written at once.
    for (round, (burst, pause)) in [(1, 60), (1, 7), (20, 20), (800, 30)].into_iter().enumerate() {
        let round_is_over = stop.child_token();
        let load = tokio::spawn({
            let (world, over) = (world.clone(), round_is_over.clone());
            async move {
                let mut n = round as i64 * 1_000_000;
                while !over.is_cancelled() {
                    world.publish(readings(n..n + burst)).await;
                    n += burst;
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                }
            }
        });
        let mut before = world.run(world.output(), true).await;
        for _ in 0..3 {
            let next = world.run(world.output(), true).await;
            eventually("the next one has pulled", SOON, || async { next.state.counters().received > 0 }).await;
            before.stop().await;
            before = next;
        }
        round_is_over.cancel();
        load.await.unwrap();
        world.drained(SOON).await;
        before.stop().await;
        let (delivered, messages) = deliveries(&world).await;
        assert_eq!(delivered, messages, "{burst} every {pause} ms");
    }
    let (stored, different) = world.counted().await;
    assert_eq!((stored as u64, different as u64), (deliveries(&world).await.1, deliveries(&world).await.1));
}

#[tokio::test]
async fn a_consumer_that_allows_a_thousand_does_not_stall_batches_of_a_thousand() {
    require!("nats-server", "database");
    let world = World::start(1_000).await;
    world.publish(readings(0..20_000)).await;
    let output = world.output();
    let batching = Batching { period: Duration::from_secs(3), ..output.batching };
    let begun = Instant::now();
    let running = world.run(sluice::pipeline::config::OutputConfig { batching, ..output }, false).await;
    world.drained(SOON).await;
    eprintln!("took {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(10), "took {:?}", begun.elapsed());
    assert_eq!(world.counted().await, (20_000, 20_000));
    let limits = running.state.limits();
    assert!(limits.limited && limits.batch_count == 333, "{limits:?}");
    running.stop().await;
}

#[tokio::test]
async fn a_stream_that_is_deleted_and_created_again_is_read_again() {
    require!("nats-server", "database");
    let world = World::start(10_000).await;
    let running = world.run(world.output(), false).await;
    world.publish(readings(0..10)).await;
    world.drained(SOON).await;
    let info = world.jetstream.get_stream(crate::collector_support::STREAM).await.unwrap();
    let consumer: async_nats::jetstream::consumer::PullConsumer = info.get_consumer("default").await.unwrap();
    world.jetstream.delete_stream(crate::collector_support::STREAM).await.unwrap();
    eventually("the trouble is told", SOON, || async { running.state.troubles().iter().any(|t| t.reason == Reason::StreamUnavailable) })
        .await;
    let again = world.jetstream.create_stream(info.cached_info().config.clone()).await.unwrap();
    again.create_consumer(consumer.cached_info().config.clone()).await.unwrap();
    world.publish(readings(10..20)).await;
    world.drained(SOON).await;
    assert_eq!(world.counted().await, (20, 20));
    running.stop().await;
}

#[tokio::test]
async fn a_lone_document_arrives_after_the_period_and_at_once_with_a_linger() {
    require!("nats-server", "database");
    let world = World::start(10_000).await;
    let output = world.output();
    let batching = Batching { period: Duration::from_secs(60), linger: Duration::from_millis(5), ..output.batching };
    let running = world.run(sluice::pipeline::config::OutputConfig { batching, ..output }, false).await;
    let mut inserted = Vec::new();
    for n in 0..20 {
        let begun = Instant::now();
        world.publish(readings(n..n + 1)).await;
        eventually("it is stored", SOON, || async { running.state.counters().written == n as u64 + 1 }).await;
        inserted.push(begun.elapsed());
    }
    inserted.sort_unstable();
    assert!(inserted[10] < Duration::from_millis(100), "{inserted:?}");
    running.stop().await;
}

#[tokio::test]
async fn an_idle_collector_asks_for_little() {
    require!("nats-server", "database");
    let world = World::start(10_000).await;
    let mut pulls = world.client.subscribe("$JS.API.CONSUMER.MSG.NEXT.>").await.unwrap();
    world.client.flush().await.unwrap();
    let running = world.run(world.output(), false).await;
    // The first is brief, since nobody knows yet whether messages wait.
    for most in [256, 1] {
        let pull = tokio::time::timeout(SOON, pulls.next()).await.unwrap().unwrap();
        let request: serde_json::Value = serde_json::from_slice(&pull.payload).unwrap();
        assert!(request["batch"].as_u64().unwrap() <= most, "{request}");
    }
    assert!(tokio::time::timeout(Duration::from_secs(4), pulls.next()).await.is_err(), "one pull is enough");
    assert!(SUBJECT.starts_with("it."));
    running.stop().await;
}
