//! What is laid over the settings file: variables `SLUICE_…` and `--set a.b=c`, as nodes that know where they came from.
//!
//! An override lands in the same tree as the file, so it is checked by the same walk and reported with its own origin.

use crate::pipeline::document::{self, Key, Node, Place, Style, Value, shown};
use crate::pipeline::fields::{Report, nearest};

/// Every field that a variable can set; `*` is the name of a connection. A test holds that it is complete.
pub(super) const PATHS: &[&str] = &[
    "namespace",
    "nats.urls",
    "nats.token",
    "nats.token_file",
    "nats.user",
    "nats.password",
    "nats.password_file",
    "nats.credentials_file",
    "nats.nkey_file",
    "nats.inbox_prefix",
    "nats.answer_inboxes",
    "nats.tls.required",
    "nats.tls.ca_file",
    "nats.tls.cert_file",
    "nats.tls.key_file",
    "mongodb.connections.*.url",
    "mongodb.connections.*.url_file",
    "mongodb.connections.*.username",
    "mongodb.connections.*.password",
    "mongodb.connections.*.password_file",
    "mongodb.connections.*.auth_source",
    "mongodb.connections.*.database",
    "mongodb.connections.*.known_as",
    "mongodb.connections.*.tls.required",
    "mongodb.connections.*.tls.ca_file",
    "mongodb.connections.*.tls.cert_file",
    "mongodb.connections.*.tls.key_file",
    "executor.kind",
    "executor.max_replicas",
    "executor.shutdown_grace",
    "executor.retire",
    "executor.docker.host",
    "executor.docker.tls.required",
    "executor.docker.tls.ca_file",
    "executor.docker.tls.cert_file",
    "executor.docker.tls.key_file",
    "executor.docker.timeout",
    "executor.docker.parallel",
    "executor.docker.image",
    "executor.docker.pull",
    "executor.docker.registry.server",
    "executor.docker.registry.username",
    "executor.docker.registry.password",
    "executor.docker.registry.password_file",
    "executor.docker.user",
    "executor.docker.memory",
    "executor.docker.cpus",
    "executor.docker.pids",
    "executor.docker.open_files",
    "executor.docker.log_size",
    "executor.docker.log_files",
    "executor.docker.network",
    "executor.docker.extra_hosts",
    "executor.docker.dns",
    "executor.docker.health_interval",
    "executor.docker.secrets.host_dir",
    "executor.docker.execution.nats.urls",
    "executor.docker.execution.mongodb.connections.*.hosts",
    "executor.kubernetes.kubeconfig",
    "executor.kubernetes.context",
    "executor.kubernetes.namespace",
    "executor.kubernetes.timeout",
    "executor.kubernetes.parallel",
    "executor.kubernetes.image",
    "executor.kubernetes.pull",
    "executor.kubernetes.pull_secrets",
    "executor.kubernetes.user",
    "executor.kubernetes.memory",
    "executor.kubernetes.cpus",
    "executor.kubernetes.requests.memory",
    "executor.kubernetes.requests.cpus",
    "executor.kubernetes.node_selector",
    "executor.kubernetes.tolerations",
    "executor.kubernetes.topology_spread",
    "executor.kubernetes.priority_class",
    "executor.kubernetes.service_account",
    "executor.kubernetes.labels",
    "executor.kubernetes.annotations",
    "executor.kubernetes.secrets",
    "executor.kubernetes.autoscaled",
    "executor.kubernetes.execution.nats.urls",
    "executor.kubernetes.execution.mongodb.connections.*.hosts",
    "limits.memory",
    "jetstream.replicas",
    "pipelines.on_delete",
    "pipelines.drain_timeout",
    "pipelines.batch_count",
    "pipelines.batch_period",
    "http.listen",
    "http.health_listen",
    "http.token",
    "http.token_file",
    "log.format",
    "log.level",
    "names.entries",
    "names.configs",
    "names.status",
    "names.lease",
    "names.reports",
    "names.dead_letters",
    "names.stream",
    "names.subject",
    "names.closed",
    "names.consumer",
    "names.states",
    "names.logs",
];

