//! Which document is blamed for what, on real servers: one that spoils its command, ids that are one to the server, and a collection
//! that refuses everything.

use crate::collector_support::{COLLECTION, World};
use crate::support::eventually;
use mongodb::bson::{Document, doc, serialize_to_vec};
use sluice::pipeline::status::Reason;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(60);

async fn stored(world: &World, numbers: &[i64]) -> bool {
    let documents = world.mongo.documents(COLLECTION).await;
    numbers.iter().all(|n| documents.iter().filter(|document| document.get_i64("n").ok() == Some(*n)).count() == 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_for_which_the_server_refuses_whole_commands_with_an_operators_code_does_not_keep_its_neighbours() {
    require!("nats-server", "database");
    let world = World::start(10_000).await;
    // `_id: undefined`, to which one server answers that the command has a bad value.
    let undefined = b"\x0a\x00\x00\x00\x06_id\x00\x00".to_vec();
    let payload = |n: i64| serialize_to_vec(&doc! {"n": n}).unwrap();
    world.publish_bytes([payload(1), undefined, payload(2)]).await;
    let running = world.run(world.output(), true).await;
    eventually("its neighbours are stored", SOON, || stored(&world, &[1, 2])).await;
    world.publish((3..50_i64).map(|n| doc! {"n": n})).await;
    eventually("what comes later is stored", SOON, || async { world.counted().await.1 == 49 }).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twelve_thousand_ids_that_are_taken_by_their_value_are_dead_letters_at_once_and_keep_no_good_one_waiting() {
    require!("nats-server", "database");
    const TAKEN: i64 = 12_000;
    let world = World::start(20_000).await;
    let database = world.mongo.client().await.database(world.mongo.database());
    database.collection::<Document>(COLLECTION).insert_one(doc! {"_id": {"n": 3}, "first": true}).await.unwrap();
    // Equal to the server, other bytes; ten good ones among them, the last behind all.
    let good = |k: i64| (k % (TAKEN / 10) == TAKEN / 10 - 1).then(|| doc! {"n": k});
    let documents = (0..TAKEN).flat_map(|k| [Some(doc! {"_id": {"n": 3.0}, "k": k}), good(k)]).flatten();
    world.publish(documents).await;
    let begun = Instant::now();
    let running = world.run(world.output(), true).await;
    eventually("the good ones are stored", SOON, || async { world.counted().await.1 == 10 }).await;
    println!("ten good ones among {TAKEN} that are refused were stored after {:?}", begun.elapsed());
    world.drained(SOON).await;
    println!("all were dead letters after {:?}", begun.elapsed());
    assert_eq!((world.dead().await, world.counted().await.1), (u64::try_from(TAKEN).unwrap(), 10));
    let letter = world.jetstream.get_stream("it-dlq").await.unwrap().get_raw_message(1).await.unwrap();
    assert_eq!(letter.headers.get("Sluice-Reason").map(|reason| reason.as_str()), Some("duplicate_id"));
    assert_eq!(running.state.counters().redelivered, 0);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_validator_that_refuses_everything_makes_no_dead_letter_is_told_of_and_all_is_stored_once_it_is_lifted() {
    require!("nats-server", "database");
    let world = World::start(10_000).await;
    let database = world.mongo.client().await.database(world.mongo.database());
    let nothing = doc! {"create": COLLECTION, "validator": {"there is no such field": true}};
    database.run_command(nothing).await.unwrap();
    let running = world.run(world.output(), true).await;
    world.publish((0..50_i64).map(|n| doc! {"n": n})).await;
    eventually("it is told", SOON, || async {
        running.state.troubles().iter().any(|trouble| trouble.reason == Reason::DocumentsRefused && trouble.message.contains("121"))
    })
    .await;
    assert_eq!((world.dead().await, world.waiting().await), (0, 50));
    database.run_command(doc! {"collMod": COLLECTION, "validator": {}}).await.unwrap();
    world.drained(2 * SOON).await;
    assert_eq!((world.dead().await, world.counted().await), (0, (50, 50)));
    eventually("nothing is wrong", SOON, || async { running.state.troubles().is_empty() }).await;
    running.stop().await;
}
