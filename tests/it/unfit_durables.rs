//! Durables that somebody edits while they are read, and publishers that write into headers what a durable writes: nothing
//! is settled that is not what was published.

use crate::collector_support::{Running, STREAM, SUBJECT, World};
use crate::support::eventually;
use async_nats::HeaderMap;
use async_nats::jetstream::consumer::pull;
use bson::doc;
use futures_util::StreamExt;
use sluice::pipeline::status::Reason;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);

/// The durable, with short leases, so that what is dropped without a word comes again soon.
async fn edit(world: &World, change: impl FnOnce(&mut pull::Config)) {
    let mut config = pull::Config {
        durable_name: Some("default".into()),
        max_ack_pending: 2_000,
        ack_wait: Duration::from_secs(2),
        ..Default::default()
    };
    change(&mut config);
    world.jetstream.get_stream(STREAM).await.unwrap().update_consumer(config).await.unwrap();
}

fn says(running: &Running, reason: Reason, part: &str) -> bool {
    running.state.troubles().iter().any(|trouble| trouble.reason == reason && trouble.message.contains(part))
}

async fn publish(world: &World, headers: &[(&str, &str)], payload: Vec<u8>) {
    let mut map = HeaderMap::new();
    headers.iter().for_each(|(name, value)| map.insert(*name, *value));
    world.jetstream.publish_with_headers(SUBJECT, map, payload.into()).await.unwrap().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_durable_that_hands_out_no_bodies_under_a_load_loses_nothing_and_buries_nothing() {
    require!("nats-server", "database");
    let world = World::start(2_000).await;
    edit(&world, |_| {}).await;
    let running = world.run(world.output(), true).await;
    world.publish([doc! {"n": -1_i64}]).await;
    world.drained(SOON).await;
    let load = async {
        for part in 0..10_i64 {
            world.publish((part * 500..(part + 1) * 500).map(|n| doc! {"n": n})).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let edits = async {
        for _ in 0..8 {
            edit(&world, |config| config.headers_only = true).await;
            tokio::time::sleep(Duration::from_millis(60)).await;
            edit(&world, |config| config.headers_only = false).await;
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
        edit(&world, |config| config.headers_only = true).await;
    };
    tokio::join!(load, edits);
    world.publish((5_000..6_000_i64).map(|n| doc! {"n": n})).await;
    eventually("it is said", SOON, || async { says(&running, Reason::ConsumerUnusable, "headers_only") }).await;
    // Longer than a lease: what was held comes again, without a body.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(world.dead().await, 0, "nothing is buried without its bytes");
    assert!(world.waiting().await >= 1_000, "nothing is settled");
    edit(&world, |config| config.headers_only = false).await;
    world.drained(2 * SOON).await;
    assert_eq!(world.counted().await, (6_001, 6_001));
    assert_eq!(world.dead().await, 0);
    eventually("nothing is wrong", SOON, || async { running.state.troubles().is_empty() }).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_that_claims_a_larger_body_than_it_sent_loses_nothing_and_keeps_nobody_waiting() {
    require!("nats-server", "database");
    let world = World::start(1_000).await;
    let running = world.run(world.output(), true).await;
    let document = |n: i64| doc! {"n": n}.to_vec().unwrap();
    publish(&world, &[("Nats-Msg-Size", "1000000")], document(0)).await;
    publish(&world, &[("Nats-Msg-Size", "86")], Vec::new()).await;
    publish(&world, &[("Nats-Msg-Size", "0")], Vec::new()).await;
    publish(&world, &[("Nats-Msg-Size", "18446744073709551616")], document(1)).await;
    publish(&world, &[("Nats-Msg-Size", "many")], document(2)).await;
    world.drained(SOON).await;
    assert_eq!(world.counted().await, (3, 3));
    // Two are no documents, and nothing was in them.
    assert_eq!(world.dead().await, 2);
    // More of them than the durable hands out at once, and good ones among them.
    let (world, sent) = (&world, 3_000_i64);
    let sends = futures_util::stream::iter(3..sent).map(|n| async move {
        let size = [("Nats-Msg-Size", "4096")];
        publish(world, if n % 3 == 0 { &[] } else { &size }, document(n)).await;
    });
    sends.buffer_unordered(200).collect::<Vec<_>>().await;
    world.drained(2 * SOON).await;
    assert_eq!(world.counted().await, (3_000, 3_000));
    assert_eq!(world.dead().await, 2);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_holds_the_bytes_that_were_published() {
    require!("nats-server", "database");
    let world = World::start(1_000).await;
    let running = world.run(world.output(), true).await;
    world.publish([doc! {"n": 0_i64}]).await;
    let bodies: Vec<Vec<u8>> = (0..50_usize).map(|n| (0..n * 37).map(|byte| (byte * 31 + n) as u8 | 0x80).collect()).collect();
    world.publish_bytes(bodies.clone()).await;
    world.drained(SOON).await;
    let letters = world.jetstream.get_stream("it-dlq").await.unwrap();
    let mut found = Vec::new();
    for sequence in 1..=letters.cached_info().state.messages {
        let letter = letters.get_raw_message(sequence).await.unwrap();
        let of: usize = letter.headers.get("Sluice-Sequence").unwrap().as_str().parse().unwrap();
        found.push((of - 2, letter.payload.to_vec()));
    }
    found.sort();
    assert_eq!(found, bodies.into_iter().enumerate().collect::<Vec<_>>());
    running.stop().await;
}
