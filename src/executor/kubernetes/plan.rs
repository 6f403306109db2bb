//! The next steps for one pipeline, from what is wanted and what the cluster shows. Pure; the work takes the steps one
//! after the other and asks again until there are none.
//!
//! ```text
//! Run      another target still there: scale to 0, wait for its pods ▸ files ▸ template ▸ replicas ▸ wait until all of
//!          them are available and no others are left ▸ remove files of older executions
//! Stopped  scale to 0, wait for the pods, keep the rest
//! Gone     delete the Deployment and what is its own ▸ remove files that are left
//! ```
//!
//! Within a target the cluster's own rolling update leaves no gap: the old pods end when the new ones are ready. Where
//! somebody took the owner of pods away (`--cascade=orphan`), a Deployment that is to run adopts what fits it, and goes on
//! without a gap; what nothing will adopt is removed.

use super::manifests::Manifests;
use super::seen::{Seen, Stray};
use crate::executor::driver::Want;
use crate::executor::names::target_hash;
use crate::pipeline::spec::{ExecutionSpec, Fingerprint};
use std::time::Duration;

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// See that nobody else has one of the names, then apply the Deployment with its number of replicas.
    Create,
    /// Apply settings, spec and secrets.
    Files,
    /// Apply the Deployment over what there is.
    Apply,
    /// Give it so many replicas; none is for us to say, whoever said otherwise.
    Scale(u32),
    /// Delete it, and first what depends on it.
    Delete,
    /// Remove the files of an execution that is over.
    RemoveFiles(String),
    /// Remove a replica set that nobody controls, with its pods.
    RemoveSet(Stray),
    /// Remove a pod that nobody controls.
    RemovePod(Stray),
}

/// What comes next.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Next {
    /// Steps, to be taken in order.
    pub steps: Vec<Step>,
    /// Whether something is waited for that the cluster does by itself.
    pub waits: bool,
}

/// How soon what is waited for is looked at although no event hints at it.
pub const LOOK_AGAIN: Duration = Duration::from_secs(2);

fn steps(steps: impl IntoIterator<Item = Step>) -> Next {
    Next { steps: steps.into_iter().collect(), waits: false }
}

const WAIT: Next = Next { steps: Vec::new(), waits: true };

/// What is to be rendered where something is to run.
pub struct Rendered<'a> {
    /// What of.
    pub spec: &'a ExecutionSpec,
    /// As it is to be.
    pub manifests: &'a Manifests,
    /// Whether an autoscaler says how many replicas there are.
    pub autoscaled: bool,
}

/// What comes next; nothing where all is as wanted. `rendered` is what [`Want::Run`] comes to.
pub fn plan(want: &Want, rendered: Option<&Rendered<'_>>, seen: &Seen) -> Next {
    match (want, rendered) {
        (Want::Run(_), Some(rendered)) => run(rendered, seen),
        (Want::Run(_) | Want::Refreshed(_), _) => Next::default(),
        (Want::Stopped, _) => match &seen.deployment {
            Some(deployment) if deployment.replicas > 0 && !deployment.deleting => steps([Step::Scale(0)]),
            _ => without(seen, |_| true),
        },
        (Want::Gone, _) => match &seen.deployment {
            Some(deployment) if !deployment.deleting => steps([Step::Delete]),
            Some(_) => WAIT,
            None => {
                let left = without(seen, |_| true);
                let files = seen.files.iter().map(|files| Step::RemoveFiles(files.name.clone()));
                if left == Next::default() { steps(files) } else { left }
            }
        },
    }
}

/// Whether the plan has to know which replica sets nobody controls: what there is runs without its Deployment, and is not
/// to be adopted by the next.
pub fn needs_stray_sets(want: &Want, seen: &Seen) -> bool {
    let elsewhere = |spec: &ExecutionSpec| runs_elsewhere(seen, &target_hash(spec));
    seen.deployment.is_none() && !matches!(want, Want::Run(spec) if !elsewhere(spec))
}

fn runs_elsewhere(seen: &Seen, target: &str) -> bool {
    seen.pods.iter().any(|pod| pod.is_live() && pod.target != target)
}

/// Towards a state in which nothing of the targets that `of` names is there: what nobody else ends is removed, and the end
/// of the rest waited for.
fn without(seen: &Seen, of: impl Fn(&str) -> bool) -> Next {
    let strays: Vec<_> = strays(seen, |stray| of(&stray.target)).collect();
    let waits = !strays.is_empty() || seen.pods.iter().any(|pod| pod.is_live() && of(&pod.target));
    Next { steps: strays, waits }
}

/// Removes what nobody controls: sets first, so that they make no pods anew. With a Deployment there, sets are its own soon.
fn strays<'a>(seen: &'a Seen, remove: impl Fn(&Stray) -> bool + 'a) -> impl Iterator<Item = Step> + 'a {
    let sets = seen.stray_sets.iter().filter(|_| seen.deployment.is_none()).map(|set| (set, Step::RemoveSet(set.clone())));
    let pods = seen.pods.iter().filter_map(|pod| pod.stray.as_ref()).map(|pod| (pod, Step::RemovePod(pod.clone())));
    sets.chain(pods).filter(move |(stray, _)| remove(stray)).map(|(_, step)| step)
}

fn run(rendered: &Rendered<'_>, seen: &Seen) -> Next {
    let Rendered { spec, manifests, autoscaled } = *rendered;
    let target = target_hash(spec);
    let replicas = spec.replicas.max(1);
    let elsewhere = runs_elsewhere(seen, &target);
    let Some(deployment) = &seen.deployment else {
        // Two targets never overlap.
        return if elsewhere { without(seen, |other| other != target) } else { steps([Step::Create, Step::Files]) };
    };
    if deployment.deleting {
        return WAIT;
    }
    if deployment.target != target && deployment.replicas > 0 {
        return steps([Step::Scale(0)]);
    }
    if elsewhere {
        return without(seen, |other| other != target);
    }
    let mut next = Vec::new();
    let starts = deployment.replicas == 0;
    let current = seen.files.iter().find(|files| files.fingerprint == spec.fingerprint);
    // What is started again gets its files anew: a password may have changed since.
    if starts || !current.is_some_and(|files| files.are_as(manifests)) {
        next.push(Step::Files);
    }
    if !deployment.is_as(manifests) {
        next.push(Step::Apply);
    }
    // An autoscaler leaves alone what has none; what has some is its own to say.
    match autoscaled {
        true if starts => next.push(Step::Scale(1)),
        false if deployment.replicas != replicas => next.push(Step::Scale(replicas)),
        _ => {}
    }
    if !next.is_empty() {
        return steps(next);
    }
    if seen.pods.iter().any(|pod| pod.stray.is_some()) {
        // Adopted, if it fits; and what does not goes when all that is to run does so without it.
        let kept = seen.pods.iter().filter(|pod| pod.is_live() && pod.stray.is_none() && !pod.ending).count();
        let full = deployment.settled && kept >= deployment.replicas as usize;
        return if full { steps(strays(seen, |_| true)) } else { WAIT };
    }
    let older = |fingerprint: &Fingerprint| *fingerprint != spec.fingerprint;
    if !deployment.settled || seen.pods.iter().any(|pod| pod.is_live() && (pod.ending || older(&pod.instance.fingerprint))) {
        return WAIT;
    }
    steps(seen.files.iter().filter(|files| older(&files.fingerprint)).map(|files| Step::RemoveFiles(files.name.clone())))
}

#[cfg(test)]
mod tests;
