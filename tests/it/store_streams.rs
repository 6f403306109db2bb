//! Pipelines' streams on a real nats-server: created where missing, left alone where they are not ours, moved, deleted.

use crate::store::{connected, id};
use crate::support::{Nats, NatsCluster, eventually};
use async_nats::jetstream;
use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy};
use sluice::store::error::Unfit;
use sluice::store::{ConsumerSettings, Store, StoreErrorKind, StreamSettings};
use std::time::Duration;

fn stream() -> StreamSettings {
    StreamSettings { name: "alpha_a".into(), subjects: vec!["alpha.a".into(), "extra.a".into()], replicas: 1 }
}

fn consumer() -> ConsumerSettings {
    ConsumerSettings { name: "default".into(), ack_wait: Duration::from_secs(30), max_ack_pending: 10_000 }
}

async fn ensured(store: &Store) -> sluice::store::PipelineStream {
    store.streams.ensure(&id("a"), &stream(), &consumer()).await.unwrap()
}

#[tokio::test]
async fn stream_and_durable_are_created_once_and_then_left_as_they_are() {
    require!("nats-server");
    let nats = Nats::start().await;
    let store = connected(&nats).await;
    assert_eq!(store.streams.observe(&id("a"), "alpha_a", "default").await.unwrap(), None);
    let made = ensured(&store).await;
    assert!(made.ours && made.work_queue && made.unsafe_settings.is_empty() && made.first_time.is_none());
    let durable = made.consumer.clone().unwrap();
    assert!(durable.ours && durable.faults.is_empty() && durable.paused.is_none());
    assert_eq!((durable.ack_wait, durable.max_ack_pending), (Duration::from_secs(30), 10_000));
    assert_eq!(ensured(&store).await, made);

    store.client.request("alpha.a", "x".into()).await.unwrap();
    let seen = store.streams.observe(&id("a"), "alpha_a", "default").await.unwrap().unwrap();
    assert_eq!((seen.messages, seen.consumer.unwrap().pending), (1, 1));
    assert!(seen.first_time.unwrap() >= seen.created);

    let other = ConsumerSettings { ack_wait: Duration::from_secs(60), ..consumer() };
    let changed = store.streams.ensure(&id("a"), &stream(), &other).await.unwrap().consumer.unwrap();
    assert_eq!((changed.ack_wait, changed.max_ack_pending, changed.pending), (Duration::from_secs(60), 10_000, 1));
}

#[tokio::test]
async fn a_paused_durable_delivers_nothing_takes_acks_and_goes_on_when_resumed_or_after_its_time() {
    require!("nats-server");
    let nats = Nats::start().await;
    let store = connected(&nats).await;
    ensured(&store).await;
    assert!(store.streams.can_pause());
    for _ in 0..2 {
        store.client.request("alpha.a", "x".into()).await.unwrap();
    }
    let durable: jetstream::consumer::Consumer<pull::Config> =
        nats.jetstream().await.get_stream("alpha_a").await.unwrap().get_consumer("default").await.unwrap();
    let fetch = |wait: u64| {
        let durable = durable.clone();
        async move {
            let mut batch = durable.fetch().max_messages(1).expires(Duration::from_millis(wait)).messages().await.unwrap();
            futures_util::StreamExt::next(&mut batch).await.map(|message| message.unwrap())
        }
    };
    let seen = || async { store.streams.observe(&id("a"), "alpha_a", "default").await.unwrap().unwrap().consumer.unwrap() };
    let held = fetch(5_000).await.unwrap();
    assert_eq!((seen().await.ack_pending, seen().await.waiting), (1, 0), "a pull that is over waits no more");
    store.streams.pause("alpha_a", "default", Duration::from_secs(3600)).await.unwrap();
    assert!(seen().await.paused.is_some_and(|left| left > Duration::from_secs(3500)));
    assert!(fetch(300).await.is_none());
    held.double_ack().await.unwrap();
    assert_eq!(seen().await.ack_pending, 0);
    store.streams.pause("alpha_a", "default", Duration::ZERO).await.unwrap();
    assert_eq!(seen().await.paused, None);
    assert!(fetch(5_000).await.is_some());
    store.streams.pause("alpha_a", "default", Duration::from_secs(1)).await.unwrap();
    crate::support::eventually("the pause ends by itself", Duration::from_secs(20), || async { seen().await.paused.is_none() }).await;
}

