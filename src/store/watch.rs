//! Supervised watches over a bucket: they hint that a key changed, survive server restarts, recreated buckets and
//! silence, and say whether they are alive.
//!
//! Each is one ephemeral push consumer for new messages only, with heartbeats, numbered deliveries and an inbox of its own.
//! (With their values, though none is looked at: nats-server 2.15 panics where a consumer of headers alone meets a message whose
//! header block has one byte, which anybody may put.)
//! Whatever is doubtful (an end, an error, silence, a gap in the numbers, a new connection) makes a
//! new one, and [`WatchEvent::Restarted`] says so once it stands: who reads the bucket after that event has missed
//! nothing. Hints are coalesced while the receiver is busy, so a slow receiver costs bounded memory and blocks nobody.

use super::api::{Api, TIMEOUT, operation};
use super::collect::Delivery;
use super::entries::Operation;
use crate::pipeline::backoff::Backoff;
use crate::pipeline::object::object_name;
use async_nats::connection::State;
use async_nats::{Client, Message, Subscriber};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How often the server says that it is there while nothing happens.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// After how long without a word a watch is made anew.
const SILENCE: Duration = Duration::from_secs(5);
/// After how long without a word a watch counts as dead: one that is made anew in time does not.
const DEAD: Duration = Duration::from_secs(10);
/// How often the connection is looked at.
const TICK: Duration = Duration::from_millis(100);
/// Delays between tries to make a watch.
const AGAIN: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
/// Changed keys that wait for a busy receiver; more of them become one `Restarted`.
const WAITING: usize = 10_000;

/// What a watch says. Only a hint: what counts is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent {
    /// Something was written under this key (a bucket's whole key, or `id/version` of an object).
    Changed(String),
    /// The same, and it was a marker: what was under this key of a bucket was deleted or purged.
    Removed(String),
    /// The watch was made anew (or for the first time: this is always the first event): anything may have happened
    /// before it.
    Restarted,
}

/// Whether a watch is alive, for health.
#[derive(Debug, Default)]
pub struct WatchHealth {
    heard: Mutex<Option<Instant>>,
}

impl WatchHealth {
    /// Whether the watch has heard from the server (an event or a heartbeat) within the last 10 s. Never true before the
    /// first time, nor while the bucket does not exist.
    pub fn alive(&self) -> bool {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|heard| heard.elapsed() < DEAD)
    }

    fn heard(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }
}

/// Watches one key of a KV bucket's stream `stream` until `stop`, or until the receiver of the events is dropped: for a
/// process that one pipeline concerns, and not the thousands beside it.
pub fn watch_key(
    client: Client,
    stream: String,
    key: &str,
    events: mpsc::Sender<WatchEvent>,
    health: Arc<WatchHealth>,
    stop: CancellationToken,
) -> tokio::task::JoinHandle<()> {
    spawn(client, stream, key, events, health, stop)
}

/// Watches every key of the stream `stream` (a KV bucket's `KV_…` or an Object Store's `OBJ_…`) until `stop`, or until
/// the receiver of the events is dropped.
pub fn watch(
    client: Client,
    stream: String,
    events: mpsc::Sender<WatchEvent>,
    health: Arc<WatchHealth>,
    stop: CancellationToken,
) -> tokio::task::JoinHandle<()> {
    spawn(client, stream, ">", events, health, stop)
}

fn spawn(
    client: Client,
    stream: String,
    keys: &str,
    events: mpsc::Sender<WatchEvent>,
    health: Arc<WatchHealth>,
    stop: CancellationToken,
) -> tokio::task::JoinHandle<()> {
    let bucket = stream.split_once('_').map_or("", |(_, bucket)| bucket);
    let objects = stream.starts_with("OBJ_");
    let prefix = if objects { format!("$O.{bucket}.M.") } else { format!("$KV.{bucket}.") };
    let filter = format!("{prefix}{keys}");
    let watch = Watch { api: Api::new(client.clone()), client, stream, prefix, filter, objects, health };
    tokio::spawn(async move {
        let mut outbox = Outbox { events, changed: BTreeMap::new(), restarted: false };
        tokio::select! {
            () = stop.cancelled() => {}
            () = watch.supervise(&mut outbox) => {}
        }
    })
}

struct Watch {
    client: Client,
    api: Api,
    stream: String,
    prefix: String,
    filter: String,
    objects: bool,
    health: Arc<WatchHealth>,
}

/// Why a watch ended.
enum End {
    /// Nobody wants to hear more.
    Unwanted,
    /// For people.
    Lost(&'static str),
}

impl Watch {
    async fn supervise(&self, outbox: &mut Outbox) {
        let mut failures = 0_u32;
        loop {
            let connects = self.connects();
            // The receiver can be behind for longer than a try takes; it gets its hints meanwhile.
            let made = tokio::select! {
                made = self.subscribe() => made,
                () = outbox.deliver() => return,
            };
            match made {
                Ok((messages, consumer)) => {
                    failures = 0;
                    self.health.heard();
                    outbox.restarted();
                    tracing::debug!(stream = self.stream, "watching");
                    let end = self.follow(messages, connects, outbox).await;
                    self.api.forget_consumer(&self.stream, &consumer).await;
                    match end {
                        End::Unwanted => return,
                        End::Lost(reason) => tracing::info!(stream = self.stream, reason, "watch is made anew"),
                    }
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    if failures == 1 {
                        tracing::warn!(stream = self.stream, error, "cannot watch, trying again");
                    }
                }
            }
            let pause = AGAIN.delay(failures.max(1), rand::random());
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = outbox.deliver() => return,
            }
        }
    }

