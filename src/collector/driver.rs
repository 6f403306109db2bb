//! Drives the core: carries out its effects, feeds back what happened.

use super::{Deps, ExecutionState, Job};
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Why a collector ended.
#[derive(Debug, thiserror::Error)]
pub enum CollectorError {}

impl CollectorError {
    /// Whether starting it again can help.
    pub fn retry(&self) -> bool {
        match *self {}
    }
}

/// Runs until `stop`, then writes what it holds within `job.shutdown_grace` and returns. `live` says how many
/// executions share the durable, for the effective batch.
pub async fn run(
    job: Job,
    deps: Deps,
    state: Arc<ExecutionState>,
    live: watch::Receiver<u32>,
    stop: CancellationToken,
) -> Result<(), CollectorError> {
    let _ = (job, deps, state, live, stop);
    todo!()
}
