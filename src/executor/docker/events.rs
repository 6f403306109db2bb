//! The engine's events, as hints: what happened to a container of ours makes the controller look at its pipeline.
//!
//! The stream is made anew whenever it ends, with a connection that is negotiated anew; then every pipeline is hinted at,
//! since anything may have happened meanwhile. What is missed all the same, the controller's resync finds.

use super::Shared;
use crate::executor::names::{ID, INSTALLATION};
use crate::pipeline::backoff::Backoff;
use crate::pipeline::id::PipelineId;
use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptions;
use futures_util::StreamExt;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::{debug, info};

const AGAIN: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
/// A stream that lasted this long was a good one.
const GOOD: Duration = Duration::from_secs(10);

/// Listens for ever; ended by being dropped.
pub async fn listen(shared: Arc<Shared>) {
    let mut failures = 0;
    loop {
        let begun = Instant::now();
        match once(&shared).await {
            Ok(()) => debug!("engine's events ended"),
            Err(error) => debug!(%error, "engine's events cannot be had"),
        }
        failures = if begun.elapsed() > GOOD { 1 } else { failures + 1 };
        tokio::time::sleep(AGAIN.delay(failures, rand::random())).await;
    }
}

async fn once(shared: &Arc<Shared>) -> Result<(), super::EngineError> {
    let client = shared.engine.client().await?;
    let filters = HashMap::from([
        ("type".to_owned(), vec!["container".to_owned()]),
        ("label".to_owned(), vec![format!("{INSTALLATION}={}", shared.installation)]),
    ]);
    let mut events = Box::pin(client.events(Some(EventsOptions { filters: Some(filters), ..Default::default() })));
    // Subscribed by the first poll; what happens from now on comes, and what happened before is listed.
    let first = tokio::time::timeout(Duration::from_millis(50), events.next()).await;
    for id in shared.all().await?.into_keys() {
        shared.hint(&id);
    }
    if let Ok(event) = first {
        match event {
            Some(event) => take(shared, event)?,
            None => return Ok(()),
        }
    }
    while let Some(event) = events.next().await {
        take(shared, event)?;
    }
    Ok(())
}

fn take(shared: &Shared, event: Result<EventMessage, bollard::errors::Error>) -> Result<(), super::EngineError> {
    let event = event.map_err(|error| shared.engine.failed("events", error))?;
    let action = event.action.unwrap_or_default();
    // Our own probes, and the engine's.
    if action.starts_with("exec_") {
        return Ok(());
    }
    let attributes = event.actor.and_then(|actor| actor.attributes).unwrap_or_default();
    let Some(id) = attributes.get(ID).and_then(|id| PipelineId::parse(id).ok()) else { return Ok(()) };
    let name = attributes.get("name").map_or("", String::as_str);
    if action == "die" {
        let code = attributes.get("exitCode").map_or("", String::as_str);
        info!(pipeline = %id, container = name, exit_code = code, "container ended");
    } else {
        debug!(pipeline = %id, container = name, action, "engine event");
    }
    shared.hint(&id);
    Ok(())
}