    async fn subscribe(&self) -> Result<(Subscriber, String), String> {
        // What is asked for while disconnected piles up in the client until it is connected again.
        self.api.connected(tokio::time::Instant::now() + TIMEOUT).await.map_err(|failure| failure.to_string())?;
        let inbox = self.client.new_inbox();
        let name = format!("sluice-{}", uuid::Uuid::new_v4().simple());
        // First the subscription: a push consumer nobody listens to would not start.
        let messages = self.client.subscribe(inbox.clone()).await.map_err(|error| error.to_string())?;
        let config = json!({
            "name": name,
            "deliver_subject": inbox,
            "filter_subject": self.filter,
            "deliver_policy": "new",
            "ack_policy": "none",
            "replay_policy": "instant",
            "idle_heartbeat": u64::try_from(HEARTBEAT.as_nanos()).unwrap_or(u64::MAX),
            "inactive_threshold": 5_000_000_000_u64,
            "mem_storage": true,
            "num_replicas": 1,
        });
        let body = json!({ "stream_name": self.stream, "config": config, "action": "create" });
        let created = self.api.call::<Value>(&format!("CONSUMER.CREATE.{}.{name}", self.stream), body).await;
        created.map(|_| (messages, name)).map_err(|failure| failure.to_string())
    }

    async fn follow(&self, mut messages: Subscriber, connects: u64, outbox: &mut Outbox) -> End {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut heard = Instant::now();
        let mut delivered = 0_u64;
        loop {
            tokio::select! {
                message = messages.next() => {
                    let Some(message) = message else { return End::Lost("the subscription ended") };
                    heard = Instant::now();
                    self.health.heard();
                    let complete = match message.status {
                        None => self.changed(&message, &mut delivered, outbox),
                        // A heartbeat, which says how many were delivered; or a word about the consumer.
                        Some(status) => status.as_u16() == 100 && last_delivered(&message).is_none_or(|last| last == delivered),
                    };
                    if !complete {
                        return End::Lost("deliveries are missing, or the consumer ended");
                    }
                }
                () = outbox.deliver() => return End::Unwanted,
                _ = tick.tick() => {
                    if self.connects() != connects && self.client.connection_state() == State::Connected {
                        return End::Lost("the connection was made anew");
                    }
                    if heard.elapsed() > SILENCE {
                        return End::Lost("silence");
                    }
                }
            }
        }
    }

    /// Notes the key of a delivered message; false where others before it are missing.
    fn changed(&self, message: &Message, delivered: &mut u64, outbox: &mut Outbox) -> bool {
        let Some(delivery) = Delivery::parse(message) else { return true };
        if delivery.delivered != *delivered + 1 {
            return false;
        }
        *delivered = delivery.delivered;
        let subject = message.subject.as_str();
        let token = subject.strip_prefix(&self.prefix).unwrap_or(subject);
        match if self.objects { object_name(token) } else { Some(token.to_owned()) } {
            Some(key) => outbox.changed(key, !self.objects && removes(message)),
            None => tracing::debug!(subject, "left out an object with an unreadable name"),
        }
        true
    }

    fn connects(&self) -> u64 {
        self.client.statistics().connects.load(Ordering::Relaxed)
    }
}

/// Whether the message is a marker in a bucket.
fn removes(message: &Message) -> bool {
    let header = |name: &str| message.headers.as_ref()?.get(name).map(|value| value.as_str().to_owned());
    operation(header) != Operation::Put
}

fn last_delivered(message: &Message) -> Option<u64> {
    message.headers.as_ref()?.get("Nats-Last-Consumer")?.as_str().parse().ok()
}

/// Hints on their way to the receiver.
struct Outbox {
    events: mpsc::Sender<WatchEvent>,
    /// Keys, and whether the last that was written there is a marker.
    changed: BTreeMap<String, bool>,
    restarted: bool,
}

impl Outbox {
    fn changed(&mut self, key: String, removed: bool) {
        self.changed.insert(key, removed);
        if self.changed.len() > WAITING {
            self.restarted();
        }
    }

    /// Says that anything may have happened, which includes what waits.
    fn restarted(&mut self) {
        self.changed.clear();
        self.restarted = true;
    }

    /// Hands over what waits and then waits for ever; returns where the receiver is gone. Safe to drop at any time.
    async fn deliver(&mut self) {
        while self.restarted || !self.changed.is_empty() {
            let Ok(permit) = self.events.reserve().await else { return };
            if std::mem::take(&mut self.restarted) {
                permit.send(WatchEvent::Restarted);
            } else if let Some((key, removed)) = self.changed.pop_first() {
                permit.send(if removed { WatchEvent::Removed(key) } else { WatchEvent::Changed(key) });
            }
        }
        self.events.closed().await;
    }
}
