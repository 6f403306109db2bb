//! The Docker backend: one container for each replica, made, replaced and removed through the engine's API.
//!
//! ```text
//! ensure · stop · destroy ──▶ what is wanted ──▶ a driver for the pipeline ─┐ look at labels ▸ plan (pure) ▸ take steps
//!                                                       ▲                   └─ until there are none; then it ends
//! engine's events ──▶ hint to the controller and poke ──┘
//! list · observe ──▶ labels and states, as the engine shows them (pure); who looks at the same moment shares what lists
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
mod ended;
mod engine;
mod events;
mod files;
mod fill;
mod look;
mod plan;
mod refresh;
mod seen;
mod together;
mod work;

use super::driver::{Drivers, Want};
use super::error::BackendError;
use super::{BoxFuture, Executor, ExecutorError, Observed, Permit};
use crate::pipeline::id::PipelineId;
use crate::pipeline::logs::LogLine;
use crate::pipeline::spec::ExecutionSpec;
use crate::settings::Settings;
use engine::Engine;
use fill::Filler;
use look::Looks;
use seen::{Container, OwnVolume};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use tokio::sync::{Semaphore, broadcast};
use tokio::task::JoinHandle;
use work::Working;

/// The Docker backend.
pub struct DockerExecutor {
    shared: Arc<Shared>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// What drivers, events and verbs share.
struct Shared {
    engine: Engine,
    settings: Arc<Settings>,
    installation: uuid::Uuid,
    /// Bounds how many containers are made and started at the same time.
    starts: Semaphore,
    filler: Filler,
    looks: Looks,
    drivers: Arc<Drivers>,
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
            looks: Looks::default(),
            drivers: Arc::default(),
            permit: OnceLock::new(),
            settings,
        });
        let tasks = vec![tokio::spawn(events::listen(shared.clone())), tokio::spawn(refresh::keep(shared.clone()))];
        Self { shared, tasks: Mutex::new(tasks) }
    }

    fn want(&self, id: &PipelineId, want: Want) {
        let shared = &self.shared;
        shared.drivers.want(id, want, || Working::new(shared.clone(), id.clone()));
    }

    fn end(&self) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).drain(..).for_each(|task| task.abort());
        self.shared.drivers.clear();
    }
}

impl Drop for DockerExecutor {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    /// The epoch under which this controller may change something; `None` where nobody has said that there are any. Errors: it
    /// may not.
    fn permitted(&self) -> Result<Option<u64>, BackendError> {
        self.permit.get().map(|permit| permit().map(|term| term.epoch).ok_or(BackendError::NotPermitted)).transpose()
    }

    fn observed(&self, id: &PipelineId, containers: &[Container], volumes: &[OwnVolume]) -> Option<Observed> {
        let (want, troubles) = self.drivers.at_work(id);
        seen::observed(id, containers, volumes, want.as_ref(), troubles)
    }
}

impl Executor for DockerExecutor {
    fn ensure<'a>(&'a self, spec: &'a ExecutionSpec) -> BoxFuture<'a, Result<(), ExecutorError>> {
        self.want(&spec.id, Want::Run(Box::new(spec.clone())));
        Box::pin(async { Ok(()) })
    }

    fn stop<'a>(&'a self, id: &'a PipelineId) -> BoxFuture<'a, Result<(), ExecutorError>> {
        self.want(id, Want::Stopped);
        Box::pin(async { Ok(()) })
    }

    fn destroy<'a>(&'a self, id: &'a PipelineId) -> BoxFuture<'a, Result<(), ExecutorError>> {
        self.want(id, Want::Gone);
        Box::pin(async { Ok(()) })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Observed>, ExecutorError>> {
        Box::pin(async {
            let mut all = self.shared.all().await?;
            for id in self.shared.drivers.ids() {
                all.entry(id).or_default();
            }
            Ok(all.iter().filter_map(|(id, (containers, volumes))| self.shared.observed(id, containers, volumes)).collect())
        })
    }

    fn observe<'a>(&'a self, id: &'a PipelineId) -> BoxFuture<'a, Result<Option<Observed>, ExecutorError>> {
        Box::pin(async move {
            let containers = self.shared.containers(id).await?;
            let volumes = if self.shared.is_settled(id, &containers) { Vec::new() } else { self.shared.volumes(id).await? };
            Ok(self.shared.observed(id, &containers, &volumes))
        })
    }

    fn share(&self, _id: &PipelineId, _live: u32) {
        // Executions watch their own status.
    }

    fn events(&self) -> broadcast::Receiver<PipelineId> {
        self.shared.drivers.events()
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
