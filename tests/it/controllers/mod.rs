//! Several controllers of one namespace: real processes on real servers, one of which decides and all of which work.
//!
//! [`Fleet`] starts them and knows who decides, by the lease itself. Each test has servers of its own.
mod follow;
mod kinds;
mod live;
mod load;
mod soak;
mod takeover;
mod without;

use crate::pipelines::{assert_each_once, has, plain, send_all};
use crate::support::{Mongo, Nats, Run, Sluice, eventually};
use async_nats::jetstream;
use bson::doc;
use futures_util::future::join_all;
use serde_json::Value;
use std::{
    ops::Range,
    sync::atomic::{AtomicI64, Ordering},
    time::{Duration, Instant},
};

/// Longer than anything takes on a slow machine.
const SOON: Duration = Duration::from_secs(40);
/// For loads and restarts.
const LONG: Duration = Duration::from_secs(150);

/// Servers and some `sluice run`s of namespace `alpha`.
struct Fleet {
    nats: Nats,
    mongo: Mongo,
    members: Vec<Sluice>,
    /// Runs commands; its own process is not there.
    operator: Sluice,
}

impl Fleet {
    async fn of(size: usize) -> Self {
        Self::on(Nats::start().await, Mongo::start().await, size).await
    }

    async fn on(nats: Nats, mongo: Mongo, size: usize) -> Self {
        let mut operator = Run::new(&nats, &mongo).spawn();
        operator.kill9();
        let mut members: Vec<_> = (0..size).map(|_| Run::new(&nats, &mongo).spawn()).collect();
        join_all(members.iter_mut().map(Sluice::wait_ready)).await;
        Self { nats, mongo, members, operator }
    }

    /// Starts one more; does not wait.
    fn join(&mut self) {
        self.members.push(Run::new(&self.nats, &self.mongo).spawn());
    }

    async fn foreign_stream(&self, id: &str, ack_wait: Duration) {
        foreign_stream(&self.nats.jetstream().await, id, ack_wait).await;
    }

    /// `sluice publish ID -f … --wait`.
    async fn publish(&self, id: &str, config: &str) {
        let file = self.operator.dir.join(format!("{id}.yml"));
        std::fs::write(&file, config).unwrap();
        self.operator.cli_ok(&["publish", id, "-f", file.to_str().unwrap(), "--wait"]).await;
    }

    async fn send(&self, id: &str, numbers: Range<i64>) {
        send_all(&self.nats.jetstream().await, &format!("alpha.{id}"), numbers, |n| doc! {"n": n}, &AtomicI64::new(0)).await;
    }

    /// Waits until the collection holds at least as many documents, and all are acknowledged; then each must be there once.
    async fn exactly(&self, id: &str, collection: &str, numbers: Range<i64>) {
        let wanted = u64::try_from(numbers.end - numbers.start).unwrap();
        let what = format!("{wanted} documents are in {collection}, and the stream is empty");
        eventually(&what, LONG, || async { self.mongo.count(collection).await >= wanted && self.waiting(id).await == 0 }).await;
        assert_each_once(&self.mongo, collection, numbers).await;
    }

    /// Messages in the pipeline's stream.
    async fn waiting(&self, id: &str) -> u64 {
        let jetstream = self.nats.jetstream().await;
        let Ok(stream) = jetstream.get_stream(format!("alpha_{id}")).await else { return 0 };
        stream.get_info().await.unwrap().state.messages
    }

    /// The status of `id` in its bucket; null where there is none.
    async fn status(&self, id: &str) -> Value {
        let Ok(bucket) = self.nats.jetstream().await.get_key_value("alpha-status").await else { return Value::Null };
        let found = bucket.get(id).await.unwrap();
        found.map_or(Value::Null, |value| serde_json::from_slice(&value).unwrap())
    }

    /// How often a message of the pipeline's stream was delivered, and how many there ever were.
    async fn deliveries(&self, id: &str) -> (u64, u64) {
        let stream = self.nats.jetstream().await.get_stream(format!("alpha_{id}")).await.unwrap();
        let consumer = stream.consumer_info("default").await.unwrap();
        (consumer.delivered.consumer_sequence, stream.get_info().await.unwrap().state.last_sequence)
    }

