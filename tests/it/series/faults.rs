//! What remains of faults that nobody could see: found by the suspects' look-up, or repaired.

use super::*;
use crate::collector_support::SUBJECT;
use async_nats::jetstream::consumer::DeliverPolicy;

fn collection(client: &mongodb::Client, world: &World) -> mongodb::Collection<Document> {
    client.database(world.mongo.database()).collection(COLLECTION)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_have_been_inserted_is_found_by_time_source_and_identity_and_not_stored_twice() {
    require!("nats-server", "database");
    let world = world().await;
    let running = run(&world).await;
    plays(&running, StreamRole::Active).await;
    // One of each kind of source; with and without an _id of its own.
    let odd = [
        doc! { "n": 0_i64, "ts": DateTime::from_millis(5), "device": { "b": 1, "a": [{ "y": 1, "x": 2 }] } },
        doc! { "n": 1_i64, "ts": DateTime::from_millis(5) },
        doc! { "n": 2_i64, "ts": DateTime::from_millis(-5), "device": 7.0 },
        doc! { "n": 3_i64, "ts": DateTime::from_millis(6), "device": { "b": 1, "a": 2 }, "_id": 3 },
        doc! { "_id": { "b": 1, "a": 2 }, "n": 4_i64, "ts": DateTime::from_millis(6), "device": "a" },
        doc! { "n": 5_i64, "ts": DateTime::from_millis(7), "device": "a", "t": mongodb::bson::Timestamp { time: 0, increment: 0 } },
    ];
    // Carried out, and nothing is known of it: the measurements', and the record's of the suspects.
    let unknown = doc! { "failCommands": ["insert"], "writeConcernError": { "code": 64, "errmsg": "waiting for replication timed out" } };
    world.mongo.fail_command(doc! { "mode": { "times": 3 }, "data": unknown }).await;
    let count = 400;
    world.publish(odd.into_iter().chain(measurements(6..count))).await;
    world.drained(SOON).await;
    each_once(&world, count).await;
    let counters = running.state.counters();
    assert!(counters.duplicates >= 6 && counters.dead_lettered == 0, "{counters:?}");
    assert!(!ledger(&world).await.1.is_empty(), "they are recorded");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_durable_that_counts_anew_in_the_middle_of_a_load_stores_nothing_twice() {
    require!("nats-server", "database");
    let world = world().await;
    let running = run(&world).await;
    plays(&running, StreamRole::Active).await;
    let stream = world.jetstream.get_stream(STREAM).await.unwrap();
    for round in 0..4 {
        world.publish(measurements(round * 2_000..(round + 1) * 2_000)).await;
        // Deleted and made again: all that is unacknowledged is delivered at once, and for the first time, as it says.
        stream.delete_consumer("default").await.unwrap();
        let consumer = pull::Config {
            durable_name: Some("default".into()),
            max_ack_pending: 20_000,
            ack_wait: ACK_WAIT,
            deliver_policy: DeliverPolicy::All,
            ..Default::default()
        };
        stream.create_consumer(consumer).await.unwrap();
    }
    world.drained(SOON).await;
    each_once(&world, 8_000).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_before_the_repair_leaves_it_to_the_successor_and_the_smallest_copy_stays() {
    require!("nats-server", "database");
    let world = world().await;
    let running = run(&world).await;
    plays(&running, StreamRole::Active).await;
    world.publish(measurements(0..50)).await;
    world.drained(SOON).await;
    let first = world.mongo.documents(COLLECTION).await.remove(0);
    // A zombie's insert that came after the look-up of a suspect: the record is there, and two more copies.
    let client = world.mongo.client().await;
    for attempt in [3, 200] {
        let copy = copy_of_the_first(&world, attempt).await;
        collection(&client, &world).insert_one(copy).await.unwrap();
    }
    let ledger = client.database(world.mongo.database()).collection::<Document>("sluice_ledger");
    let page = ledger.find_one(doc! { "term": { "$exists": true } }).await.unwrap().unwrap();
    let suspect = doc! { "id": first.get_object_id("_id").unwrap(), "time": *first.get_datetime("ts").unwrap(), "meta": first.get_str("device").unwrap() };
    let record = doc! { "_id": format!("{}#1", page.get_str("_id").unwrap()), "at": DateTime::now(), "passes": 0, "suspects": [suspect] };
    ledger.insert_one(record).await.unwrap();
    running.crash().await;
    assert_eq!(world.counted().await, (52, 50));
    let successor = run(&world).await;
    plays(&successor, StreamRole::Active).await;
    each_once(&world, 50).await;
    assert_eq!(world.mongo.documents(COLLECTION).await.remove(0), first, "the smallest _id stays");
    successor.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn repairers_that_race_leave_one_copy_of_each() {
    require!("nats-server", "database");
    let world = world().await;
    let running = run(&world).await;
    plays(&running, StreamRole::Active).await;
    world.publish(measurements(0..300)).await;
    world.drained(SOON).await;
    running.stop().await;
    let client = world.mongo.client().await;
    let stored = world.mongo.documents(COLLECTION).await;
    let copies = (1..4_u8).flat_map(|attempt| {
        stored.iter().map(move |measurement| {
            let mut id = measurement.get_object_id("_id").unwrap().bytes();
            id[9] = attempt;
            let mut copy = measurement.clone();
            copy.insert("_id", ObjectId::from_bytes(id));
            copy
        })
    });
    collection(&client, &world).insert_many(copies).await.unwrap();
    let suspects = stored.iter().map(|m| doc! { "id": m.get_object_id("_id").unwrap(), "time": *m.get_datetime("ts").unwrap() });
    let ledger = client.database(world.mongo.database()).collection::<Document>("sluice_ledger");
    // Each repairer has a page and a record of its own, of the same measurements: nothing keeps one from the others.
    let suspects: Vec<Document> = suspects.collect();
    let page = ledger.find_one(doc! { "term": { "$exists": true } }).await.unwrap().unwrap();
    let mut runs = Vec::new();
    for number in 0..4 {
        let (mut job, deps) = world.job(world.nats.client().await, output(&world), true).await;
        let stream = format!("other_{number}");
        world
            .jetstream
            .create_stream(async_nats::jetstream::stream::Config {
                name: stream.clone(),
                subjects: vec![stream.clone()],
                retention: async_nats::jetstream::stream::RetentionPolicy::WorkQueue,
                ..Default::default()
            })
            .await
            .unwrap()
            .create_consumer(pull::Config { durable_name: Some("default".into()), ..Default::default() })
            .await
            .unwrap();
        let created = world.jetstream.get_stream(&stream).await.unwrap().cached_info().created.unix_timestamp_nanos();
        job.stream.clone_from(&stream);
        let record =
            doc! { "_id": format!("{stream}@{created}/{COLLECTION}#1"), "at": DateTime::now(), "passes": 0, "suspects": suspects.clone() };
        ledger.insert_one(record).await.unwrap();
        runs.push((job, deps));
    }
    assert!(page.contains_key("reserved"));
    assert_eq!(world.counted().await, (1200, 300));
    let stop = tokio_util::sync::CancellationToken::new();
    let mut tasks = Vec::new();
    for (job, deps) in runs {
        let (live, receiver) = tokio::sync::watch::channel(1);
        let (state, stop) = (std::sync::Arc::new(sluice::collector::ExecutionState::default()), stop.clone());
        tasks.push(tokio::spawn(async move {
            let _live = live;
            sluice::collector::run(job, deps, state, receiver, stop).await.unwrap();
        }));
    }
    each_once(&world, 300).await;
    assert_eq!(world.mongo.documents(COLLECTION).await, stored, "of each the smallest");
    stop.cancel();
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_that_is_dropped_under_load_is_made_again_as_a_time_series_collection() {
    require!("nats-server", "database");
    let world = world().await;
    let running = run(&world).await;
    plays(&running, StreamRole::Active).await;
    let client = world.mongo.client().await;
    let kind = || async {
        let found =
            client.database(world.mongo.database()).run_command(doc! { "listCollections": 1, "filter": { "name": COLLECTION } }).await;
        let found = found.unwrap().get_document("cursor").unwrap().get_array("firstBatch").unwrap().clone();
        found.first().map(|found| found.as_document().unwrap().get_str("type").unwrap().to_owned())
    };
    let publishing = async {
        for round in 0..10 {
            world.publish(measurements(round * 500..(round + 1) * 500)).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let dropping = async {
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(250)).await;
            collection(&client, &world).drop().await.unwrap();
        }
    };
    tokio::join!(publishing, dropping);
    world.drained(SOON).await;
    world.publish([measurement(9_999)]).await;
    world.drained(SOON).await;
    assert_eq!(kind().await.as_deref(), Some("timeseries"));
    let documents = world.mongo.documents(COLLECTION).await;
    assert!(documents.iter().any(|document| document.get_i64("n").is_ok_and(|n| n == 9_999)));
    let (all, different) = world.counted().await;
    assert_eq!(all, different, "none twice");
    assert_eq!(world.dead().await, 0);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_with_an_id_of_its_own_is_another_measurement_if_any_field_differs() {
    require!("nats-server", "database");
    let world = world().await;
    let running = run(&world).await;
    plays(&running, StreamRole::Active).await;
    let same = |value: i32| doc! { "_id": 1, "n": i64::from(value), "ts": DateTime::from_millis(5), "device": "a" };
    world.publish([same(1), same(2)]).await;
    world.drained(SOON).await;
    assert_eq!(world.counted().await, (2, 2));
    // Published once more, it is another message: nothing tells it from the first but NATS.
    world.jetstream.publish(SUBJECT, mongodb::bson::serialize_to_vec(&same(1)).unwrap().into()).await.unwrap().await.unwrap();
    world.drained(SOON).await;
    assert_eq!(world.counted().await, (3, 2));
    running.stop().await;
}
