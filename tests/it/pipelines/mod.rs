//! The whole on real servers: the real binary, edits of one entry, documents that any producer publishes, and what is in
//! MongoDB afterwards. Each test has servers of its own.

mod bad_documents;
mod bad_entries;
mod deletion;
pub mod drop_in;
mod faults;
mod forgetting;
mod guarded;
mod history;
mod huge_entries;
mod lapses;
mod large;
mod life;
mod outages;
mod replay;
mod restarts;
mod rotation;
mod scale;
mod shared;
mod targets;
mod unsafe_places;
mod versions;
mod waiting;
mod watchdogs;
mod wires;

use crate::support::{Mongo, Nats, PATIENCE, Run, Sluice, eventually, within};
use async_nats::jetstream;
use bson::{Document, doc};
use futures_util::{StreamExt, stream};
use serde_json::Value;
use std::{
    ops::Range,
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

/// Longer than anything takes on a slow machine.
const SOON: Duration = Duration::from_secs(30);
/// For loads and restarts.
const LONG: Duration = Duration::from_secs(120);

/// Servers, a running `sluice run`, and what a person would do with them.
struct Stage {
    nats: Nats,
    mongo: Mongo,
    sluice: Sluice,
}

impl Stage {
    async fn set() -> Self {
        Self::of(Nats::start().await, Mongo::start().await).await
    }

    /// With a database that keeps what it confirmed when it is killed.
    async fn set_durable() -> Self {
        Self::of(Nats::start().await, Mongo::start_durable().await).await
    }

    async fn of(nats: Nats, mongo: Mongo) -> Self {
        let sluice = Run::new(&nats, &mongo).start().await;
        Self { nats, mongo, sluice }
    }

    fn config_file(&self, name: &str, config: &str) -> String {
        let file = self.sluice.dir.join(format!("{name}.yml"));
        std::fs::write(&file, config).unwrap();
        file.display().to_string()
    }

    /// `sluice publish ID -f … --wait`.
    async fn publish(&self, id: &str, config: &str) {
        let file = self.config_file(id, config);
        self.sluice.cli_ok(&["publish", id, "-f", &file, "--wait"]).await;
    }

    /// A config that writes to the collection `id`, in small quick batches.
    async fn publish_plain(&self, id: &str) {
        self.publish(id, &plain(id)).await;
    }

    /// Publishes `{n}` for each of `numbers` and waits for every acknowledgement.
    async fn send(&self, subject: &str, numbers: Range<i64>) {
        self.send_with(subject, numbers, |n| doc! {"n": n}).await;
    }

    async fn send_with(&self, subject: &str, numbers: Range<i64>, make: impl Fn(i64) -> Document) {
        send_all(&self.nats.jetstream().await, subject, numbers, make, &AtomicI64::new(0)).await;
    }

    /// Waits until the collection holds exactly the documents `numbers`, each once.
    async fn exactly(&self, collection: &str, numbers: Range<i64>) {
        let wanted = u64::try_from(numbers.end - numbers.start).unwrap();
        let what = format!("{wanted} documents are in {collection}");
        let counted = || async { self.mongo.count(collection).await >= wanted };
        if tokio::time::timeout(PATIENCE * LONG, async {
            while !counted().await {
                tokio::time::sleep(Duration::from_millis(50)).await
            }
        })
        .await
        .is_err()
        {
            let status = self.sluice.cli(&["status", "-o", "json"]).await;
            let log = self.sluice.log();
            let tail = &log[log.len().saturating_sub(6000)..];
            panic!("{what}: {} after {LONG:?}\n{}\n{tail}", self.mongo.count(collection).await, String::from_utf8_lossy(&status.stdout));
        }
        assert_each_once(&self.mongo, collection, numbers).await;
    }

    /// Waits until nothing waits in the stream and nothing is unacknowledged.
    async fn settled(&self, id: &str) {
        eventually("the stream is empty", LONG, || async { self.waiting(id).await == Some(0) }).await;
    }

    /// Messages in the pipeline's stream; `None` where there is no stream.
    async fn waiting(&self, id: &str) -> Option<u64> {
        let stream = self.nats.jetstream().await.get_stream(format!("alpha_{id}")).await.ok()?;
        Some(stream.get_info().await.ok()?.state.messages)
    }

    /// The status of `id` as `sluice run` serves it; null where it has none.
    async fn status(&self, id: &str) -> Value {
        let (code, body) = self.sluice.get(&format!("/api/v1/pipelines/{id}")).await;
        if code == 200 { serde_json::from_str(&body).unwrap() } else { Value::Null }
    }

    /// Waits until a condition of `id` has this reason and status.
    async fn says(&self, id: &str, kind: &str, status: bool, reason: &str) {
        let what = format!("{id} says {kind}={status} because {reason}");
        eventually(&what, SOON, || async { has(&self.status(id).await, kind, status, reason) }).await;
    }

    async fn phase_is(&self, id: &str, phase: &str) {
        eventually(&format!("{id} is {phase}"), SOON, || async { self.status(id).await["admitted"]["phase"] == phase }).await;
    }

    /// How many executions run in the process.
    async fn running(&self) -> usize {
        let (mut running, mut after) = (0, String::new());
        loop {
            let (_, body) = self.sluice.get(&format!("/api/v1/executions?after={after}")).await;
            let page: Vec<Value> = serde_json::from_str(&body).unwrap_or_default();
            running += page.iter().filter(|execution| execution["phase"] == "running").count();
            match page.last().and_then(|last| last["id"].as_str()) {
                Some(last) => after = last.to_owned(),
                None => return running,
            }
        }
    }

    /// Dead letters of `id`.
    async fn dead_letters(&self, id: &str) -> u64 {
        let Ok(stream) = self.nats.jetstream().await.get_stream("alpha-dlq").await else { return 0 };
        let info = stream.info_with_subjects(format!("alpha-dlq.{id}.>")).await.unwrap();
        futures_util::TryStreamExt::try_collect::<Vec<_>>(info).await.unwrap().len().try_into().unwrap()
    }
}

/// The memory that the process has now, in KiB.
fn memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}

