//! Who runs executions: one trait, three idempotent verbs, a list, and events that only hint.
//!
//! A backend's own report (tasks, labels) is the truth after a restart, never the controller's memory. `list` sees this
//! installation's executions only. The backend is chosen in exactly one `match` on `executor.kind`, in `app`.

pub mod answers;
pub mod config_reader;
pub mod docker;
pub mod driver;
pub mod error;
pub mod execution;
pub mod fake;
pub mod in_process;
mod kept_log;
pub mod kubernetes;
pub mod names;
pub mod standalone;
pub mod supervise;

use crate::pipeline::instance::{Instance, InstanceState};
use crate::pipeline::report::{ExecutionPhase, ExecutionReport, Trouble};
use crate::pipeline::status::Reason;
use crate::pipeline::{id::PipelineId, logs::LogLine, spec::ExecutionSpec, spec::Fingerprint};
use std::{future::Future, pin::Pin, sync::Arc, time::Duration};
use tokio::sync::broadcast;

/// An error of a backend.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ExecutorError {
    /// What was tried and what came back, without secrets.
    pub message: String,
    /// Whether a retry can help.
    pub retry: bool,
    /// What the status gives as the reason.
    pub reason: Reason,
}

/// What a backend has for a pipeline.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    /// The pipeline.
    pub id: PipelineId,
    /// What it was started as; empty where all that runs is ending.
    pub fingerprint: Fingerprint,
    /// Whether anything of it runs, what is ending included; `false`: stopped and kept.
    pub running: bool,
    /// What its executions say of themselves, where the backend can ask them; the newest first. While a version
    /// takes over from another, both are listed.
    pub reports: Vec<ExecutionReport>,
    /// How many replicas there are or are being made, where the backend has them.
    pub replicas: Option<u32>,
    /// The containers, where the backend has them.
    pub instances: Vec<Instance>,
    /// What the backend itself sees in the way: an image that is missing, an exit code. Executions say the rest.
    pub troubles: Vec<Trouble>,
}

impl Observed {
    /// Whether `fingerprint` runs well, as far as the backend can tell.
    pub fn ready(&self, fingerprint: &Fingerprint) -> bool {
        let reported = |report: &ExecutionReport| report.fingerprint == *fingerprint && report.phase == ExecutionPhase::Running;
        let healthy = |one: &Instance| one.fingerprint == *fingerprint && one.state == InstanceState::Running;
        self.running
            && self.fingerprint == *fingerprint
            && (self.reports.iter().any(reported) || !self.instances.is_empty() && self.instances.iter().all(healthy))
    }
}

/// Says at any moment as whom this process may change what executions there are; `None`: it may not.
pub type Permit = Arc<dyn Fn() -> Option<Term> + Send + Sync>;

/// A time in which one controller decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    /// Which of those that had the lease, one after the other, it is: the fencing epoch.
    pub epoch: u64,
    /// For how long it surely is: no call that changes something may take longer.
    pub left: Duration,
}

/// A future of a trait object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A backend. All verbs are idempotent; each affects one pipeline only, begins what it says, and does not wait for
/// it: [`Executor::observe`] shows how far it is, and an event hints at the end.
pub trait Executor: Send + Sync + 'static {
    /// Makes exactly `spec` run. Another fingerprint of the same pipeline goes on until the new one runs, and is then
    /// stopped gracefully; with another target it is stopped first, and ensuring again afterwards starts the new one.
    fn ensure<'a>(&'a self, spec: &'a ExecutionSpec) -> BoxFuture<'a, Result<(), ExecutorError>>;
    /// Makes `spec`, which ran well before this process began, go on until what is ensured next runs. Only a backend whose
    /// executions end with the process has anything to do, and only where there is nothing of the pipeline yet.
    fn go_on<'a>(&'a self, _spec: &'a ExecutionSpec) -> BoxFuture<'a, Result<(), ExecutorError>> {
        Box::pin(async { Ok(()) })
    }
    /// Stops the executions of `id` gracefully and keeps them; observed as running until they have ended. Nothing there is no error.
    fn stop<'a>(&'a self, id: &'a PipelineId) -> BoxFuture<'a, Result<(), ExecutorError>>;
    /// Leaves nothing of the executions of `id`, gracefully. Nothing there is no error.
    fn destroy<'a>(&'a self, id: &'a PipelineId) -> BoxFuture<'a, Result<(), ExecutorError>>;
    /// Everything of this installation, running or kept.
    fn list(&self) -> BoxFuture<'_, Result<Vec<Observed>, ExecutorError>>;
    /// What there is of one pipeline.
    fn observe<'a>(&'a self, id: &'a PipelineId) -> BoxFuture<'a, Result<Option<Observed>, ExecutorError>>;
    /// Tells the executions of `id` how many share their durable, for the effective batch.
    fn share(&self, id: &PipelineId, live: u32);
    /// Ids of pipelines whose executions changed by themselves: hints only, lossy.
    fn events(&self) -> broadcast::Receiver<PipelineId>;
    /// Whether there is one set of executions for all controllers, which the holder of the lease alone changes: what
    /// the backend makes outlives this process. Else every controller runs its own.
    fn shared(&self) -> bool {
        false
    }
    /// Makes a shared backend ask before each change; a change that is not permitted is not made.
    fn permit(&self, _permit: Permit) {}
    /// The last log lines, at most `last` of each (0 for all), that the backend kept of executions of `id` that have ended
    /// and were processes of their own; those that run answer for themselves, and so does this process for its tasks.
    fn ended_logs<'a>(&'a self, _id: &'a PipelineId, _last: u32) -> BoxFuture<'a, Result<Vec<LogLine>, ExecutorError>> {
        Box::pin(async { Ok(Vec::new()) })
    }
    /// Ends everything gracefully because the process ends; what outlives a controller by design stays.
    fn shutdown(&self) -> BoxFuture<'_, ()>;
}
