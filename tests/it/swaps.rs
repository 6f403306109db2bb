//! From each executor to each other one, by `executor.kind` and a restart, under a load: a pipeline into a normal collection
//! and one into a time series go on, nothing is lost or doubled, and nothing is left behind.

use crate::executor::SOON;
use crate::scene::{LONG, Scene, batches_of, load_until};
use crate::support::{Cluster, Docker, Namespace, eventually};
use crate::{docker, kubernetes};
use bson::{DateTime, doc};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const SERIES: &str =
    "schema: 1\noutput:\n  mongodb: {collection: points, time_series: {time_field: at}, batching: {period: 1s, linger: 20ms}}\n";
/// Each to each other one.
const WAY: [&str; 7] = ["in_process", "docker", "kubernetes", "docker", "in_process", "kubernetes", "in_process"];

/// What the engines have of a namespace of Sluice.
struct Engines {
    docker: Arc<Docker>,
    namespace: Namespace,
    filter: String,
}

impl Engines {
    /// Containers and pods that run.
    async fn run(&self) -> (usize, usize) {
        let containers = self.docker.cli(&["ps", "-q", "--filter", &self.filter]).await;
        let pods = self.namespace.kubectl(&["get", "pods", "-l", "sluice/id", "-o", "name"]).await;
        (containers.lines().count(), pods.lines().count())
    }

    /// Everything of any kind, but for what `kind` runs.
    async fn left(&self, kind: &str) -> Vec<String> {
        let mut left = Vec::new();
        if kind != "kubernetes" {
            left = kubernetes::left(&self.namespace, "sluice/id").await;
        }
        if kind != "docker" {
            left.extend(docker::left(&self.docker, &self.filter).await);
        }
        left
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelines_move_from_each_executor_to_each_other_under_a_load_and_leave_nothing_behind() {
    require!("docker", "kubernetes", "nats-server", "database");
    let (docker, cluster) = tokio::join!(Docker::shared(), Cluster::shared());
    let (mut scene, namespace) = tokio::join!(Scene::set(cluster.gateway()), cluster.namespace());
    let filter = format!("sluice/namespace={}", scene.name);
    let _cleaning = docker.clean(&filter);
    let backends = docker::section(&docker).await + &kubernetes::section(&namespace).await;
    let engines = Engines { docker, namespace, filter: format!("label={filter}") };
    scene.start(WAY[0], &backends, |_| ()).await;
    scene.publish_with("metrics", &batches_of(1000), &["--wait=9m"]).await;
    scene.publish_with("points", SERIES, &["--wait=9m"]).await;

    let (jetstream, over) = (scene.nats.jetstream().await, AtomicBool::new(false));
    let (metrics, points) = (scene.subject("metrics"), scene.subject("points"));
    let loads = async {
        let at = DateTime::now();
        let metrics = load_until(&jetstream, &metrics, |n| doc! {"n": n}, &over);
        let points = load_until(&jetstream, &points, |n| doc! {"n": n, "at": at}, &over);
        tokio::join!(metrics, points)
    };
    let swaps = async {
        for pair in WAY.windows(2) {
            let &[from, to] = pair else { continue };
            scene.restart_as(to, from, &backends).await;
            for id in ["metrics", "points"] {
                scene.says_of(id, "Ready", true, "AsDesired").await;
            }
            eventually(&format!("of {from} nothing is left, and {to} alone runs both"), LONG, || async {
                let run = engines.run().await;
                engines.left(to).await.is_empty() && run == (if to == "docker" { 2 } else { 0 }, if to == "kubernetes" { 2 } else { 0 })
            })
            .await;
            scene.flows(&format!("documents are stored by {to}")).await;
        }
        over.store(true, Ordering::Relaxed);
    };
    let ((sent, series), ()) = tokio::join!(loads, swaps);
    scene.exactly_in("metrics", sent).await;
    scene.exactly_in("points", series).await;
    for id in ["metrics", "points"] {
        scene.sluice().cli_ok(&["delete", id, "--wait=9m"]).await;
    }
    eventually("nothing is left", SOON, || async { engines.left("in_process").await.is_empty() }).await;
}
