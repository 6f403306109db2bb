//! Processes that are killed and suspended, on real servers: `sluice run` with kill -9 and SIGSTOP, nats-server killed right after
//! it delivered.

use super::*;
use crate::support::{Mongo, Run, Sluice};
use async_nats::jetstream::{self, stream};
use std::collections::HashMap;

const PATIENCE: Duration = Duration::from_secs(90);

/// A published time-series pipeline whose durable has a short `ack_wait`, and the numbers that lie in its collection.
struct Stage {
    nats: Nats,
    mongo: Mongo,
    jetstream: jetstream::Context,
}

impl Stage {
    async fn start() -> Self {
        let (nats, mongo) = (Nats::start_synced().await, Mongo::start_durable().await);
        let jetstream = nats.jetstream().await;
        let config = stream::Config {
            name: "alpha_metrics".into(),
            subjects: vec!["alpha.metrics".into()],
            retention: stream::RetentionPolicy::WorkQueue,
            discard: stream::DiscardPolicy::New,
            ..Default::default()
        };
        let consumer =
            pull::Config { durable_name: Some("default".into()), ack_wait: ACK_WAIT, max_ack_pending: 4_000, ..Default::default() };
        jetstream.create_stream(config).await.unwrap().create_consumer(consumer).await.unwrap();
        Self { nats, mongo, jetstream }
    }

    fn run(&self) -> Run {
        Run::new(&self.nats, &self.mongo)
    }

    async fn publish_pipeline(&self, sluice: &Sluice) {
        let config = "schema: 1\noutput:\n  mongodb:\n    collection: metrics\n    time_series: {time_field: ts, meta_field: device}\n    batching: {count: 200, linger: 50ms}\n";
        std::fs::write(sluice.dir.join("metrics.yml"), config).unwrap();
        sluice.cli_ok(&["publish", "metrics", "-f", "metrics.yml", "--wait"]).await;
    }

    async fn publish(&self, numbers: std::ops::Range<i64>) {
        let mut acks = Vec::new();
        for document in measurements(numbers) {
            let payload = mongodb::bson::serialize_to_vec(&document).unwrap();
            acks.push(self.jetstream.publish("alpha.metrics", payload.into()).await.unwrap().into_future());
        }
        for ack in acks {
            ack.await.unwrap();
        }
    }

    async fn waiting(&self) -> u64 {
        match self.jetstream.get_stream("alpha_metrics").await {
            Ok(stream) => stream.cached_info().state.messages,
            Err(_) => u64::MAX,
        }
    }

    /// Those that are there more than once, and how many different ones there are.
    async fn counted(&self) -> (usize, usize) {
        let mut counts: HashMap<i64, u32> = HashMap::new();
        for document in self.mongo.documents("metrics").await {
            *counts.entry(document.get_i64("n").unwrap()).or_default() += 1;
        }
        (counts.values().filter(|count| **count > 1).count(), counts.len())
    }

    async fn settles(&self, numbers: usize) {
        eventually("the stream is empty", PATIENCE, || async { self.waiting().await == 0 }).await;
        eventually("each is there once", PATIENCE, || async { self.counted().await == (0, numbers) }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_again_and_again_during_twenty_thousand_measurements_leaves_each_once() {
    require!("nats-server", "database");
    let stage = Stage::start().await;
    let mut sluice = stage.run().start().await;
    stage.publish_pipeline(&sluice).await;
    let publishing = async {
        for round in 0..20 {
            stage.publish(round * 1_000..(round + 1) * 1_000).await;
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    };
    let killing = async {
        for round in 0..5 {
            let before = stage.mongo.count("metrics").await;
            eventually("it writes", PATIENCE, || async { stage.mongo.count("metrics").await > before + 150 * round }).await;
            sluice.kill9();
            sluice.respawn();
        }
    };
    tokio::join!(publishing, killing);
    stage.settles(20_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_was_suspended_beyond_its_leases_wakes_up_and_doubles_nothing() {
    require!("nats-server", "database");
    let stage = Stage::start().await;
    let first = stage.run().start().await;
    stage.publish_pipeline(&first).await;
    let second = stage.run().start().await;
    stage.publish(0..500).await;
    for (round, sluice) in [&first, &second].into_iter().enumerate() {
        let from = 500 + 2_000 * i64::try_from(round).unwrap();
        stage.publish(from..from + 2_000).await;
        // Somewhere in the middle of an insert, most likely.
        sluice.signal("STOP");
        tokio::time::sleep(ACK_WAIT + Duration::from_secs(3)).await;
        sluice.signal("CONT");
    }
    stage.settles(4_500).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_server_killed_right_after_it_delivered_leads_to_no_double() {
    require!("nats-server", "database");
    let mut stage = Stage::start().await;
    let sluice = stage.run().start().await;
    stage.publish_pipeline(&sluice).await;
    for round in 0..3_i64 {
        stage.publish(round * 1_000..(round + 1) * 1_000).await;
        // What it delivered in the last 100 ms it has forgotten when it comes back.
        stage.nats.kill9();
        stage.nats.restart().await;
        stage.jetstream = stage.nats.jetstream().await;
    }
    stage.settles(3_000).await;
    drop(sluice);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_version_takes_over_under_a_load_and_the_status_says_who_stands_by() {
    require!("nats-server", "database");
    let stage = Stage::start().await;
    let first = stage.run().start().await;
    stage.publish_pipeline(&first).await;
    let second = stage.run().start().await;
    let stands_by = || async { first.cli_ok(&["status", "metrics"]).await.contains("executions: 2 (1 of them standing by)") };
    eventually("one of two stands by", PATIENCE, stands_by).await;
    let publishing = async {
        for round in 0..8 {
            stage.publish(round * 500..(round + 1) * 500).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let rolling = async {
        let config = std::fs::read_to_string(first.dir.join("metrics.yml")).unwrap();
        std::fs::write(first.dir.join("next.yml"), config.replace("linger: 50ms", "linger: 20ms")).unwrap();
        first.cli_ok(&["publish", "metrics", "-f", "next.yml", "--wait"]).await;
    };
    tokio::join!(publishing, rolling);
    stage.settles(4_000).await;
    eventually("one of two stands by again", PATIENCE, stands_by).await;
    drop(second);
}
