//! What the cluster shows of our Deployments, pods and files, as plain data; and whether it is as it was rendered. Pure.
//!
//! Labels say whose it is and what it is; nothing in here remembers. What somebody else added to an object is theirs to
//! keep; what we set and somebody changed is told by rendering it again.

use super::manifests::{CONTAINER, Manifests, SPEC};
use crate::executor::names::{EPOCH, FINGERPRINT, ID, INSTALLATION, TARGET};
use crate::pipeline::id::PipelineId;
use crate::pipeline::instance::{Instance, InstanceState};
use crate::pipeline::spec::{ExecutionSpec, Fingerprint};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, ContainerStateTerminated, ContainerStatus, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::Value;
use std::collections::HashMap;
use std::time::Duration;

/// How long a container may take to get ready before it counts as not well.
const START: Duration = Duration::from_secs(20);

/// The word of a node for a container whose process could not be started: no such program, too little memory for that.
const NOT_BEGUN: &str = "StartError";

/// What there is of one pipeline.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Seen {
    /// Its Deployment.
    pub deployment: Option<Placed>,
    /// Its pods, those that end among them.
    pub pods: Vec<OwnPod>,
    /// Settings and spec of each execution.
    pub files: Vec<OwnFiles>,
    /// Its replica sets that nobody controls; looked for only where the plan may need them.
    pub stray_sets: Vec<Stray>,
}

/// Something of ours that has lost its owner, as `kubectl delete --cascade=orphan` leaves it: nobody ends it but us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stray {
    /// Its name.
    pub name: String,
    /// Which of that name.
    pub uid: String,
    /// As it was seen: one that was adopted since is another.
    pub resource_version: String,
    /// The hash of its target.
    pub target: String,
}

/// A Deployment of ours.
#[derive(Debug, Clone, PartialEq)]
pub struct Placed {
    /// Its name.
    pub name: String,
    /// Which of that name.
    pub uid: String,
    /// What a change is to be based on.
    pub resource_version: String,
    /// What its template is of.
    pub fingerprint: Fingerprint,
    /// The hash of its target.
    pub target: String,
    /// How many replicas it is to have.
    pub replicas: u32,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// The epoch of the holder that took it over.
    pub epoch: Option<String>,
    /// Whether all replicas are of its template, and available, and no others are left.
    pub settled: bool,
    /// Why the cluster makes no pods of it.
    pub failure: Option<String>,
    /// As it is.
    pub raw: Value,
}

/// A pod of ours.
#[derive(Debug, Clone, PartialEq)]
pub struct OwnPod {
    /// Which of its name.
    pub uid: String,
    /// As people see it.
    pub instance: Instance,
    /// The hash of its target.
    pub target: String,
    /// Whether it is being deleted.
    pub ending: bool,
    /// Where nobody controls it.
    pub stray: Option<Stray>,
    /// Why the scheduler finds no node for it.
    pub unschedulable: Option<String>,
    /// Why its container waits, by the node's word for it, and what that says.
    pub waiting: Option<(String, String)>,
    /// Whether the last run of its container was killed for its memory.
    pub out_of_memory: bool,
    /// Why its container could not even begin, as the node says it, where that is how it ended.
    pub not_begun: Option<String>,
    /// Since when it waits for its container to be made.
    pub created: Option<Timestamp>,
}

impl OwnPod {
    /// Whether a process of it may be there, or come.
    pub fn is_live(&self) -> bool {
        self.instance.state != InstanceState::Dead
    }
}

/// Settings and spec of an execution.
#[derive(Debug, Clone, PartialEq)]
pub struct OwnFiles {
    /// The ConfigMap's name, and the Secret's.
    pub name: String,
    /// Which execution's.
    pub fingerprint: Fingerprint,
    /// What was to run, where that can be read.
    pub spec: Option<ExecutionSpec>,
    /// As they are.
    pub raw: Value,
}

