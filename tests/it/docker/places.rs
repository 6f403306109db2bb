//! Where containers find things: the same servers by other hosts than their controller, and secrets on the engine's machine.

use super::Rig;
use super::pipelines::Stage;
use crate::executor::{SOON, id, observed, runs};
use crate::outliving::says;
use crate::scene::LONG;
use crate::support::{Docker, Mongo, Nats, Proxy, eventually, temp_dir};
use bson::{Document, doc};
use futures_util::TryStreamExt;
use sluice::executor::Executor;
use sluice::pipeline::status::Reason;
use sluice::settings::Secret;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{PermissionsExt, chown};
use std::sync::Arc;
use std::sync::atomic::AtomicI64;

/// What documents of `collection` are numbered.
async fn numbers(mongo: &Mongo, collection: &str) -> Vec<i64> {
    let collection = mongo.client().await.database(mongo.database()).collection::<Document>(collection);
    let found: Vec<Document> = collection.find(doc! {}).await.unwrap().try_collect().await.unwrap();
    found.iter().map(|document| document.get_i64("n").unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_previous_target_is_found_by_containers_that_know_its_hosts_by_other_names() {
    require!("docker", "nats-server", "database");
    let docker = Docker::shared().await;
    let gateway = docker.gateway();
    let (nats, mongo) = tokio::join!(Nats::start_on(gateway), Mongo::start_on(gateway));
    let server = SocketAddr::new(gateway, mongo.port());
    let (outside, inside) = tokio::join!(Proxy::start_on(Ipv4Addr::LOCALHOST.into(), server), Proxy::start_on(gateway, server));
    let env = [
        ("SLUICE_EXECUTOR_DOCKER_EXECUTION_MONGODB_CONNECTIONS_DEFAULT_HOSTS", inside.address().to_string()),
        ("SLUICE_EXECUTOR_SHUTDOWN_GRACE", "2s".into()),
    ];
    let url = mongo.url_through(&outside);
    let stage = Stage::with(docker, nats, mongo, url, env.map(|(name, value)| (name.to_owned(), value)).into()).await;
    let file = stage.sluice().dir.join("metrics.yml");
    let to = |collection: &str| {
        let input = "input: {nats_jetstream: {ack_wait: 24s, max_ack_pending: 20000}}";
        let output = format!("output: {{mongodb: {{collection: {collection}, batching: {{count: 1000, period: 1s, linger: 20ms}}}}}}");
        std::fs::write(&file, format!("schema: 1\n{input}\n{output}\n")).unwrap();
    };
    let file_name = file.display().to_string();
    let publish = ["publish", "metrics", "-f", &file_name];
    to("a");
    stage.sluice().cli_ok(&[&publish[..], &["--wait=9m"]].concat()).await;
    let done = AtomicI64::new(0);
    stage.send(0..500, &done).await;
    eventually("they are stored", LONG, || async { stage.mongo.count("a").await == 500 }).await;

    // The database takes a batch without saying so, and the target changes.
    inside.stall_replies();
    stage.send(500..1_500, &done).await;
    eventually("the database has some of it", LONG, || async { stage.mongo.count("a").await > 500 }).await;
    to("b");
    stage.sluice().cli_ok(&publish).await;
    eventually("the old one has ended", LONG, || async { stage.containers(false).await.is_empty() }).await;
    let consumer = async || {
        let stream = stage.nats.jetstream().await.get_stream(format!("{}_metrics", stage.name)).await.unwrap();
        stream.consumer_info("default").await.unwrap()
    };
    assert!(consumer().await.num_ack_pending > 0, "what it held was never settled");
    inside.resume();
    stage.send(1_500..2_000, &done).await;
    eventually("the stream is empty", LONG, || async {
        let info = consumer().await;
        info.num_pending == 0 && info.num_ack_pending == 0
    })
    .await;
    stage.says("Ready", true, "AsDesired").await;
    let (a, b) = (numbers(&stage.mongo, "a").await, numbers(&stage.mongo, "b").await);
    let mut times = BTreeMap::<i64, u32>::new();
    a.iter().chain(&b).for_each(|n| *times.entry(*n).or_default() += 1);
    let wrong: Vec<_> = (0..2_000).filter(|n| times.get(n) != Some(&1)).collect();
    assert!(wrong.is_empty() && times.len() == 2_000, "lost or doubled: {wrong:?}; {} and {} in each", a.len(), b.len());
    assert!(a.len() > 500 && b.len() >= 500, "{} and {} in each", a.len(), b.len());
    assert_eq!(stage.status().await["kept"]["moves"]["home"]["place"]["target"]["hosts"][0], outside.address().to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_of_the_engines_machine_reach_the_execution_and_nothing_of_them_is_copied() {
    require!("docker", "nats-server", "database");
    let mut rig = Rig::set().await;
    let parent = temp_dir("secrets");
    std::fs::set_permissions(parent.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let directory = parent.path().join("execution");
    let mut settings = rig.settings.as_ref().clone();
    settings.executor.docker.secrets_dir = Some(directory.display().to_string());
    let url = settings.mongodb.connections["default"].url.clone();
    // What the controller itself uses is nobody else's.
    settings.nats.token = Some(Secret::new("the controller's"));
    rig.settings = Arc::new(settings);
    let (backend, one) = (rig.backend(), rig.plain().await);
    backend.ensure(&one).await.unwrap();
    // Whoever forgets the directory, or a file in it, is told so.
    says(&backend, Reason::EngineRefuses, &directory.display().to_string()).await;
    std::fs::create_dir(&directory).unwrap();
    says(&backend, Reason::ExecutionMisconfigured, "exit code 3").await;
    backend.destroy(&id()).await.unwrap();
    eventually("nothing is left", SOON, || async { rig.left().await.is_empty() }).await;

    for (name, text) in [("nats-token", "the execution's"), ("mongodb-default-url", &*url.expose())] {
        std::fs::write(directory.join(name), text).unwrap();
        std::fs::set_permissions(directory.join(name), std::fs::Permissions::from_mode(0o400)).unwrap();
        chown(directory.join(name), Some(65532), Some(65532)).unwrap();
    }
    backend.ensure(&one).await.unwrap();
    runs(&backend, &one).await;
    rig.world.send(0..10).await;
    rig.world.stored(10).await;
    let name = observed(&backend).await.unwrap().instances.remove(0).name;
    let mounts = rig.docker.cli(&["inspect", "--format", "{{range .Mounts}}{{.Destination}} {{.RW}} {{end}}", &name]).await;
    assert!(mounts.contains("/run/sluice/secrets false"), "{mounts}");
    let volume = sluice::executor::names::execution_name(rig.installation, &one.id, &one.fingerprint);
    let copied = rig.docker.cli(&["volume", "inspect", "--format", "{{.Mountpoint}}", &volume]).await;
    assert!(!std::path::Path::new(&copied).join("secrets").exists());
    backend.destroy(&id()).await.unwrap();
    eventually("nothing is left", SOON, || async { rig.left().await.is_empty() }).await;
    assert!(directory.join("nats-token").exists(), "what is not ours stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_changes_reaches_what_runs_without_a_restart() {
    require!("docker", "nats-server", "database");
    let mut rig = Rig::set().await;
    let directory = temp_dir("secrets");
    let file = directory.path().join("token");
    std::fs::write(&file, "one").unwrap();
    let secret = Secret::from_file("one", &file);
    let mut settings = rig.settings.as_ref().clone();
    settings.nats.token = Some(secret.clone());
    rig.settings = Arc::new(settings);
    let (backend, one) = (rig.backend(), rig.plain().await);
    backend.ensure(&one).await.unwrap();
    runs(&backend, &one).await;
    let name = observed(&backend).await.unwrap().instances.remove(0).name;
    let started = async || rig.docker.cli(&["inspect", "--format", "{{.State.StartedAt}} {{.RestartCount}}", &name]).await;
    let before = started().await;
    let volume = sluice::executor::names::execution_name(rig.installation, &one.id, &one.fingerprint);
    let mountpoint = rig.docker.cli(&["volume", "inspect", "--format", "{{.Mountpoint}}", &volume]).await;
    let inside = std::path::Path::new(mountpoint.trim()).join("secrets/nats-token");
    assert_eq!(std::fs::read_to_string(&inside).unwrap(), "one");
    std::fs::write(&file, "two").unwrap();
    secret.refresh().unwrap();
    eventually("it is in the volume", SOON, || async { std::fs::read_to_string(&inside).is_ok_and(|text| text == "two") }).await;
    rig.world.send(0..10).await;
    rig.world.stored(10).await;
    assert_eq!(started().await, before, "it was restarted");
    backend.destroy(&id()).await.unwrap();
    eventually("nothing is left", SOON, || async { rig.left().await.is_empty() }).await;
}
