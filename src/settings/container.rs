//! What the sections of all backends whose executions are containers have in common: the image, who runs in it, its share
//! of a machine, and the addresses that it uses. Types and their checks; called by the walk over each backend's section.

use super::{ExecutorKind, Settings, address};
use crate::pipeline::document::shown;
use crate::pipeline::fields::{Fields, Report, Taken};
use std::{collections::BTreeMap, ops::RangeInclusive};

/// `pull` of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    /// Pull only where the machine does not have the image.
    Missing,
    /// Ask the registry before each container is made.
    Always,
    /// Never ask a registry.
    Never,
}

/// Who executions are inside their container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContainerUser {
    /// User id, never 0.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// `execution` of a backend: addresses as executions see them; everything else of a connection stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecutionAddresses {
    /// Instead of `nats.urls`; empty for the same.
    pub nats_urls: Vec<String>,
    /// Hosts of MongoDB connections by name; those not named stay.
    pub mongodb_hosts: BTreeMap<String, Vec<String>>,
}

impl ExecutionAddresses {
    /// What of it makes a container differ.
    pub(super) fn profile(&self) -> Vec<String> {
        let hosts = self.mongodb_hosts.iter().map(|(name, hosts)| format!("{name}={}", hosts.join(",")));
        std::iter::once(self.nats_urls.join(",")).chain(hosts).collect()
    }
}

/// The image of executions where none is named.
pub(super) const IMAGE: &str = concat!("sluice:", env!("CARGO_PKG_VERSION"));

/// Takes `image`.
pub(super) fn image(fields: &mut Fields<'_>, image: &mut String, report: &mut Report) {
    let Some(taken) = fields.string("image", report) else { return };
    let valid = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
    if taken.value.is_empty() || taken.value.len() > 255 || !taken.value.chars().all(valid) {
        taken.error(report, format!("'{}' is no name of an image", shown(&taken.value)), "write it as registry/name:tag");
    }
    *image = taken.value;
}

/// Takes `pull`.
pub(super) fn pull(fields: &mut Fields<'_>, policy: &mut PullPolicy, report: &mut Report) {
    let policies = [("missing", PullPolicy::Missing), ("always", PullPolicy::Always), ("never", PullPolicy::Never)];
    if let Some(taken) = fields.word("pull", &policies, report) {
        *policy = taken.value;
    }
}

/// Takes `user`.
pub(super) fn user(fields: &mut Fields<'_>, user: &mut ContainerUser, report: &mut Report) {
    let Some(taken) = fields.string("user", report) else { return };
    let (uid, gid) = taken.value.split_once(':').unwrap_or((&taken.value, &taken.value));
    match (uid.parse(), gid.parse()) {
        (Ok(0), Ok(_)) => taken.error(report, "executions never run as root", "write another user id"),
        (Ok(uid), Ok(gid)) => *user = ContainerUser { uid, gid },
        _ => taken.error(report, format!("'{}' is no user", shown(&taken.value)), "write numbers, such as 65532:65532"),
    }
}

/// Takes `cpus`, in thousandths of a processor.
pub(super) fn cpus(fields: &mut Fields<'_>, report: &mut Report) -> Option<u64> {
    let taken = fields.string("cpus", report)?;
    match taken.value.parse::<f64>() {
        // In this range the product is exact enough and fits.
        Ok(cpus) if (0.01..=1024.0).contains(&cpus) => Some((cpus * 1000.0).round() as u64),
        _ => {
            taken.error(report, format!("'{}' is no number of processors", shown(&taken.value)), "0.01 to 1024, such as 0.5");
            None
        }
    }
}

/// Takes a whole number.
pub(super) fn whole(fields: &mut Fields<'_>, name: &'static str, range: RangeInclusive<i64>, report: &mut Report) -> Option<u32> {
    fields.integer(name, range, report).and_then(|taken| u32::try_from(taken.value).ok())
}

/// Takes `execution`.
pub(super) fn addresses(parent: &mut Fields<'_>, execution: &mut ExecutionAddresses, report: &mut Report) {
    let mut fields = parent.map("execution", report);
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
    fields.finish(report);
}

/// Checks what only the whole of the settings shows: that executions can reach the addresses. `kind` is where the executor
/// was chosen; `otherwise` ends the remedy.
pub(super) fn check_addresses(
    settings: &Settings,
    of: ExecutorKind,
    addresses: &ExecutionAddresses,
    otherwise: Option<&str>,
    kind: &Taken<ExecutorKind>,
    report: &mut Report,
) {
    let section = format!("executor.{}.execution", of.as_str());
    for name in addresses.mongodb_hosts.keys().filter(|name| !settings.mongodb.connections.contains_key(*name)) {
        let message = format!("{section} names the connection '{}', which mongodb.connections does not", shown(name));
        kind.error(report, message, "correct its name");
    }
    let Some(otherwise) = otherwise.filter(|_| kind.value == of) else { return };
    let remedy = |field: &str| format!("give {section}.{field} an address that {otherwise}");
    for url in settings.execution_nats_urls().iter().filter(|url| address::is_loopback(url)) {
        let message = format!("{url} is the container itself to an execution");
        report.error(&kind.place, &format!("{section}.nats.urls"), message, remedy("nats.urls"));
    }
    for (name, connection) in &settings.mongodb.connections {
        for host in settings.execution_hosts(name, connection).iter().filter(|host| address::is_loopback(host)) {
            let message = format!("{host} of the connection '{name}' is the container itself to an execution");
            let field = format!("mongodb.connections.{name}.hosts");
            report.error(&kind.place, &format!("{section}.{field}"), message, remedy(&field));
        }
    }
}
