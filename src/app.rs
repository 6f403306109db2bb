//! Puts the concrete parts together: the only place that names an adapter, and the one `match` on `executor.kind`.

mod execute;

pub use execute::execute;

use crate::collector::{ByteBudget, sink::Databases};
use crate::controller::{self, Controller};
use crate::executor::{
    Executor, config_reader::ConfigReader, docker::DockerExecutor, execution::ExecutionDeps, in_process::InProcess,
    kubernetes::KubernetesExecutor,
};
use crate::http;
use crate::pipeline::health::{Check, Health, View};
use crate::pipeline::{id::PipelineId, report::ExecutionReport, status::PipelineStatus};
use crate::settings::{ExecutorKind, Settings};
use crate::store::Store;
use crate::telemetry::descriptors::{self, Descriptors};
use crate::telemetry::metrics::Metrics;
use anyhow::Context;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{info, warn};

/// How long the start waits between two tries to prepare the buckets.
const PREPARE_AGAIN: Duration = Duration::from_secs(1);
/// How long the last words may take to leave the process.
const FLUSH: Duration = Duration::from_secs(2);

/// Runs a controller until `stop`. Errors are those that a restart with the same settings would meet again: an address
/// that is taken, credentials that are refused; and that a part of the process has died.
pub async fn run(settings: Settings, stop: CancellationToken) -> anyhow::Result<()> {
    let settings = Arc::new(settings);
    let metrics = Metrics::shared();
    // First of all: who asks is told what the start waits for.
    let (shown, _served) = serve(&settings, &metrics).await?;
    let store = tokio::select! {
        store = Store::connect(&settings) => store.context("cannot connect to NATS")?,
        () = stop.cancelled() => return Ok(()),
    };
    shown.connected.get_or_init(|| ());
    let execution = execution_deps(&settings, &store, &metrics);
    let (configs, databases) = (execution.configs.clone(), execution.databases.clone());
    let backend = |kind: ExecutorKind, installation: uuid::Uuid| -> Arc<dyn Executor> {
        match kind {
            ExecutorKind::InProcess => Arc::new(InProcess::new(execution.clone())),
            ExecutorKind::Docker => Arc::new(DockerExecutor::new(settings.clone(), installation)),
            ExecutorKind::Kubernetes => Arc::new(KubernetesExecutor::new(settings.clone(), installation)),
        }
    };
    let controller = loop {
        let started = async {
            store.prepare().await?;
            let installation = store.status.installation().await?;
            let deps = controller::Deps {
                store: store.clone(),
                executor: backend(settings.executor.kind, installation),
                retired: settings.executor.retire.iter().map(|kind| backend(*kind, installation)).collect(),
                installation,
                configs: configs.clone(),
                databases: databases.clone(),
                settings: settings.clone(),
                metrics: metrics.clone(),
            };
            Controller::new(deps).await
        };
        let error = tokio::select! {
            started = started => match started {
                Ok(controller) => break controller,
                Err(error) if error.retry() => error,
                Err(error) => return Err(error).context("cannot prepare the buckets on NATS"),
            },
            () = stop.cancelled() => return Ok(()),
        };
        warn!(%error, "buckets could not be prepared and it is tried again");
        tokio::select! {
            () = tokio::time::sleep(PREPARE_AGAIN) => {}
            () = stop.cancelled() => return Ok(()),
        }
    };
    shown.view.get_or_init(|| controller.clone());
    let ended = controller.run(stop).await;
    flush(&store).await;
    Ok(ended?)
}

/// Serves HTTP until the guard is dropped.
async fn serve(settings: &Settings, metrics: &Arc<Metrics>) -> Result<(Arc<Shown>, DropGuard), http::HttpError> {
    let shown = Arc::new(Shown::default());
    let serving = CancellationToken::new();
    let guard = serving.clone().drop_guard();
    descriptors::raise();
    tokio::spawn(shown.descriptors.clone().watch(metrics.clone(), serving.clone()));
    if let Some(listen) = settings.http.listen {
        let address = http::serve(listen, settings.http.token.clone(), shown.clone(), metrics.clone(), serving.clone()).await?;
        info!(%address, "http listening");
    }
    if let Some(listen) = settings.http.health_listen {
        let address = http::serve_health(listen, shown.clone(), metrics.clone(), serving).await?;
        info!(%address, "health listening");
    }
    Ok((shown, guard))
}

/// What executions of this process work with.
fn execution_deps(settings: &Settings, store: &Store, metrics: &Arc<Metrics>) -> ExecutionDeps {
    let connections = settings.mongodb.connections.keys().cloned().collect();
    ExecutionDeps {
        nats: store.client.clone(),
        link: store.link.clone(),
        configs: ConfigReader::new(store.configs.clone(), store.names.clone(), connections),
        databases: Arc::new(Databases::new(&settings.mongodb)),
        budget: Arc::new(ByteBudget::new(settings.limits.memory)),
        metrics: metrics.clone(),
        names: store.names.clone(),
        shutdown_grace: settings.executor.shutdown_grace,
    }
}

/// What is still in the connection's buffer (the lease's release, the last report) goes out before the process does.
async fn flush(store: &Store) {
    match tokio::time::timeout(FLUSH, store.client.flush()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(%error, "connection to nats could not be flushed"),
        Err(_) => warn!("connection to nats could not be flushed in time"),
    }
}

/// What HTTP shows: the controller or the execution, and until there is one, what the start waits for.
#[derive(Default)]
struct Shown {
    connected: OnceLock<()>,
    view: OnceLock<Arc<dyn View>>,
    descriptors: Arc<Descriptors>,
}

impl Shown {
    /// Whether there are descriptors for new connections.
    fn descriptors(&self) -> Check {
        let (open, limit) = self.descriptors.get();
        let scarce = self.descriptors.scarce();
        let remedy = if scarce { ": connections will fail; raise the limit of the process (ulimit -n, LimitNOFILE)" } else { "" };
        Check { name: "descriptors".into(), ok: !scarce, message: format!("{open} of {limit} are open{remedy}"), pipeline: None }
    }
}

impl View for Shown {
    fn health(&self) -> Health {
        if let Some(view) = self.view.get() {
            let (mut health, descriptors) = (view.health(), self.descriptors());
            health.ready &= descriptors.ok;
            health.checks.insert(0, descriptors);
            return health;
        }
        let (name, message) = match self.connected.get() {
            None => ("nats", "waiting for a connection to NATS (`nats.urls` in the settings)"),
            Some(()) => ("start", "preparing the buckets on NATS and reading every status"),
        };
        let check = Check { name: name.into(), ok: false, message: message.into(), pipeline: None };
        Health { live: true, ready: false, holder: None, checks: vec![check] }
    }

    fn pipelines(&self) -> Health {
        self.view.get().map_or_else(|| self.health(), |view| view.pipelines())
    }

    fn ids(&self) -> Vec<PipelineId> {
        self.view.get().map(|view| view.ids()).unwrap_or_default()
    }

    fn status(&self, id: &PipelineId) -> Option<PipelineStatus> {
        self.view.get()?.status(id)
    }

    fn executions(&self) -> Vec<ExecutionReport> {
        self.view.get().map(|view| view.executions()).unwrap_or_default()
    }
}
