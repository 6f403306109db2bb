//! Whole pipelines in pods: the real binary as the controllers, an entry, documents that any producer publishes, and what
//! is in MongoDB afterwards, while what can die dies.

use super::stage::{LONG, Stage};
use crate::executor::SOON;
use crate::pipelines::send_all;
use crate::support::{Cluster, Component, eventually};
use bson::doc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

async fn acknowledged_are(done: &AtomicI64, wanted: i64) {
    eventually("the load goes on", LONG, || async { done.load(Ordering::Relaxed) >= wanted }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_in_a_cluster_is_published_paused_changed_and_deleted_by_its_entry_alone() {
    require!("kubernetes", "nats-server", "database");
    let stage = Stage::set(Cluster::shared().await, "kubernetes", 1).await;
    let (jetstream, subject, done) = (stage.nats.jetstream().await, stage.subject(), AtomicI64::new(0));
    let send = async |numbers| send_all(&jetstream, &subject, numbers, |n| doc! {"n": n}, &done).await;
    stage.publish(1000).await;
    send(0..100).await;
    stage.exactly(100).await;
    let pods = stage.pods().await;
    let shown = stage.sluice().cli_ok(&["status", "metrics"]).await;
    assert!(pods.len() == 1 && shown.contains(pods[0].trim_start_matches("pod/")), "{pods:?}\n{shown}");
    let lines = stage.sluice().cli_ok(&["logs", "metrics"]).await;
    assert!(lines.contains("execution process started"), "{lines}");

    stage.sluice().cli_ok(&["pause", "metrics", "--wait=3m"]).await;
    eventually("no pod is left", SOON, || async { stage.pods().await.is_empty() }).await;
    let kept = stage.deployment().await;
    assert_eq!(kept["spec"]["replicas"], 0);
    send(100..200).await;
    stage.sluice().cli_ok(&["publish", "metrics", "--wait=3m"]).await;
    stage.exactly(200).await;
    assert_eq!(stage.deployment().await["metadata"]["uid"], kept["metadata"]["uid"], "the same one goes on");

    stage.publish(900).await;
    eventually("the new one runs alone", LONG, || async { stage.pods().await.len() == 1 }).await;
    stage.sluice().cli_ok(&["draft", "metrics", "--wait=3m"]).await;
    stage.nothing_is_left().await;
    stage.publish(900).await;
    send(200..300).await;
    stage.sluice().cli_ok(&["delete", "metrics", "--wait=3m"]).await;
    stage.exactly(300).await;
    stage.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_documents_outlive_a_version_change_and_the_death_of_leader_pod_api_server_and_kubelet() {
    require!("kubernetes", "nats-server", "database");
    let shared = Cluster::shared().await;
    // A cluster that others use too is not killed.
    let own = shared.audit().is_some();
    let cluster = if own { Cluster::own().await } else { shared };
    let mut stage = Stage::set(cluster.clone(), "kubernetes", 2).await;
    stage.publish(1000).await;
    let (jetstream, subject, done) = (stage.nats.jetstream().await, stage.subject(), AtomicI64::new(0));
    let until = AtomicI64::new(0);
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
        // Not one of the version before, which may be about to go by itself.
        eventually("the new version runs alone", LONG, || async { stage.pods().await.len() == 1 }).await;
        let pod = stage.pods().await.remove(0);
        stage.namespace.kubectl(&["delete", &pod, "--force", "--grace-period=0"]).await;
        go_to(11);
        acknowledged_are(&done, 45_000).await;
        let leader = stage.holder().await;
        stage.controllers[leader].kill9();
        // The one that is left answers from now on.
        stage.controllers.remove(leader);
        let begun = Instant::now();
        go_to(13);
        stage.holder().await;
        assert!(begun.elapsed() < Duration::from_secs(40), "another leads after {:?}", begun.elapsed());
        stage.publish(800).await;
        acknowledged_are(&done, 55_000).await;
        if own {
            cluster.kill9(Component::ApiServer);
            let before = stage.mongo.count("metrics").await;
            go_to(15);
            eventually("documents flow without an API server", LONG, || async { stage.mongo.count("metrics").await > before }).await;
            eventually("the status says that the cluster is away", LONG, || async {
                stage.status().await["conditions"].to_string().contains("EngineUnavailable")
            })
            .await;
            cluster.restart().await;
            cluster.kill9(Component::Kubelet);
            let before = stage.mongo.count("metrics").await;
            go_to(17);
            eventually("documents flow without a kubelet", LONG, || async { stage.mongo.count("metrics").await > before }).await;
            cluster.restart().await;
            stage.publish(700).await;
        }
        go_to(20);
    };
    tokio::join!(load, deaths);
    stage.exactly(100_000).await;
    stage.says("Ready", true, "AsDesired").await;
    eventually("one pod is there, and the status forgets that the cluster was away", LONG, || async {
        stage.pods().await.len() == 1 && !stage.status().await["conditions"].to_string().contains("EngineUnavailable")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changing_the_executor_moves_a_pipeline_into_a_cluster_and_back_and_leaves_nothing_there() {
    require!("kubernetes", "nats-server", "database");
    let mut stage = Stage::set(Cluster::shared().await, "in_process", 1).await;
    stage.publish(1000).await;
    let (jetstream, subject, done) = (stage.nats.jetstream().await, stage.subject(), AtomicI64::new(0));
    let load = send_all(&jetstream, &subject, 0..20_000, |n| doc! {"n": n}, &done);
    let swaps = async {
        acknowledged_are(&done, 2_000).await;
        stage.restart_as("kubernetes", "in_process").await;
        stage.says("Ready", true, "AsDesired").await;
        eventually("it runs in a pod", LONG, || async { stage.pods().await.len() == 1 }).await;
        stage.restart_as("in_process", "kubernetes").await;
        stage.says("Ready", true, "AsDesired").await;
        stage.nothing_is_left().await;
    };
    tokio::join!(load, swaps);
    stage.exactly(20_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_paused_and_wakes_acts_no_more() {
    require!("kubernetes", "nats-server", "database");
    let mut stage = Stage::set(Cluster::shared().await, "kubernetes", 2).await;
    stage.publish(1000).await;
    let leader = stage.holder().await;
    let paused = stage.controllers.remove(leader);
    let epoch = stage.deployment().await["metadata"]["annotations"]["sluice/epoch"].clone();
    assert!(epoch.is_string(), "{epoch}");
    // With something on its way, perhaps: it has just heard of it.
    let file = stage.sluice().dir.join("metrics.yml");
    std::fs::write(&file, "schema: 1\noutput:\n  mongodb: {collection: metrics, batching: {count: 900, period: 1s, linger: 20ms}}\n")
        .unwrap();
    stage.sluice().cli_ok(&["publish", "metrics", "-f", &file.display().to_string()]).await;
    paused.signal("STOP");
    let begun = Instant::now();
    stage.holder().await;
    println!("another leads after {:?}", begun.elapsed());
    stage.sluice().cli_ok(&["pause", "metrics", "--wait=3m"]).await;
    eventually("no pod is left", LONG, || async { stage.pods().await.is_empty() }).await;
    let before = stage.deployment().await;
    assert_ne!(before["metadata"]["annotations"]["sluice/epoch"], epoch);
    paused.signal("CONT");
    // Longer than anything takes that it may still have had in mind.
    tokio::time::sleep(Duration::from_secs(8)).await;
    let after = stage.deployment().await;
    assert_eq!(after["metadata"]["resourceVersion"], before["metadata"]["resourceVersion"], "{after}");
    assert!(stage.pods().await.is_empty());
    stage.sluice().cli_ok(&["publish", "metrics", "--wait=3m"]).await;
    stage.says("Ready", true, "AsDesired").await;
}
