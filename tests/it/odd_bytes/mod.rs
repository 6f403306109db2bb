//! Bytes that NATS stores and no client library expects: headers, subjects and errors that are not as they are defined, on
//! every path that reads. They cost no connection, their documents are stored, and the trouble is named.

mod buckets;
mod client;
mod pipelines;

use crate::pipelines::{assert_each_once, plain, send_all};
use crate::support::{Mongo, Nats, Run, Sluice, eventually, raw};
use bson::doc;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

/// Servers, a running `sluice run`, and the connections that it began with.
struct Scene {
    nats: Nats,
    mongo: Mongo,
    sluice: Sluice,
    monitoring: String,
    connected: BTreeSet<u64>,
}

impl Scene {
    async fn set() -> Self {
        let nats = Nats::start_monitored("").await;
        let mongo = Mongo::start().await;
        let sluice = Run::new(&nats, &mongo).start().await;
        let monitoring = format!("http://127.0.0.1:{}", nats.monitoring().unwrap());
        let connected = raw::connections(&monitoring, "sluice/").await;
        assert!(!connected.is_empty());
        Self { nats, mongo, sluice, monitoring, connected }
    }

    /// A pipeline that listens on everything below its subject, too.
    async fn publish(&self, id: &str) {
        let config = format!("{}input:\n  nats_jetstream:\n    subjects: [alpha.{id}, 'alpha.{id}.>']\n", plain(id));
        let file = self.sluice.dir.join(format!("{id}.yml"));
        std::fs::write(&file, config).unwrap();
        self.sluice.cli_ok(&["publish", id, "-f", &file.display().to_string(), "--wait"]).await;
    }

    async fn send(&self, id: &str, numbers: std::ops::Range<i64>) {
        let (jetstream, done) = (self.nats.jetstream().await, AtomicI64::new(0));
        send_all(&jetstream, &format!("alpha.{id}"), numbers, |n| doc! {"n": n}, &done).await;
    }

    async fn stored(&self, id: &str, count: i64) {
        let wanted = u64::try_from(count).unwrap();
        eventually(&format!("{count} documents are in {id}"), SOON, || async { self.mongo.count(id).await >= wanted }).await;
        assert_each_once(&self.mongo, id, 0..count).await;
    }

    async fn status(&self, id: &str) -> Value {
        let (_, body) = self.sluice.get(&format!("/api/v1/pipelines/{id}")).await;
        serde_json::from_str(&body).unwrap()
    }

    /// That the process still has the connection that it began with.
    async fn still_connected(&self) {
        let now = raw::connections(&self.monitoring, "sluice/").await;
        assert!(self.connected.is_subset(&now), "{:?} of {now:?}\n{}", self.connected, self.sluice.log());
    }
}