    async fn phase_is(&self, id: &str, phase: &str) {
        eventually(&format!("{id} is {phase}"), SOON, || async { self.status(id).await["admitted"]["phase"] == phase }).await;
    }

    /// What the lease says: process and epoch of the holder.
    async fn lease(&self) -> Option<Value> {
        let bucket = self.nats.jetstream().await.get_key_value("alpha-lease").await.ok()?;
        let entry = bucket.entry("holder").await.ok()??;
        if entry.operation != jetstream::kv::Operation::Put {
            return None;
        }
        let mut holder: Value = serde_json::from_slice(&entry.value).ok()?;
        if holder["epoch"] == 0 {
            holder["epoch"] = entry.revision.into();
        }
        Some(holder)
    }

    /// Waits until somebody decides; its place among the members.
    async fn holder(&self) -> usize {
        let start = Instant::now();
        loop {
            for (place, member) in self.members.iter().enumerate() {
                if self.says_it_holds(member).await {
                    return place;
                }
            }
            assert!(start.elapsed() < SOON, "nobody decides");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn says_it_holds(&self, member: &Sluice) -> bool {
        health(member).await["holder"] == true
    }

    /// A member that does not decide.
    async fn other(&self) -> usize {
        let holder = self.holder().await;
        (0..self.members.len()).find(|place| *place != holder).unwrap()
    }
}

/// A stream and a durable that are somebody else's, with the server's defaults but for `ack_wait`: 1,000 messages may
/// be unacknowledged, as on those that the first parent's SDK makes.
pub async fn foreign_stream(jetstream: &jetstream::Context, id: &str, ack_wait: Duration) {
    let stream = jetstream::stream::Config {
        name: format!("alpha_{id}"),
        subjects: vec![format!("alpha.{id}")],
        retention: jetstream::stream::RetentionPolicy::WorkQueue,
        ..Default::default()
    };
    jetstream.create_stream(stream).await.unwrap();
    foreign_durable(jetstream, id, ack_wait).await;
}

/// The durable of [`foreign_stream`], made or set back to what it was.
pub async fn foreign_durable(jetstream: &jetstream::Context, id: &str, ack_wait: Duration) {
    let durable = jetstream::consumer::pull::Config {
        durable_name: Some("default".into()),
        ack_policy: jetstream::consumer::AckPolicy::Explicit,
        ack_wait,
        ..Default::default()
    };
    let stream = jetstream.get_stream(format!("alpha_{id}")).await.unwrap();
    stream.create_consumer(durable).await.unwrap();
}

/// `/health/ready`, ready or not; null where nobody answers within a second.
pub async fn health(member: &Sluice) -> Value {
    let Some(url) = member.http_url() else { return Value::Null };
    let asked = crate::support::http_get(&url, "/health/ready", None);
    match tokio::time::timeout(Duration::from_secs(1), asked).await {
        Ok(Ok((_, body))) => serde_json::from_str(&body).unwrap_or_default(),
        _ => Value::Null,
    }
}

/// What runs in the process.
async fn executions(member: &Sluice) -> Vec<Value> {
    let Some(url) = member.http_url() else { return Vec::new() };
    let asked = crate::support::http_get(&url, "/api/v1/executions", None);
    match tokio::time::timeout(Duration::from_secs(1), asked).await {
        Ok(Ok((200, body))) => serde_json::from_str(&body).unwrap_or_default(),
        _ => Vec::new(),
    }
}

/// The versions that run in the process, of `id`.
async fn versions(member: &Sluice, id: &str) -> Vec<String> {
    let running = |execution: &Value| execution["id"] == id && execution["phase"] == "running";
    let executions = executions(member).await;
    executions.iter().filter(|execution| running(execution)).filter_map(|one| Some(one["version"].as_str()?.to_owned())).collect()
}
