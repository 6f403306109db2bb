//! Watches on a real nats-server that is killed, stopped and emptied under them.

use crate::store::{id, prepared};
use crate::support::{Nats, PATIENCE, eventually, within};
use sluice::store::watch::watch;
use sluice::store::{Store, WatchEvent, WatchHealth};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

struct Watched {
    events: mpsc::Receiver<WatchEvent>,
    health: Arc<WatchHealth>,
    task: tokio::task::JoinHandle<()>,
    stop: DropGuard,
}

fn start(store: &Store, stream: &str, capacity: usize) -> Watched {
    let (sender, events) = mpsc::channel(capacity);
    let health = Arc::new(WatchHealth::default());
    let stop = CancellationToken::new();
    let task = watch(store.client.clone(), stream.into(), sender, health.clone(), stop.clone());
    Watched { events, health, task, stop: stop.drop_guard() }
}

impl Watched {
    async fn next(&mut self, expected: Duration) -> WatchEvent {
        tokio::time::timeout(PATIENCE * expected, self.events.recv()).await.expect("an event in time").expect("the watch goes on")
    }

    /// Waits for `event`, whatever comes before it.
    async fn until(&mut self, event: &WatchEvent, expected: Duration) {
        let start = Instant::now();
        while self.next(expected.saturating_sub(start.elapsed() / PATIENCE)).await != *event {}
    }
}

fn changed(key: &str) -> WatchEvent {
    WatchEvent::Changed(key.into())
}

const SOON: Duration = Duration::from_secs(3);

