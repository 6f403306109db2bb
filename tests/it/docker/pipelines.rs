//! Whole pipelines in containers: the real binary as the controller, an entry, documents that any producer publishes, and
//! what is in MongoDB afterwards, while what can die dies.

use super::host;
use crate::executor::SOON;
use crate::pipelines::{assert_each_once, has, send_all};
use crate::support::{Cleaning, Docker, Mongo, Nats, Run, Sluice, eventually, random_name};
use bson::doc;
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

pub(super) const LONG: Duration = Duration::from_secs(240);

/// An engine, servers that its containers reach, and a controller.
pub(super) struct Stage {
    pub docker: Arc<Docker>,
    pub nats: Nats,
    pub mongo: Mongo,
    pub sluice: Sluice,
    pub namespace: String,
    _cleaning: Cleaning,
}

/// The `executor` section of the settings.
fn section(image: &str, docker: &Docker, kind: &str, retire: &str) -> String {
    let docker = format!("host: '{}', image: '{image}', pull: never, memory: 256MiB, health_interval: 2s", host(docker));
    format!("executor:\n  kind: {kind}\n  retire: [{retire}]\n  docker: {{{docker}}}\n")
}

impl Stage {
    pub async fn set(docker: Arc<Docker>, kind: &str) -> Self {
        let gateway = docker.gateway();
        let (nats, mongo) = tokio::join!(Nats::start_on(gateway), Mongo::start_on(gateway));
        let mongo_url = mongo.url();
        Self::with(docker, nats, mongo, mongo_url, kind, Vec::new()).await
    }

    /// The same on servers that are there, with the address at which the controller reaches the database, and with
    /// more in the environment of the controller and of commands.
    pub async fn with(docker: Arc<Docker>, nats: Nats, mongo: Mongo, mongo_url: String, kind: &str, env: Vec<(String, String)>) -> Self {
        let namespace = random_name("ns");
        let _cleaning = docker.clean(&format!("sluice/namespace={namespace}"));
        let image = docker.image().await;
        let mut run = Run::new(&nats, &mongo);
        run.namespace.clone_from(&namespace);
        run.mongo_url = mongo_url;
        run.extra = section(&image, &docker, kind, "");
        run.env = env;
        let sluice = run.start().await;
        Self { docker, nats, mongo, sluice, namespace, _cleaning }
    }

    pub fn subject(&self) -> String {
        format!("{}.metrics", self.namespace)
    }

    pub async fn publish(&self, count: u32) {
        let file = self.sluice.dir.join("metrics.yml");
        let config =
            format!("schema: 1\noutput:\n  mongodb: {{collection: metrics, batching: {{count: {count}, period: 1s, linger: 20ms}}}}\n");
        std::fs::write(&file, config).unwrap();
        let file = file.display().to_string();
        self.sluice.cli_ok(&["publish", "metrics", "-f", &file, "--wait=3m"]).await;
    }

    pub async fn status(&self) -> Value {
        let (code, body) = self.sluice.get("/api/v1/pipelines/metrics").await;
        if code == 200 { serde_json::from_str(&body).unwrap() } else { Value::Null }
    }

    pub async fn says(&self, kind: &str, status: bool, reason: &str) {
        eventually(&format!("{kind}={status} because {reason}"), LONG, || async { has(&self.status().await, kind, status, reason) }).await;
    }

    /// The containers of the pipeline, by the CLI; `-a` for those that do not run too.
    pub async fn containers(&self, all: bool) -> Vec<String> {
        let filter = format!("label=sluice/namespace={}", self.namespace);
        let mut arguments = vec!["ps", "--format", "{{.Names}}", "--filter", &filter];
        arguments.extend(all.then_some("-a"));
        self.docker.cli(&arguments).await.lines().map(str::to_owned).collect()
    }

    pub async fn send(&self, numbers: std::ops::Range<i64>, done: &AtomicI64) {
        send_all(&self.nats.jetstream().await, &self.subject(), numbers, |n| doc! {"n": n}, done).await;
    }

