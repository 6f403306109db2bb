//! One execution, wherever it runs: reads its config by version and digest, connects, runs the collector.
//!
//! The in-process backend and `sluice execute` both call [`run_execution`]; nothing in it knows which of the two did.

use super::config_reader::{ConfigError, ConfigReader};
use crate::collector::{self, ByteBudget, CollectorError, ExecutionState, Job, former::Way, sink::ConnectionError, sink::Databases};
use crate::pipeline::{names::Names, spec::ExecutionSpec, status::Reason};
use crate::store::Link;
use crate::telemetry::metrics::Metrics;
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What executions work with; all of it is shared by the executions of a process.
#[derive(Clone)]
pub struct ExecutionDeps {
    /// The one NATS connection.
    pub nats: async_nats::Client,
    /// What that says of itself.
    pub link: Arc<Link>,
    /// Configs.
    pub configs: ConfigReader,
    /// MongoDB clients.
    pub databases: Arc<Databases>,
    /// Bytes that all executions may hold together.
    pub budget: Arc<ByteBudget>,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// Names on the wire.
    pub names: Names,
    /// How long writing what is held may take at the end.
    pub shutdown_grace: Duration,
}

/// Why an execution ended before it was stopped.
#[derive(Debug, thiserror::Error)]
pub enum ExecutionError {
    /// Its config cannot be read or is not fit.
    #[error("config {version}: {source}")]
    Config {
        /// The version.
        version: String,
        /// Why.
        source: ConfigError,
    },
    /// Its MongoDB connection is not usable.
    #[error("{0}")]
    Connection(#[from] ConnectionError),
    /// The collector ended.
    #[error("{0}")]
    Collector(#[from] CollectorError),
}

impl ExecutionError {
    /// Whether a later try can help while config and settings stay as they are. What NATS refuses (permissions) may be
    /// allowed later; the fault is not in the config.
    pub fn retry(&self) -> bool {
        match self {
            Self::Config { source, .. } => source.retry() || source.reason() == Reason::NatsUnavailable,
            Self::Connection(_) => false,
            Self::Collector(error) => error.retry(),
        }
    }
}

/// What one execution shows of itself and is told while it runs.
#[derive(Clone)]
pub struct ExecutionHandle {
    /// Its live state.
    pub state: Arc<ExecutionState>,
    /// How many executions share the durable.
    pub live: watch::Receiver<u32>,
    /// Stops it gracefully.
    pub stop: CancellationToken,
}

/// Runs `spec` until it is stopped. Returns `Ok` after a graceful stop.
pub async fn run_execution(spec: &ExecutionSpec, deps: &ExecutionDeps, handle: ExecutionHandle) -> Result<(), ExecutionError> {
    // Boxed: none of its room is needed once it is read.
    let read = Box::pin(deps.configs.read(&spec.id, &spec.version, Some(&spec.digest)));
    let checked = tokio::select! {
        checked = read => checked.map_err(|source| ExecutionError::Config { version: spec.version.to_string(), source })?,
        () = handle.stop.cancelled() => return Ok(()),
    };
    let database = Box::pin(deps.databases.get(&checked.config.output.connection)).await?;
    let mut previous = Vec::with_capacity(spec.previous.len());
    for left in &spec.previous {
        previous.push(Way { previous: left.clone(), database: Box::pin(deps.databases.of(&left.place)).await });
    }
    let job = Job {
        id: spec.id.clone(),
        version: spec.version.clone(),
        stream: spec.stream.clone(),
        consumer: spec.consumer.clone(),
        target: spec.target.clone(),
        output: checked.config.output.clone(),
        dead_letter_stream: deps.names.dead_letters(),
        dead_letter_prefix: deps.names.dead_letter_prefix(&spec.id),
        dead_letter_objects: deps.names.dead_letter_objects(),
        proven: spec.proven,
        shutdown_grace: deps.shutdown_grace,
    };
    let deps = collector::Deps {
        nats: deps.nats.clone(),
        database,
        previous,
        budget: deps.budget.clone(),
        metrics: deps.metrics.pipeline(&spec.id),
    };
    Ok(collector::run(job, deps, handle.state, handle.live, handle.stop).await?)
}
