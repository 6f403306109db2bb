//! `executor.kubernetes`: the cluster, the profile of the pods, and the Secrets that they mount. Types, defaults and their
//! checks.
//!
//! The profile comes from here alone: no entry and no config can weaken it. Maps and lists of one line each are written so
//! that a variable can hold them: `a=b,c=d`, and taints as kubectl writes them. Called by the walk over all settings.

use super::container::{self, ContainerUser, ExecutionAddresses, PullPolicy, whole};
use super::secrets::Files;
use super::{ExecutorKind, Settings};
use crate::pipeline::document::{Style, Value, shown};
use crate::pipeline::fields::{Fields, Report, Taken, show_bytes};
use std::path::{Path, PathBuf};
use std::{collections::BTreeMap, time::Duration};

/// `executor.kubernetes`.
#[derive(Debug, Clone, PartialEq)]
pub struct KubernetesSettings {
    /// A kubeconfig file; default: the pod's service account, else `$KUBECONFIG`, else `~/.kube/config`.
    pub kubeconfig: Option<PathBuf>,
    /// The context in it; default its current one.
    pub context: Option<String>,
    /// The namespace that executions live in; default the pod's own, else the context's.
    pub namespace: Option<String>,
    /// The longest call; default 10 s.
    pub timeout: Duration,
    /// Calls that are under way at the same time; default 8.
    pub parallel: u32,
    /// Default `sluice:{version of this binary}`.
    pub image: String,
    /// Default `missing`.
    pub pull: PullPolicy,
    /// Secrets of type `kubernetes.io/dockerconfigjson` by which nodes pull the image.
    pub pull_secrets: Vec<String>,
    /// `uid:gid` inside, never root; default `65532:65532`.
    pub user: ContainerUser,
    /// The limit in bytes, a multiple of 1 KiB; default 512 MiB.
    pub memory: u64,
    /// The limit in thousandths of a processor; default 1000.
    pub milli_cpus: u64,
    /// What a node must have free for it.
    pub requests: ResourceRequests,
    /// Labels that a node must have.
    pub node_selector: BTreeMap<String, String>,
    /// Taints that a node may have.
    pub tolerations: Vec<Toleration>,
    /// Node labels over whose values the replicas of a pipeline are spread.
    pub topology_spread: Vec<TopologySpread>,
    /// The priority class.
    pub priority_class: Option<String>,
    /// The service account, of which no token is mounted; default the namespace's `default`.
    pub service_account: Option<String>,
    /// Further labels of pods.
    pub labels: BTreeMap<String, String>,
    /// Further annotations of pods.
    pub annotations: BTreeMap<String, String>,
    /// The operator's own Secrets by the name of the file that an execution reads: `nats-token`, `mongodb-default-url`. What
    /// is not named here is copied into a Secret of the execution's own.
    pub secrets: BTreeMap<String, SecretKey>,
    /// Whether an autoscaler decides how many replicas there are, and the entry only whether there are any.
    pub autoscaled: bool,
    /// The addresses that executions use, where they differ from this process's.
    pub execution: ExecutionAddresses,
}

/// `executor.kubernetes.requests`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResourceRequests {
    /// Bytes, a multiple of 1 KiB; default 128 MiB, or the limit where that is less.
    pub memory: u64,
    /// Thousandths of a processor; default 100, or the limit where that is less.
    pub milli_cpus: u64,
}

/// A taint that a node may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toleration {
    /// The taint's key.
    pub key: String,
    /// Its value; `None` for any.
    pub value: Option<String>,
    /// Its effect; `None` for any.
    pub effect: Option<String>,
}

/// One of `executor.kubernetes.topology_spread`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopologySpread {
    /// The label of nodes.
    pub key: String,
    /// Whether a pod rather waits than makes the spread uneven.
    pub strict: bool,
}

/// A key in a Secret of the operator's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretKey {
    /// The Secret.
    pub secret: String,
    /// The key in it.
    pub key: String,
}

