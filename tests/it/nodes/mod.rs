//! Sluice on a NATS cluster of three real nodes: streams of three copies and of one, leaders killed, nodes cut off and healed,
//! streams scaled down under load. At the end every acknowledged publish is in exactly one place.
//!
//! When somebody dies and for how long is drawn from a seed. With `SLUICE_SOAK_SECONDS` each test goes on for about as long,
//! `SLUICE_SOAK_SEED` repeats one, `make torture-nodes` is both; the reports are under `target/torture`.

mod one_copy;
mod three_copies;

use crate::controllers::health;
use crate::pipelines::plain;
use crate::soak::{self, Ledger, Pace, Report};
use crate::support::{Mongo, NatsCluster, Run, Sluice, eventually};
use async_nats::jetstream;
use rand::prelude::*;
use serde::Serialize;
use serde_json::Value;
use std::time::{Duration, Instant};

/// Elections take up to ten seconds each.
const LONG: Duration = Duration::from_secs(150);
/// So short that what a lost node delivered to nobody comes soon.
const LEASE: Duration = Duration::from_secs(6);

/// What was done.
#[derive(Debug, Default, Serialize)]
struct Done {
    kills_of_leaders: u64,
    kills_of_the_only_copys_node: u64,
    nodes_cut_off: u64,
    scaled_down: u64,
}

/// The seed of a test, and what is drawn from it.
struct Fortune {
    name: &'static str,
    seed: u64,
    dice: StdRng,
    begun: Instant,
}

impl Fortune {
    fn new(name: &'static str) -> Self {
        let seed = soak::seed();
        eprintln!("NODES {name}, seed {seed}, begins");
        Self { name, seed, dice: StdRng::seed_from_u64(seed), begun: Instant::now() }
    }

    /// Waits for some moment within so many milliseconds.
    async fn some_moment(&mut self, most: u64) {
        tokio::time::sleep(soak::millis(&mut self.dice, 0..most)).await;
    }
}

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

    /// Lets the producers end, waits until nothing waits, counts, and reports.
    async fn settle(&self, mut ledger: Ledger, fortune: Fortune, done: Done) {
        ledger.end().await;
        let (ended, seconds) = (Instant::now(), fortune.begun.elapsed().as_secs());
        let mut waiting = self.info("alpha_metrics").await.state.messages;
        while waiting > 0 && ended.elapsed() < LONG {
            tokio::time::sleep(Duration::from_millis(100)).await;
            waiting = self.info("alpha_metrics").await.state.messages;
        }
        let place = |id: &str| vec![(self.mongo.database().to_owned(), id.to_owned())];
        let account = ledger.account(&self.cluster.jetstream().await, &self.mongo, place).await;
        let settled_after_seconds = (waiting == 0).then(|| ended.elapsed().as_secs_f64());
        let report = Report { seed: fortune.seed, seconds, settled_after_seconds, waiting, done, account };
        let line = format!("NODES {}, seed {}, {seconds} s: {:?}; {}", fortune.name, fortune.seed, report.done, report.account);
        eprintln!("{line}\nreport: {}", report.write(&format!("{}-{}", fortune.name, fortune.seed)).display());
        assert_eq!(waiting, 0, "{line}");
        report.account.assert_exactly_once(&line);
        for member in &self.members {
            eventually("all are well", LONG, || async { health(member).await["ready"] == Value::Bool(true) }).await;
        }
    }
}

/// Rounds of something that takes about so long: one, or as many as fit into `SLUICE_SOAK_SECONDS`.
fn rounds(each: Duration) -> u64 {
    soak::lasts(each).as_secs().div_ceil(each.as_secs())
}
