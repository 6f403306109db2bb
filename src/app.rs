//! Puts the concrete parts together: the only place that names an adapter, and the one `match` on `executor.kind`.

use crate::collector::{ByteBudget, sink::Databases};
use crate::controller::{self, Controller};
use crate::executor::{Executor, config_reader::ConfigReader, execution::ExecutionDeps, in_process::InProcess};
use crate::http;
use crate::settings::{ExecutorKind, Settings};
use crate::store::Store;
use crate::telemetry::metrics::Metrics;
use anyhow::Context;
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How long the start waits between two tries to prepare the buckets.
const PREPARE_AGAIN: Duration = Duration::from_secs(1);

/// Runs a controller until `stop`. Errors are those that a restart with the same settings would meet again: an address
/// that is taken, credentials that are refused.
pub async fn run(settings: Settings, stop: CancellationToken) -> anyhow::Result<()> {
    let settings = Arc::new(settings);
    let metrics = Metrics::shared();
    let store = tokio::select! {
        store = Store::connect(&settings) => store.context("cannot connect to NATS")?,
        () = stop.cancelled() => return Ok(()),
    };
    let names = store.names.clone();
    let connections = settings.mongodb.connections.keys().cloned().collect();
    let configs = ConfigReader::new(store.configs.clone(), names.clone(), connections);
    let databases = Arc::new(Databases::new(&settings.mongodb));
    let execution = ExecutionDeps {
        nats: store.client.clone(),
        configs: configs.clone(),
        databases: databases.clone(),
        budget: Arc::new(ByteBudget::new(settings.limits.memory)),
        metrics: metrics.clone(),
        names,
        shutdown_grace: settings.executor.shutdown_grace,
    };
    let executor: Arc<dyn Executor> = match settings.executor.kind {
        ExecutorKind::InProcess => Arc::new(InProcess::new(execution)),
    };
    let controller = loop {
        let deps = controller::Deps {
            store: store.clone(),
            executor: executor.clone(),
            configs: configs.clone(),
            databases: databases.clone(),
            settings: settings.clone(),
            metrics: metrics.clone(),
        };
        let started = async {
            store.prepare().await?;
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
    let serving = CancellationToken::new();
    if let Some(listen) = settings.http.listen {
        let address = http::serve(listen, settings.http.token.clone(), controller.clone(), metrics, serving.clone()).await?;
        info!(%address, "http listening");
    }
    controller.run(stop).await;
    serving.cancel();
    // What is still in the connection's buffer (the lease's release, the last report) goes out before the process does.
    if let Err(error) = store.client.flush().await {
        warn!(%error, "connection to nats could not be flushed");
    }
    Ok(())
}
