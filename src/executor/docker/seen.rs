//! What the engine shows of our containers and volumes, as plain data; and what that means to the controller. Pure.
//!
//! Labels say whose it is and what it is; nothing in here remembers. A container that somebody edited is told by
//! rendering its own spec, which stands in its environment, again.

use super::config::container_config;
use crate::executor::driver::Want;
use crate::executor::names::{self, FINGERPRINT, ID, INSTALLATION, LOADER, TARGET, replica_name};
use crate::pipeline::id::PipelineId;
use crate::pipeline::instance::{Instance, InstanceState};
use crate::pipeline::report::Trouble;
use crate::pipeline::spec::{ExecutionSpec, Fingerprint};
use crate::pipeline::status::Reason;
use crate::settings::DockerSettings;
use bollard::models::{ContainerCreateBody, ContainerInspectResponse, ContainerStateStatusEnum as Status, HealthStatusEnum, Volume};
use jiff::Timestamp;
use std::collections::HashMap;
use std::time::Duration;

/// The exit code of an execution that a restart alone cannot help.
pub const MISCONFIGURED: i64 = 3;
/// How long such an execution is left alone before it is tried again.
pub const LEFT_ALONE: Duration = Duration::from_secs(60);

/// A container of ours.
#[derive(Debug, Clone, PartialEq)]
pub struct Container {
    /// The engine's id of it.
    pub id: String,
    /// The pipeline.
    pub pipeline: PipelineId,
    /// What it was made for.
    pub fingerprint: Fingerprint,
    /// The hash of its target.
    pub target: String,
    /// Which replica; none for what only carries files.
    pub replica: Option<u32>,
    /// As people see it.
    pub instance: Instance,
    /// Whether the kernel killed it for its memory.
    pub out_of_memory: bool,
    /// Why it could not be started.
    pub error: String,
    /// When it ended last.
    pub finished: Option<Timestamp>,
    /// What of it is not as it was made.
    pub edited: Option<&'static str>,
    /// What it was made of, where that can be read.
    pub spec: Option<Box<ExecutionSpec>>,
}

impl Container {
    /// Whether it ended in a way that a restart alone cannot help.
    pub fn misconfigured(&self) -> bool {
        let ended = matches!(self.instance.state, InstanceState::Stopped | InstanceState::Restarting);
        ended && self.instance.exit_code == Some(MISCONFIGURED)
    }
}

/// A volume of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnVolume {
    /// Its name.
    pub name: String,
    /// The pipeline.
    pub pipeline: PipelineId,
    /// The execution that it belongs to.
    pub fingerprint: Fingerprint,
    /// Whether it only says that the execution's own is not filled yet.
    pub filling: bool,
}

