//! What the controller's tests share: a controller with the scriptable backend on a real nats-server.

use crate::support::{Nats, eventually, random_name};
use sluice::collector::sink::Databases;
use sluice::controller::{Controller, Deps, Died};
use sluice::executor::{Executor, config_reader::ConfigReader, fake::Fake};
use sluice::pipeline::entry::{Edit, EntryStatus, edited};
use sluice::pipeline::id::{Namespace, PipelineId, VersionName};
use sluice::pipeline::status::{ConditionType, PipelineStatus, Reason};
use sluice::settings::Settings;
use sluice::store::Store;
use sluice::telemetry::metrics::Metrics;
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

pub const CONFIG: &str = "schema: 1\noutput:\n  mongodb:\n    database: example\n    collection: COLLECTION\n";
pub const SOON: Duration = Duration::from_secs(10);

/// A controller with the scriptable backend, in a namespace of its own.
pub struct Rig {
    pub controller: Arc<Controller>,
    pub fake: Arc<Fake>,
    pub store: Store,
    stop: CancellationToken,
    task: Option<tokio::task::JoinHandle<Result<(), Died>>>,
}

impl Rig {
    pub async fn start(nats: &Nats) -> Self {
        Self::start_in(nats, &random_name("ns"), Arc::default()).await
    }

    /// With the pipeline `metrics`, which runs its version 1.
    pub async fn running(nats: &Nats) -> (Self, PipelineId) {
        let (rig, id) = (Self::start(nats).await, id("metrics"));
        rig.publish(&id, "1", "metrics").await;
        rig.called("ensure metrics 1").await;
        (rig, id)
    }

    /// In a namespace that another may share, with a backend that may outlive it.
    pub async fn start_in(nats: &Nats, namespace: &str, fake: Arc<Fake>) -> Self {
        let mut settings = Settings { namespace: Namespace::parse(namespace).unwrap(), ..Settings::default() };
        settings.nats.urls = vec![nats.url()];
        let store = Store::connect(&settings).await.unwrap();
        store.prepare().await.unwrap();
        let executor: Arc<dyn Executor> = fake.clone();
        let deps = Deps {
            store: store.clone(),
            executor,
            retired: Vec::new(),
            installation: store.status.installation().await.unwrap(),
            configs: ConfigReader::new(store.configs.clone(), store.names.clone(), vec!["default".into()]),
            databases: Arc::new(Databases::new(&settings.mongodb)),
            settings: Arc::new(settings),
            metrics: Metrics::shared(),
        };
        let controller = Controller::new(deps).await.unwrap();
        let stop = CancellationToken::new();
        let (running, token) = (controller.clone(), stop.clone());
        let task = Some(tokio::spawn(async move { running.run(token).await }));
        Self { controller, fake, store, stop, task }
    }

    pub async fn end(&mut self) {
        self.stop.cancel();
        self.task.take().unwrap().await.unwrap().unwrap();
    }

    /// Waits until it ends by itself, and says how.
    pub async fn ended(mut self) -> Result<(), Died> {
        self.task.take().unwrap().await.unwrap()
    }

    /// Stores a config writing to `collection` and publishes it.
    pub async fn publish(&self, id: &PipelineId, version: &str, collection: &str) {
        let name = VersionName::parse(version).unwrap();
        let config = CONFIG.replace("COLLECTION", collection);
        let digest = self.store.configs.put(id, &name, config.into()).await.unwrap();
        self.edit(id, Edit { status: Some(EntryStatus::Published), version: Some((name, digest)), ..Edit::default() }).await;
    }

    pub async fn edit(&self, id: &PipelineId, edit: Edit) {
        let old = self.store.entries.get(id).await.unwrap();
        let value = edited(old.as_ref().map(|old| &old.value[..]), &edit);
        self.store.entries.put(id, value.into(), old.map_or(0, |old| old.revision)).await.unwrap();
    }

    pub async fn set(&self, id: &PipelineId, status: EntryStatus) {
        self.edit(id, Edit { status: Some(status), ..Edit::default() }).await;
    }

    pub async fn raw(&self, id: &PipelineId, value: &'static [u8]) {
        let old = self.store.entries.get(id).await.unwrap();
        self.store.entries.put(id, value.into(), old.map_or(0, |old| old.revision)).await.unwrap();
    }

    pub async fn remove(&self, id: &PipelineId) {
        let revision = self.store.entries.get(id).await.unwrap().unwrap().revision;
        self.store.entries.delete(id, &Default::default(), revision).await.unwrap();
    }

    /// Whether anything was stopped or destroyed.
    pub fn stopped_anything(&self) -> bool {
        self.fake.calls().iter().any(|call| call.starts_with("stop") || call.starts_with("destroy"))
    }

    pub async fn called(&self, call: &str) {
        eventually(&format!("{call} is called"), SOON, || async { self.fake.calls().iter().any(|made| made == call) }).await;
    }

    pub async fn status_is(&self, what: &str, id: &PipelineId, right: impl Fn(&PipelineStatus) -> bool) {
        eventually(what, SOON, || async {
            let record = self.store.status.get(id).await.unwrap();
            record.is_some_and(|record| right(&record.status))
        })
        .await;
    }
}

pub fn id(name: &str) -> PipelineId {
    PipelineId::parse(name).unwrap()
}

pub fn invalid(status: &PipelineStatus, reason: Reason) -> bool {
    status.conditions.iter().any(|condition| condition.kind == ConditionType::Valid && !condition.status && condition.reason == reason)
}
