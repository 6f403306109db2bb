//! What a stream lost and what others have acknowledged look alike from here: the one is said, the other never.

use crate::collector_support::{STREAM, World, holding, numbers};
use crate::support::{Nats, Proxy, eventually};
use async_nats::jetstream::consumer::pull;
use futures_util::StreamExt;
use std::path::Path;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);

fn durable(ack_wait: Duration) -> pull::Config {
    pull::Config { durable_name: Some("default".into()), ack_wait, max_ack_pending: 10_000, ..pull::Config::default() }
}

/// Takes so many messages as another process would, and acknowledges them.
async fn acknowledge_elsewhere(world: &World, messages: usize) {
    let stream = world.jetstream.get_stream(STREAM).await.unwrap();
    let consumer = stream.get_consumer::<pull::Config>("default").await.unwrap();
    let mut taken = consumer.stream().max_messages_per_batch(messages).messages().await.unwrap().take(messages);
    while let Some(message) = tokio::time::timeout(SOON, taken.next()).await.expect("they are delivered again") {
        message.unwrap().double_ack().await.unwrap();
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() { copy(&entry.path(), &to) } else { std::fs::copy(entry.path(), &to).map(drop).unwrap() }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_process_acknowledged_over_a_durable_that_was_made_anew_is_no_loss() {
    require!("nats-server", "database");
    let world = World::start(10_000).await;
    let proxy = Proxy::start(world.nats.port()).await;
    let client = async_nats::connect(world.nats.url_through(&proxy)).await.unwrap();
    let running = world.run_on(client, holding(&world), true).await;
    world.publish(numbers(0..20)).await;
    eventually("all are held", SOON, || async { running.state.counters().buffered == 20 }).await;
    // It hears of nothing until all is over.
    proxy.stall();
    let stream = world.jetstream.get_stream(STREAM).await.unwrap();
    stream.delete_consumer("default").await.unwrap();
    stream.create_consumer(durable(Duration::from_secs(30))).await.unwrap();
    acknowledge_elsewhere(&world, 20).await;
    proxy.cut();
    tokio::time::sleep(Duration::from_millis(200)).await;
    proxy.resume();
    eventually("what is held is let go", SOON, || async { running.state.counters().expired == 20 }).await;
    assert_eq!(running.state.counters().lost_tails, 0, "nothing is missing");
    world.publish(numbers(20..40)).await;
    eventually("it reads on", SOON, || async { running.state.counters().buffered == 20 }).await;
    assert_eq!(running.state.counters().lost_tails, 0);
    running.stop().await;
    assert_eq!(world.counted().await, (20, 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_process_acknowledged_while_the_line_was_cut_is_no_loss() {
    require!("nats-server", "database");
    let world = World::start(10_000).await;
    let stream = world.jetstream.get_stream(STREAM).await.unwrap();
    stream.update_consumer(durable(Duration::from_secs(3))).await.unwrap();
    let proxy = Proxy::start(world.nats.port()).await;
    let client = async_nats::connect(world.nats.url_through(&proxy)).await.unwrap();
    let running = world.run_on(client, holding(&world), true).await;
    world.publish(numbers(0..20)).await;
    eventually("some are held", SOON, || async { running.state.counters().buffered > 0 }).await;
    for round in 0..3 {
        world.publish(numbers(100 * round + 20..100 * round + 30)).await;
        eventually("they are held", SOON, || async { running.state.counters().buffered > 0 }).await;
        proxy.cut();
        let waiting = world.waiting().await;
        acknowledge_elsewhere(&world, usize::try_from(waiting).unwrap()).await;
        let received = running.state.counters().received;
        proxy.resume();
        world.publish(numbers(1000 + round..1001 + round)).await;
        eventually("it reads on", SOON, || async { running.state.counters().received > received }).await;
    }
    assert_eq!(running.state.counters().lost_tails, 0, "nothing is missing");
    running.stop().await;
}

/// A collector that holds 20 messages, while the server comes back with the disk of before they were published and others
/// in their place, `published` of them, before the collector hears of it.
async fn after_a_loss(held: bool, published: i64) -> u64 {
    let mut world = World::on(Nats::start_synced().await, 10_000).await;
    let proxy = Proxy::start(world.nats.port()).await;
    world.nats.kill9();
    let (store, kept) = (world.nats.dir.join("store"), world.nats.dir.join("kept"));
    copy(&store, &kept);
    world.nats.restart().await;
    let client = async_nats::connect(world.nats.url_through(&proxy)).await.unwrap();
    let output = if held { holding(&world) } else { world.output() };
    let running = world.run_on(client, output, true).await;
    eventually("the connection is back", SOON, || async { world.client.flush().await.is_ok() && world.waiting().await == 0 }).await;
    world.publish(numbers(0..20)).await;
    if held {
        eventually("all are held", SOON, || async { running.state.counters().buffered == 20 }).await;
    } else {
        world.drained(SOON).await;
        eventually("all are stored", SOON, || async { running.state.counters().buffered == 0 }).await;
    }
    proxy.cut();
    world.nats.kill9();
    std::fs::remove_dir_all(&store).unwrap();
    copy(&kept, &store);
    world.nats.restart().await;
    eventually("the connection is back", SOON, || async { world.waiting().await == 0 }).await;
    world.publish(numbers(100..100 + published)).await;
    proxy.resume();
    eventually("the loss is said", SOON, || async { running.state.counters().lost_tails > 0 }).await;
    eventually("it reads on", SOON, || async { running.state.counters().received >= 20 + published as u64 }).await;
    let lost_tails = running.state.counters().lost_tails;
    running.stop().await;
    world.drained(SOON).await;
    let stored = world.mongo.documents(crate::collector_support::COLLECTION).await;
    let new = stored.iter().filter(|document| document.get_i64("n").is_ok_and(|n| n >= 100)).count();
    assert_eq!(new, published as usize, "what took the place of the lost ones is stored");
    lost_tails
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_that_was_lost_is_said_where_others_have_taken_more_than_its_sequences() {
    require!("nats-server", "database");
    assert_eq!(after_a_loss(true, 30).await, 1);
    assert_eq!(after_a_loss(false, 30).await, 1, "also where nothing was held");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_that_was_lost_is_said_where_the_stream_ends_before_what_it_had_delivered() {
    require!("nats-server", "database");
    assert_eq!(after_a_loss(true, 10).await, 1);
}
