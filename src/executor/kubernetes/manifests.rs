//! The objects of a pipeline, as pure functions of its spec and the settings: what the API server is asked for.
//!
//! ```text
//! Deployment  sluice-{slug}-{hash}                one a pipeline; its template follows from the fingerprint alone
//!   ├─ ConfigMap  …-{fingerprint8}                sluice.yml and spec.json: no secret is in them
//!   └─ Secret     …-{fingerprint8}                what the settings do not take from Secrets of the operator's
//! ```
//!
//! What always holds, whatever an entry says: the restricted pod security profile, a root file system that cannot be
//! written, no token of a service account, bounds on memory and processors. What changes without a restart (replicas, what
//! is proven, previous targets, the epoch) stands outside of the pod template. Golden tests hold all of it.

use crate::executor::names::{self, execution_name, pipeline_name};
use crate::pipeline::spec::ExecutionSpec;
use crate::settings::{HEALTH_PORT, HTTP_PORT, KubernetesSettings, PullPolicy, Toleration as Tolerated, TopologySpread, is_label_value};
use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMap, ConfigMapProjection, Container, ContainerPort, EnvVar, HTTPGetAction, KeyToPath, LocalObjectReference,
    PodSecurityContext, PodSpec, PodTemplateSpec, Probe, ProjectedVolumeSource, ResourceRequirements, SeccompProfile, Secret,
    SecretProjection, SecurityContext, Toleration, TopologySpreadConstraint, Volume, VolumeMount, VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::collections::BTreeMap;
use std::time::Duration;

/// The field manager of what this module renders.
pub const MANAGER: &str = "sluice";
/// The name of the container in a pod.
pub const CONTAINER: &str = "sluice";
/// The binary in the image.
const BINARY: &str = "/usr/bin/sluice";
/// Where an execution finds its files.
const FILES: &str = "/etc/sluice";
/// Where the secrets are.
pub const SECRETS: &str = "/etc/sluice/secrets";
/// The key of the settings in the ConfigMap.
const SETTINGS: &str = "sluice.yml";
/// The key of the spec in the ConfigMap.
pub const SPEC: &str = "spec.json";
/// What a stop may take beyond the grace period before the node kills.
const BEYOND_GRACE: Duration = Duration::from_secs(5);

/// All objects of an execution.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifests {
    /// The Deployment, without its number of replicas.
    pub deployment: Deployment,
    /// Settings and spec.
    pub settings: ConfigMap,
    /// The secrets that are copied.
    pub secret: Option<Secret>,
}

/// What an execution finds, with the content of its secrets where they are to be written.
#[derive(Clone, Default, PartialEq)]
pub struct Content {
    /// Its settings.
    pub settings: String,
    /// Its secret files by name.
    pub secrets: BTreeMap<String, Vec<u8>>,
    /// How long it may take to write what it holds.
    pub grace: Duration,
}

/// The objects of `spec`. What `kubernetes` takes from Secrets of the operator's is in none of them.
pub fn manifests(spec: &ExecutionSpec, kubernetes: &KubernetesSettings, content: &Content) -> Manifests {
    let own: Vec<&String> = content.secrets.keys().filter(|name| !kubernetes.secrets.contains_key(*name)).collect();
    let data = own.iter().filter_map(|name| Some(((*name).clone(), ByteString(content.secrets.get(*name)?.clone())))).collect();
    let metadata = || ObjectMeta { name: Some(execution_name(spec.installation, &spec.id, &spec.fingerprint)), ..metadata(spec) };
    let secret = Secret { metadata: metadata(), type_: Some("Opaque".into()), data: Some(data), ..Default::default() };
    // What cannot fail to be serialized: strings, numbers and nothing else.
    let spec_json = serde_json::to_string_pretty(spec).unwrap_or_default();
    let texts = BTreeMap::from([(SETTINGS.to_owned(), content.settings.clone()), (SPEC.to_owned(), spec_json)]);
    Manifests {
        deployment: deployment(spec, kubernetes, content, !own.is_empty()),
        settings: ConfigMap { metadata: metadata(), data: Some(texts), ..Default::default() },
        secret: (!own.is_empty()).then_some(secret),
    }
}

/// Makes settings go with the Deployment.
pub fn owner(name: &str, uid: &str) -> OwnerReference {
    OwnerReference { api_version: "apps/v1".into(), kind: "Deployment".into(), name: name.into(), uid: uid.into(), ..Default::default() }
}

/// Makes a Secret go with the settings of its name: so nobody here needs the right to list or delete Secrets.
pub fn owner_of_secret(name: &str, uid: &str) -> OwnerReference {
    OwnerReference { api_version: "v1".into(), kind: "ConfigMap".into(), name: name.into(), uid: uid.into(), ..Default::default() }
}