    pub async fn exactly(&self, count: i64) {
        let wanted = u64::try_from(count).unwrap();
        eventually(&format!("{wanted} documents are stored"), LONG, || async { self.mongo.count("metrics").await >= wanted }).await;
        assert_each_once(&self.mongo, "metrics", 0..count).await;
    }

    /// Restarts the controller with another `executor` section.
    async fn restart_as(&mut self, kind: &str, retire: &str) {
        let path = self.sluice.dir.join("sluice.yml");
        let text = std::fs::read_to_string(&path).unwrap();
        let before = text.split("executor:").next().unwrap().to_owned();
        let image = self.docker.image().await;
        std::fs::write(&path, before + &section(&image, &self.docker, kind, retire)).unwrap();
        self.sluice.sigterm().await;
        self.sluice.respawn();
        self.sluice.wait_ready().await;
    }
}

async fn acknowledged_are(done: &AtomicI64, wanted: i64) {
    eventually("the load goes on", LONG, || async { done.load(Ordering::Relaxed) >= wanted }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_in_a_container_is_published_paused_changed_and_deleted_by_its_entry_alone() {
    require!("docker", "nats-server", "database");
    let stage = Stage::set(Docker::shared().await, "docker").await;
    stage.publish(1000).await;
    let done = AtomicI64::new(0);
    stage.send(0..100, &done).await;
    stage.exactly(100).await;
    let first = stage.containers(false).await;
    let shown = stage.sluice.cli_ok(&["status", "metrics"]).await;
    assert!(first.len() == 1 && shown.contains(&first[0]), "{first:?}\n{shown}");
    let epoch = stage.docker.cli(&["inspect", "--format", "{{index .Config.Labels \"sluice/epoch\"}}", &first[0]]).await;
    assert_eq!(stage.status().await["epoch"].to_string(), epoch, "who made it");

    for (replicas, names) in [(3, 3), (1, 1)] {
        let entries = stage.nats.jetstream().await.get_key_value(&stage.namespace).await.unwrap();
        let mut entry: Value = serde_json::from_slice(&entries.get("metrics").await.unwrap().unwrap()).unwrap();
        entry["replicas"] = replicas.into();
        entries.put("metrics", entry.to_string().into()).await.unwrap();
        eventually(&format!("{replicas} run"), LONG, || async {
            let shown = stage.status().await["observed"]["instances"].as_array().map_or(0, Vec::len);
            stage.containers(false).await.len() == names && shown == names
        })
        .await;
    }
    assert_eq!(stage.containers(true).await, first, "the first one went on");

    stage.sluice.cli_ok(&["pause", "metrics", "--wait=3m"]).await;
    // The execution says that it has ended a moment before its process does.
    eventually("nothing runs", SOON, || async { stage.containers(false).await.is_empty() }).await;
    assert_eq!(stage.containers(true).await, first, "it is kept");
    stage.send(100..200, &done).await;
    stage.sluice.cli_ok(&["publish", "metrics", "--wait=3m"]).await;
    stage.exactly(200).await;
    assert_eq!(stage.containers(true).await, first, "the same one goes on");

    stage.publish(900).await;
    eventually("the new one runs alone", LONG, || async {
        let now = stage.containers(true).await;
        now.len() == 1 && now != first
    })
    .await;
    stage.sluice.cli_ok(&["draft", "metrics", "--wait=3m"]).await;
    eventually("nothing is left", SOON, || async { stage.containers(true).await.is_empty() }).await;
    stage.publish(900).await;
    stage.send(200..300, &done).await;
    stage.sluice.cli_ok(&["delete", "metrics", "--wait=3m"]).await;
    stage.exactly(300).await;
    eventually("no container is left", SOON, || async { stage.containers(true).await.is_empty() }).await;
    let volumes = ["volume", "ls", "-q", "--filter", &format!("label=sluice/namespace={}", stage.namespace)].map(str::to_owned);
    eventually("no volume is left", SOON, || async { stage.docker.cli(&volumes.each_ref().map(String::as_str)).await.is_empty() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_documents_outlive_a_version_change_and_the_death_of_controller_container_and_engine() {
    require!("docker", "nats-server", "database");
    let shared = Docker::shared().await;
    // An engine that others use too is not killed.
    let own = shared.host().is_some();
    let docker = if own { Docker::own(&["--live-restore"]).await } else { shared };
    let mut stage = Stage::set(docker, "docker").await;
    stage.publish(1000).await;
    let (jetstream, subject, done) = (stage.nats.jetstream().await, stage.subject(), AtomicI64::new(0));
    let until = AtomicI64::new(0);
    let all = 100_000;
    let load = async {
        for part in 0..20 {
            eventually("the next part may go", LONG, || async { until.load(Ordering::Relaxed) >= part }).await;
            send_all(&jetstream, &subject, part * 5_000..(part + 1) * 5_000, |n| doc! {"n": n}, &done).await;
        }
    };
    let go_to = |part: i64| until.store(part, Ordering::Relaxed);
    let deaths = async {
        go_to(4);
        acknowledged_are(&done, 10_000).await;
        stage.publish(900).await;
        go_to(8);
        acknowledged_are(&done, 30_000).await;
        stage.sluice.kill9();
        // Without a controller, what runs goes on.
        let before = stage.mongo.count("metrics").await;
        go_to(10);
        eventually("documents flow without a controller", LONG, || async { stage.mongo.count("metrics").await > before }).await;
        stage.sluice.respawn();
        stage.sluice.wait_ready().await;
        go_to(13);
        acknowledged_are(&done, 55_000).await;
        let name = stage.containers(false).await.remove(0);
        stage.docker.cli(&["kill", &name]).await;
        go_to(16);
        acknowledged_are(&done, 75_000).await;
        if own {
            // An engine that is away makes none anew.
            eventually("another container writes", LONG, || async { stage.mongo.count("metrics").await >= 75_000 }).await;
            stage.docker.kill9();
            let before = stage.mongo.count("metrics").await;
            go_to(17);
            eventually("documents flow without an engine", LONG, || async { stage.mongo.count("metrics").await > before }).await;
            eventually("the status says that the engine is away", LONG, || async {
                stage.status().await["conditions"].to_string().contains("EngineUnavailable")
            })
            .await;
            stage.docker.restart().await;
        }
        go_to(20);
    };
    tokio::join!(load, deaths);
    stage.exactly(all).await;
    stage.says("Ready", true, "AsDesired").await;
    eventually("one container is there, and the status forgets that the engine was away", LONG, || async {
        stage.containers(true).await.len() == 1 && !stage.status().await["conditions"].to_string().contains("EngineUnavailable")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changing_the_executor_moves_a_pipeline_both_ways_and_leaves_no_container() {
    require!("docker", "nats-server", "database");
    let mut stage = Stage::set(Docker::shared().await, "in_process").await;
    stage.publish(1000).await;
    let (jetstream, subject, done) = (stage.nats.jetstream().await, stage.subject(), AtomicI64::new(0));
    let load = send_all(&jetstream, &subject, 0..20_000, |n| doc! {"n": n}, &done);
    let swaps = async {
        acknowledged_are(&done, 2_000).await;
        stage.restart_as("docker", "in_process").await;
        stage.says("Ready", true, "AsDesired").await;
        eventually("it runs in a container", LONG, || async { stage.containers(false).await.len() == 1 }).await;
        stage.restart_as("in_process", "docker").await;
        stage.says("Ready", true, "AsDesired").await;
        eventually("no container is left", LONG, || async { stage.containers(true).await.is_empty() }).await;
    };
    tokio::join!(load, swaps);
    stage.exactly(20_000).await;
}
