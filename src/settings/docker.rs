//! `executor.docker`: the engine, the profile of the containers, and the addresses that executions use. Types, defaults
//! and their checks.
//!
//! The profile comes from here alone: no entry and no config can weaken it. Called by the walk over all settings.

use super::secrets::Files;
use super::{ExecutorKind, Secret, Settings, TlsSettings, address};
use crate::pipeline::document::{Node, Place, Style, Value, shown};
use crate::pipeline::fields::{Fields, Report, Taken};
use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, time::Duration};

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

/// `executor.docker.pull`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    /// Pull only where the engine does not have the image.
    Missing,
    /// Ask the registry before each container is made.
    Always,
    /// Never ask a registry.
    Never,
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

/// Who executions are inside their container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContainerUser {
    /// User id, never 0.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// `executor.docker.execution`: addresses as executions see them; everything else of a connection stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecutionAddresses {
    /// Instead of `nats.urls`; empty for the same.
    pub nats_urls: Vec<String>,
    /// Hosts of MongoDB connections by name; those not named stay.
    pub mongodb_hosts: BTreeMap<String, Vec<String>>,
}

impl Default for DockerSettings {
    fn default() -> Self {
        Self {
            host: "unix:///var/run/docker.sock".into(),
            tls: TlsSettings::default(),
            timeout: Duration::from_secs(30),
            parallel: 4,
            image: concat!("sluice:", env!("CARGO_PKG_VERSION")).into(),
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
        docker.execution.nats_urls.join(","),
    ];
    fields.extend(docker.execution.mongodb_hosts.iter().map(|(name, hosts)| format!("{name}={}", hosts.join(","))));
    fields
}

/// Takes `executor.docker` out of `parent`.
pub(super) fn read(parent: &mut Fields<'_>, docker: &mut DockerSettings, files: &Files, report: &mut Report) {
    let mut fields = parent.map("docker", report);
    engine(&mut fields, docker, files, report);
    container(&mut fields, docker, report);
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
    let mut execution = fields.map("execution", report);
    addresses(&mut execution, &mut docker.execution, report);
    execution.finish(report);
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
    if let Some(taken) = fields.string("image", report) {
        let valid = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
        if taken.value.is_empty() || taken.value.len() > 255 || !taken.value.chars().all(valid) {
            taken.error(report, format!("'{}' is no name of an image", shown(&taken.value)), "write it as registry/name:tag");
        }
        docker.image = taken.value;
    }
    let policies = [("missing", PullPolicy::Missing), ("always", PullPolicy::Always), ("never", PullPolicy::Never)];
    if let Some(taken) = fields.word("pull", &policies, report) {
        docker.pull = taken.value;
    }
}

fn container(fields: &mut Fields<'_>, docker: &mut DockerSettings, report: &mut Report) {
    if let Some(taken) = fields.string("user", report) {
        match user(&taken.value) {
            Some(ContainerUser { uid: 0, .. }) => taken.error(report, "executions never run as root", "write another user id"),
            Some(user) => docker.user = user,
            None => taken.error(report, format!("'{}' is no user", shown(&taken.value)), "write numbers, such as 65532:65532"),
        }
    }
    if let Some(taken) = fields.bytes("memory", (32 << 20)..=(1 << 50), report) {
        docker.memory = taken.value;
    }
    if let Some(taken) = fields.string("cpus", report) {
        match taken.value.parse::<f64>() {
            // In this range the product is exact enough and fits.
            Ok(cpus) if (0.01..=1024.0).contains(&cpus) => docker.milli_cpus = (cpus * 1000.0).round() as u64,
            _ => taken.error(report, format!("'{}' is no number of processors", shown(&taken.value)), "0.01 to 1024, such as 0.5"),
        }
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

fn whole(fields: &mut Fields<'_>, name: &'static str, range: std::ops::RangeInclusive<i64>, report: &mut Report) -> Option<u32> {
    fields.integer(name, range, report).and_then(|taken| u32::try_from(taken.value).ok())
}

fn user(text: &str) -> Option<ContainerUser> {
    let (uid, gid) = text.split_once(':').unwrap_or((text, text));
    Some(ContainerUser { uid: uid.parse().ok()?, gid: gid.parse().ok()? })
}

fn addresses(fields: &mut Fields<'_>, execution: &mut ExecutionAddresses, report: &mut Report) {
    let mut nats = fields.map("nats", report);
    for taken in nats.strings("urls", report).map(|taken| taken.value).unwrap_or_default() {
        match address::nats(&taken.value) {
            Ok(address) if address.credentials.is_none() => execution.nats_urls.push(address.url),
            Ok(_) => taken.error(report, "credentials do not belong here", "write the address alone; who we are stands under nats"),
            Err(message) => taken.error(report, message, "write nats://host:port or tls://host:port"),
        }
    }
    nats.finish(report);
    let mut mongodb = fields.map("mongodb", report);
    for (name, node) in mongodb.named("connections", report).unwrap_or_default() {
        let mut connection = Fields::of(node, &name.path, report);
        let hosts = connection.strings("hosts", report).map(|taken| taken.value).unwrap_or_default();
        for host in hosts.iter().filter(|host| !address::is_host(&host.value)) {
            host.error(report, format!("'{}' is no host", shown(&host.value)), "write host:27017");
        }
        connection.finish(report);
        execution.mongodb_hosts.insert(name.value, hosts.into_iter().map(|host| host.value).collect());
    }
    mongodb.finish(report);
}

/// Checks what only the whole of the settings shows: that containers can reach the addresses. `kind` is where the
/// executor was chosen.
pub(super) fn check(settings: &Settings, kind: &Taken<ExecutorKind>, report: &mut Report) {
    let docker = &settings.executor.docker;
    for name in docker.execution.mongodb_hosts.keys().filter(|name| !settings.mongodb.connections.contains_key(*name)) {
        let message = format!("executor.docker.execution names the connection '{}', which mongodb.connections does not", shown(name));
        kind.error(report, message, "correct its name");
    }
    if kind.value != ExecutorKind::Docker || docker.network == "host" {
        return;
    }
    let remedy = |field: &str| {
        format!(
            "give executor.docker.execution.{field} an address that containers reach (with extra_hosts: [host.docker.internal:host-gateway], this machine is host.docker.internal), or network: host"
        )
    };
    for url in settings.execution_nats_urls().iter().filter(|url| address::is_loopback(url)) {
        let path = "executor.docker.execution.nats.urls";
        report.error(&kind.place, path, format!("{url} is the container itself to an execution"), remedy("nats.urls"));
    }
    for (name, connection) in &settings.mongodb.connections {
        for host in settings.execution_hosts(name, connection).iter().filter(|host| address::is_loopback(host)) {
            let message = format!("{host} of the connection '{name}' is the container itself to an execution");
            let field = format!("mongodb.connections.{name}.hosts");
            report.error(&kind.place, &format!("executor.docker.execution.{field}"), message, remedy(&field));
        }
    }
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