/// Reads a container; `None` where it is none of `installation`'s. `grace` is what its profile was rendered with.
pub fn container(raw: &ContainerInspectResponse, installation: uuid::Uuid, docker: &DockerSettings, grace: Duration) -> Option<Container> {
    let config = raw.config.as_ref()?;
    let labels = config.labels.as_ref()?;
    if labels.get(INSTALLATION)? != &installation.to_string() {
        return None;
    }
    let pipeline = PipelineId::parse(labels.get(ID)?).ok()?;
    let fingerprint = Fingerprint(labels.get(FINGERPRINT)?.clone());
    let execution = labels.get(names::EXECUTION)?;
    let replica = if execution == LOADER { None } else { Some(execution.parse().ok()?) };
    let name = raw.name.as_deref().unwrap_or_default().trim_start_matches('/').to_owned();
    let state = raw.state.clone().unwrap_or_default();
    let health = state.health.as_ref().and_then(|health| health.status);
    let shown = match (state.status.unwrap_or(Status::EMPTY), health) {
        (Status::RUNNING, Some(HealthStatusEnum::STARTING)) => InstanceState::Starting,
        (Status::RUNNING, Some(HealthStatusEnum::UNHEALTHY)) => InstanceState::Unhealthy,
        (Status::RUNNING | Status::STOPPING, _) => InstanceState::Running,
        (Status::CREATED | Status::EMPTY, _) => InstanceState::Created,
        (Status::PAUSED, _) => InstanceState::Frozen,
        (Status::RESTARTING, _) => InstanceState::Restarting,
        (Status::EXITED, _) => InstanceState::Stopped,
        (Status::DEAD | Status::REMOVING, _) => InstanceState::Dead,
    };
    let time = |text: Option<&String>| text.and_then(|text| text.parse::<Timestamp>().ok()).filter(|at| at.as_second() > 0);
    let (started, finished) = (time(state.started_at.as_ref()), time(state.finished_at.as_ref()));
    let ended = matches!(shown, InstanceState::Stopped | InstanceState::Restarting | InstanceState::Dead);
    let spec = own_spec(config.env.as_deref().unwrap_or_default()).filter(|spec| spec.fingerprint == fingerprint);
    let edited = replica.and_then(|replica| {
        let spec = spec.as_ref()?;
        let wanted_name = replica_name(spec, replica);
        if name != wanted_name { Some("name") } else { edited(&container_config(spec, replica, docker, grace), raw) }
    });
    Some(Container {
        id: raw.id.clone()?,
        pipeline,
        target: labels.get(TARGET).cloned().unwrap_or_default(),
        replica,
        instance: Instance {
            name,
            fingerprint: fingerprint.clone(),
            state: shown,
            since: if ended { finished } else { started },
            restarts: raw.restart_count.and_then(|count| u32::try_from(count).ok()).unwrap_or_default(),
            exit_code: if ended { state.exit_code } else { None },
        },
        fingerprint,
        out_of_memory: ended && state.oom_killed == Some(true),
        error: state.error.unwrap_or_default(),
        finished,
        edited,
        spec: spec.map(Box::new),
    })
}

/// Reads a volume; `None` where it is none of `installation`'s.
pub fn volume(raw: &Volume, installation: uuid::Uuid) -> Option<OwnVolume> {
    let own = raw.labels.get(INSTALLATION)? == &installation.to_string();
    let pipeline = PipelineId::parse(raw.labels.get(ID)?).ok()?;
    own.then(|| OwnVolume {
        name: raw.name.clone(),
        pipeline,
        fingerprint: Fingerprint(raw.labels.get(FINGERPRINT).cloned().unwrap_or_default()),
        filling: raw.labels.get(names::EXECUTION).is_some_and(|execution| execution == names::FILLING),
    })
}

/// The spec that a container was made of.
fn own_spec(env: &[String]) -> Option<ExecutionSpec> {
    env.iter().find_map(|line| serde_json::from_str(line.strip_prefix("SLUICE_SPEC=")?).ok())
}

/// What of a container is not as it was made: what `docker update` and the like can change, and what confines it.
fn edited(wanted: &ContainerCreateBody, raw: &ContainerInspectResponse) -> Option<&'static str> {
    let (is, want) = (raw.host_config.as_ref()?, wanted.host_config.as_ref()?);
    let config = raw.config.as_ref()?;
    let policy = |host: &bollard::models::HostConfig| host.restart_policy.as_ref().and_then(|policy| policy.name);
    let checks = [
        ("memory", is.memory == want.memory),
        ("cpus", is.nano_cpus == want.nano_cpus),
        ("pids", is.pids_limit == want.pids_limit),
        ("restart policy", policy(is) == policy(want)),
        ("read-only root", is.readonly_rootfs == want.readonly_rootfs),
        ("capabilities", is.cap_drop == want.cap_drop && is.cap_add.as_ref().is_none_or(Vec::is_empty)),
        ("security options", is.security_opt == want.security_opt),
        ("privileges", is.privileged != Some(true)),
        ("network", is.network_mode == want.network_mode),
        ("user", config.user == wanted.user),
        ("command", config.cmd == wanted.cmd && config.entrypoint == wanted.entrypoint),
    ];
    checks.into_iter().find(|(_, same)| !same).map(|(what, _)| what)
}

