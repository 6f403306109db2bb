//! The backend alone: its contract, what it finds after a restart, drift, strangers, secrets, engines that are away.

use super::Rig;
use crate::executor::{SOON, id, keeps_the_contract, observed, runs};
use crate::outliving::{changes_nothing_without_the_lease, is_stopped, newer, says, waits_for_its_engine};
use crate::support::{Docker, eventually};
use serde_json::Value;
use sluice::executor::{Executor, docker::DockerExecutor};
use sluice::pipeline::instance::InstanceState;
use sluice::pipeline::spec::ExecutionSpec;
use sluice::pipeline::status::Reason;
use sluice::settings::{PullPolicy, Secret};
use std::sync::Arc;

#[tokio::test(flavor = "multi_thread")]
async fn the_docker_backend_keeps_the_contract() {
    require!("docker", "nats-server", "database");
    let rig = Rig::set().await;
    let (one, two) = (rig.plain().await, rig.version("2", &newer()).await);
    keeps_the_contract(&rig.backend(), &one, &two).await;
    let backend = rig.backend();
    backend.destroy(&id()).await.unwrap();
    eventually("neither container nor volume nor network is left", SOON, || async { rig.left().await.is_empty() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_controller_left_is_adopted_and_goes_on_where_it_stood() {
    require!("docker", "nats-server", "database");
    let rig = Rig::set().await;
    let (one, two) = (rig.plain().await, rig.version("2", &newer()).await);
    let first = rig.backend();
    first.ensure(&one).await.unwrap();
    runs(&first, &one).await;
    let container = names(&first).await;
    // As a controller that is killed in the middle of a version change: its drivers end wherever they are.
    first.ensure(&two).await.unwrap();
    drop(first);
    let second = rig.backend();
    let found = observed(&second).await.unwrap();
    assert!(found.running && found.instances.iter().any(|one| container.contains(&one.name)), "{found:?}");
    second.ensure(&one).await.unwrap();
    runs(&second, &one).await;
    assert_eq!(names(&second).await, container, "the same container goes on");
    second.ensure(&two).await.unwrap();
    runs(&second, &two).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_keeps_the_container_and_ensuring_starts_that_same_one() {
    require!("docker", "nats-server", "database");
    let rig = Rig::set().await;
    let (backend, one) = (rig.backend(), rig.plain().await);
    backend.ensure(&one).await.unwrap();
    runs(&backend, &one).await;
    let container = || async {
        rig.docker.cli(&["ps", "-aq", "--no-trunc", "--filter", &format!("label=sluice/installation={}", rig.installation)]).await
    };
    let first = container().await;
    backend.stop(&id()).await.unwrap();
    is_stopped(&backend).await;
    let state = rig.docker.cli(&["inspect", "--format", "{{.State.ExitCode}} {{.State.OOMKilled}}", &first]).await;
    assert_eq!(state, "0 false", "it ended gracefully");
    backend.ensure(&one).await.unwrap();
    runs(&backend, &one).await;
    assert_eq!(container().await, first);
}

#[tokio::test(flavor = "multi_thread")]
async fn drift_is_seen_by_an_event_and_repaired_when_asked() {
    require!("docker", "nats-server", "database");
    let rig = Rig::set().await;
    let (backend, one) = (rig.backend(), rig.plain().await);
    backend.ensure(&one).await.unwrap();
    runs(&backend, &one).await;
    let mut events = backend.events();
    let name = names(&backend).await.remove(0);
    let drifts: [&[&str]; 7] = [
        &["kill", &name],
        &["stop", &name],
        &["rm", "-f", &name],
        &["pause", &name],
        &["update", "--pids-limit", "999", &name],
        &["update", "--restart", "no", &name],
        &["rename", &name, &format!("{name}-renamed")],
    ];
    for drift in drifts {
        while events.try_recv().is_ok() {}
        rig.docker.cli(drift).await;
        eventually(&format!("an event hints at {drift:?}"), SOON, || {
            let hinted = events.try_recv().is_ok_and(|hinted| hinted == id());
            async move { hinted }
        })
        .await;
        let seen = observed(&backend).await;
        let right = seen.as_ref().is_some_and(|seen| seen.running && seen.fingerprint == one.fingerprint);
        assert!(!right, "the controller is to ask again after {drift:?}: {seen:?}");
        backend.ensure(&one).await.unwrap();
        let format = "{{.HostConfig.PidsLimit}} {{.HostConfig.RestartPolicy.Name}} {{.State.Status}}";
        eventually("it is as it was made", SOON, || async {
            let inspected = rig.docker.try_cli(&["inspect", "--format", format, &name]).await;
            String::from_utf8_lossy(&inspected.stdout).trim() == "256 unless-stopped running"
        })
        .await;
        runs(&backend, &one).await;
        assert_eq!(names(&backend).await, std::slice::from_ref(&name));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_of_others_are_neither_seen_nor_touched() {
    require!("docker", "nats-server", "database");
    let rig = Rig::set().await;
    let (backend, one) = (rig.backend(), rig.plain().await);
    let image = &rig.settings.executor.docker.image;
    let other = uuid::Uuid::new_v4();
    let _cleaning = rig.docker.clean(&format!("sluice/installation={other}"));
    let label = format!("--label=sluice/installation={other}");
    let foreign = rig.docker.cli(&["create", &label, &format!("--label=sluice/id={}", one.id), "--label=sluice/execution=0", image]).await;
    assert!(backend.list().await.unwrap().is_empty());
    backend.destroy(&one.id).await.unwrap();
    // One of theirs that has the name that ours would have: it stays, and the trouble says so.
    let taken = sluice::executor::names::replica_name(&one, 0);
    let squatter = rig.docker.cli(&["create", &label, "--name", &taken, image]).await;
    backend.ensure(&one).await.unwrap();
    says(&backend, Reason::EngineRefuses, &taken).await;
    rig.docker.cli(&["rm", &squatter]).await;
    runs(&backend, &one).await;
    backend.destroy(&one.id).await.unwrap();
    eventually("ours is gone", SOON, || async { rig.left().await.is_empty() }).await;
    rig.docker.cli(&["inspect", &foreign]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_come_and_go_and_a_missing_image_is_said() {
    require!("docker", "nats-server", "database");
    let rig = Rig::set().await;
    let (backend, one) = (rig.backend(), rig.plain().await);
    let scaled = |replicas| ExecutionSpec { replicas, ..one.clone() };
    for replicas in [3, 1, 2] {
        backend.ensure(&scaled(replicas)).await.unwrap();
        eventually(&format!("{replicas} run"), SOON, || async {
            let seen = observed(&backend).await.unwrap();
            seen.replicas == Some(replicas)
                && seen.instances.len() == replicas as usize
                && seen.instances.iter().all(|one| one.state.is_live())
        })
        .await;
    }
    let mut settings = rig.settings.as_ref().clone();
    settings.executor.docker.image = "sluice:nowhere".into();
    let elsewhere = DockerExecutor::new(Arc::new(settings), rig.installation);
    let two = rig.version("2", &newer()).await;
    elsewhere.ensure(&two).await.unwrap();
    eventually("the image is said to be missing", SOON, || async {
        let seen = observed(&elsewhere).await.unwrap();
        seen.troubles.iter().any(|trouble| trouble.reason == Reason::ImageMissing) && seen.instances.iter().all(|one| one.state.is_live())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_an_inspect_an_environment_a_command_line_or_a_log() {
    require!("docker", "nats-server", "database");
    let mut rig = Rig::set().await;
    let canary = "canary-7f3a";
    let mut settings = rig.settings.as_ref().clone();
    settings.nats.token = Some(Secret::new(canary));
    settings.mongodb.connections.get_mut("default").unwrap().username = Some("u".into());
    settings.mongodb.connections.get_mut("default").unwrap().password = Some(Secret::new(canary));
    rig.settings = Arc::new(settings);
    let (backend, one) = (rig.backend(), rig.plain().await);
    backend.ensure(&one).await.unwrap();
    eventually("the container is there", SOON, || async { observed(&backend).await.is_some_and(|seen| !seen.instances.is_empty()) }).await;
    let name = names(&backend).await.remove(0);
    let volume = sluice::executor::names::execution_name(rig.installation, &one.id, &one.fingerprint);
    let mut shown = rig.docker.cli(&["inspect", &name]).await + &rig.docker.cli(&["volume", "inspect", &volume]).await;
    shown += &String::from_utf8_lossy(&rig.docker.try_cli(&["logs", &name]).await.stdout);
    shown += &String::from_utf8_lossy(&rig.docker.try_cli(&["top", &name, "-eo", "args"]).await.stdout);
    shown += &rig.docker.cli(&["events", "--since", "10m", "--until", "0s", "--format", "{{json .}}"]).await;
    shown += &format!("{:?}", observed(&backend).await);
    assert!(!shown.contains(canary));
    // It is there all the same, where the container's user alone reads it.
    let inspected: Value = serde_json::from_str(&rig.docker.cli(&["volume", "inspect", &volume]).await).unwrap();
    let files = std::path::Path::new(inspected[0]["Mountpoint"].as_str().unwrap());
    let file = files.join("secrets/nats-token");
    if files.exists() {
        eventually("all files are there", SOON, || async { files.join("complete").exists() }).await;
    }
    if let Ok(data) = std::fs::metadata(&file) {
        use std::os::unix::fs::MetadataExt;
        assert_eq!((data.mode() & 0o777, data.uid(), data.gid()), (0o400, 65532, 65532));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), canary);
    }
    backend.destroy(&one.id).await.unwrap();
    eventually("the file goes with the execution", SOON, || async { rig.left().await.is_empty() && !file.exists() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_goes_and_comes_back_is_waited_for() {
    require!("docker", "nats-server", "database");
    let shared = Docker::shared().await;
    if shared.host().is_none() {
        // Only where the tests may start engines at all.
        return;
    }
    let docker = Docker::own(&["--live-restore"]).await;
    let rig = Rig::on(docker.clone()).await;
    let (one, two) = (rig.plain().await, rig.version("2", &newer()).await);
    let backend = rig.backend();
    waits_for_its_engine(&backend, &rig.world, [&one, &two], || docker.kill9(), async || docker.restart().await).await;
    backend.destroy(&id()).await.unwrap();
    eventually("nothing is left", SOON, || async { rig.left().await.is_empty() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_behind_tls_is_reached_and_one_that_cannot_be_proved_is_not() {
    require!("docker");
    if Docker::shared().await.host().is_none() {
        return;
    }
    let file = |name: &str| format!("{}/tests/fixtures/tls/{name}", env!("CARGO_MANIFEST_DIR"));
    let port = crate::support::free_port();
    let flags = [
        format!("--host=tcp://127.0.0.1:{port}"),
        "--tlsverify".to_owned(),
        format!("--tlscacert={}", file("ca.pem")),
        format!("--tlscert={}", file("server.pem")),
        format!("--tlskey={}", file("server-key.pem")),
    ];
    // Lives as long as the test process: an engine takes its flags for ever.
    let flags: Vec<&'static str> = flags.map(|flag| &*flag.leak()).to_vec();
    let _docker = Docker::own(flags.leak()).await;
    let mut settings = sluice::settings::Settings::default();
    let docker = &mut settings.executor.docker;
    docker.host = format!("tcp://127.0.0.1:{port}");
    let ask =
        async |settings: &sluice::settings::Settings| DockerExecutor::new(Arc::new(settings.clone()), uuid::Uuid::new_v4()).list().await;
    docker.tls.ca_file = Some(file("ca.pem").into());
    docker.tls.cert_file = Some(file("client.pem").into());
    docker.tls.key_file = Some(file("client-key.pem").into());
    ask(&settings).await.unwrap();
    // Ours is not one that signs: what it does not prove is not spoken to.
    settings.executor.docker.tls.ca_file = Some(file("client.pem").into());
    assert_eq!(ask(&settings).await.unwrap_err().reason, Reason::EngineUnavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_changed_without_the_lease() {
    require!("docker", "nats-server", "database");
    let rig = Rig::set().await;
    changes_nothing_without_the_lease(&rig.backend(), &rig.plain().await, async || rig.left().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_that_no_restart_helps_is_stopped_and_said() {
    require!("docker", "nats-server", "database");
    let rig = Rig::set().await;
    let (backend, one) = (rig.backend(), rig.plain().await);
    let gone = ExecutionSpec { version: sluice::pipeline::id::VersionName::parse("nowhere").unwrap(), ..one }.seal("");
    backend.ensure(&gone).await.unwrap();
    eventually("it is stopped and said", 2 * SOON, || async {
        // As a controller does that an event made look at it.
        backend.ensure(&gone).await.unwrap();
        let seen = observed(&backend).await.unwrap();
        let said = seen.troubles.iter().any(|trouble| trouble.reason == Reason::ExecutionMisconfigured);
        said && seen.instances.iter().all(|one| one.state == InstanceState::Stopped && one.exit_code == Some(3))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_is_too_old_or_not_there_is_said() {
    let mut settings = sluice::settings::Settings::default();
    settings.executor.docker.host = "unix:///nowhere/docker.sock".into();
    settings.executor.docker.pull = PullPolicy::Never;
    let backend = DockerExecutor::new(Arc::new(settings), uuid::Uuid::new_v4());
    let error = backend.list().await.unwrap_err();
    assert!(error.retry && error.reason == Reason::EngineUnavailable && error.message.contains("/nowhere/docker.sock"), "{error}");
}

/// The names of the containers.
async fn names(backend: &DockerExecutor) -> Vec<String> {
    observed(backend).await.map(|seen| seen.instances.into_iter().map(|one| one.name).collect()).unwrap_or_default()
}
