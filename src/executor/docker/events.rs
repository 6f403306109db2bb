//! The engine's events, as hints: what happened to a container of ours makes the controller look at its pipeline.
//!
//! ```text
//! subscribe from a time of the engine's ─▶ list everything, hint at it ─▶ events ─▶ hints
//!                      ▲                                                    └ quiet for a while: is anybody there?
//!                      └── from the last event on: what was missed comes now ◀┘
//! ```
//!
//! A stream that ends is made anew, with a connection that is negotiated anew, and every pipeline is hinted at, since anything
//! may have happened meanwhile. One that says nothing for longer than containers with health checks are silent may be dead
//! without anybody having said so: it is asked for again from where it stood. What is missed all the same, the resync finds.

use super::Shared;
use crate::executor::driver::listen_for_ever;
use crate::executor::error::BackendError;
use crate::executor::names::{EXECUTION, ID, INSTALLATION, LOADER};
use crate::pipeline::id::PipelineId;
use crate::pipeline::instance::InstanceState;
use bollard::models::EventMessage;
use futures_util::StreamExt;
use std::sync::Arc;
use std::time::Duration;
use tracing::{debug, info};

/// The longest silence after which the engine is asked again; with what a call may take, less than a minute.
const QUIET: Duration = Duration::from_secs(20);

/// Listens for ever; ended by being dropped.
pub async fn listen(shared: Arc<Shared>) {
    listen_for_ever("the engine's events", || once(shared.clone())).await;
}

/// How long nothing may be heard: twice as long as any answer takes, and never longer than [`QUIET`].
fn quiet(timeout: Duration) -> Duration {
    QUIET.min(timeout.saturating_mul(2))
}

async fn once(shared: Arc<Shared>) -> Result<(), BackendError> {
    let quiet = quiet(shared.settings.executor.docker.timeout);
    let label = format!("{INSTALLATION}={}", shared.installation);
    // What happens from now on comes, and what happened before is listed.
    let mut from = shared.engine.now().await?;
    let mut events = shared.engine.events(&label, from).await?;
    for (id, (containers, _)) in shared.all().await? {
        shared.drivers.hint(&id);
        // Its password may have changed while no controller was there.
        shared.refresh(&id, containers.iter().filter(|one| one.instance.state == InstanceState::Unhealthy));
    }
    loop {
        match tokio::time::timeout(quiet, events.next()).await {
            Ok(Some(event)) => {
                let event = event.map_err(|error| shared.engine.failed("events", error))?;
                from = event.time_nano.map_or(from, |at| at.saturating_add(1));
                if let Some(id) = take(&shared, event) {
                    let containers = shared.containers(&id).await?;
                    shared.refresh(&id, containers.iter().filter(|one| one.instance.state == InstanceState::Unhealthy));
                }
            }
            Ok(None) => return Ok(()),
            Err(_) => {
                debug!(quiet = ?quiet, "engine is asked for its events again");
                events = shared.engine.events(&label, from).await?;
            }
        }
    }
}

/// Takes in an event; the pipeline of a container that has become unhealthy.
fn take(shared: &Shared, event: EventMessage) -> Option<PipelineId> {
    let action = event.action.unwrap_or_default();
    let attributes = event.actor.and_then(|actor| actor.attributes).unwrap_or_default();
    let id = attributes.get(ID).and_then(|id| PipelineId::parse(id).ok())?;
    // Probes, the engine's and our own; and what carries files, which goes by itself.
    if action.starts_with("exec_") || attributes.get(EXECUTION).is_some_and(|execution| execution == LOADER) {
        return None;
    }
    let name = attributes.get("name").map_or("", String::as_str);
    if action == "die" {
        let code = attributes.get("exitCode").map_or("", String::as_str);
        info!(pipeline = %id, container = name, exit_code = code, "container ended");
    } else {
        debug!(pipeline = %id, container = name, action, "engine event");
    }
    // What a driver is making says nothing new to the controller, which is told when the driver has done.
    if !(shared.drivers.poke(&id) && ["create", "start"].contains(&action.as_str())) {
        shared.drivers.tell(&id);
    }
    action.ends_with("unhealthy").then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_engine_is_asked_again_in_time_whatever_a_call_may_take() {
        assert_eq!(quiet(Duration::from_secs(1)), Duration::from_secs(2));
        assert_eq!(quiet(Duration::from_secs(30)), QUIET);
        assert_eq!(quiet(Duration::MAX), QUIET);
    }
}
