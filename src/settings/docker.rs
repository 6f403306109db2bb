//! `executor.docker`: the engine, the profile of the containers, and the addresses that executions use. Types, defaults
//! and their checks.
//!
//! The profile comes from here alone: no entry and no config can weaken it. Called by the walk over all settings.

use super::container::{self, ContainerUser, ExecutionAddresses, PullPolicy, whole};
use super::secrets::Files;
use super::{ExecutorKind, Secret, Settings, TlsSettings, address};
use crate::pipeline::document::{Node, Place, Style, Value, shown};
use crate::pipeline::fields::{Fields, Report, Taken};
use std::{net::IpAddr, path::PathBuf, time::Duration};

/// `executor.docker`.
#[derive(Debug, Clone, PartialEq)]
pub struct DockerSettings {
    /// `unix:///…` or `tcp://host:port`; default `$DOCKER_HOST`, else `unix:///var/run/docker.sock`.
    pub host: String,
    /// How the engine is proved, and how we prove ourselves; all three files or none.
    pub tls: TlsSettings,
    /// The longest call; default 30 s.
    pub timeout: Duration,
    /// Containers that are made and started at the same time; default 4.
    pub parallel: u32,
    /// Default `sluice:{version of this binary}`.
    pub image: String,
    /// Default `missing`.
    pub pull: PullPolicy,
    /// Who asks a registry for the image.
    pub registry: RegistrySettings,
    /// `uid:gid` inside, never root; default `65532:65532`.
    pub user: ContainerUser,
    /// Bytes; default 512 MiB. Swap is off.
    pub memory: u64,
    /// Thousandths of a processor; default 1000.
    pub milli_cpus: u64,
    /// Processes and threads; default 256.
    pub pids: u32,
    /// Open files; default 4096.
    pub open_files: u32,
    /// Bytes of a log file before it is turned over; default 10 MiB.
    pub log_size: u64,
    /// Log files kept; default 3.
    pub log_files: u32,
    /// `bridge`, `host` or the name of a network; default `bridge`.
    pub network: String,
    /// `name:address` lines for `/etc/hosts`; `host-gateway` stands for the engine's machine.
    pub extra_hosts: Vec<String>,
    /// Name servers; default the engine's.
    pub dns: Vec<String>,
    /// Between two of the engine's own health checks; default 10 s.
    pub health_interval: Duration,
    /// A directory on the engine's machine that holds the secrets' files; default: they are uploaded into a volume.
    pub secrets_dir: Option<String>,
    /// The addresses that executions use, where they differ from this process's.
    pub execution: ExecutionAddresses,
}

/// `executor.docker.registry`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RegistrySettings {
    /// The registry, where it is not the one that the image's name begins with.
    pub server: Option<String>,
    /// User name.
    pub username: Option<String>,
    /// Password or token.
    pub password: Option<Secret>,
}

impl Default for DockerSettings {
    fn default() -> Self {
        Self {
            host: "unix:///var/run/docker.sock".into(),
            tls: TlsSettings::default(),
            timeout: Duration::from_secs(30),
            parallel: 4,
            image: container::IMAGE.into(),
            pull: PullPolicy::Missing,
            registry: RegistrySettings::default(),
            user: ContainerUser { uid: 65532, gid: 65532 },
            memory: 512 << 20,
            milli_cpus: 1000,
            pids: 256,
            open_files: 4096,
            log_size: 10 << 20,
            log_files: 3,
            network: "bridge".into(),
            extra_hosts: Vec::new(),
            dns: Vec::new(),
            health_interval: Duration::from_secs(10),
            secrets_dir: None,
            execution: ExecutionAddresses::default(),
        }
    }
}

/// What of it makes a container differ, for the execution digest.
pub(super) fn profile(docker: &DockerSettings) -> Vec<String> {
    let mut fields = vec![
        format!("{}:{}", docker.user.uid, docker.user.gid),
        docker.memory.to_string(),
        docker.milli_cpus.to_string(),
        docker.pids.to_string(),
        docker.open_files.to_string(),
        docker.log_size.to_string(),
        docker.log_files.to_string(),
        docker.network.clone(),
        docker.extra_hosts.join(","),
        docker.dns.join(","),
        docker.health_interval.as_millis().to_string(),
        docker.secrets_dir.clone().unwrap_or_default(),
    ];
    fields.extend(docker.execution.profile());
    fields
}

