//! The next steps for one pipeline, from what is wanted and what the engine shows. Pure; the driver takes the steps and
//! asks again until there are none.
//!
//! ```text
//! Run      other target still live: stop it ▸ missing: create ▸ stopped: start ▸ edited: stop, remove, create
//!          ▸ all replicas ready: stop and remove the older ones ▸ remove volumes without containers
//! Stopped  stop what is live, keep all
//! Gone     stop ▸ remove containers ▸ remove volumes
//! ```

use super::seen::{Container, LEFT_ALONE, OwnVolume};
use crate::executor::driver::Want;
use crate::executor::names::target_hash;
use crate::pipeline::instance::InstanceState as State;
use crate::pipeline::spec::ExecutionSpec;
use jiff::Timestamp;
use std::collections::HashSet;
use std::time::Duration;

/// One step; containers by the engine's id of them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Make this replica, and before the first one its volume.
    Create(u32),
    /// Start it.
    Start(String),
    /// Let it go on.
    Unpause(String),
    /// Ask whether it is ready; a step that changes nothing.
    Probe(String),
    /// End it gracefully, and wait for that.
    Stop(String),
    /// Remove it; it does not run.
    Remove(String),
    /// Remove this volume.
    RemoveVolume(String),
}

/// What comes next.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Next {
    /// Steps that may be taken side by side.
    pub steps: Vec<Step>,
    /// When to look again although there is nothing to do now.
    pub again: Option<Duration>,
}

/// How soon what is not ready is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// What comes next; nothing where all is as wanted. `ready` are the containers that have said so.
pub fn plan(want: &Want, containers: &[Container], volumes: &[OwnVolume], ready: &HashSet<String>, now: Timestamp) -> Next {
    let mut next = match want {
        Want::Run(spec) => run(spec, containers, ready, now),
        Want::Stopped => {
            steps(containers.iter().flat_map(|one| if one.replica.is_none() { vec![Step::Remove(one.id.clone())] } else { stop(one) }))
        }
        Want::Gone => steps(containers.iter().flat_map(end)),
        Want::Refreshed(_) => return Next::default(),
    };
    if next.steps.is_empty() && next.again.is_none() && *want != Want::Stopped {
        let used = |volume: &&OwnVolume| !containers.iter().any(|one| one.fingerprint == volume.fingerprint);
        next = steps(volumes.iter().filter(used).map(|volume| Step::RemoveVolume(volume.name.clone())));
    }
    next
}

fn steps(steps: impl IntoIterator<Item = Step>) -> Next {
    Next { steps: steps.into_iter().collect(), again: None }
}

fn run(spec: &ExecutionSpec, containers: &[Container], ready: &HashSet<String>, now: Timestamp) -> Next {
    // Left by a driver that died: it would be in the way of the next.
    let loaders: Vec<_> = containers.iter().filter(|one| one.replica.is_none()).map(|one| Step::Remove(one.id.clone())).collect();
    if !loaders.is_empty() {
        return steps(loaders);
    }
    let target = target_hash(spec);
    let (current, older): (Vec<_>, Vec<_>) = containers.iter().partition(|one| one.fingerprint == spec.fingerprint);
    // Two targets never overlap. What is older and does not run has no use any more.
    let first: Vec<_> = older
        .iter()
        .flat_map(|one| match one.instance.state.is_live() {
            true if one.target != target => stop(one),
            true => vec![],
            false => vec![Step::Remove(one.id.clone())],
        })
        .collect();
    if older.iter().any(|one| one.instance.state.is_live() && one.target != target) {
        return steps(first);
    }
    let mut next = steps(first);
    let mut waiting = false;
    for replica in 0..spec.replicas.max(1) {
        let mut same = current.iter().filter(|one| one.replica == Some(replica));
        let Some(one) = same.next() else {
            next.steps.push(Step::Create(replica));
            continue;
        };
        next.steps.extend(same.flat_map(|copy| end(copy)));
        match one.instance.state {
            _ if one.edited.is_some() => next.steps.extend(end(one)),
            State::Restarting if one.misconfigured() => next.steps.push(Step::Stop(one.id.clone())),
            State::Stopped if one.misconfigured() && rest(one, now) > Duration::ZERO => {
                next.again = Some(next.again.map_or(rest(one, now), |again| again.min(rest(one, now))));
                waiting = true;
            }
            State::Created | State::Stopped => next.steps.push(Step::Start(one.id.clone())),
            State::Frozen => next.steps.push(Step::Unpause(one.id.clone())),
            State::Dead => next.steps.push(Step::Remove(one.id.clone())),
            State::Starting | State::Running | State::Unhealthy | State::Restarting => {}
        }
    }
    next.steps
        .extend(current.iter().filter(|one| one.replica.is_some_and(|replica| replica >= spec.replicas.max(1))).flat_map(|one| end(one)));
    if !next.steps.is_empty() || waiting {
        return next;
    }
    if older.is_empty() {
        return Next::default();
    }
    // What runs goes on until all that follows it is ready.
    let unready: Vec<_> = current.iter().filter(|one| !ready.contains(&one.id)).map(|one| Step::Probe(one.id.clone())).collect();
    if unready.is_empty() { steps(older.iter().flat_map(|one| end(one))) } else { Next { steps: unready, again: Some(ASK_AGAIN) } }
}

/// How long a container that a restart cannot help is still left alone.
fn rest(one: &Container, now: Timestamp) -> Duration {
    let since = one.finished.map_or(LEFT_ALONE, |finished| Duration::try_from(now.duration_since(finished)).unwrap_or_default());
    LEFT_ALONE.saturating_sub(since)
}

fn stop(one: &Container) -> Vec<Step> {
    match one.instance.state {
        // An engine does not stop what is frozen.
        State::Frozen => vec![Step::Unpause(one.id.clone())],
        state if state.is_live() => vec![Step::Stop(one.id.clone())],
        _ => vec![],
    }
}

fn end(one: &Container) -> Vec<Step> {
    if one.instance.state.is_live() { stop(one) } else { vec![Step::Remove(one.id.clone())] }
}

#[cfg(test)]
mod tests;