/// Lays the variables over `root`. Empty ones count as not set.
pub(super) fn environment(root: &mut Node, env: &[(String, String)], report: &mut Report) {
    let mut layer = Vec::new();
    for (name, value) in env {
        let Some(rest) = name.strip_prefix("SLUICE_") else { continue };
        if value.is_empty() || is_not_ours(rest, value) {
            continue;
        }
        let place = Place::whole(&format!("environment {}", shown(name)));
        match path_of_variable(rest, root) {
            Some(path) => layer.push((path, Node { place, value: Value::Scalar(value.clone(), Style::Override) })),
            None => {
                let known: Vec<String> = PATHS.iter().map(|path| variable(path)).collect();
                let remedy = match nearest(name, known.iter().map(String::as_str)) {
                    Some(known) => format!("did you mean {known}?"),
                    None => "a field nats.urls is SLUICE_NATS_URLS; remove the variable".to_owned(),
                };
                report.error(&place, "", "no setting has this name", remedy);
            }
        }
    }
    put_all(root, layer);
}

/// Variables that are no settings: those that name the file, the cache and an execution, those of tests, and those that Kubernetes
/// puts into every pod for services whose name begins with `sluice`, which nobody can keep it from doing.
fn is_not_ours(rest: &str, value: &str) -> bool {
    let port = rest.rsplit_once("_PORT_").is_some_and(|(_, tail)| tail.starts_with(|c: char| c.is_ascii_digit()));
    let service = rest == "SERVICE_HOST" || rest.ends_with("_SERVICE_HOST") || rest.contains("SERVICE_PORT");
    let address = (rest == "PORT" || rest.ends_with("_PORT")) && value.contains("://");
    let root_port = rest.strip_prefix("PORT_").is_some_and(|tail| tail.starts_with(|c: char| c.is_ascii_digit()));
    matches!(rest, "SETTINGS" | "SPEC" | "CACHE") || rest.starts_with("TEST_") || port || service || address || root_port
}

/// The variable of a path.
pub(super) fn variable(path: &str) -> String {
    format!("SLUICE_{}", path.replace('.', "_").to_uppercase())
}

/// The path that a variable stands for, its prefix removed.
fn path_of_variable(rest: &str, root: &Node) -> Option<Vec<String>> {
    let matched = |path: &str| match path.split_once(".*.") {
        None => (variable(path).get(7..)? == rest).then(|| path.split('.').map(str::to_owned).collect()),
        Some((before, after)) => {
            let name = rest.strip_prefix(variable(before).get(7..)?)?.strip_prefix('_')?;
            let name = name.strip_suffix(variable(after).get(7..)?)?.strip_suffix('_').filter(|name| !name.is_empty())?;
            let steps = before.split('.').map(str::to_owned).chain([connection(name, root)]);
            Some(steps.chain(after.split('.').map(str::to_owned)).collect::<Vec<_>>())
        }
    };
    // A variable that ends in `_TLS_CA_FILE` could only be read otherwise by a connection with a strange name: the
    // longest field wins.
    let mut matches: Vec<(usize, Vec<String>)> = PATHS.iter().filter_map(|path| Some((path.len(), matched(path)?))).collect();
    matches.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    matches.into_iter().next().map(|(_, path)| path)
}

/// The connection that a part of a variable names: one of the file's, whose case and dashes variables cannot show, or a
/// new one.
fn connection(name: &str, root: &Node) -> String {
    let known = match root.get("mongodb").and_then(|node| node.get("connections")).map(|node| &node.value) {
        Some(Value::Map(entries)) => entries.iter().find(|(key, _)| key.name.replace('-', "_").eq_ignore_ascii_case(name)),
        _ => None,
    };
    known.map_or_else(|| name.to_lowercase(), |(key, _)| key.name.clone())
}

