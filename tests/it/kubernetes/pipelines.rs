//! Whole pipelines in pods: the real binary as the controllers, an entry, documents that any producer publishes, and what
//! is in MongoDB afterwards. While parts of the cluster die: `chart::faults`.

use super::stage::Stage;
use crate::executor::SOON;
use crate::scene::{LONG, batches_of};
use crate::support::{Cluster, eventually};
use std::sync::atomic::AtomicI64;
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_in_a_cluster_is_published_paused_changed_and_deleted_by_its_entry_alone() {
    require!("kubernetes", "nats-server", "database");
    let (stage, done) = (Stage::set(Cluster::shared().await, 1).await, AtomicI64::new(0));
    stage.publish(1000).await;
    stage.send(0..100, &done).await;
    stage.exactly(100).await;
    let pods = stage.pods().await;
    assert_eq!(pods.len(), 1, "{pods:?}");
    eventually("the status shows the pod", SOON, || async {
        stage.sluice().cli_ok(&["status", "metrics"]).await.contains(pods[0].trim_start_matches("pod/"))
    })
    .await;
    // Killed on its node: what the container before wrote is shown too, and told apart from what the next one says.
    let starts = async || {
        let lines = stage.sluice().cli_ok(&["logs", "metrics"]).await;
        let starts = lines.lines().filter(|line| line.contains("execution process started"));
        let pod = format!("pod={}", pods[0].trim_start_matches("pod/"));
        let kept = starts.clone().filter(|line| line.contains(&pod)).count();
        (starts.count(), kept)
    };
    eventually("the container that runs is shown alone", SOON, || async { starts().await == (1, 0) }).await;
    stage.namespace.signal(pods[0].trim_start_matches("pod/"), "KILL").await;
    eventually("the lines of the dead container and those of the next are shown", LONG, || async { starts().await == (2, 1) }).await;
    assert_eq!(stage.pods().await, pods, "its node starts it again");
    stage.says("Ready", true, "AsDesired").await;

    stage.sluice().cli_ok(&["pause", "metrics", "--wait=9m"]).await;
    eventually("no pod is left", SOON, || async { stage.pods().await.is_empty() }).await;
    let kept = stage.deployment().await;
    assert_eq!(kept["spec"]["replicas"], 0);
    stage.send(100..200, &done).await;
    stage.sluice().cli_ok(&["publish", "metrics", "--wait=9m"]).await;
    stage.exactly(200).await;
    assert_eq!(stage.deployment().await["metadata"]["uid"], kept["metadata"]["uid"], "the same one goes on");

    stage.publish(900).await;
    eventually("the new one runs alone", LONG, || async { stage.pods().await.len() == 1 }).await;
    stage.sluice().cli_ok(&["draft", "metrics", "--wait=9m"]).await;
    stage.nothing_is_left().await;
    stage.publish(900).await;
    stage.send(200..300, &done).await;
    stage.sluice().cli_ok(&["delete", "metrics", "--wait=9m"]).await;
    stage.exactly(300).await;
    stage.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_paused_and_wakes_acts_no_more() {
    require!("kubernetes", "nats-server", "database");
    let mut stage = Stage::set(Cluster::shared().await, 2).await;
    stage.publish(1000).await;
    let leader = stage.holder().await;
    let paused = stage.controllers.remove(leader);
    let epoch = stage.deployment().await["metadata"]["annotations"]["sluice/epoch"].clone();
    assert!(epoch.is_string(), "{epoch}");
    // With something on its way, perhaps: it has just heard of it.
    stage.publish_with("metrics", &batches_of(900), &[]).await;
    paused.signal("STOP");
    let begun = Instant::now();
    stage.holder().await;
    println!("another leads after {:?}", begun.elapsed());
    stage.sluice().cli_ok(&["pause", "metrics", "--wait=9m"]).await;
    eventually("no pod is left", LONG, || async { stage.pods().await.is_empty() }).await;
    let before = stage.deployment().await;
    assert_ne!(before["metadata"]["annotations"]["sluice/epoch"], epoch);
    paused.signal("CONT");
    // Longer than anything takes that it may still have had in mind.
    tokio::time::sleep(Duration::from_secs(8)).await;
    let after = stage.deployment().await;
    assert_eq!(after["metadata"]["resourceVersion"], before["metadata"]["resourceVersion"], "{after}");
    assert!(stage.pods().await.is_empty());
    stage.sluice().cli_ok(&["publish", "metrics", "--wait=9m"]).await;
    stage.says("Ready", true, "AsDesired").await;
}
