//! The collector where its stream, its consumer or its permissions are not as they should be, and where it panics.

use crate::collector_support::{STREAM, SUBJECT, World, holding, numbers};
use crate::support::{Nats, eventually};
use async_nats::jetstream::consumer::{PullConsumer, pull};
use sluice::collector::{self, ExecutionState};
use sluice::pipeline::report::ExecutionPhase;
use sluice::pipeline::status::Reason;
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const SOON: Duration = Duration::from_secs(30);

/// Makes the durable anew, with limits of its own.
async fn replace_durable(world: &World, change: impl FnOnce(&mut pull::Config)) {
    let mut config = pull::Config { durable_name: Some("default".into()), ..pull::Config::default() };
    change(&mut config);
    let stream = world.jetstream.get_stream(STREAM).await.unwrap();
    stream.delete_consumer("default").await.unwrap();
    stream.create_consumer(config).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_of_a_stream_that_was_replaced_settles_nothing_of_the_new_one() {
    require!("nats-server", "database");
    let world = World::start(10_000).await;
    let running = world.run(holding(&world), true).await;
    world.publish(numbers(0..50)).await;
    eventually("all are held", SOON, || async { running.state.counters().buffered == 50 }).await;
    let old = world.jetstream.get_stream(STREAM).await.unwrap();
    let durable: PullConsumer = old.get_consumer("default").await.unwrap();
    world.jetstream.delete_stream(STREAM).await.unwrap();
    let new = world.jetstream.create_stream(old.cached_info().config.clone()).await.unwrap();
    new.create_consumer(durable.cached_info().config.clone()).await.unwrap();
    // The same sequences, for other messages.
    world.publish(numbers(100..150)).await;
    eventually("the old ones are forgotten and the new ones held", SOON, || async {
        let counters = running.state.counters();
        (counters.expired, counters.buffered, counters.received) == (50, 50, 100)
    })
    .await;
    assert_eq!((world.waiting().await, world.counted().await), (50, (0, 0)));
    running.stop().await;
    world.drained(SOON).await;
    let stored = world.mongo.documents(crate::collector_support::COLLECTION).await;
    assert!(stored.len() == 50 && stored.iter().all(|document| document.get_i64("n").is_ok_and(|n| n >= 100)), "{stored:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_may_not_send_to_its_own_inbox_works_and_the_status_says_what_is_missing() {
    require!("nats-server", "database");
    let users = "authorization { users: [{user: any, password: p}, \
                 {user: mute, password: p, permissions: {publish: {allow: [\">\"], deny: [\"_INBOX.>\"]}}}] }\nno_auth_user: any\n";
    let world = World::on(Nats::start_with(users).await, 10_000).await;
    let options = async_nats::ConnectOptions::with_user_and_password("mute".into(), "p".into());
    let running = world.run_on(options.connect(world.nats.url()).await.unwrap(), world.output(), true).await;
    world.publish(numbers(0..500)).await;
    world.drained(SOON).await;
    eventually("it is told", SOON, || async {
        running.state.troubles().iter().any(|trouble| trouble.reason == Reason::StreamUnavailable && trouble.message.contains("inbox"))
    })
    .await;
    world.publish(numbers(500..1_000)).await;
    world.drained(SOON).await;
    assert_eq!(world.counted().await, (1_000, 1_000));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_the_consumer_that_refuse_a_pull_are_read_again_and_kept_to() {
    require!("nats-server", "database");
    let world = World::start(10_000).await;
    let running = world.run(world.output(), true).await;
    world.publish(numbers(0..100)).await;
    world.drained(SOON).await;
    replace_durable(&world, |config| {
        config.max_batch = 7;
        config.max_expires = Duration::from_secs(1);
    })
    .await;
    world.publish(numbers(100..1_000)).await;
    world.drained(SOON).await;
    assert_eq!(world.counted().await, (1_000, 1_000));
    eventually("nothing is in the way", SOON, || async { running.state.troubles().is_empty() }).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_that_the_server_refuses_are_told_of_and_go_on_by_themselves() {
    require!("nats-server", "database");
    let world = World::start(10_000).await;
    // Less than one message of the largest size may measure: a pull for less would end without it, again and again.
    replace_durable(&world, |config| config.max_bytes = 1_000).await;
    let running = world.run(world.output(), true).await;
    eventually("it is told", SOON, || async {
        running
            .state
            .troubles()
            .iter()
            .any(|trouble| trouble.reason == Reason::StreamUnavailable && trouble.message.contains("Exceeded MaxRequestMaxBytes of 1000"))
    })
    .await;
    assert_eq!(running.state.phase(), ExecutionPhase::Blocked);
    replace_durable(&world, |_| {}).await;
    world.publish(numbers(0..100)).await;
    world.drained(SOON).await;
    assert_eq!(world.counted().await, (100, 100));
    eventually("it is over", SOON, || async { running.state.troubles().is_empty() }).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_that_panics_gives_its_bytes_back_to_the_others() {
    require!("nats-server", "database");
    let world = World::start(10_000).await;
    let (job, deps) = world.job(world.nats.client().await, holding(&world), true).await;
    let (budget, state, boom) = (deps.budget.clone(), Arc::new(ExecutionState::default()), CancellationToken::new());
    let (_live, receiver) = watch::channel(1);
    let task = tokio::spawn({
        let (state, boom) = (state.clone(), boom.clone());
        async move {
            tokio::select! {
                ended = collector::run(job, deps, state, receiver, CancellationToken::new()) => ended.unwrap(),
                // In the task of the collector, while it is in the middle of its work.
                () = boom.cancelled() => panic!("as the test wants it"),
            }
        }
    });
    world.publish(numbers(0..100)).await;
    eventually("all are held", SOON, || async { state.counters().buffered == 100 }).await;
    assert!(budget.used() > 100 * SUBJECT.len() as u64);
    boom.cancel();
    assert!(task.await.unwrap_err().is_panic());
    assert_eq!((budget.used(), state.phase(), state.counters().buffered), (0, ExecutionPhase::Stopped, 0));
}
