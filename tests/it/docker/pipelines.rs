//! Whole pipelines in containers: the real binary as the controller, an entry, documents that any producer publishes, and
//! what is in MongoDB afterwards, while what can die dies.

use super::section;
use crate::executor::SOON;
use crate::pipelines::send_all;
use crate::scene::{LONG, Scene, acknowledged_are};
use crate::support::{Cleaning, Docker, Mongo, Nats, eventually};
use bson::doc;
use serde_json::Value;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// A scene whose executions are containers of an engine, and a controller.
pub(super) struct Stage {
    pub docker: Arc<Docker>,
    scene: Scene,
    _cleaning: Cleaning,
}

impl Stage {
    pub async fn set(docker: Arc<Docker>) -> Self {
        let scene = Scene::set(docker.gateway()).await;
        let mongo_url = scene.mongo.url();
        Self::of(docker, scene, mongo_url, Vec::new()).await
    }

    /// The same on servers that are there, with the address at which the controller reaches the database, and with
    /// more in the environment of the controller and of commands.
    pub async fn with(docker: Arc<Docker>, nats: Nats, mongo: Mongo, mongo_url: String, env: Vec<(String, String)>) -> Self {
        Self::of(docker, Scene::of(nats, mongo), mongo_url, env).await
    }

    async fn of(docker: Arc<Docker>, mut scene: Scene, mongo_url: String, env: Vec<(String, String)>) -> Self {
        let _cleaning = docker.clean(&format!("sluice/namespace={}", scene.name));
        let backends = section(&docker).await;
        scene.start("docker", &backends, |run| (run.mongo_url, run.env) = (mongo_url, env)).await;
        Self { docker, scene, _cleaning }
    }

    /// The containers of the pipeline, by the CLI; those that do not run too, where `all`.
    pub async fn containers(&self, all: bool) -> Vec<String> {
        let filter = format!("label=sluice/namespace={}", self.name);
        let mut arguments = vec!["ps", "--format", "{{.Names}}", "--filter", &filter];
        arguments.extend(all.then_some("-a"));
        self.docker.cli(&arguments).await.lines().map(str::to_owned).collect()
    }
}

impl Deref for Stage {
    type Target = Scene;

    fn deref(&self) -> &Scene {
        &self.scene
    }
}

impl DerefMut for Stage {
    fn deref_mut(&mut self) -> &mut Scene {
        &mut self.scene
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_in_a_container_is_published_paused_changed_and_deleted_by_its_entry_alone() {
    require!("docker", "nats-server", "database");
    let stage = Stage::set(Docker::shared().await).await;
    stage.publish(1000).await;
    let done = AtomicI64::new(0);
    stage.send(0..100, &done).await;
    stage.exactly(100).await;
    let first = stage.containers(false).await;
    let shown = stage.sluice().cli_ok(&["status", "metrics"]).await;
    assert!(first.len() == 1 && shown.contains(&first[0]), "{first:?}\n{shown}");
    let epoch = stage.docker.cli(&["inspect", "--format", "{{index .Config.Labels \"sluice/epoch\"}}", &first[0]]).await;
    assert_eq!(stage.status().await["epoch"].to_string(), epoch, "who made it");

    for (replicas, names) in [(3, 3), (1, 1)] {
        let entries = stage.nats.jetstream().await.get_key_value(&stage.name).await.unwrap();
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

    stage.sluice().cli_ok(&["pause", "metrics", "--wait=9m"]).await;
    // The execution says that it has ended a moment before its process does.
    eventually("nothing runs", SOON, || async { stage.containers(false).await.is_empty() }).await;
    assert_eq!(stage.containers(true).await, first, "it is kept");
    stage.send(100..200, &done).await;
    stage.sluice().cli_ok(&["publish", "metrics", "--wait=9m"]).await;
    stage.exactly(200).await;
    assert_eq!(stage.containers(true).await, first, "the same one goes on");

    stage.publish(900).await;
    eventually("the new one runs alone", LONG, || async {
        let now = stage.containers(true).await;
        now.len() == 1 && now != first
    })
    .await;
    stage.sluice().cli_ok(&["draft", "metrics", "--wait=9m"]).await;
    eventually("nothing is left", SOON, || async { stage.containers(true).await.is_empty() }).await;
    stage.publish(900).await;
    stage.send(200..300, &done).await;
    stage.sluice().cli_ok(&["delete", "metrics", "--wait=9m"]).await;
    stage.exactly(300).await;
    eventually("no container is left", SOON, || async { stage.containers(true).await.is_empty() }).await;
    let volumes = ["volume", "ls", "-q", "--filter", &format!("label=sluice/namespace={}", stage.name)].map(str::to_owned);
    eventually("no volume is left", SOON, || async { stage.docker.cli(&volumes.each_ref().map(String::as_str)).await.is_empty() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_documents_outlive_a_version_change_and_the_death_of_controller_container_and_engine() {
    require!("docker", "nats-server", "database");
    let shared = Docker::shared().await;
    // An engine that others use too is not killed.
    let own = shared.host().is_some();
    let docker = if own { Docker::own(&["--live-restore"]).await } else { shared };
    let mut stage = Stage::set(docker).await;
    stage.publish(1000).await;
    let (jetstream, subject, done) = (stage.nats.jetstream().await, stage.subject("metrics"), AtomicI64::new(0));
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
        stage.controllers[0].kill9();
        // Without a controller, what runs goes on.
        let before = stage.mongo.count("metrics").await;
        go_to(10);
        eventually("documents flow without a controller", LONG, || async { stage.mongo.count("metrics").await > before }).await;
        stage.controllers[0].respawn();
        stage.controllers[0].wait_ready().await;
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
