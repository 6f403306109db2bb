//! The container of an execution, as a pure function of its spec and the settings: what the engine is asked for.
//!
//! What always holds, whatever an entry says: another user than root, a root file system that cannot be written, no
//! capability, no new privilege, the engine's seccomp filter, bounds on processes, memory, processors, files and logs.
//! The settings and secrets lie in a volume of the execution's own, which the container only reads; in its environment
//! stand the path of the settings and the spec, which holds no secret. Golden tests hold all of it.

use crate::executor::names::{self, FILLING, LOADER, replica_name};
use crate::pipeline::spec::ExecutionSpec;
use crate::settings::{ContainerUser, DockerSettings};
use bollard::models::{
    ContainerCreateBody, HealthConfig, HostConfig, HostConfigLogConfig, Mount, MountType, MountVolumeOptions, ResourcesUlimits,
    RestartPolicy, RestartPolicyNameEnum, VolumeCreateRequest,
};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

/// The binary in the image.
pub const BINARY: &str = "/usr/bin/sluice";
/// Where the volume is: `sluice.yml`, `secrets/` unless they come from the engine's machine, and [`COMPLETE`].
pub const FILES: &str = "/etc/sluice";
/// The file that is put there after all others.
pub const COMPLETE: &str = "complete";
/// Where the secrets are that lie in the volume.
const OWN_SECRETS: &str = "/etc/sluice/secrets";
/// Where the secrets are that come from the engine's machine.
const HOST_SECRETS: &str = "/run/sluice/secrets";
/// What a stop may take beyond the grace period before the engine kills.
const BEYOND_GRACE: Duration = Duration::from_secs(5);
/// The longest health check.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);
/// Failures in a row after which the engine calls it unhealthy.
const HEALTH_RETRIES: i64 = 3;
/// How long a start may take before a failing check counts.
const HEALTH_START: Duration = Duration::from_secs(20);

/// The directory in which an execution finds its secrets.
pub fn secrets_directory(docker: &DockerSettings) -> &'static Path {
    Path::new(if docker.secrets_dir.is_some() { HOST_SECRETS } else { OWN_SECRETS })
}

/// What a stop may take in all.
pub fn stop_timeout(grace: Duration) -> Duration {
    grace + BEYOND_GRACE
}

/// The volume of an execution: its name is the execution's.
pub fn volume_config(spec: &ExecutionSpec) -> VolumeCreateRequest {
    VolumeCreateRequest { name: Some(volume_name(spec)), labels: Some(labels(spec, "volume")), ..Default::default() }
}

/// An empty volume that is there while the first one is being filled: a controller that dies over that leaves it to the next.
pub fn filling_config(spec: &ExecutionSpec) -> VolumeCreateRequest {
    VolumeCreateRequest { name: Some(filling_name(spec)), labels: Some(labels(spec, FILLING)), ..Default::default() }
}

/// Its name.
pub fn filling_name(spec: &ExecutionSpec) -> String {
    format!("{}-{FILLING}", volume_name(spec))
}

/// The name of the volume of an execution.
pub fn volume_name(spec: &ExecutionSpec) -> String {
    names::execution_name(spec.installation, &spec.id, &spec.fingerprint)
}

/// The container of one replica. `grace` is how long it may take to write what it holds.
pub fn container_config(spec: &ExecutionSpec, replica: u32, docker: &DockerSettings, grace: Duration) -> ContainerCreateBody {
    // What cannot fail to be serialized: strings, numbers and nothing else.
    let spec_json = serde_json::to_string(spec).unwrap_or_default();
    let mut env = vec![format!("SLUICE_SETTINGS={FILES}/sluice.yml"), format!("SLUICE_SPEC={spec_json}")];
    if docker.network == "host" {
        // On the engine's own network every container needs a loopback address of its own.
        env.push(format!("SLUICE_HTTP_LISTEN={}:8080", own_loopback(&replica_name(spec, replica))));
    }
    let mut cmd = vec!["execute".to_owned()];
    for (name, value) in [
        ("--id", spec.id.as_str()),
        ("--version", spec.version.as_str()),
        ("--digest", &spec.digest),
        ("--fingerprint", &spec.fingerprint.0),
        ("--instance", &replica.to_string()),
        ("--await", &format!("{FILES}/{COMPLETE}")),
    ] {
        cmd.extend([name.to_owned(), value.to_owned()]);
    }
    let mut mounts = vec![volume_mount(spec, FILES.into(), true)];
    mounts.extend(docker.secrets_dir.as_ref().map(|directory| Mount {
        target: Some(HOST_SECRETS.into()),
        source: Some(directory.clone()),
        typ: Some(MountType::BIND),
        read_only: Some(true),
        ..Default::default()
    }));
    let ContainerUser { uid, gid } = docker.user;
    ContainerCreateBody {
        image: Some(docker.image.clone()),
        user: Some(format!("{uid}:{gid}")),
        entrypoint: Some(vec![BINARY.into()]),
        cmd: Some(cmd),
        env: Some(env),
        labels: Some(labels(spec, &replica.to_string())),
        stop_signal: Some("SIGTERM".into()),
        // The engine's own end takes it too.
        stop_timeout: Some(seconds(stop_timeout(grace))),
        healthcheck: Some(HealthConfig {
            test: Some(vec!["CMD".into(), BINARY.into(), "probe".into()]),
            interval: Some(nanos(docker.health_interval)),
            timeout: Some(nanos(HEALTH_TIMEOUT)),
            retries: Some(HEALTH_RETRIES),
            start_period: Some(nanos(HEALTH_START)),
            start_interval: None,
        }),
        host_config: Some(HostConfig { mounts: Some(mounts), ..profile(docker) }),
        ..Default::default()
    }
}

