//! Whole pipelines on executors whose executions are processes of their own: servers that those reach, controllers of one
//! namespace, and what a person would do with them. What the engine itself shows of it, `docker` and `kubernetes` add.

use crate::pipelines::{acknowledged, assert_each_once, has, send_all};
use crate::support::{Mongo, Nats, Run, Sluice, eventually, http_get, random_name};
use async_nats::jetstream;
use bson::{Document, doc};
use serde_json::Value;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

/// Longer than anything takes on a slow machine.
pub const LONG: Duration = Duration::from_secs(240);

/// Servers, and controllers of one namespace, each a process of its own.
pub struct Scene {
    pub nats: Nats,
    pub mongo: Mongo,
    pub controllers: Vec<Sluice>,
    /// Of Sluice.
    pub name: String,
}

/// The `executor` section of the settings; `backends` are the sections in it.
fn executor(kind: &str, retire: &str, backends: &str) -> String {
    format!("executor:\n  kind: {kind}\n  retire: [{retire}]\n{backends}")
}

impl Scene {
    /// Servers that listen at an address that executions reach, and no controller yet.
    pub async fn set(gateway: IpAddr) -> Self {
        let (nats, mongo) = tokio::join!(Nats::start_on(gateway), Mongo::start_on(gateway));
        Self::of(nats, mongo)
    }

    /// The same with servers that are there.
    pub fn of(nats: Nats, mongo: Mongo) -> Self {
        Self { nats, mongo, controllers: Vec::new(), name: random_name("ns") }
    }

    /// Starts a controller, as `change` has it, and waits until it is ready.
    pub async fn start(&mut self, kind: &str, backends: &str, change: impl FnOnce(&mut Run)) {
        let mut run = Run::new(&self.nats, &self.mongo);
        run.namespace.clone_from(&self.name);
        run.extra = executor(kind, "", backends);
        change(&mut run);
        self.controllers.push(run.start().await);
    }

    /// Restarts the only controller with another `executor` section.
    pub async fn restart_as(&mut self, kind: &str, retire: &str, backends: &str) {
        let sluice = &mut self.controllers[0];
        let path = sluice.dir.join("sluice.yml");
        let text = std::fs::read_to_string(&path).unwrap();
        let before = text.split("executor:").next().unwrap().to_owned();
        std::fs::write(&path, before + &executor(kind, retire, backends)).unwrap();
        assert!(sluice.sigterm().await.success());
        sluice.respawn();
        sluice.wait_ready().await;
    }

    /// A controller that answers.
    pub fn sluice(&self) -> &Sluice {
        &self.controllers[0]
    }

    pub fn subject(&self, id: &str) -> String {
        format!("{}.{id}", self.name)
    }

    /// `sluice publish ID -f …`, with further arguments.
    pub async fn publish_with(&self, id: &str, config: &str, arguments: &[&str]) {
        let file = self.sluice().dir.join(format!("{id}.yml"));
        std::fs::write(&file, config).unwrap();
        self.sluice().cli_ok(&[&["publish", id, "-f", &file.display().to_string()], arguments].concat()).await;
    }

    /// Publishes `metrics` in batches of `count`, and waits until that runs.
    pub async fn publish(&self, count: u32) {
        self.publish_with("metrics", &batches_of(count), &["--wait=9m"]).await;
    }

    pub async fn status(&self) -> Value {
        self.status_of("metrics").await
    }

    /// The status as a controller serves it; null where there is none.
    pub async fn status_of(&self, id: &str) -> Value {
        let (code, body) = self.sluice().get(&format!("/api/v1/pipelines/{id}")).await;
        if code == 200 { serde_json::from_str(&body).unwrap() } else { Value::Null }
    }

    pub async fn says(&self, kind: &str, status: bool, reason: &str) {
        self.says_of("metrics", kind, status, reason).await;
    }

    /// Waits until a condition of `id` has this reason and status.
    pub async fn says_of(&self, id: &str, kind: &str, status: bool, reason: &str) {
        let what = format!("{id}: {kind}={status} because {reason}");
        eventually(&what, LONG, || async { has(&self.status_of(id).await, kind, status, reason) }).await;
    }

    pub async fn send(&self, numbers: Range<i64>, done: &AtomicI64) {
        send_all(&self.nats.jetstream().await, &self.subject("metrics"), numbers, |n| doc! {"n": n}, done).await;
    }

    /// Waits until `metrics` holds exactly the documents `0..count`, each once.
    pub async fn exactly(&self, count: i64) {
        self.exactly_in("metrics", count).await;
    }

    pub async fn exactly_in(&self, collection: &str, count: i64) {
        let wanted = u64::try_from(count).unwrap();
        eventually(&format!("{wanted} documents are in {collection}"), LONG, || async { self.mongo.count(collection).await >= wanted })
            .await;
        assert_each_once(&self.mongo, collection, 0..count).await;
    }

    /// Waits until documents are stored that were not before.
    pub async fn flows(&self, what: &str) {
        let before = self.mongo.count("metrics").await;
        eventually(what, LONG, || async { self.mongo.count("metrics").await > before }).await;
    }

    /// The controller that says that it holds the lease.
    pub async fn holder(&self) -> usize {
        loop {
            for (place, member) in self.controllers.iter().enumerate() {
                let Some(url) = member.http_url() else { continue };
                if let Ok((_, body)) = http_get(&url, "/health/ready", None).await
                    && serde_json::from_str::<Value>(&body).is_ok_and(|health| health["holder"] == true)
                {
                    return place;
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// A config of `metrics`.
pub fn batches_of(count: u32) -> String {
    format!("schema: 1\noutput:\n  mongodb: {{collection: metrics, batching: {{count: {count}, period: 1s, linger: 20ms}}}}\n")
}

pub async fn acknowledged_are(done: &AtomicI64, wanted: i64) {
    eventually("the load goes on", LONG, || async { done.load(Ordering::Relaxed) >= wanted }).await;
}

/// Publishes what `make` makes of 0, 1, 2 …, some hundred a second, each acknowledged, until `stopped`; how many they are.
pub async fn load_until(jetstream: &jetstream::Context, subject: &str, make: impl Fn(i64) -> Document, stopped: &AtomicBool) -> i64 {
    const PART: i64 = 50;
    let mut sent = 0;
    while !stopped.load(Ordering::Relaxed) {
        let parts = (sent..sent + PART).map(|n| acknowledged(jetstream, subject, make(n).to_vec().unwrap()));
        futures_util::future::join_all(parts).await;
        sent += PART;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    sent
}