/// What there is of one pipeline, for the controller; `None` where there is nothing. While the backend is at work on a
/// spec, that is what is said to run: the troubles say what is in its way. Otherwise a fingerprint is named only where
/// everything is as it was made, so that the controller asks again for what is not.
pub fn observed(
    id: &PipelineId,
    containers: &[Container],
    volumes: &[OwnVolume],
    at_work: Option<&Want>,
    mut troubles: Vec<Trouble>,
) -> Option<crate::executor::Observed> {
    let wanted = match at_work {
        Some(Want::Run(spec)) => Some(spec),
        _ => None,
    };
    if containers.is_empty() && volumes.is_empty() && wanted.is_none() {
        return None;
    }
    let mut instances: Vec<_> = containers.iter().filter(|one| one.replica.is_some()).map(|one| one.instance.clone()).collect();
    instances.sort_by(|a, b| a.name.cmp(&b.name));
    let live = containers.iter().any(|one| one.instance.state.is_live());
    // Whoever filled it has died over it.
    let unfilled = volumes.iter().any(|volume| volume.filling);
    let first = containers.iter().find(|one| one.replica.is_some());
    let fingerprint = match (wanted, first) {
        (Some(spec), _) => spec.fingerprint.clone(),
        (None, Some(first)) if !unfilled && alike(containers, first, live) => first.fingerprint.clone(),
        _ => Fingerprint(String::new()),
    };
    troubles.extend(containers.iter().filter_map(trouble));
    troubles.dedup();
    let replicas = wanted.map_or_else(|| u32::try_from(instances.len()).unwrap_or(u32::MAX), |spec| spec.replicas);
    Some(crate::executor::Observed {
        id: id.clone(),
        fingerprint,
        running: live || wanted.is_some(),
        reports: Vec::new(),
        replicas: Some(replicas),
        instances,
        troubles,
    })
}

/// The one execution that is all that there is, where nothing of it is still to be filled or removed.
pub fn settled<'a>(containers: &'a [Container], volumes: &[OwnVolume]) -> Option<&'a Fingerprint> {
    let only = &containers.first()?.fingerprint;
    let containers = containers.iter().all(|one| one.fingerprint == *only && one.replica.is_some());
    let volumes = volumes.iter().all(|one| one.fingerprint == *only && !one.filling);
    (containers && volumes).then_some(only)
}

/// Whether all of them are the same execution, in the same state, as they were made.
fn alike(containers: &[Container], first: &Container, live: bool) -> bool {
    containers.iter().all(|one| {
        let state = one.instance.state;
        let sound = if live { state.is_live() && state != InstanceState::Frozen } else { state != InstanceState::Dead };
        one.fingerprint == first.fingerprint && one.replica.is_some() && one.edited.is_none() && sound && !(live && one.misconfigured())
    })
}

/// What the engine says is wrong with a container.
fn trouble(one: &Container) -> Option<Trouble> {
    let Instance { name, state, exit_code, .. } = &one.instance;
    let code = exit_code.unwrap_or_default();
    let (reason, message) = match state {
        InstanceState::Stopped | InstanceState::Restarting if one.out_of_memory => {
            (Reason::ExecutionOutOfMemory, format!("container {name} was killed for its memory"))
        }
        InstanceState::Stopped | InstanceState::Restarting if code == MISCONFIGURED => {
            (Reason::ExecutionMisconfigured, format!("container {name} ended with exit code {code}"))
        }
        InstanceState::Restarting => {
            (Reason::ExecutionFailed, format!("container {name} ended with exit code {code} and is started again by the engine"))
        }
        InstanceState::Created if !one.error.is_empty() => {
            (Reason::EngineRefuses, format!("container {name} cannot be started: {}", one.error))
        }
        InstanceState::Unhealthy => (Reason::ExecutionUnhealthy, format!("the health check of container {name} fails")),
        _ => return None,
    };
    Some(Trouble::new(reason, &message))
}

/// What belongs to each pipeline.
pub fn by_pipeline(containers: Vec<Container>, volumes: Vec<OwnVolume>) -> HashMap<PipelineId, (Vec<Container>, Vec<OwnVolume>)> {
    let mut all: HashMap<PipelineId, (Vec<Container>, Vec<OwnVolume>)> = HashMap::new();
    for one in containers {
        all.entry(one.pipeline.clone()).or_default().0.push(one);
    }
    for one in volumes {
        all.entry(one.pipeline.clone()).or_default().1.push(one);
    }
    all
}