/// The name of what carries files into the volume of `first` and of others.
pub fn loader_name(first: &ExecutionSpec) -> String {
    format!("{}-{LOADER}", volume_name(first))
}

/// What carries files into the volumes of `specs`, each in a directory of [`FILES`] that has its number: a container that is
/// made, written into, removed and never started. It bears the labels of `first`.
pub fn loader_config<'a>(
    first: &ExecutionSpec,
    specs: impl Iterator<Item = &'a ExecutionSpec>,
    docker: &DockerSettings,
) -> ContainerCreateBody {
    let host_config = HostConfig {
        mounts: Some(specs.enumerate().map(|(n, spec)| volume_mount(spec, format!("{FILES}/{n}"), false)).collect()),
        network_mode: Some("none".into()),
        cap_drop: Some(vec!["ALL".into()]),
        ..Default::default()
    };
    ContainerCreateBody {
        image: Some(docker.image.clone()),
        entrypoint: Some(vec![BINARY.into()]),
        cmd: Some(vec!["--version".into()]),
        labels: Some(labels(first, LOADER)),
        host_config: Some(host_config),
        ..Default::default()
    }
}

/// How containers are confined.
fn profile(docker: &DockerSettings) -> HostConfig {
    let list = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
    let memory = i64::try_from(docker.memory).unwrap_or(i64::MAX);
    let files = i64::from(docker.open_files);
    HostConfig {
        readonly_rootfs: Some(true),
        cap_drop: Some(vec!["ALL".into()]),
        security_opt: Some(vec!["no-new-privileges".into()]),
        privileged: Some(false),
        pids_limit: Some(docker.pids.into()),
        memory: Some(memory),
        // The same: none of it is swap.
        memory_swap: Some(memory),
        nano_cpus: Some(i64::try_from(docker.milli_cpus.saturating_mul(1_000_000)).unwrap_or(i64::MAX)),
        ulimits: Some(vec![
            ResourcesUlimits { name: Some("nofile".into()), soft: Some(files), hard: Some(files) },
            ResourcesUlimits { name: Some("core".into()), soft: Some(0), hard: Some(0) },
        ]),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".into()),
            config: Some(HashMap::from([
                ("max-size".to_owned(), docker.log_size.to_string()),
                ("max-file".to_owned(), docker.log_files.to_string()),
            ])),
        }),
        network_mode: Some(docker.network.clone()),
        ipc_mode: Some("private".into()),
        extra_hosts: list(&docker.extra_hosts),
        dns: list(&docker.dns),
        // Outlives this controller and the engine's restart, but for what was stopped.
        restart_policy: Some(RestartPolicy { name: Some(RestartPolicyNameEnum::UNLESS_STOPPED), maximum_retry_count: None }),
        ..Default::default()
    }
}

/// Notes in the labels of what is about to be made which holder makes it.
pub fn made_in(epoch: Option<u64>, labels: &mut Option<HashMap<String, String>>) {
    labels.get_or_insert_default().extend(epoch.map(|epoch| (names::EPOCH.to_owned(), epoch.to_string())));
}

fn volume_mount(spec: &ExecutionSpec, target: String, read_only: bool) -> Mount {
    Mount {
        target: Some(target),
        source: Some(volume_name(spec)),
        typ: Some(MountType::VOLUME),
        read_only: Some(read_only),
        // What the image has there is none of ours.
        volume_options: Some(MountVolumeOptions { no_copy: Some(true), ..Default::default() }),
        ..Default::default()
    }
}

fn labels(spec: &ExecutionSpec, execution: &str) -> HashMap<String, String> {
    names::labels(spec, execution).into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// An address in 127.0.0.0/8 that follows from the name, and is never 127.0.0.x.
fn own_loopback(name: &str) -> String {
    let hash = Sha256::digest(name);
    format!("127.{}.{}.{}", hash[0].max(1), hash[1], hash[2].clamp(1, 254))
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
