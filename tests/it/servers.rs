//! What needs no time-series collection, on two servers that were written by others and independently: the database that most
//! tests run on, and FerretDB. Each test runs on both.

use crate::collector_support::{COLLECTION, World};
use crate::support::{Mongo, Nats, Proxy, Server, eventually};
use mongodb::IndexModel;
use mongodb::bson::{Document, doc, oid::ObjectId};
use mongodb::options::IndexOptions;
use sluice::pipeline::config::{OutputConfig, TimeSeries};
use sluice::pipeline::report::ExecutionPhase;
use sluice::pipeline::status::Reason;
use std::{ops::Range, time::Duration};

const SOON: Duration = Duration::from_secs(60);

async fn world(server: Server) -> World {
    World::with(Nats::start().await, Mongo::start_server(server).await, 20_000).await
}

fn numbers(range: Range<i64>) -> impl Iterator<Item = Document> {
    range.map(|n| doc! {"n": n, "device": format!("device-{}", n % 7), "value": n as f64 / 3.0})
}

async fn collection(world: &World) -> mongodb::Collection<Document> {
    world.mongo.client().await.database(world.mongo.database()).collection(COLLECTION)
}

/// The same test on each server, by two names.
macro_rules! on_both {
    ($($name:ident = $test:ident;)*) => {
        mod on_the_database {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                require!("nats-server", "database");
                super::$test(crate::support::Server::Database).await;
            })*
        }
        mod on_ferretdb {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                require!("nats-server", "ferretdb");
                super::$test(crate::support::Server::FerretDb).await;
            })*
        }
    };
}

on_both! {
    twenty_thousand_documents_are_stored_once_over_a_crash_and_a_restart_of_the_execution = stored;
    a_taken_id_is_a_dead_letter_and_the_same_document_again_is_none = taken;
    bad_documents_are_dead_letters_with_their_reasons_and_their_neighbours_are_stored = bad;
    a_server_that_is_killed_under_load_and_comes_back_costs_nothing = killed;
    an_outage_costs_no_document_and_writing_goes_on_by_itself = outage;
}

async fn stored(server: Server) {
    let world = world(server).await;
    let first = world.run(world.output(), false).await;
    world.publish(numbers(0..10_000)).await;
    eventually("some are stored", SOON, || async { first.state.counters().written > 1_000 }).await;
    first.crash().await;
    let second = world.run(world.output(), true).await;
    world.publish(numbers(10_000..20_000)).await;
    eventually("more are stored", SOON, || async { world.mongo.count(COLLECTION).await > 8_000 }).await;
    second.stop().await;
    let third = world.run(world.output(), true).await;
    world.drained(SOON).await;
    assert_eq!((world.counted().await, world.dead().await), ((20_000, 20_000), 0));
    third.stop().await;
}

async fn taken(server: Server) {
    let world = world(server).await;
    let id = ObjectId::new();
    collection(&world).await.insert_one(doc! {"_id": id, "other": true}).await.unwrap();
    let running = world.run(world.output(), true).await;
    world.publish(numbers(0..500)).await;
    world.publish([doc! {"_id": id, "n": 1_i64}, doc! {"_id": "own", "n": 500_i64}]).await;
    world.publish(numbers(501..1_000)).await;
    world.drained(SOON).await;
    // The publisher repeats itself.
    world.publish([doc! {"_id": "own", "n": 500_i64}]).await;
    world.drained(SOON).await;
    assert_eq!(world.counted().await, (1_001, 1_000));
    assert_eq!(world.dead_reasons().await, ["duplicate_id"]);
    running.stop().await;
}