#[tokio::test]
async fn every_write_and_marker_is_hinted_by_its_key_also_in_a_bucket_that_was_empty() {
    require!("nats-server", "nats");
    let nats = Nats::start().await;
    let store = prepared(&nats).await;
    let mut entries = start(&store, store.entries.stream(), 64);
    let mut configs = start(&store, store.configs.stream(), 64);
    assert_eq!(entries.next(SOON).await, WatchEvent::Restarted);
    assert_eq!(configs.next(SOON).await, WatchEvent::Restarted);
    assert!(entries.health.alive() && configs.health.alive());
    let revision = store.entries.put(&id("a"), "1".into(), 0).await.unwrap();
    assert_eq!(entries.next(SOON).await, changed("a"));
    assert_eq!(store.entries.get(&id("a")).await.unwrap().unwrap().revision, revision);
    store.entries.delete(&id("a"), &Default::default(), revision).await.unwrap();
    assert_eq!(entries.next(SOON).await, WatchEvent::Removed("a".into()));
    nats.nats_cli(&["kv", "put", "alpha", "b.c", "x"]).await;
    assert_eq!(entries.next(SOON).await, changed("b.c"));

    store.configs.put(&id("a"), &"1-x".parse().unwrap(), vec![0; 300_000].into()).await.unwrap();
    assert_eq!(configs.next(SOON).await, changed("a/1-x"), "one hint an object, not one a chunk");
    let task = entries.task;
    drop(entries.stop);
    tokio::time::timeout(SOON, task).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_watch_survives_a_server_that_is_killed_and_started_again() {
    require!("nats-server");
    let mut nats = Nats::start().await;
    let store = prepared(&nats).await;
    let mut watched = start(&store, store.entries.stream(), 64);
    assert_eq!(watched.next(SOON).await, WatchEvent::Restarted);
    for _ in 0..2 {
        nats.kill9();
        tokio::time::sleep(Duration::from_millis(200)).await;
        nats.restart().await;
        watched.until(&WatchEvent::Restarted, Duration::from_secs(10)).await;
        let revision = store.entries.get(&id("a")).await.unwrap().map_or(0, |record| record.revision);
        store.entries.put(&id("a"), "1".into(), revision).await.unwrap();
        watched.until(&changed("a"), SOON).await;
        assert!(watched.health.alive());
    }
}

#[tokio::test]
async fn a_watch_survives_the_bucket_deleted_and_created_again_and_is_not_alive_in_between() {
    require!("nats-server");
    let nats = Nats::start().await;
    let store = prepared(&nats).await;
    let mut watched = start(&store, store.entries.stream(), 64);
    assert_eq!(watched.next(SOON).await, WatchEvent::Restarted);
    nats.jetstream().await.delete_key_value("alpha").await.unwrap();
    within("health says that the watch is dead", Duration::from_secs(15), || async { !watched.health.alive() }).await;
    assert!(watched.events.try_recv().is_err(), "there is nothing to hint at");
    store.prepare().await.unwrap();
    watched.until(&WatchEvent::Restarted, Duration::from_secs(5)).await;
    assert!(watched.health.alive());
    store.entries.put(&id("a"), "1".into(), 0).await.unwrap();
    assert_eq!(watched.next(SOON).await, changed("a"));
}

#[tokio::test]
async fn a_bucket_replaced_at_once_is_watched_again() {
    require!("nats-server");
    let nats = Nats::start().await;
    let store = prepared(&nats).await;
    let mut watched = start(&store, store.entries.stream(), 64);
    assert_eq!(watched.next(SOON).await, WatchEvent::Restarted);
    nats.jetstream().await.delete_key_value("alpha").await.unwrap();
    store.prepare().await.unwrap();
    watched.until(&WatchEvent::Restarted, Duration::from_secs(10)).await;
    store.entries.put(&id("a"), "1".into(), 0).await.unwrap();
    watched.until(&changed("a"), SOON).await;
}

#[tokio::test]
async fn silence_is_noticed_and_healed() {
    require!("nats-server");
    let nats = Nats::start().await;
    let store = prepared(&nats).await;
    let mut watched = start(&store, store.entries.stream(), 64);
    assert_eq!(watched.next(SOON).await, WatchEvent::Restarted);
    // A server that stands still closes no connection.
    nats.sigstop();
    let stopped = Instant::now();
    within("health says that the watch is dead", Duration::from_secs(15), || async { !watched.health.alive() }).await;
    assert!(stopped.elapsed() > Duration::from_secs(5), "not at the first missing heartbeat");
    nats.sigcont();
    watched.until(&WatchEvent::Restarted, Duration::from_secs(15)).await;
    assert!(watched.health.alive());
    let revision = store.entries.get(&id("a")).await.unwrap().map_or(0, |record| record.revision);
    store.entries.put(&id("a"), "1".into(), revision).await.unwrap();
    watched.until(&changed("a"), SOON).await;
}

#[tokio::test]
async fn a_consumer_that_is_taken_away_is_made_again() {
    require!("nats-server");
    let nats = Nats::start().await;
    let store = prepared(&nats).await;
    let mut watched = start(&store, store.entries.stream(), 64);
    assert_eq!(watched.next(SOON).await, WatchEvent::Restarted);
    let bucket = nats.jetstream().await.get_stream("KV_alpha").await.unwrap();
    let names = futures_util::StreamExt::collect::<Vec<_>>(bucket.consumer_names()).await;
    bucket.delete_consumer(names[0].as_ref().unwrap()).await.unwrap();
    watched.until(&WatchEvent::Restarted, Duration::from_secs(10)).await;
    store.entries.put(&id("a"), "1".into(), 0).await.unwrap();
    watched.until(&changed("a"), SOON).await;
}

#[tokio::test]
async fn a_receiver_that_does_not_read_loses_no_key_and_kills_no_watch() {
    require!("nats-server");
    let nats = Nats::start().await;
    let store = prepared(&nats).await;
    let mut watched = start(&store, store.entries.stream(), 1);
    eventually("the watch stands", SOON, || async { watched.health.alive() }).await;
    for round in 0..3 {
        let writes = (0..300).map(|n| store.client.request(format!("$KV.alpha.k{n}"), format!("{round}").into()));
        futures_util::future::join_all(writes).await.into_iter().for_each(|result| drop(result.unwrap()));
    }
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(watched.health.alive(), "a slow receiver is not a dead watch");
    let mut keys = BTreeSet::new();
    while keys.len() < 300 {
        if let WatchEvent::Changed(key) = watched.next(SOON).await {
            keys.insert(key);
        }
    }
}