/// Takes apart what was listed; what is not of `installation` is left out.
pub fn by_pipeline(
    installation: uuid::Uuid,
    deployments: &[Deployment],
    pods: &[Pod],
    files: &[ConfigMap],
    now: Timestamp,
) -> HashMap<PipelineId, Seen> {
    let mut all: HashMap<PipelineId, Seen> = HashMap::new();
    let whose = |metadata: &ObjectMeta| {
        let labels = metadata.labels.as_ref()?;
        let ours = labels.get(INSTALLATION)? == &installation.to_string();
        PipelineId::parse(labels.get(ID)?).ok().filter(|_| ours)
    };
    for raw in deployments {
        if let Some(id) = whose(&raw.metadata) {
            all.entry(id).or_default().deployment = Some(placed(raw));
        }
    }
    for raw in pods {
        if let Some(id) = whose(&raw.metadata) {
            all.entry(id).or_default().pods.push(pod(raw, now));
        }
    }
    for raw in files {
        if let Some(id) = whose(&raw.metadata) {
            all.entry(id).or_default().files.push(own_files(raw));
        }
    }
    for seen in all.values_mut() {
        seen.pods.sort_by(|a, b| a.instance.name.cmp(&b.instance.name));
        seen.files.sort_by(|a, b| a.name.cmp(&b.name));
    }
    all
}

fn label(metadata: &ObjectMeta, name: &str) -> String {
    metadata.labels.as_ref().and_then(|labels| labels.get(name)).cloned().unwrap_or_default()
}

/// What of `metadata` is ours to remove: it bears our labels, as all that is listed, and nobody controls it.
pub fn stray(metadata: &ObjectMeta) -> Option<Stray> {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let controlled = metadata.owner_references.iter().flatten().any(|owner| owner.controller == Some(true));
    (!controlled && metadata.deletion_timestamp.is_none()).then(|| Stray {
        name: text(&metadata.name),
        uid: text(&metadata.uid),
        resource_version: text(&metadata.resource_version),
        target: label(metadata, TARGET),
    })
}

fn placed(raw: &Deployment) -> Placed {
    let metadata = &raw.metadata;
    let replicas = raw.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let status = raw.status.clone().unwrap_or_default();
    let current = status.observed_generation >= metadata.generation;
    let all = |count: Option<i32>| count.unwrap_or(0) == replicas;
    let failure = status.conditions.iter().flatten().find(|one| one.type_ == "ReplicaFailure" && one.status == "True");
    Placed {
        name: metadata.name.clone().unwrap_or_default(),
        uid: metadata.uid.clone().unwrap_or_default(),
        resource_version: metadata.resource_version.clone().unwrap_or_default(),
        fingerprint: Fingerprint(label(metadata, FINGERPRINT)),
        target: label(metadata, TARGET),
        replicas: u32::try_from(replicas).unwrap_or(0),
        deleting: metadata.deletion_timestamp.is_some(),
        epoch: metadata.annotations.as_ref().and_then(|annotations| annotations.get(EPOCH)).cloned(),
        settled: current && all(status.replicas) && all(status.updated_replicas) && all(status.available_replicas),
        failure: failure.map(|condition| condition.message.clone().unwrap_or_default()),
        raw: serde_json::to_value(raw).unwrap_or_default(),
    }
}

fn own_files(raw: &ConfigMap) -> OwnFiles {
    OwnFiles {
        name: raw.metadata.name.clone().unwrap_or_default(),
        fingerprint: Fingerprint(label(&raw.metadata, FINGERPRINT)),
        spec: raw.data.as_ref().and_then(|data| serde_json::from_str(data.get(SPEC)?).ok()),
        raw: serde_json::to_value(raw).unwrap_or_default(),
    }
}