#[tokio::test]
async fn what_a_producer_made_is_used_and_not_changed() {
    require!("nats-server");
    let nats = Nats::start().await;
    let store = connected(&nats).await;
    let jetstream = nats.jetstream().await;
    let theirs = Config {
        name: "alpha_a".into(),
        subjects: vec!["alpha.a".into()],
        retention: RetentionPolicy::WorkQueue,
        discard: DiscardPolicy::Old,
        max_messages: 1_000_000,
        ..Default::default()
    };
    let theirs = jetstream.create_stream(theirs).await.unwrap();
    theirs.create_consumer(pull::Config { durable_name: Some("default".into()), ..Default::default() }).await.unwrap();
    let seen = ensured(&store).await;
    assert!(!seen.ours && seen.work_queue);
    assert_eq!(seen.unsafe_settings, ["discard old with max_msgs 1000000"]);
    assert_eq!(seen.subjects, ["alpha.a"]);
    let durable = seen.consumer.unwrap();
    assert!(!durable.ours && durable.faults.is_empty());
    assert_eq!(durable.max_ack_pending, 1000);
}

#[tokio::test]
async fn a_stream_that_listens_elsewhere_or_is_no_work_queue_is_left_alone() {
    require!("nats-server");
    let nats = Nats::start().await;
    let store = connected(&nats).await;
    let jetstream = nats.jetstream().await;
    let foreign = Config { name: "alpha_a".into(), subjects: vec!["other.>".into()], ..Default::default() };
    let foreign = jetstream.create_stream(foreign).await.unwrap().cached_info().clone();
    for error in [
        store.streams.ensure(&id("a"), &stream(), &consumer()).await.unwrap_err(),
        store.streams.observe(&id("a"), "alpha_a", "default").await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), StoreErrorKind::Unfit(Unfit::Foreign), "{error}");
    }
    let after = jetstream.get_stream("alpha_a").await.unwrap().cached_info().clone();
    assert_eq!((foreign.config, after.state.consumer_count), (after.config, 0));

    let limits = Config { name: "alpha_b".into(), subjects: vec!["alpha.b".into()], ..Default::default() };
    jetstream.create_stream(limits).await.unwrap();
    let wanted = StreamSettings { name: "alpha_b".into(), ..stream() };
    let error = store.streams.ensure(&id("b"), &wanted, &consumer()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unfit(Unfit::NotWorkQueue));
    assert_eq!(jetstream.get_stream("alpha_b").await.unwrap().cached_info().state.consumer_count, 0);
}

#[tokio::test]
async fn a_durable_that_would_leave_messages_out_is_refused() {
    require!("nats-server");
    let nats = Nats::start().await;
    let store = connected(&nats).await;
    ensured(&store).await;
    let stream_of = nats.jetstream().await.get_stream("alpha_a").await.unwrap();
    let durable = |change: fn(&mut pull::Config)| {
        let mut config = pull::Config { durable_name: Some("default".into()), ..Default::default() };
        change(&mut config);
        config
    };
    for config in [
        durable(|config| config.filter_subject = "extra.a".into()),
        durable(|config| config.max_deliver = 5),
        durable(|config| config.headers_only = true),
    ] {
        stream_of.delete_consumer("default").await.unwrap();
        stream_of.create_consumer(config.clone()).await.unwrap();
        let error = store.streams.ensure(&id("a"), &stream(), &consumer()).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Unfit(Unfit::Consumer), "{config:?}");
    }
}