/// Takes `executor.docker` out of `parent`.
pub(super) fn read(parent: &mut Fields<'_>, docker: &mut DockerSettings, files: &Files, report: &mut Report) {
    let mut fields = parent.map("docker", report);
    engine(&mut fields, docker, files, report);
    profile_of(&mut fields, docker, report);
    let mut registry = fields.map("registry", report);
    docker.registry.server = registry.string("server", report).map(|taken| taken.value);
    let username = registry.string("username", report);
    docker.registry.password = files.secret(&mut registry, "password", "password_file", report).map(|taken| taken.value);
    if let (Some(username), None) = (&username, &docker.registry.password) {
        username.error(report, "username needs a password", "add password_file");
    }
    docker.registry.username = username.map(|taken| taken.value);
    registry.finish(report);
    let mut secrets = fields.map("secrets", report);
    if let Some(taken) = secrets.string("host_dir", report) {
        if !taken.value.starts_with('/') || taken.value.contains(':') {
            taken.error(report, format!("'{}' is no absolute path", shown(&taken.value)), "write the directory on the engine's machine");
        }
        docker.secrets_dir = Some(taken.value);
    }
    secrets.finish(report);
    container::addresses(&mut fields, &mut docker.execution, report);
    fields.finish(report);
}

fn engine(fields: &mut Fields<'_>, docker: &mut DockerSettings, files: &Files, report: &mut Report) {
    let host = fields.string("host", report);
    docker.tls = files.tls(fields, report);
    let TlsSettings { ca_file, cert_file, .. } = &docker.tls;
    let secured = ca_file.is_some() && cert_file.is_some();
    if let Some(taken) = host {
        let path = taken.value.strip_prefix("unix://");
        let tcp = taken.value.strip_prefix("tcp://");
        let valid = path.is_some_and(|path| path.starts_with('/')) || tcp.is_some_and(|host| address::is_host(host.trim_end_matches('/')));
        if !valid {
            let message = format!("'{}' is no address of an engine", shown(&taken.value));
            taken.error(report, message, "write unix:///var/run/docker.sock or tcp://host:2376");
        } else if tcp.is_some() && !secured {
            if ca_file.is_some() || cert_file.is_some() || docker.tls.required {
                taken.error(
                    report,
                    "an engine behind TLS is proved by ca_file and asks for ours",
                    "give tls.ca_file, cert_file and key_file",
                );
            } else {
                taken.warning(report, "who can reach this address is root on that machine", "use TLS: tls.ca_file, cert_file and key_file");
            }
        }
        docker.host = taken.value;
    }
    if let Some(taken) = fields.duration("timeout", Duration::from_secs(1), report) {
        docker.timeout = taken.value;
    }
    if let Some(taken) = whole(fields, "parallel", 1..=64, report) {
        docker.parallel = taken;
    }
    container::image(fields, &mut docker.image, report);
    container::pull(fields, &mut docker.pull, report);
}