async fn bad(server: Server) {
    let world = world(server).await;
    let unique = IndexOptions::builder().unique(true).build();
    let index = IndexModel::builder().keys(doc! {"u": 1}).options(Some(unique)).build();
    let running = world.run(world.output(), true).await;
    world.publish([doc! {"n": 0_i64, "u": 0_i64}]).await;
    world.drained(SOON).await;
    collection(&world).await.create_index(index).await.unwrap();
    let with = |numbers: Range<i64>| numbers.map(|n| doc! {"n": n, "u": n});
    world.publish(with(1..100)).await;
    // No BSON; a value that another document has in a unique index.
    world.publish_bytes([b"{\"n\": 7}".to_vec(), Vec::new()]).await;
    world.publish([doc! {"n": 1_000_i64, "u": 0_i64}]).await;
    world.publish(with(100..200)).await;
    eventually("the good ones are stored", SOON, || async { world.counted().await == (200, 200) }).await;
    // FerretDB does not say which index it was, so that one waits to be tried alone for minutes before it is a dead letter.
    let left = if server == Server::FerretDb { 1 } else { 0 };
    eventually("the bad ones are named", SOON, || async { world.waiting().await == left && world.dead().await == 3 - left }).await;
    let reasons = world.dead_reasons().await;
    assert_eq!(reasons, if left == 1 { vec!["not_bson", "not_bson"] } else { vec!["duplicate_id", "not_bson", "not_bson"] });
    running.stop().await;
}

async fn killed(server: Server) {
    let mut world = world(server).await;
    if !world.mongo.is_own() {
        return crate::support::skipped("the server of SLUICE_TEST_MONGO_URL is not ours to kill");
    }
    let running = world.run(world.output(), true).await;
    for round in 0..3 {
        world.publish(numbers(round * 3_000..(round + 1) * 3_000)).await;
        eventually("some are stored", SOON, || async { running.state.counters().written > u64::try_from(round * 3_000).unwrap() }).await;
        world.mongo.kill9();
        world.mongo.restart().await;
    }
    world.drained(SOON).await;
    assert_eq!((world.counted().await, world.dead().await), ((9_000, 9_000), 0));
    running.stop().await;
}

async fn outage(server: Server) {
    let mut world = world(server).await;
    let proxy = Proxy::start(world.mongo.port()).await;
    world.mongo_url = Some(world.mongo.url_through(&proxy));
    let running = world.run(world.output(), true).await;
    world.publish(numbers(0..1_000)).await;
    world.drained(SOON).await;
    proxy.cut();
    world.publish(numbers(1_000..3_000)).await;
    let said = || async { running.state.troubles().iter().any(|trouble| trouble.reason == Reason::DatabaseUnavailable) };
    eventually("the outage is said", SOON, said).await;
    assert_eq!(world.dead().await, 0);
    proxy.resume();
    world.drained(SOON).await;
    assert_eq!((world.counted().await, world.dead().await), ((3_000, 3_000), 0));
    eventually("nothing is in the way any more", SOON, || async { running.state.troubles().is_empty() }).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_time_series_collections_is_named_with_the_way_out_and_nothing_is_a_dead_letter() {
    require!("nats-server", "ferretdb");
    let world = world(Server::FerretDb).await;
    let series = TimeSeries { time_field: "ts".into(), meta_field: None, granularity: None, expire_after: None };
    let running = world.run(OutputConfig { time_series: Some(series), ..world.output() }, true).await;
    world.publish(numbers(0..10)).await;
    let trouble = || async { running.state.troubles().into_iter().find(|trouble| trouble.reason == Reason::TimeSeriesUnsupported) };
    eventually("it is said", SOON, || async { trouble().await.is_some() }).await;
    let trouble = trouble().await.unwrap();
    assert!(trouble.message.contains("FerretDB 7.0") && trouble.message.contains("code 238"), "{}", trouble.message);
    assert!(trouble.reason.remedy().contains("take `time_series` out of the config"), "{}", trouble.reason.remedy());
    assert!(!trouble.message.contains("credential") && !trouble.reason.remedy().contains("credential"));
    assert_eq!((running.state.phase(), world.waiting().await, world.dead().await), (ExecutionPhase::Blocked, 10, 0));
    running.stop().await;
}
