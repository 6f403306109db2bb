//! Puts the parts of a lone execution together: `sluice execute`, the process inside a container or a pod.
//!
//! The same connection, config reader and `run_execution` as in a controller; neither lease nor queue.

use super::{execution_deps, flush, serve};
use crate::executor::standalone::Standalone;
use crate::pipeline::spec::ExecutionSpec;
use crate::settings::Settings;
use crate::store::Store;
use crate::telemetry::metrics::Metrics;
use anyhow::Context;
use tokio_util::sync::CancellationToken;

/// Runs `spec` until `stop`. Errors: an [`crate::executor::standalone::Ended`]; an address that is taken; credentials that
/// NATS refuses. A NATS that does not answer is waited for.
pub async fn execute(settings: Settings, spec: ExecutionSpec, stop: CancellationToken) -> anyhow::Result<()> {
    let metrics = Metrics::shared();
    let (shown, _served) = serve(&settings, &metrics).await?;
    let store = tokio::select! {
        store = Store::connect(&settings) => store.context("cannot connect to NATS")?,
        () = stop.cancelled() => return Ok(()),
    };
    shown.connected.get_or_init(|| ());
    let execution = Standalone::new(spec, execution_deps(&settings, &store, &metrics), store.clone());
    shown.view.get_or_init(|| execution.clone());
    let ended = execution.run(stop).await;
    flush(&store).await;
    Ok(ended?)
}