fn pod(raw: &Pod, now: Timestamp) -> OwnPod {
    let status = raw.status.clone().unwrap_or_default();
    let time = |time: Option<&Time>| time.map(|time| time.0);
    let container = status.container_statuses.iter().flatten().find(|one| one.name == CONTAINER);
    let created = time(raw.metadata.creation_timestamp.as_ref());
    let over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let (mut state, since) = container.map_or((InstanceState::Created, created), |one| state(one, now));
    if over {
        state = InstanceState::Dead;
    }
    let ended = container.and_then(last_end);
    let scheduled = status.conditions.iter().flatten().find(|one| one.type_ == "PodScheduled" && one.status == "False");
    let waiting = container.and_then(|one| one.state.as_ref()?.waiting.as_ref());
    let shown = matches!(state, InstanceState::Restarting | InstanceState::Dead);
    OwnPod {
        uid: raw.metadata.uid.clone().unwrap_or_default(),
        target: label(&raw.metadata, TARGET),
        ending: raw.metadata.deletion_timestamp.is_some(),
        stray: stray(&raw.metadata),
        unschedulable: scheduled.map(|condition| condition.message.clone().unwrap_or_default()),
        waiting: waiting.map(|one| (one.reason.clone().unwrap_or_default(), one.message.clone().unwrap_or_default())),
        out_of_memory: shown && ended.is_some_and(|ended| ended.reason.as_deref() == Some("OOMKilled")),
        not_begun: ended.filter(|ended| shown && ended.reason.as_deref() == Some(NOT_BEGUN)).and_then(|ended| ended.message.clone()),
        created,
        instance: Instance {
            name: raw.metadata.name.clone().unwrap_or_default(),
            fingerprint: Fingerprint(label(&raw.metadata, FINGERPRINT)),
            state,
            since: since.or(created),
            restarts: container.and_then(|one| u32::try_from(one.restart_count).ok()).unwrap_or_default(),
            exit_code: ended.filter(|_| shown).map(|ended| ended.exit_code.into()),
        },
    }
}

/// What a container does, and since when.
fn state(one: &ContainerStatus, now: Timestamp) -> (InstanceState, Option<Timestamp>) {
    let state = one.state.clone().unwrap_or_default();
    if let Some(running) = state.running {
        let since = running.started_at.map(|time| time.0);
        let young = since.is_some_and(|since| Duration::try_from(now.duration_since(since)).is_ok_and(|age| age < START));
        let state = match (one.ready, young) {
            (true, _) => InstanceState::Running,
            (false, true) => InstanceState::Starting,
            (false, false) => InstanceState::Unhealthy,
        };
        return (state, since);
    }
    match last_end(one) {
        Some(ended) => (InstanceState::Restarting, ended.finished_at.as_ref().map(|time| time.0)),
        None => (InstanceState::Created, None),
    }
}

/// How the container ended last.
fn last_end(one: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    [&one.state, &one.last_state].into_iter().flatten().find_map(|state| state.terminated.as_ref())
}

impl Placed {
    /// Whether it is as `manifests` have it, what others added aside.
    pub fn is_as(&self, manifests: &Manifests) -> bool {
        serde_json::to_value(&manifests.deployment).is_ok_and(|wanted| within(&wanted, &self.raw))
    }
}

impl OwnFiles {
    /// Whether they are as `manifests` have them.
    pub fn are_as(&self, manifests: &Manifests) -> bool {
        serde_json::to_value(&manifests.settings).is_ok_and(|wanted| within(&wanted, &self.raw))
    }
}

/// Whether all of `wanted` is in `is`: of a map each field, of a list of maps each of them, of any other list all in order.
fn within(wanted: &Value, is: &Value) -> bool {
    match (wanted, is) {
        (Value::Object(wanted), Value::Object(is)) => wanted.iter().all(|(name, wanted)| is.get(name).is_some_and(|is| within(wanted, is))),
        (Value::Array(wanted), Value::Array(is)) if wanted.iter().all(Value::is_object) => {
            wanted.iter().all(|wanted| is.iter().any(|is| within(wanted, is)))
        }
        _ => wanted == is,
    }
}

#[cfg(test)]
mod tests;
