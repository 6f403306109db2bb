//! What every backend promises: one list of sentences, run against each of them; and what the in-process backend does
//! with versions that cannot run, with panics, and with executions that do not end.

use crate::support::{Mongo, Nats, eventually};
use async_nats::jetstream::{self, consumer::pull, stream};
use bson::doc;
use sluice::collector::{ByteBudget, sink::Databases};
use sluice::executor::execution::{ExecutionDeps, ExecutionError};
use sluice::executor::supervise::Attempt;
use sluice::executor::{Executor, Observed, config_reader::ConfigReader, fake::Fake, in_process::InProcess};
use sluice::pipeline::id::{Namespace, PipelineId, VersionName};
use sluice::pipeline::report::ExecutionPhase;
use sluice::pipeline::spec::{ExecutionSpec, Fingerprint, Target};
use sluice::pipeline::status::Reason;
use sluice::settings::{MongoConnection, Secret, Settings};
use sluice::store::Store;
use sluice::telemetry::metrics::Metrics;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longer than anything takes on a slow machine.
pub const SOON: Duration = Duration::from_secs(60);
pub const SUBJECT: &str = "it.metrics";
pub const PLAIN: &str = "schema: 1\noutput:\n  mongodb: {collection: metrics, batching: {count: 1000, period: 1s, linger: 20ms}}\n";
const SERIES: &str = "schema: 1\noutput:\n  mongodb: {collection: metrics, time_series: {time_field: at}}\n";

/// Real servers with a stream, and what executions on them work with.
pub struct World {
    pub nats: Nats,
    pub mongo: Mongo,
    pub store: Store,
    pub deps: ExecutionDeps,
    pub settings: Settings,
}

impl World {
    async fn start() -> Self {
        let (nats, mongo) = tokio::join!(Nats::start(), Mongo::start());
        Self::on(nats, mongo).await
    }

    /// The same on servers that are there.
    pub async fn on(nats: Nats, mongo: Mongo) -> Self {
        let mut settings = Settings { namespace: Namespace::parse("it").unwrap(), ..Settings::default() };
        settings.nats.urls = vec![nats.url()];
        let database = Some(mongo.database().to_owned());
        let connection = MongoConnection { url: Secret::new(mongo.url()), database, ..MongoConnection::default() };
        settings.mongodb.connections.insert("default".into(), connection);
        let store = Store::connect(&settings).await.unwrap();
        store.prepare().await.unwrap();
        let config = stream::Config {
            name: "it_metrics".into(),
            subjects: vec![SUBJECT.into()],
            retention: stream::RetentionPolicy::WorkQueue,
            ..Default::default()
        };
        let created = nats.jetstream().await.create_stream(config).await.unwrap();
        created.create_consumer(pull::Config { durable_name: Some("default".into()), ..Default::default() }).await.unwrap();
        let deps = ExecutionDeps {
            nats: store.client.clone(),
            link: store.link.clone(),
            configs: ConfigReader::new(store.configs.clone(), store.names.clone(), vec!["default".into()]),
            databases: Arc::new(Databases::new(&settings.mongodb)),
            budget: Arc::new(ByteBudget::new(256 << 20)),
            metrics: Metrics::shared(),
            names: store.names.clone(),
            shutdown_grace: Duration::from_secs(5),
        };
        Self { nats, mongo, store, deps, settings }
    }

    /// Stores `config` under `version`, and what runs it.
    pub async fn version(&self, version: &str, config: &str) -> ExecutionSpec {
        let name = VersionName::parse(version).unwrap();
        for id in fifty_names() {
            self.store.configs.put(&id, &name, config.to_owned().into()).await.unwrap();
        }
        let digest = self.store.configs.put(&id(), &name, config.to_owned().into()).await.unwrap();
        let target = self.deps.databases.target("default", Some(self.mongo.database()), "metrics").unwrap();
        spec(version, &digest, target)
    }

