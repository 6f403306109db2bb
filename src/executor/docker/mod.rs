//! The Docker backend: one container for each replica, made, replaced and removed through the engine's API.
//!
//! ```text
//! ensure · stop · destroy ──▶ what is wanted ──▶ a driver for the pipeline ─┐ look at labels ▸ plan (pure) ▸ take steps
//!                                                       ▲                   └─ until there are none; then it ends
//! engine's events ──▶ hint to the controller and poke ──┘
//! list · observe ──▶ labels and states, as the engine shows them (pure)
//! ```
//!
//! What always holds: labels are the truth, and only what bears this installation's is touched; a driver's memory is of
//! work that is under way, and a controller that dies leaves labels for the next to go on from. Each change asks first
//! whether this controller may still make it. A new fingerprint is ready before the old one ends gracefully; both drink
//! from the same work queue meanwhile, so nothing is lost or doubled.
//!
//! Files: settings and secrets lie in a volume of the execution's own, which a container that never runs carries them into (see
//! `fill`) while the execution is being started; what runs waits for the last of them. Meanwhile a second, empty volume says that
//! this is under way, so that it is done again where a controller dies over it.
//!
//! Restarts: the engine starts an execution that fails again, with growing delays, also after its own restart
//! (`unless-stopped`, which leaves alone what was stopped). Exit code 3 means that a restart cannot help: such a container
//! is stopped, and started again after a minute. All controllers of a namespace must use the same engine.

pub mod config;
mod drive;
mod ended;
mod engine;
mod events;
mod files;
mod fill;
mod plan;
mod seen;

pub use engine::EngineError;

use super::{BoxFuture, Executor, ExecutorError, Observed, Permit};
use crate::executor::names::{ID, INSTALLATION};
use crate::pipeline::id::PipelineId;
use crate::pipeline::logs::LogLine;
use crate::pipeline::report::Trouble;
use crate::pipeline::spec::ExecutionSpec;
use crate::settings::Settings;
use bollard::query_parameters::{ListContainersOptions, ListVolumesOptions};
use drive::Driver;
use engine::Engine;
use fill::Filler;
use futures_util::{StreamExt, TryStreamExt, stream};
use seen::{Container, OwnVolume, Want};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tokio::sync::{Semaphore, broadcast};
use tokio::task::JoinHandle;

/// Containers that are looked at at the same time.
const LOOKS: usize = 8;

/// The Docker backend.
pub struct DockerExecutor {
    shared: Arc<Shared>,
    listener: Mutex<Option<JoinHandle<()>>>,
}

/// What drivers, events and verbs share.
struct Shared {
    engine: Engine,
    settings: Arc<Settings>,
    installation: uuid::Uuid,
    /// Bounds how many containers are made and started at the same time.
    starts: Semaphore,
    filler: Filler,
    drivers: Mutex<HashMap<PipelineId, Driver>>,
    events: broadcast::Sender<PipelineId>,
    permit: OnceLock<Permit>,
}

impl DockerExecutor {
    /// A backend on the engine that `settings` name, for what bears the label of `installation`. Needs a runtime.
    pub fn new(settings: Arc<Settings>, installation: uuid::Uuid) -> Self {
        let docker = &settings.executor.docker;
        let shared = Arc::new(Shared {
            engine: Engine::new(docker.clone()),
            installation,
            starts: Semaphore::new(usize::try_from(docker.parallel).unwrap_or(1).max(1)),
            filler: Filler::default(),
            drivers: Mutex::default(),
            events: broadcast::channel(1024).0,
            permit: OnceLock::new(),
            settings,
        });
        let listener = tokio::spawn(events::listen(shared.clone()));
        Self { shared, listener: Mutex::new(Some(listener)) }
    }

    fn end(&self) {
        if let Some(listener) = self.listener.lock().unwrap_or_else(PoisonError::into_inner).take() {
            listener.abort();
        }
        self.shared.drivers().clear();
    }
}

impl Drop for DockerExecutor {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn drivers(&self) -> MutexGuard<'_, HashMap<PipelineId, Driver>> {
        self.drivers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The epoch under which this controller may change something; `None` where nobody has said that there are any. Errors: it
    /// may not.
    fn permitted(&self) -> Result<Option<u64>, EngineError> {
        self.permit.get().map(|permit| permit().map(|term| term.epoch).ok_or(EngineError::NotPermitted)).transpose()
    }

    /// Makes the controller look at `id`, and its driver too.
    fn hint(&self, id: &PipelineId) {
        if let Some(driver) = self.drivers().get(id) {
            driver.poke();
        }
        self.tell(id);
    }

    /// Makes the controller look at `id`.
    fn tell(&self, id: &PipelineId) {
        // Only a hint: without a receiver nobody needs it.
        let _ = self.events.send(id.clone());
    }

    fn labels(&self, id: Option<&PipelineId>) -> HashMap<String, Vec<String>> {
        let mut labels = vec![format!("{INSTALLATION}={}", self.installation)];
        labels.extend(id.map(|id| format!("{ID}={id}")));
        HashMap::from([("label".to_owned(), labels)])
    }