fn profile_of(fields: &mut Fields<'_>, docker: &mut DockerSettings, report: &mut Report) {
    container::user(fields, &mut docker.user, report);
    if let Some(taken) = fields.bytes("memory", (32 << 20)..=(1 << 50), report) {
        docker.memory = taken.value;
    }
    if let Some(milli_cpus) = container::cpus(fields, report) {
        docker.milli_cpus = milli_cpus;
    }
    if let Some(taken) = whole(fields, "pids", 16..=1_000_000, report) {
        docker.pids = taken;
    }
    if let Some(taken) = whole(fields, "open_files", 64..=1_000_000, report) {
        docker.open_files = taken;
    }
    if let Some(taken) = fields.bytes("log_size", (64 << 10)..=(1 << 40), report) {
        docker.log_size = taken.value;
    }
    if let Some(taken) = whole(fields, "log_files", 1..=100, report) {
        docker.log_files = taken;
    }
    if let Some(taken) = fields.string("network", report) {
        let valid = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if taken.value.is_empty() || taken.value == "none" || !taken.value.chars().all(valid) {
            taken.error(report, format!("'{}' is no network", shown(&taken.value)), "write bridge, host or the name of a network");
        }
        docker.network = taken.value;
    }
    if let Some(taken) = fields.strings("extra_hosts", report) {
        for host in &taken.value {
            let pair = host.value.split_once(':').is_some_and(|(name, address)| {
                !name.is_empty() && (address == "host-gateway" || address.trim_matches(['[', ']']).parse::<IpAddr>().is_ok())
            });
            if !pair {
                host.error(report, format!("'{}' is no host", shown(&host.value)), "write name:address or name:host-gateway");
            }
        }
        docker.extra_hosts = taken.value.into_iter().map(|host| host.value).collect();
    }
    if let Some(taken) = fields.strings("dns", report) {
        for server in taken.value.iter().filter(|server| server.value.parse::<IpAddr>().is_err()) {
            server.error(report, format!("'{}' is no address", shown(&server.value)), "write an IP address");
        }
        docker.dns = taken.value.into_iter().map(|server| server.value).collect();
    }
    if let Some(taken) = fields.duration("health_interval", Duration::from_secs(1), report) {
        docker.health_interval = taken.value;
    }
}

/// Checks what only the whole of the settings shows. `kind` is where the executor was chosen.
pub(super) fn check(settings: &Settings, kind: &Taken<ExecutorKind>, report: &mut Report) {
    let docker = &settings.executor.docker;
    let otherwise =
        "containers reach (with extra_hosts: [host.docker.internal:host-gateway], this machine is host.docker.internal), or network: host";
    let otherwise = (docker.network != "host").then_some(otherwise);
    container::check_addresses(settings, ExecutorKind::Docker, &docker.execution, otherwise, kind, report);
}

/// Docker's own variables, where the settings are about it and name no engine: `DOCKER_HOST`, and with
/// `DOCKER_TLS_VERIFY` the three files in `DOCKER_CERT_PATH` (default `~/.docker`).
pub(super) fn conventions(root: &mut Node, env: &[(String, String)]) {
    let variable = |name: &str| env.iter().find(|(known, value)| known == name && !value.is_empty()).map(|(_, value)| value.as_str());
    let Some(executor) = root.get("executor") else { return };
    let means_docker = ["kind", "retire"].iter().filter_map(|name| executor.get(name)).any(|node| match &node.value {
        Value::Scalar(text, _) => text.contains("docker"),
        Value::List(items) => items.iter().any(|item| matches!(&item.value, Value::Scalar(text, _) if text == "docker")),
        _ => false,
    });
    let named = executor.get("docker").is_some_and(|docker| docker.get("host").is_some() || docker.get("tls").is_some());
    let Some(host) = variable("DOCKER_HOST").filter(|_| means_docker && !named) else { return };
    let mut found = vec![("host", "DOCKER_HOST", PathBuf::from(host))];
    if variable("DOCKER_TLS_VERIFY").is_some() {
        let home = || variable("HOME").map(|home| PathBuf::from(home).join(".docker"));
        if let Some(directory) = variable("DOCKER_CERT_PATH").map(PathBuf::from).or_else(home) {
            for (field, file) in [("tls.ca_file", "ca.pem"), ("tls.cert_file", "cert.pem"), ("tls.key_file", "key.pem")] {
                found.push((field, "DOCKER_CERT_PATH", directory.join(file)));
            }
        }
    }
    for (field, name, value) in found {
        let path: Vec<String> = ["executor", "docker"].into_iter().chain(field.split('.')).map(str::to_owned).collect();
        let value = Value::Scalar(value.to_string_lossy().into_owned(), Style::Override);
        super::overrides::put(root, &path, Node { place: Place::whole(&format!("environment {name}")), value });
    }
}

#[cfg(test)]
mod tests;