impl Default for KubernetesSettings {
    fn default() -> Self {
        Self {
            kubeconfig: None,
            context: None,
            namespace: None,
            timeout: Duration::from_secs(10),
            parallel: 8,
            image: container::IMAGE.into(),
            pull: PullPolicy::Missing,
            pull_secrets: Vec::new(),
            user: ContainerUser { uid: 65532, gid: 65532 },
            memory: 512 << 20,
            milli_cpus: 1000,
            requests: ResourceRequests { memory: 128 << 20, milli_cpus: 100 },
            node_selector: BTreeMap::new(),
            tolerations: Vec::new(),
            topology_spread: Vec::new(),
            priority_class: None,
            service_account: None,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            secrets: BTreeMap::new(),
            autoscaled: false,
            execution: ExecutionAddresses::default(),
        }
    }
}

/// What of it makes a pod differ, for the execution digest.
pub(super) fn profile(kubernetes: &KubernetesSettings) -> Vec<String> {
    let KubernetesSettings { user, requests, pull, pull_secrets, node_selector, tolerations, topology_spread, .. } = kubernetes;
    let mut fields = vec![
        format!("{}:{}", user.uid, user.gid),
        format!("{}/{}", requests.memory, kubernetes.memory),
        format!("{}/{}", requests.milli_cpus, kubernetes.milli_cpus),
        format!("{pull:?} {}", pull_secrets.join(",")),
        format!("{node_selector:?} {tolerations:?} {topology_spread:?}"),
        format!("{:?} {:?}", kubernetes.priority_class, kubernetes.service_account),
        format!("{:?} {:?}", kubernetes.labels, kubernetes.annotations),
        format!("{:?}", kubernetes.secrets),
    ];
    fields.extend(kubernetes.execution.profile());
    fields
}

/// Takes `executor.kubernetes` out of `parent`.
pub(super) fn read(parent: &mut Fields<'_>, kubernetes: &mut KubernetesSettings, files: &Files, report: &mut Report) {
    let mut fields = parent.map("kubernetes", report);
    kubernetes.kubeconfig = files.path(&mut fields, "kubeconfig", true, report).map(|taken| taken.value);
    kubernetes.context = fields.string("context", report).map(|taken| taken.value);
    kubernetes.namespace = name(&mut fields, "namespace", report);
    if let Some(taken) = fields.duration("timeout", Duration::from_secs(1), report) {
        kubernetes.timeout = taken.value;
    }
    if let Some(parallel) = whole(&mut fields, "parallel", 1..=64, report) {
        kubernetes.parallel = parallel;
    }
    container::image(&mut fields, &mut kubernetes.image, report);
    container::pull(&mut fields, &mut kubernetes.pull, report);
    kubernetes.pull_secrets = strings(&mut fields, "pull_secrets", report, object_name);
    container::user(&mut fields, &mut kubernetes.user, report);
    resources(&mut fields, kubernetes, report);
    kubernetes.node_selector = texts(&mut fields, "node_selector", report, label);
    kubernetes.tolerations = strings(&mut fields, "tolerations", report, toleration);
    kubernetes.topology_spread = strings(&mut fields, "topology_spread", report, spread);
    kubernetes.priority_class = name(&mut fields, "priority_class", report);
    kubernetes.service_account = name(&mut fields, "service_account", report);
    kubernetes.labels = texts(&mut fields, "labels", report, |key, value| own(key).and_then(|()| label(key, value)));
    kubernetes.annotations =
        texts(&mut fields, "annotations", report, |key, value| own(key).and_then(|()| qualified(key).map(|()| value.to_owned())));
    kubernetes.secrets = texts(&mut fields, "secrets", report, |_, value| secret_key(value));
    if let Some(taken) = fields.boolean("autoscaled", report) {
        kubernetes.autoscaled = taken.value;
    }
    container::addresses(&mut fields, &mut kubernetes.execution, report);
    fields.finish(report);
}

