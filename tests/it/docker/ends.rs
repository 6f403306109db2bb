//! What is left of containers and of pipelines: the last lines of what has died, and why a
//! container was killed or is not well.

use super::Rig;
use super::pipelines::{LONG, Stage};
use crate::executor::{SOON, observed};
use crate::support::{Docker, eventually};
use sluice::executor::Executor;
use sluice::pipeline::status::Reason;
use std::sync::Arc;

#[tokio::test(flavor = "multi_thread")]
async fn the_last_lines_of_a_container_that_was_stopped_or_died_are_shown() {
    require!("docker", "nats-server", "database");
    let stage = Stage::set(Docker::shared().await, "docker").await;
    stage.publish(1000).await;
    let name = stage.containers(false).await.remove(0);
    stage.sluice.cli_ok(&["pause", "metrics", "--wait=3m"]).await;
    eventually("it is stopped", SOON, || async { stage.containers(false).await.is_empty() }).await;
    let shown = stage.sluice.cli_ok(&["logs", "metrics"]).await;
    let said = |shown: &str, what: &str| shown.lines().any(|line| line.contains(what) && line.contains(&format!("container={name}")));
    assert!(said(&shown, "execution process started") && said(&shown, "execution process stopped"), "{shown}");
    let last = stage.sluice.cli_ok(&["logs", "metrics", "-n", "1"]).await;
    assert_eq!(last.lines().filter(|line| line.contains("container=")).count(), 1, "{last}");
    // Killed while it runs, and started again: what the dead process wrote is still told apart from what runs.
    stage.sluice.cli_ok(&["publish", "metrics", "--wait=3m"]).await;
    stage.docker.cli(&["kill", &name]).await;
    eventually("it runs again", LONG, || async { !stage.containers(false).await.is_empty() }).await;
    let shown = stage.sluice.cli_ok(&["logs", "metrics"]).await;
    let starts = shown.lines().filter(|line| line.contains("execution process started") && line.contains("container=")).count();
    assert_eq!(starts, 2, "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_the_kernel_kills_for_its_memory_is_said_to_be() {
    require!("docker", "nats-server", "database");
    let mut rig = Rig::set().await;
    let mut settings = rig.settings.as_ref().clone();
    // Too little for any process of ours to begin.
    settings.executor.docker.memory = 6 << 20;
    rig.settings = Arc::new(settings);
    let (backend, one) = (rig.backend(), rig.plain().await);
    backend.ensure(&one).await.unwrap();
    eventually("the engine says that it was killed for its memory", LONG, || async {
        let seen = observed(&backend).await;
        seen.is_some_and(|seen| seen.troubles.iter().any(|trouble| trouble.reason == Reason::ExecutionOutOfMemory))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_is_not_well_is_a_reason_in_the_status_until_it_is() {
    require!("docker", "nats-server", "database");
    let stage = Stage::set(Docker::shared().await, "docker").await;
    stage.publish(1000).await;
    let name = stage.containers(false).await.remove(0);
    let said = || async { stage.status().await["conditions"].to_string().contains("ExecutionUnhealthy") };
    stage.docker.cli(&["kill", "--signal", "STOP", &name]).await;
    eventually("the status says so", LONG, said).await;
    stage.docker.cli(&["kill", "--signal", "CONT", &name]).await;
    eventually("and forgets it", LONG, || async { !said().await }).await;
    stage.says("Ready", true, "AsDesired").await;
}