#[tokio::test]
async fn a_drain_moves_the_subjects_and_nothing_else_and_never_those_of_another_stream() {
    require!("nats-server");
    let nats = Nats::start().await;
    let store = connected(&nats).await;
    let jetstream: jetstream::Context = nats.jetstream().await;
    let made = ensured(&store).await;
    let before = jetstream.get_stream("alpha_a").await.unwrap().cached_info().config.clone();
    let closed = vec!["alpha-closed.a".to_owned()];
    store.streams.set_subjects("alpha_a", made.created, closed.clone()).await.unwrap();
    let after = jetstream.get_stream("alpha_a").await.unwrap().cached_info().config.clone();
    assert_eq!(after, Config { subjects: closed.clone(), ..before });
    assert!(store.client.request("alpha.a", "x".into()).await.is_err(), "the publisher is told");
    assert_eq!(ensured(&store).await.subjects, closed, "it is still ours while it drains");

    let another = made.created - jiff::SignedDuration::from_nanos(1);
    let error = store.streams.set_subjects("alpha_a", another, made.subjects.clone()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Conflict);
    assert_eq!(store.streams.delete("alpha_a", another).await.unwrap_err().kind(), StoreErrorKind::Conflict);
    store.streams.set_subjects("alpha_a", made.created, made.subjects.clone()).await.unwrap();
    store.client.request("alpha.a", "x".into()).await.unwrap();

    store.streams.delete("alpha_a", made.created).await.unwrap();
    store.streams.delete("alpha_a", made.created).await.unwrap();
    let error = store.streams.set_subjects("alpha_a", made.created, closed).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Missing);
}

#[tokio::test]
async fn several_who_ensure_at_once_get_one_stream() {
    require!("nats-server");
    let nats = Nats::start().await;
    let store = connected(&nats).await;
    let made = futures_util::future::join_all((0..8).map(|_| ensured(&store))).await;
    assert!(made.iter().all(|stream| *stream == made[0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_cut_off_has_not_caught_up_and_one_that_has_knows_everything() {
    require!("nats-server");
    let cluster = NatsCluster::start().await;
    let store = connected(cluster.node(0)).await;
    let of_three = StreamSettings { replicas: 3, ..stream() };
    store.streams.ensure(&id("a"), &of_three, &consumer()).await.unwrap();
    store.client.request("alpha.a", "x".into()).await.unwrap();
    eventually("the leader is asked", Duration::from_secs(30), || async { store.streams.caught_up("alpha_a").await.is_ok() }).await;
    eventually("nothing is purged", Duration::from_secs(30), || async {
        let seen = store.streams.observe(&id("a"), "alpha_a", "default").await;
        seen.is_ok_and(|seen| seen.is_some_and(|seen| seen.messages == 1))
    })
    .await;
    cluster.cut_off(0);
    // Whatever it answers by itself, it does not know whether that is all.
    assert!(store.streams.caught_up("alpha_a").await.is_err());
    let others = async_nats::ConnectOptions::new().connect(cluster.urls_without(&[0])).await.unwrap();
    eventually("the others go on", Duration::from_secs(60), || async {
        let answer = others.request("alpha.a", "y".into()).await;
        answer.is_ok_and(|answer| answer.payload.starts_with(b"{\"stream\""))
    })
    .await;
    assert!(store.streams.caught_up("alpha_a").await.is_err(), "it is still alone");
    cluster.heal(0);
    // An error says nothing either way; the first answer behind the barrier says everything.
    eventually("it has caught up", Duration::from_secs(60), || async {
        let caught_up = store.streams.caught_up("alpha_a").await.is_ok();
        let Ok(Some(seen)) = store.streams.observe(&id("a"), "alpha_a", "default").await else { return false };
        assert!(!caught_up || seen.messages >= 2, "{seen:?}");
        caught_up
    })
    .await;
}