fn resources(fields: &mut Fields<'_>, kubernetes: &mut KubernetesSettings, report: &mut Report) {
    const BYTES: std::ops::RangeInclusive<u64> = (32 << 20)..=(1 << 50);
    // As the API server would write it: what has no fraction of a KiB.
    let whole_kib = |bytes: u64| bytes & !1023;
    if let Some(taken) = fields.bytes("memory", BYTES, report) {
        kubernetes.memory = whole_kib(taken.value);
    }
    if let Some(milli_cpus) = container::cpus(fields, report) {
        kubernetes.milli_cpus = milli_cpus;
    }
    let defaults = KubernetesSettings::default().requests;
    kubernetes.requests =
        ResourceRequests { memory: defaults.memory.min(kubernetes.memory), milli_cpus: defaults.milli_cpus.min(kubernetes.milli_cpus) };
    let mut requests = fields.map("requests", report);
    if let Some(taken) = requests.bytes("memory", (1 << 20)..=(1 << 50), report) {
        if taken.value > kubernetes.memory {
            taken.error(report, "more is requested than the limit allows", format!("at most {}", show_bytes(kubernetes.memory)));
        }
        kubernetes.requests.memory = whole_kib(taken.value);
    }
    let place = requests.place().clone();
    if let Some(milli_cpus) = container::cpus(&mut requests, report) {
        if milli_cpus > kubernetes.milli_cpus {
            report.error(&place, &requests.path_of("cpus"), "more is requested than the limit allows", "raise executor.kubernetes.cpus");
        }
        kubernetes.requests.milli_cpus = milli_cpus;
    }
    requests.finish(report);
}

/// What is wrong with a text, and what would be right.
type Wrong = (&'static str, &'static str);

const NAME: Wrong = ("no name of an object in Kubernetes", "use a-z 0-9 - and '.' between them");
const LABEL: Wrong =
    ("no label", "use A-Z a-z 0-9 - _ . with a letter or digit at both ends, at most 63, and a prefix such as example.com/");

fn name(fields: &mut Fields<'_>, field: &'static str, report: &mut Report) -> Option<String> {
    let taken = fields.string(field, report)?;
    checked(&taken, object_name(&taken.value), report)
}

/// Takes a list, each text of it read by `read`.
fn strings<T>(fields: &mut Fields<'_>, name: &'static str, report: &mut Report, read: impl Fn(&str) -> Result<T, Wrong>) -> Vec<T> {
    let taken = fields.strings(name, report).map(|taken| taken.value).unwrap_or_default();
    taken.iter().filter_map(|taken| checked(taken, read(&taken.value), report)).collect()
}

/// Takes a map of texts, each read by `read` with its key. From outside of any file it may be `a=b,c=d`.
fn texts<T>(
    fields: &mut Fields<'_>,
    name: &'static str,
    report: &mut Report,
    read: impl Fn(&str, &str) -> Result<T, Wrong>,
) -> BTreeMap<String, T> {
    let Some(taken) = fields.node(name) else { return BTreeMap::new() };
    let (mut pairs, mut wrong) = (Vec::new(), None);
    match &taken.value.value {
        Value::Scalar(text, Style::Override) => {
            for pair in text.split(',').filter(|pair| !pair.trim().is_empty()) {
                match pair.split_once('=') {
                    Some((key, value)) => pairs.push((taken.place.clone(), key.trim().to_owned(), value.trim().to_owned())),
                    None => wrong = Some((taken.place.clone(), taken.path.clone())),
                }
            }
        }
        Value::Map(entries) => {
            for (key, node) in entries {
                match &node.value {
                    Value::Scalar(text, _) => pairs.push((node.place.clone(), key.name.clone(), text.clone())),
                    _ => wrong = Some((node.place.clone(), format!("{}.{}", taken.path, shown(&key.name)))),
                }
            }
        }
        _ => wrong = Some((taken.place.clone(), taken.path.clone())),
    }
    if let Some((place, path)) = wrong {
        report.error(&place, &path, "expected names, each with one text", "write it like {name: text}, in a variable name=text,…");
    }
    let mut all = BTreeMap::new();
    for (place, key, value) in pairs {
        let one = Taken { path: format!("{}.{}", taken.path, shown(&key)), place, value };
        if let Some(value) = checked(&one, read(&key, &one.value), report) {
            all.insert(key, value);
        }
    }
    all
}

fn checked<T>(taken: &Taken<String>, read: Result<T, Wrong>, report: &mut Report) -> Option<T> {
    match read {
        Ok(value) => Some(value),
        Err((wrong, remedy)) => {
            taken.error(report, format!("'{}' is {wrong}", shown(&taken.value)), remedy);
            None
        }
    }
}

fn object_name(text: &str) -> Result<String, Wrong> {
    let part = |part: &str| {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        !part.is_empty() && part.bytes().all(inner) && !part.starts_with('-') && !part.ends_with('-')
    };
    if text.len() <= 253 && text.split('.').all(part) { Ok(text.to_owned()) } else { Err(NAME) }
}