fn deployment(spec: &ExecutionSpec, kubernetes: &KubernetesSettings, content: &Content, own_secret: bool) -> Deployment {
    let mut pod_labels = kubernetes.labels.clone();
    pod_labels.extend(labels(spec));
    let template = PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(pod_labels),
            annotations: (!kubernetes.annotations.is_empty()).then(|| kubernetes.annotations.clone()),
            ..Default::default()
        }),
        spec: Some(pod(spec, kubernetes, content, own_secret)),
    };
    Deployment {
        metadata: metadata(spec),
        spec: Some(DeploymentSpec {
            selector: selector(spec),
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".into()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_unavailable: Some(IntOrString::Int(0)),
                    max_surge: Some(IntOrString::String("25%".into())),
                }),
            }),
            // Going back is for the entry to say; what is older has lost its settings.
            revision_history_limit: Some(0),
            template,
            ..Default::default()
        }),
        status: None,
    }
}

fn metadata(spec: &ExecutionSpec) -> ObjectMeta {
    // A namespace that is no label's value is one all the same.
    let namespace = spec.namespace.as_str();
    let told = || BTreeMap::from([(names::NAMESPACE.to_owned(), namespace.to_owned())]);
    ObjectMeta {
        name: Some(pipeline_name(spec.installation, &spec.id)),
        labels: Some(labels(spec)),
        annotations: (!is_label_value(namespace)).then(told),
        ..Default::default()
    }
}

fn labels(spec: &ExecutionSpec) -> BTreeMap<String, String> {
    let known = [("name", "sluice"), ("component", "execution"), ("managed-by", "sluice")];
    let mut labels: BTreeMap<_, _> = known.map(|(name, value)| (format!("app.kubernetes.io/{name}"), value.to_owned())).into();
    // The replicas have names of their own.
    let ours = names::labels(spec, "").into_iter().filter(|(name, value)| *name != names::EXECUTION && is_label_value(value));
    labels.extend(ours.map(|(name, value)| (name.to_owned(), value)));
    labels
}

/// What all pods of a pipeline have in common, whatever version they run.
fn selector(spec: &ExecutionSpec) -> LabelSelector {
    let labels = [(names::INSTALLATION, spec.installation.to_string()), (names::ID, spec.id.to_string())];
    LabelSelector { match_labels: Some(labels.map(|(name, value)| (name.to_owned(), value)).into()), match_expressions: None }
}

fn pod(spec: &ExecutionSpec, kubernetes: &KubernetesSettings, content: &Content, own_secret: bool) -> PodSpec {
    let list = |names: &[String]| names.iter().map(|name| LocalObjectReference { name: name.clone() }).collect::<Vec<_>>();
    let user = kubernetes.user;
    PodSpec {
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        service_account_name: kubernetes.service_account.clone(),
        image_pull_secrets: some(list(&kubernetes.pull_secrets)),
        priority_class_name: kubernetes.priority_class.clone(),
        node_selector: (!kubernetes.node_selector.is_empty()).then(|| kubernetes.node_selector.clone()),
        tolerations: some(kubernetes.tolerations.iter().map(toleration).collect()),
        topology_spread_constraints: some(kubernetes.topology_spread.iter().map(|one| spread(one, spec)).collect()),
        termination_grace_period_seconds: Some(whole_seconds(content.grace + BEYOND_GRACE)),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(user.uid.into()),
            run_as_group: Some(user.gid.into()),
            // Whose the files are.
            fs_group: Some(user.gid.into()),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), localhost_profile: None }),
            ..Default::default()
        }),
        containers: vec![container(spec, kubernetes)],
        volumes: Some(vec![files(spec, kubernetes, content, own_secret)]),
        ..Default::default()
    }
}

fn container(spec: &ExecutionSpec, kubernetes: &KubernetesSettings) -> Container {
    let told = [
        ("--id", spec.id.as_str()),
        ("--version", spec.version.as_str()),
        ("--digest", &spec.digest),
        ("--fingerprint", &spec.fingerprint.0),
        ("--spec", &format!("{FILES}/{SPEC}")),
    ];
    let arguments = told.into_iter().flat_map(|(name, value)| [name.to_owned(), value.to_owned()]);
    let policy = match kubernetes.pull {
        PullPolicy::Missing => "IfNotPresent",
        PullPolicy::Always => "Always",
        PullPolicy::Never => "Never",
    };
    let port = |name: &str, port: u16| ContainerPort {
        name: Some(name.into()),
        container_port: port.into(),
        protocol: Some("TCP".into()),
        ..Default::default()
    };
    let requests = kubernetes.requests;
    Container {
        name: CONTAINER.into(),
        image: Some(kubernetes.image.clone()),
        image_pull_policy: Some(policy.into()),
        command: Some(vec![BINARY.into()]),
        args: Some(std::iter::once("execute".to_owned()).chain(arguments).collect()),
        env: Some(vec![EnvVar { name: "SLUICE_SETTINGS".into(), value: Some(format!("{FILES}/{SETTINGS}")), ..Default::default() }]),
        ports: Some(vec![port("http", HTTP_PORT), port("health", HEALTH_PORT)]),
        // What is not ready replaces nothing; only what a restart can help is restarted.
        readiness_probe: Some(probe("/health/ready", 2, 3)),
        liveness_probe: Some(probe("/health/live", 10, 6)),
        resources: Some(ResourceRequirements {
            limits: Some(resources(kubernetes.memory, kubernetes.milli_cpus)),
            requests: Some(resources(requests.memory, requests.milli_cpus)),
            ..Default::default()
        }),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), add: None }),
            ..Default::default()
        }),
        volume_mounts: Some(vec![VolumeMount {
            name: "files".into(),
            mount_path: FILES.into(),
            read_only: Some(true),
            ..Default::default()
        }]),
        ..Default::default()
    }
}

