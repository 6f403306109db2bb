//! What there is of a pipeline in the cluster, for the controller; and what the cluster says is wrong with it. Pure.

use super::manifests::Manifests;
use super::plan::{Next, Rendered, plan};
use super::seen::{OwnPod, Seen};
use crate::executor::Observed;
use crate::executor::driver::Want;
use crate::pipeline::id::PipelineId;
use crate::pipeline::instance::InstanceState;
use crate::pipeline::report::Trouble;
use crate::pipeline::spec::{ExecutionSpec, Fingerprint};
use crate::pipeline::status::Reason;
use jiff::Timestamp;
use std::time::Duration;

/// The exit code of an execution that a restart alone cannot help.
const MISCONFIGURED: i64 = 3;
/// How long a node may take to make a container before its events are read.
const SLOW: Duration = Duration::from_secs(5);

/// The words of a node for an image that cannot be had.
const NO_IMAGE: [&str; 6] =
    ["ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "ImageInspectError", "RegistryUnavailable"];
/// The words of a node for a container that is still being made.
const BEING_MADE: [&str; 2] = ["ContainerCreating", "PodInitializing"];
/// The word of a node for a container that ended and is started again later.
const CRASHED: &str = "CrashLoopBackOff";

/// What there is of one pipeline; `None` where there is nothing. While a driver is at work on a spec, that is what is said
/// to run: the troubles say what is in its way. Otherwise a fingerprint is named only where everything is as it was
/// rendered and settled, so that the controller asks again for what is not.
pub fn observed(
    id: &PipelineId,
    seen: &Seen,
    at_work: Option<&Want>,
    mut troubles: Vec<Trouble>,
    autoscaled: bool,
    render: impl Fn(&ExecutionSpec) -> Option<Manifests>,
) -> Option<Observed> {
    let wanted = match at_work {
        Some(Want::Run(spec)) => Some(spec.as_ref()),
        _ => None,
    };
    if *seen == Seen::default() && wanted.is_none() {
        return None;
    }
    let live: Vec<_> = seen.pods.iter().filter(|pod| pod.is_live()).collect();
    let placed = seen.deployment.as_ref().filter(|deployment| !deployment.deleting);
    let running = !live.is_empty() || placed.is_some_and(|deployment| deployment.replicas > 0);
    let fingerprint = match (wanted, placed) {
        (Some(spec), _) => spec.fingerprint.clone(),
        (None, Some(deployment)) if !running || rests(seen, autoscaled, render) => deployment.fingerprint.clone(),
        _ => Fingerprint(String::new()),
    };
    let not_admitted = |message: &String| Trouble::new(Reason::ExecutionNotAdmitted, message);
    troubles.extend(placed.and_then(|deployment| deployment.failure.as_ref()).map(not_admitted));
    troubles.extend(live.iter().filter_map(|pod| trouble(pod)));
    troubles.dedup();
    let replicas = match (wanted, placed) {
        _ if autoscaled => None,
        (Some(spec), _) => Some(spec.replicas),
        (None, placed) => Some(placed.map_or(0, |deployment| deployment.replicas)),
    };
    Some(Observed {
        id: id.clone(),
        fingerprint,
        running: running || wanted.is_some(),
        reports: Vec::new(),
        replicas,
        instances: live.iter().map(|pod| pod.instance.clone()).collect(),
        troubles,
    })
}

/// Whether what runs is as it was rendered of the spec that lies beside it, and nothing is under way.
fn rests(seen: &Seen, autoscaled: bool, render: impl Fn(&ExecutionSpec) -> Option<Manifests>) -> bool {
    let Some(deployment) = &seen.deployment else { return false };
    let files = seen.files.iter().find(|files| files.fingerprint == deployment.fingerprint);
    let Some(spec) = files.and_then(|files| files.spec.as_ref()).filter(|spec| spec.fingerprint == deployment.fingerprint) else {
        return false;
    };
    let Some(manifests) = render(spec) else { return false };
    let rendered = Rendered { spec, manifests: &manifests, autoscaled };
    plan(&Want::Run(Box::new(spec.clone())), Some(&rendered), seen) == Next::default()
}

/// What the cluster says is wrong with a pod.
fn trouble(pod: &OwnPod) -> Option<Trouble> {
    let name = &pod.instance.name;
    let code = pod.instance.exit_code.unwrap_or_default();
    let waits = pod.waiting.as_ref().map(|(reason, message)| (reason.as_str(), message));
    let (reason, message) = match (pod.instance.state, waits) {
        _ if pod.ending => return None,
        (_, Some((word, message))) if NO_IMAGE.contains(&word) => (Reason::ImageMissing, format!("pod {name}: {word}: {message}")),
        (InstanceState::Restarting, _) if pod.out_of_memory => {
            (Reason::ExecutionOutOfMemory, format!("pod {name} was killed for its memory"))
        }
        (InstanceState::Restarting, _) if pod.not_begun.is_some() => {
            (Reason::EngineRefuses, format!("pod {name} cannot be started: {}", pod.not_begun.as_deref().unwrap_or_default()))
        }
        (InstanceState::Restarting, _) if code == MISCONFIGURED => {
            (Reason::ExecutionMisconfigured, format!("pod {name} ended with exit code {code}"))
        }
        (InstanceState::Restarting, _) => {
            (Reason::ExecutionFailed, format!("pod {name} ended with exit code {code} and is started again by its node"))
        }
        (_, Some((word, message))) if !BEING_MADE.contains(&word) && word != CRASHED => {
            (Reason::EngineRefuses, format!("pod {name} cannot be started: {word}: {message}"))
        }
        (InstanceState::Unhealthy, _) => (Reason::ExecutionUnhealthy, format!("pod {name} is not ready")),
        _ => match &pod.unschedulable {
            Some(message) => (Reason::ExecutionUnschedulable, format!("pod {name}: {message}")),
            None => return None,
        },
    };
    Some(Trouble::new(reason, &message))
}

/// The pods whose container does not get made, and nobody says why: the cluster's events may.
pub fn unexplained(seen: &Seen, now: Timestamp) -> impl Iterator<Item = &OwnPod> {
    seen.pods.iter().filter(move |pod| {
        let slow = pod.created.is_some_and(|at| Duration::try_from(now.duration_since(at)).is_ok_and(|age| age > SLOW));
        let made = pod.waiting.as_ref().is_some_and(|(word, _)| BEING_MADE.contains(&word.as_str()));
        slow && made && !pod.ending
    })
}

#[cfg(test)]
mod tests;