/// Lays `--set a.b=c` over `root`, the later the stronger.
pub(super) fn arguments(root: &mut Node, set: &[String], report: &mut Report) {
    for argument in set {
        let Some((path, value)) = argument.split_once('=').filter(|(path, _)| !path.trim().is_empty()) else {
            // The argument may be a secret whose name was forgotten; it is not repeated.
            report.error(&Place::whole("--set"), "", "expected a path, '=' and a value", "write --set nats.urls=nats://host:4222");
            continue;
        };
        let path = path.trim();
        let origin = format!("--set {}", shown(path));
        let place = Place::whole(&origin);
        let value = match parsed(&origin, value) {
            Ok(value) => value,
            Err(remedy) => {
                report.error(&place, path, "the value is not YAML", remedy);
                continue;
            }
        };
        let steps = path.split('.').map(str::to_owned).collect();
        put_all(root, vec![(steps, Node { place, value })]);
    }
}

/// A value of `--set`: YAML where it looks like a list, a map or a text in quotes, otherwise the text as it is, so that
/// a URL or a password needs no quoting twice.
fn parsed(origin: &str, text: &str) -> Result<Value, String> {
    match text.trim() {
        "" | "null" | "~" => Ok(Value::Null),
        yaml if yaml.starts_with(['[', '{', '"', '\'']) => {
            let node = document::parse(origin, yaml.as_bytes(), 1 << 16).map_err(|problem| problem.message)?;
            Ok(without_lines(node, &Place::whole(origin)).value)
        }
        text => Ok(Value::Scalar(text.to_owned(), Style::Override)),
    }
}

/// Lines within an argument mean nothing to anyone.
fn without_lines(node: Node, place: &Place) -> Node {
    let value = match node.value {
        Value::List(items) => Value::List(items.into_iter().map(|item| without_lines(item, place)).collect()),
        Value::Map(entries) => {
            let entry = |(key, node): (Key, Node)| (Key { name: key.name, place: place.clone() }, without_lines(node, place));
            Value::Map(entries.into_iter().map(entry).collect())
        }
        other => other,
    };
    Node { place: place.clone(), value }
}

/// Puts one layer into the tree. A secret of this layer replaces its `_file` of an earlier one and the reverse; both in
/// one layer remain, and are refused by the walk.
fn put_all(root: &mut Node, layer: Vec<(Vec<String>, Node)>) {
    for (path, _) in &layer {
        let Some((last, parents)) = path.split_last() else { continue };
        let other = match last.strip_suffix("_file") {
            Some(inline) => inline.to_owned(),
            None => format!("{last}_file"),
        };
        let same_layer = layer.iter().any(|(path, _)| path.split_last() == Some((&other, parents)));
        if !same_layer {
            remove(root, parents, &other);
        }
    }
    for (path, node) in layer {
        put(root, &path, node);
    }
}

fn remove(root: &mut Node, parents: &[String], name: &str) {
    let mut at = root;
    for step in parents {
        let Value::Map(entries) = &mut at.value else { return };
        let Some((_, node)) = entries.iter_mut().find(|(key, _)| key.name == *step) else { return };
        at = node;
    }
    if let Value::Map(entries) = &mut at.value {
        entries.retain(|(key, _)| key.name != name);
    }
}

/// Puts `node` at `path`, making the maps on the way; whatever stands there is replaced.
pub(super) fn put(root: &mut Node, path: &[String], node: Node) {
    let Some((step, rest)) = path.split_first() else {
        *root = node;
        return;
    };
    if !matches!(root.value, Value::Map(_)) {
        *root = Node { place: node.place.clone(), value: Value::Map(Vec::new()) };
    }
    let Value::Map(entries) = &mut root.value else { return };
    let at = match entries.iter().position(|(key, _)| key.name == *step) {
        Some(at) => at,
        None => {
            let key = Key { name: step.clone(), place: node.place.clone() };
            entries.push((key, Node { place: node.place.clone(), value: Value::Null }));
            entries.len() - 1
        }
    };
    if let Some((key, child)) = entries.get_mut(at) {
        if rest.is_empty() {
            key.place = node.place.clone();
        }
        put(child, rest, node);
    }
}