fn probe(path: &str, period_seconds: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.into()),
            port: IntOrString::String("health".into()),
            scheme: Some("HTTP".into()),
            ..Default::default()
        }),
        period_seconds: Some(period_seconds),
        timeout_seconds: Some(3),
        failure_threshold: Some(failures),
        ..Default::default()
    }
}

/// One volume of all files, readable by the user's group alone.
fn files(spec: &ExecutionSpec, kubernetes: &KubernetesSettings, content: &Content, own_secret: bool) -> Volume {
    let name = execution_name(spec.installation, &spec.id, &spec.fingerprint);
    let item = |key: &str, path: String| KeyToPath { key: key.into(), path, mode: None };
    let mut sources = vec![VolumeProjection {
        config_map: Some(ConfigMapProjection {
            name: name.clone(),
            items: Some([SETTINGS, SPEC].map(|key| item(key, key.to_owned())).into()),
            optional: None,
        }),
        ..Default::default()
    }];
    let secret = |name: String, items: Vec<KeyToPath>| VolumeProjection {
        secret: Some(SecretProjection { name, items: Some(items), optional: None }),
        ..Default::default()
    };
    if own_secret {
        let own = content.secrets.keys().filter(|file| !kubernetes.secrets.contains_key(*file));
        sources.push(secret(name, own.map(|file| item(file, format!("secrets/{file}"))).collect()));
    }
    let referred = kubernetes.secrets.iter().filter(|(file, _)| content.secrets.contains_key(*file));
    sources.extend(referred.map(|(file, key)| secret(key.secret.clone(), vec![item(&key.key, format!("secrets/{file}"))])));
    Volume {
        name: "files".into(),
        projected: Some(ProjectedVolumeSource { default_mode: Some(0o440), sources: Some(sources) }),
        ..Default::default()
    }
}

fn toleration(tolerated: &Tolerated) -> Toleration {
    Toleration {
        key: Some(tolerated.key.clone()),
        operator: Some(if tolerated.value.is_some() { "Equal" } else { "Exists" }.into()),
        value: tolerated.value.clone(),
        effect: tolerated.effect.clone(),
        toleration_seconds: None,
    }
}

fn spread(over: &TopologySpread, spec: &ExecutionSpec) -> TopologySpreadConstraint {
    TopologySpreadConstraint {
        max_skew: 1,
        topology_key: over.key.clone(),
        when_unsatisfiable: if over.strict { "DoNotSchedule" } else { "ScheduleAnyway" }.into(),
        label_selector: Some(selector(spec)),
        // Each version by itself: those of the one before go soon.
        match_label_keys: Some(vec!["pod-template-hash".into()]),
        ..Default::default()
    }
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

fn resources(memory: u64, milli_cpus: u64) -> BTreeMap<String, Quantity> {
    BTreeMap::from([("cpu".to_owned(), cpus(milli_cpus)), ("memory".to_owned(), bytes(memory))])
}

/// Whole KiB as the API server writes them: with the largest unit that leaves no fraction.
fn bytes(bytes: u64) -> Quantity {
    let (mut number, mut unit) = (bytes >> 10, "Ki");
    for larger in ["Mi", "Gi", "Ti"] {
        if number == 0 || number % 1024 != 0 {
            break;
        }
        (number, unit) = (number / 1024, larger);
    }
    Quantity(format!("{number}{unit}"))
}

/// Thousandths of a processor as the API server writes them.
fn cpus(milli: u64) -> Quantity {
    match (milli % 1000, milli / 1000) {
        (0, 1000) => Quantity("1k".into()),
        (0, whole) => Quantity(whole.to_string()),
        _ => Quantity(format!("{milli}m")),
    }
}

fn whole_seconds(duration: Duration) -> i64 {
    let rounded_up = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
    i64::try_from(rounded_up).unwrap_or(i64::MAX)
}

#[cfg(test)]
pub(in crate::executor::kubernetes) mod tests;