/// What is wrong: the pipelines that `/health/pipelines` names, and what `/health/ready` does.
async fn wrong(stage: &Stage) -> (Vec<String>, Vec<String>) {
    let checks = async |path| {
        let (_, body) = stage.sluice.get(path).await;
        let health: Value = serde_json::from_str(&body).unwrap();
        let checks = health["checks"].as_array().cloned().unwrap_or_default();
        checks.into_iter().filter(|check| check["ok"] == false).collect::<Vec<_>>()
    };
    let pipelines = checks("/health/pipelines").await;
    let pipelines = pipelines.iter().filter_map(|check| Some(check["pipeline"].as_str()?.to_owned())).collect();
    (pipelines, checks("/health/ready").await.iter().map(ToString::to_string).collect())
}

/// Publishes what `make` makes of each of `numbers`, waits for every acknowledgement, and counts them in `done`.
pub async fn send_all(
    jetstream: &jetstream::Context,
    subject: &str,
    numbers: Range<i64>,
    make: impl Fn(i64) -> Document,
    done: &AtomicI64,
) {
    let sends = numbers.map(|n| {
        let payload = make(n).to_vec().unwrap();
        async move {
            acknowledged(jetstream, subject, payload).await;
            done.fetch_add(1, Ordering::Relaxed);
        }
    });
    stream::iter(sends).buffer_unordered(500).collect::<Vec<_>>().await;
}

/// Publishes until it is acknowledged, as a producer with patience does; the id lets the stream drop a repeat.
pub async fn acknowledged(jetstream: &jetstream::Context, subject: &str, payload: Vec<u8>) {
    let id = uuid::Uuid::new_v4().to_string();
    for _ in 0..100 {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Nats-Msg-Id", id.as_str());
        if let Ok(ack) = jetstream.publish_with_headers(subject.to_owned(), headers, payload.clone().into()).await
            && ack.await.is_ok()
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("no publish to {subject} was acknowledged");
}

/// Asserts that the collection holds exactly `numbers` in `n`, each once.
pub async fn assert_each_once(mongo: &Mongo, collection: &str, numbers: Range<i64>) {
    let mut found: Vec<i64> = mongo.documents(collection).await.iter().filter_map(|document| document.get_i64("n").ok()).collect();
    found.sort_unstable();
    let doubled = found.windows(2).filter(|pair| pair[0] == pair[1]).count();
    let total = found.len();
    found.dedup();
    let missing = numbers.clone().filter(|n| found.binary_search(n).is_err()).count();
    assert_eq!((missing, doubled), (0, 0), "of {numbers:?}: {missing} lost, {doubled} doubled, {total} in all");
}

pub fn has(status: &Value, kind: &str, holds: bool, reason: &str) -> bool {
    let conditions = status["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    conditions.iter().any(|condition| condition["type"] == kind && condition["status"] == holds && condition["reason"] == reason)
}

/// A config that writes to `collection` in batches that do not wait long.
pub fn plain(collection: &str) -> String {
    format!("schema: 1\noutput:\n  mongodb:\n    collection: {collection}\n    batching: {{count: 1000, period: 1s, linger: 20ms}}\n")
}