/// A label's value, or the last part of its key.
pub(crate) fn is_label_value(text: &str) -> bool {
    let end = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
    let valid = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    text.len() <= 63 && text.chars().all(valid) && end(text.chars().next()) && end(text.chars().next_back())
}

fn qualified(key: &str) -> Result<(), Wrong> {
    let (prefix, last) = key.split_once('/').map_or((None, key), |(prefix, last)| (Some(prefix), last));
    let valid = prefix.is_none_or(|prefix| object_name(prefix).is_ok()) && !last.is_empty() && is_label_value(last);
    if valid { Ok(()) } else { Err(("under a key that is none", LABEL.1)) }
}

fn label(key: &str, value: &str) -> Result<String, Wrong> {
    qualified(key)?;
    if is_label_value(value) { Ok(value.to_owned()) } else { Err(LABEL) }
}

/// What we label ourselves is nobody else's to say.
fn own(key: &str) -> Result<(), Wrong> {
    if key.starts_with("sluice/") { Err(("under a key of our own", "use another prefix than sluice/")) } else { Ok(()) }
}

/// `key`, `key=value`, either with `:Effect`.
fn toleration(text: &str) -> Result<Toleration, Wrong> {
    let wrong = ("no taint", "write it as kubectl does: key=value:NoSchedule, key:NoExecute or key");
    let (taint, effect) = text.split_once(':').map_or((text, None), |(taint, effect)| (taint, Some(effect)));
    let (key, value) = taint.split_once('=').map_or((taint, None), |(key, value)| (key, Some(value)));
    let known = effect.is_none_or(|effect| ["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect));
    if qualified(key).is_err() || !value.is_none_or(is_label_value) || !known {
        return Err(wrong);
    }
    Ok(Toleration { key: key.to_owned(), value: value.map(str::to_owned), effect: effect.map(str::to_owned) })
}

/// `topology.kubernetes.io/zone`, and `:DoNotSchedule` where a pod is rather to wait.
fn spread(text: &str) -> Result<TopologySpread, Wrong> {
    let (key, strict) = match text.split_once(':') {
        None | Some((_, "ScheduleAnyway")) => (text.split(':').next().unwrap_or(text), false),
        Some((key, "DoNotSchedule")) => (key, true),
        Some(_) => return Err(("no spread", "write a node label such as topology.kubernetes.io/zone, perhaps with :DoNotSchedule")),
    };
    qualified(key).map(|()| TopologySpread { key: key.to_owned(), strict })
}

/// `secret/key`.
fn secret_key(text: &str) -> Result<SecretKey, Wrong> {
    let valid = |key: &str| !key.is_empty() && key.len() <= 253 && key.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    match text.split_once('/') {
        Some((secret, key)) if object_name(secret).is_ok() && valid(key) => {
            Ok(SecretKey { secret: secret.to_owned(), key: key.to_owned() })
        }
        _ => Err(("no key of a Secret", "write it as secret/key")),
    }
}

/// Checks what only the whole of the settings shows. `kind` is where the executor was chosen.
pub(super) fn check(settings: &Settings, kind: &Taken<ExecutorKind>, report: &mut Report) {
    let kubernetes = &settings.executor.kubernetes;
    let otherwise = Some("pods reach");
    container::check_addresses(settings, ExecutorKind::Kubernetes, &kubernetes.execution, otherwise, kind, report);
    if kind.value != ExecutorKind::Kubernetes {
        return;
    }
    let found = settings.execution_files(Path::new(""), kubernetes.memory).secrets;
    let known: Vec<&str> = found.iter().map(|file| file.name.as_str()).collect();
    for name in kubernetes.secrets.keys() {
        let path = format!("executor.kubernetes.secrets.{}", shown(name));
        if !known.contains(&name.as_str()) {
            let message = format!("executions read no file '{}'", shown(name));
            report.error(&kind.place, &path, message, format!("with these settings they read {}", known.join(", ")));
        } else if let Some(connection) = name.strip_prefix("mongodb-").and_then(|rest| rest.strip_suffix("-url"))
            && kubernetes.execution.mongodb_hosts.contains_key(connection)
        {
            let message = format!("the url of the connection '{connection}' comes from a Secret, and its hosts from execution");
            report.error(&kind.place, &path, message, "put the hosts that pods reach into the Secret, and take them out of execution");
        }
    }
}