    /// The containers of `id`, or of all pipelines, as the engine shows them.
    async fn containers(&self, id: Option<&PipelineId>) -> Result<Vec<Container>, EngineError> {
        let options = ListContainersOptions { all: true, filters: Some(self.labels(id)), ..Default::default() };
        let listed = self.engine.call("list containers", |engine| async move { engine.list_containers(Some(options)).await }).await?;
        let ids = listed.into_iter().filter_map(|one| one.id);
        let looked = ids.map(|container| async move {
            let looked = self.engine.call("inspect container", |engine| async move { engine.inspect_container(&container, None).await });
            match looked.await {
                Ok(raw) => Ok(Some(raw)),
                // Gone since it was listed.
                Err(EngineError::Missing { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        });
        let raw: Vec<_> = stream::iter(looked).buffer_unordered(LOOKS).try_collect().await?;
        let executor = &self.settings.executor;
        let read = |raw| seen::container(&raw, self.installation, &executor.docker, executor.shutdown_grace);
        // What carries files right now is nobody's business, and goes by itself.
        let carries = |one: &Container| one.replica.is_none() && self.filler.uses(&one.instance.name);
        let mut containers: Vec<_> = raw.into_iter().flatten().filter_map(read).filter(|one| !carries(one)).collect();
        containers.sort_by(|a, b| a.instance.name.cmp(&b.instance.name));
        Ok(containers)
    }

    /// The volumes of `id`, or of all pipelines.
    async fn volumes(&self, id: Option<&PipelineId>) -> Result<Vec<OwnVolume>, EngineError> {
        let options = ListVolumesOptions { filters: Some(self.labels(id)) };
        let listed = self.engine.call("list volumes", |engine| async move { engine.list_volumes(Some(options)).await }).await?;
        Ok(listed.volumes.iter().flatten().filter_map(|raw| seen::volume(raw, self.installation)).collect())
    }

    /// Everything of this installation.
    async fn all(&self) -> Result<HashMap<PipelineId, (Vec<Container>, Vec<OwnVolume>)>, EngineError> {
        let (containers, volumes) = tokio::try_join!(self.containers(None), self.volumes(None))?;
        Ok(seen::by_pipeline(containers, volumes))
    }

    /// What is under way for `id`, and what is in its way.
    fn at_work(&self, id: &PipelineId) -> (Option<Want>, Vec<Trouble>) {
        self.drivers().get(id).map_or((None, Vec::new()), |driver| (Some(driver.want()), driver.trouble()))
    }

    fn observed(&self, id: &PipelineId, containers: &[Container], volumes: &[OwnVolume]) -> Option<Observed> {
        let (want, troubles) = self.at_work(id);
        seen::observed(id, containers, volumes, want.as_ref(), troubles)
    }
}

impl Executor for DockerExecutor {
    fn ensure<'a>(&'a self, spec: &'a ExecutionSpec) -> BoxFuture<'a, Result<(), ExecutorError>> {
        drive::want(&self.shared, &spec.id, Want::Run(Box::new(spec.clone())));
        Box::pin(async { Ok(()) })
    }

    fn stop<'a>(&'a self, id: &'a PipelineId) -> BoxFuture<'a, Result<(), ExecutorError>> {
        drive::want(&self.shared, id, Want::Stopped);
        Box::pin(async { Ok(()) })
    }

    fn destroy<'a>(&'a self, id: &'a PipelineId) -> BoxFuture<'a, Result<(), ExecutorError>> {
        drive::want(&self.shared, id, Want::Gone);
        Box::pin(async { Ok(()) })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Observed>, ExecutorError>> {
        Box::pin(async {
            let mut all = self.shared.all().await?;
            for id in self.shared.drivers().keys() {
                all.entry(id.clone()).or_default();
            }
            Ok(all.iter().filter_map(|(id, (containers, volumes))| self.shared.observed(id, containers, volumes)).collect())
        })
    }

    fn observe<'a>(&'a self, id: &'a PipelineId) -> BoxFuture<'a, Result<Option<Observed>, ExecutorError>> {
        Box::pin(async move {
            let (containers, volumes) = tokio::try_join!(self.shared.containers(Some(id)), self.shared.volumes(Some(id)))?;
            Ok(self.shared.observed(id, &containers, &volumes))
        })
    }

    fn share(&self, _id: &PipelineId, _live: u32) {
        // Executions watch their own status.
    }

    fn events(&self) -> broadcast::Receiver<PipelineId> {
        self.shared.events.subscribe()
    }

    fn shared(&self) -> bool {
        true
    }

    fn permit(&self, permit: Permit) {
        // Given once, by the controller that this backend belongs to.
        let _ = self.shared.permit.set(permit);
    }

    fn ended_logs<'a>(&'a self, id: &'a PipelineId, last: u32) -> BoxFuture<'a, Result<Vec<LogLine>, ExecutorError>> {
        Box::pin(async move { Ok(ended::logs(&self.shared, id, last).await?) })
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        // The containers outlive this process.
        self.end();
        Box::pin(async {})
    }
}