    pub async fn send(&self, numbers: std::ops::Range<i64>) {
        let jetstream: jetstream::Context = self.nats.jetstream().await;
        for n in numbers {
            jetstream.publish(SUBJECT, doc! {"n": n}.to_vec().unwrap().into()).await.unwrap().await.unwrap();
        }
    }

    pub async fn stored(&self, count: u64) {
        eventually(&format!("{count} documents are stored"), SOON, || async { self.mongo.count("metrics").await == count }).await;
    }
}

pub fn id() -> PipelineId {
    PipelineId::parse("metrics").unwrap()
}

pub fn spec(version: &str, digest: &str, target: Target) -> ExecutionSpec {
    let spec = ExecutionSpec {
        schema: 1,
        installation: uuid::Uuid::nil(),
        namespace: Namespace::parse("it").unwrap(),
        id: id(),
        version: VersionName::parse(version).unwrap(),
        digest: digest.to_owned(),
        stream: "it_metrics".into(),
        consumer: "default".into(),
        target,
        connection: "default".into(),
        series: None,
        moves: 0,
        previous: Vec::new(),
        replicas: 1,
        proven: false,
        settings_digest: String::new(),
        fingerprint: Fingerprint(String::new()),
    };
    spec.seal("")
}

pub async fn observed(backend: &dyn Executor) -> Option<Observed> {
    backend.observe(&id()).await.unwrap()
}

/// Waits until exactly `spec` runs and nothing else.
pub async fn runs(backend: &dyn Executor, spec: &ExecutionSpec) {
    eventually(&format!("version {} runs alone", spec.version), SOON, || async {
        let all = backend.list().await.unwrap();
        let right = |one: &Observed| {
            let alone = one.reports.iter().all(|report| report.fingerprint == spec.fingerprint && report.phase == ExecutionPhase::Running);
            let live = one.instances.iter().filter(|one| one.fingerprint == spec.fingerprint && one.state.is_live()).count();
            let containers = live == one.instances.len() && one.replicas.is_none_or(|replicas| replicas as usize == live);
            one.running && one.fingerprint == spec.fingerprint && alone && one.reports.len() <= 1 && containers && one.troubles.is_empty()
        };
        all.len() == 1 && all.iter().all(right) && observed(backend).await.as_ref() == all.first()
    })
    .await;
}

/// What every backend promises; `one` and `two` are versions of one pipeline with the same target.
pub async fn keeps_the_contract(backend: &dyn Executor, one: &ExecutionSpec, two: &ExecutionSpec) {
    assert!(backend.list().await.unwrap().is_empty(), "nothing is there at first");
    backend.stop(&id()).await.unwrap();
    backend.destroy(&id()).await.unwrap();
    assert_eq!(observed(backend).await, None, "stopping and destroying nothing is no error and makes nothing");

    backend.ensure(one).await.unwrap();
    runs(backend, one).await;
    backend.ensure(one).await.unwrap();
    runs(backend, one).await;

    backend.ensure(two).await.unwrap();
    runs(backend, two).await;

    for _ in 0..2 {
        backend.stop(&id()).await.unwrap();
    }
    eventually("it is stopped and kept", SOON, || async {
        observed(backend).await.is_some_and(|one| !one.running && one.fingerprint == two.fingerprint && one.reports.is_empty())
    })
    .await;
    backend.ensure(two).await.unwrap();
    runs(backend, two).await;

    // Not waited for: who ensures while it still ends gets it all the same.
    backend.stop(&id()).await.unwrap();
    backend.ensure(two).await.unwrap();
    runs(backend, two).await;

    let unknown = PipelineId::parse("unknown").unwrap();
    backend.destroy(&unknown).await.unwrap();
    runs(backend, two).await;

    for _ in 0..2 {
        backend.destroy(&id()).await.unwrap();
    }
    eventually("nothing is left", SOON, || async { backend.list().await.unwrap().is_empty() }).await;
    assert_eq!(observed(backend).await, None);
    backend.ensure(one).await.unwrap();
    runs(backend, one).await;

    many_and_hostile_names_at_once(backend, one).await;
    backend.shutdown().await;
}

