//! What is left of containers and of pipelines: the last lines of what has died, orphans and strangers, and why a
//! container was killed or is not well.

use super::Rig;
use super::pipelines::Stage;
use crate::executor::{SOON, id, observed, runs};
use crate::outliving::says;
use crate::scene::LONG;
use crate::support::{Docker, eventually};
use sluice::executor::Executor;
use sluice::pipeline::status::Reason;
use std::sync::Arc;

#[tokio::test(flavor = "multi_thread")]
async fn the_last_lines_of_a_container_that_was_stopped_or_died_are_shown() {
    require!("docker", "nats-server", "database");
    let stage = Stage::set(Docker::shared().await).await;
    stage.publish(1000).await;
    let name = stage.containers(false).await.remove(0);
    stage.sluice().cli_ok(&["pause", "metrics", "--wait=9m"]).await;
    eventually("it is stopped", SOON, || async { stage.containers(false).await.is_empty() }).await;
    let shown = stage.sluice().cli_ok(&["logs", "metrics"]).await;
    let said = |shown: &str, what: &str| shown.lines().any(|line| line.contains(what) && line.contains(&format!("container={name}")));
    assert!(said(&shown, "execution process started") && said(&shown, "execution process stopped"), "{shown}");
    let last = stage.sluice().cli_ok(&["logs", "metrics", "-n", "1"]).await;
    assert_eq!(last.lines().filter(|line| line.contains("container=")).count(), 1, "{last}");
    // Killed while it runs, and started again: what the dead process wrote is still told apart from what runs.
    stage.sluice().cli_ok(&["publish", "metrics", "--wait=9m"]).await;
    stage.docker.cli(&["kill", &name]).await;
    eventually("it runs again", LONG, || async { !stage.containers(false).await.is_empty() }).await;
    let shown = stage.sluice().cli_ok(&["logs", "metrics"]).await;
    let starts = shown.lines().filter(|line| line.contains("execution process started") && line.contains("container=")).count();
    assert_eq!(starts, 2, "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_of_this_installation_are_removed_and_strangers_stay() {
    require!("docker", "nats-server", "database");
    let mut stage = Stage::set(Docker::shared().await).await;
    stage.publish(1000).await;
    let name = stage.containers(false).await.remove(0);
    let installation = stage.docker.cli(&["inspect", "--format", "{{index .Config.Labels \"sluice/installation\"}}", &name]).await;
    let image = stage.docker.image().await;
    let (namespace, fingerprint) = (format!("sluice/namespace={}", stage.name), "0".repeat(64));
    let make = async |installation: &str, id: &str| {
        let labels = [
            format!("--label=sluice/installation={installation}"),
            format!("--label=sluice/id={id}"),
            format!("--label=sluice/fingerprint={fingerprint}"),
            format!("--label={namespace}"),
            "--label=sluice/execution=0".to_owned(),
        ];
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        stage.docker.cli(&[&["create"][..], &labels, &[&image]].concat()).await
    };
    let stranger = make(&uuid::Uuid::new_v4().to_string(), "ghost").await;
    let orphan = make(&installation, "ghost").await;
    let there = async |stage: &Stage, one: &str| stage.docker.try_cli(&["inspect", one]).await.status.success();
    eventually("what no pipeline knows is removed", LONG, || async { !there(&stage, &orphan).await }).await;
    // A pipeline that lost both its entry and its status while no controller was there to see it.
    stage.controllers[0].kill9();
    for bucket in [stage.name.clone(), format!("{}-status", stage.name)] {
        let bucket = stage.nats.jetstream().await.get_key_value(bucket).await.unwrap();
        bucket.purge("metrics").await.unwrap();
    }
    stage.controllers[0].respawn();
    stage.controllers[0].wait_ready().await;
    eventually("what lost its pipeline is removed", LONG, || async { !there(&stage, &name).await }).await;
    assert!(there(&stage, &stranger).await);
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
    says(&backend, Reason::ExecutionOutOfMemory, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_is_not_well_is_a_reason_in_the_status_until_it_is() {
    require!("docker", "nats-server", "database");
    let stage = Stage::set(Docker::shared().await).await;
    stage.publish(1000).await;
    let name = stage.containers(false).await.remove(0);
    let said = || async { stage.status().await["conditions"].to_string().contains("ExecutionUnhealthy") };
    stage.docker.cli(&["kill", "--signal", "STOP", &name]).await;
    eventually("the status says so", LONG, said).await;
    stage.docker.cli(&["kill", "--signal", "CONT", &name]).await;
    eventually("and forgets it", LONG, || async { !said().await }).await;
    stage.says("Ready", true, "AsDesired").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_a_dead_controller_left_half_filled_is_filled_by_the_next() {
    require!("docker", "nats-server", "database");
    let rig = Rig::set().await;
    let (backend, one) = (rig.backend(), rig.plain().await);
    backend.ensure(&one).await.unwrap();
    runs(&backend, &one).await;
    let name = observed(&backend).await.unwrap().instances.remove(0).name;
    let volume = sluice::executor::names::execution_name(rig.installation, &one.id, &one.fingerprint);
    let mark = format!("{volume}-filling");
    eventually("nothing says that it is being filled", SOON, || async {
        !rig.docker.try_cli(&["volume", "inspect", &mark]).await.status.success()
    })
    .await;
    // What it looks like when who fills it dies over it: the mark is there, and the last file is not.
    rig.docker.cli(&["stop", &name]).await;
    let files = rig.docker.cli(&["volume", "inspect", "--format", "{{.Mountpoint}}", &volume]).await;
    if std::fs::remove_file(std::path::Path::new(&files).join("complete")).is_err() {
        // The disk of an engine of others is not ours.
        return;
    }
    let labels = [("installation", rig.installation.to_string()), ("id", one.id.to_string()), ("fingerprint", one.fingerprint.to_string())];
    let labels = labels.map(|(name, value)| format!("--label=sluice/{name}={value}"));
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    rig.docker.cli(&[&["volume", "create", "--label=sluice/execution=filling"], &labels[..], &[&mark]].concat()).await;
    rig.docker.cli(&["start", &name]).await;
    let next = rig.backend();
    assert_ne!(observed(&next).await.unwrap().fingerprint, one.fingerprint, "the next controller is to ask again");
    next.ensure(&one).await.unwrap();
    eventually("it is filled", SOON, || async { observed(&next).await.unwrap().fingerprint == one.fingerprint }).await;
    runs(&next, &one).await;
    rig.world.send(0..10).await;
    rig.world.stored(10).await;
    next.destroy(&id()).await.unwrap();
    eventually("nothing is left", SOON, || async { rig.left().await.is_empty() }).await;
}
