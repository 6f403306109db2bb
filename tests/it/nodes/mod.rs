//! Sluice on a NATS cluster of three real nodes: streams of three copies and of one, leaders killed, nodes cut off and healed,
//! streams scaled down under load. At the end every acknowledged publish is in exactly one place.
//!
//! With `SLUICE_SOAK_SECONDS` each test goes on for about as long.

mod one_copy;
mod three_copies;

use crate::controllers::health;
use crate::pipelines::plain;
use crate::soak::{self, Account, Ledger, Pace};
use crate::support::{Mongo, NatsCluster, Run, Sluice, eventually};
use async_nats::jetstream;
use serde_json::Value;
use std::time::{Duration, Instant};

/// Elections take up to ten seconds each.
const LONG: Duration = Duration::from_secs(150);
/// So short that what a lost node delivered to nobody comes soon.
const LEASE: Duration = Duration::from_secs(6);

/// A cluster, a database, two `sluice run`s and the pipeline `metrics`.
struct Nodes {
    cluster: NatsCluster,
    mongo: Mongo,
    members: Vec<Sluice>,
}

impl Nodes {
    /// `urls`: the nodes that each of the two connects to.
    async fn start(urls: impl Fn(&NatsCluster) -> [Vec<String>; 2]) -> Self {
        let (cluster, mongo) = tokio::join!(NatsCluster::start(), Mongo::start());
        Self::on(cluster, mongo, urls).await
    }

    async fn on(cluster: NatsCluster, mongo: Mongo, urls: impl Fn(&NatsCluster) -> [Vec<String>; 2]) -> Self {
        let mut members = Vec::new();
        for urls in urls(&cluster) {
            let run = Run::new(cluster.node(0), &mongo);
            let env = vec![("SLUICE_NATS_URLS".to_owned(), urls.join(","))];
            members.push(Run { env, extra: "jetstream: {replicas: 3}".into(), ..run }.spawn());
        }
        for member in &mut members {
            member.wait_ready().await;
        }
        Self { cluster, mongo, members }
    }

    async fn publish(&self, config: &str) {
        let file = self.members[0].dir.join("metrics.yml");
        std::fs::write(&file, config).unwrap();
        self.members[0].cli_ok(&["publish", "metrics", "-f", file.to_str().unwrap(), "--wait"]).await;
    }

    /// The same while streams elect their leaders: until it gets through.
    async fn edit(&self, config: &str) {
        let file = self.members[0].dir.join("edited.yml");
        std::fs::write(&file, config).unwrap();
        let edit = ["publish", "metrics", "-f", file.to_str().unwrap(), "--wait"];
        eventually("an edit gets through", LONG, || async { self.members[0].cli(&edit).await.status.success() }).await;
    }

    async fn load(&self) -> Ledger {
        self.load_without(&[]).await
    }

    /// Producers that are connected to none of these nodes.
    async fn load_without(&self, nodes: &[usize]) -> Ledger {
        let pace = Pace { answer: Duration::from_secs(2), ..Pace::default() };
        Ledger::open(&self.cluster.urls_without(nodes), &["metrics"], 2, pace).await
    }

    async fn info(&self, stream: &str) -> jetstream::stream::Info {
        let jetstream = self.cluster.jetstream().await;
        for _ in 0..600 {
            if let Ok(stream) = jetstream.get_stream(stream).await {
                return stream.cached_info().clone();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{stream} is not there");
    }

    /// Waits until so many documents more are stored.
    async fn flows(&self, documents: u64) {
        let wanted = self.mongo.count("metrics").await + documents;
        eventually("documents flow", LONG, || async { self.mongo.count("metrics").await >= wanted }).await;
    }

    /// Lets the producers end, waits until nothing waits, and counts.
    async fn settle(&self, mut ledger: Ledger, what: &str) -> Account {
        ledger.end().await;
        let begun = Instant::now();
        while self.info("alpha_metrics").await.state.messages > 0 {
            assert!(begun.elapsed() < LONG, "{what}: {:?}", self.info("alpha_metrics").await.state);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let place = |id: &str| vec![(self.mongo.database().to_owned(), id.to_owned())];
        let account = ledger.account(&self.cluster.jetstream().await, &self.mongo, place).await;
        let line = format!("NODES {what}: {account}");
        eprintln!("{line}");
        account.assert_exactly_once(&line);
        for member in &self.members {
            eventually("all are well", LONG, || async { health(member).await["ready"] == Value::Bool(true) }).await;
        }
        account
    }
}

/// Rounds of something that takes about so long: one, or as many as fit into `SLUICE_SOAK_SECONDS`.
fn rounds(each: Duration) -> u64 {
    soak::lasts(each).as_secs().div_ceil(each.as_secs())
}