/// Fifty names, every kind that an entry may have: alike in lower case, as long as allowed, alike but for their last
/// letter, and what shells and flags are made of.
pub fn fifty_names() -> Vec<PipelineId> {
    let hostile = ["P1", "p-1", "p_1", "0--privileged", "KV", &"x".repeat(63), &format!("{}y", "x".repeat(62))].map(str::to_owned);
    let names = (0..43).map(|n| format!("p{n}")).chain(hostile);
    names.map(|name| PipelineId::parse(&name).unwrap()).collect()
}

/// Fifty pipelines are started and destroyed at once, and each is itself.
async fn many_and_hostile_names_at_once(backend: &dyn Executor, like: &ExecutionSpec) {
    let specs: Vec<_> = fifty_names().into_iter().map(|id| ExecutionSpec { id, ..like.clone() }.seal("")).collect();
    for spec in &specs {
        backend.ensure(spec).await.unwrap();
    }
    eventually("all run", 3 * SOON, || async {
        let all = backend.list().await.unwrap();
        let right = |spec: &ExecutionSpec| {
            all.iter().any(|one| {
                one.id == spec.id
                    && one.running
                    && one.fingerprint == spec.fingerprint
                    && one.troubles.is_empty()
                    && one.replicas.is_none_or(|_| one.instances.len() == 1 && one.instances[0].state.is_live())
            })
        };
        all.len() == specs.len() + 1 && specs.iter().all(right)
    })
    .await;
    for spec in &specs {
        backend.destroy(&spec.id).await.unwrap();
    }
    eventually("the one from before is left alone", 3 * SOON, || async { backend.list().await.unwrap().len() == 1 }).await;
    runs(backend, like).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scriptable_backend_keeps_the_contract() {
    let target = Target { hosts: vec!["a:1".into()], database: "d".into(), collection: "c".into() };
    keeps_the_contract(&Fake::default(), &spec("1", "a", target.clone()), &spec("2", "b", target)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_in_process_backend_keeps_the_contract() {
    require!("nats-server", "database");
    let world = World::start().await;
    let (one, two) = (world.version("1", PLAIN).await, world.version("2", &PLAIN.replace("1000", "900")).await);
    keeps_the_contract(&InProcess::new(world.deps.clone()), &one, &two).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_cannot_run_leaves_the_one_before_running_until_one_can() {
    require!("nats-server", "database");
    let world = World::start().await;
    let backend = InProcess::new(world.deps.clone());
    let (good, bad) = (world.version("1", PLAIN).await, world.version("2", SERIES).await);
    backend.ensure(&good).await.unwrap();
    runs(&backend, &good).await;
    world.send(0..10).await;
    world.stored(10).await;

    backend.ensure(&bad).await.unwrap();
    let both = || async {
        let reports = observed(&backend).await.unwrap().reports;
        let blocked = reports.iter().any(|report| {
            report.fingerprint == bad.fingerprint && report.troubles.iter().any(|trouble| trouble.reason == Reason::CollectionKindDiffers)
        });
        blocked && reports.iter().any(|report| report.fingerprint == good.fingerprint && report.phase == ExecutionPhase::Running)
    };
    eventually("the new one is refused and the old one runs", SOON, both).await;
    // Longer than any start takes.
    tokio::time::sleep(Duration::from_secs(3)).await;
    backend.ensure(&bad).await.unwrap();
    world.send(10..20).await;
    world.stored(20).await;
    assert!(both().await);

    backend.ensure(&good).await.unwrap();
    runs(&backend, &good).await;
    backend.ensure(&bad).await.unwrap();
    let third = world.version("3", &PLAIN.replace("1000", "900")).await;
    backend.ensure(&third).await.unwrap();
    runs(&backend, &third).await;
    world.send(20..30).await;
    world.stored(30).await;
    backend.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_target_starts_only_when_the_old_one_has_ended() {
    require!("nats-server", "database");
    let world = World::start().await;
    let backend = InProcess::new(world.deps.clone());
    let one = world.version("1", PLAIN).await;
    let mut two = world.version("2", &PLAIN.replace("collection: metrics", "collection: others")).await;
    two.target.collection = "others".into();
    let two = two.seal("");
    backend.ensure(&one).await.unwrap();
    runs(&backend, &one).await;
    backend.ensure(&two).await.unwrap();
    let now = observed(&backend).await.unwrap();
    assert!(now.fingerprint != two.fingerprint && now.reports.iter().all(|report| report.fingerprint == one.fingerprint), "{now:?}");
    eventually("the second runs, ensured again", SOON, || async {
        backend.ensure(&two).await.unwrap();
        let reports = observed(&backend).await.unwrap().reports;
        assert!(reports.len() <= 1, "{reports:?}");
        reports.iter().any(|report| report.fingerprint == two.fingerprint && report.phase == ExecutionPhase::Running)
    })
    .await;
    backend.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_whose_config_is_gone_says_so_and_runs_when_it_is_back() {
    require!("nats-server", "database");
    let world = World::start().await;
    let backend = InProcess::new(world.deps.clone());
    let one = world.version("1", PLAIN).await;
    let bucket = world.nats.jetstream().await.get_object_store(&world.store.names.configs()).await.unwrap();
    bucket.delete("metrics/1").await.unwrap();
    backend.ensure(&one).await.unwrap();
    eventually("its trouble is shown", SOON, || async {
        let reports = observed(&backend).await.unwrap().reports;
        reports.iter().any(|report| report.troubles.iter().any(|trouble| trouble.reason == Reason::ExecutionFailed))
    })
    .await;
    bucket.put("metrics/1", &mut PLAIN.as_bytes()).await.unwrap();
    runs(&backend, &one).await;
    backend.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_one_execution_touches_no_other_and_one_that_does_not_end_is_aborted() {
    require!("nats-server", "database");
    let mut world = World::start().await;
    world.deps.shutdown_grace = Duration::from_millis(200);
    // Stands in for a collector with a fault: version `panics` does, any other never ends by itself.
    let attempt: Attempt = Arc::new(|spec, _, _| {
        Box::pin(async move {
            assert!(spec.version.as_str() != "panics", "as the test wants it");
            std::future::pending::<Result<(), ExecutionError>>().await
        })
    });
    let backend = InProcess::with(world.deps.clone(), attempt);
    let mut events = backend.events();
    let (target, other) = (Target::default(), PipelineId::parse("other").unwrap());
    let bad = spec("panics", "a", target.clone());
    let stubborn = ExecutionSpec { id: other.clone(), ..spec("1", "a", target) }.seal("");
    backend.ensure(&stubborn).await.unwrap();
    backend.ensure(&bad).await.unwrap();
    eventually("the panic is shown", SOON, || async {
        let reports = observed(&backend).await.unwrap().reports;
        reports.iter().any(|report| report.troubles.iter().any(|trouble| trouble.message.contains("panic")))
    })
    .await;
    assert!(backend.observe(&other).await.unwrap().unwrap().running);

    let begun = Instant::now();
    backend.destroy(&other).await.unwrap();
    assert!(begun.elapsed() < Duration::from_millis(150), "no verb waits for an end");
    let ending = backend.observe(&other).await.unwrap().unwrap();
    assert!(ending.running && ending.reports[0].phase == ExecutionPhase::Stopping, "{ending:?}");
    eventually("it is aborted", SOON, || async { backend.observe(&other).await.unwrap().is_none() }).await;
    eventually("an event says so", SOON, || {
        let said = events.try_recv().is_ok_and(|id| id == other);
        async move { said }
    })
    .await;
    assert!(observed(&backend).await.unwrap().running, "the other one is tried again and again");
    backend.shutdown().await;
    assert!(!observed(&backend).await.unwrap().running);
}
