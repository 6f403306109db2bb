//! Golden manifests: what a release asks a cluster for changes only where somebody means it to.

use super::*;
use crate::pipeline::id::{Namespace, PipelineId, VersionName};
use crate::pipeline::spec::{Fingerprint, Target};
use crate::settings::{SecretKey, Settings};
use serde_json::json;

pub(in crate::executor::kubernetes) fn spec() -> ExecutionSpec {
    ExecutionSpec {
        schema: 1,
        installation: uuid::Uuid::nil(),
        namespace: Namespace::parse("alpha").unwrap(),
        id: PipelineId::parse("Metrics_1").unwrap(),
        version: VersionName::parse("1-0a0b0c0d").unwrap(),
        digest: "SHA-256=abc".into(),
        stream: "alpha_Metrics_1".into(),
        consumer: "default".into(),
        target: Target { hosts: vec!["db:27017".into()], database: "example".into(), collection: "metrics".into() },
        connection: "default".into(),
        series: None,
        moves: 0,
        previous: Vec::new(),
        replicas: 2,
        proven: false,
        settings_digest: "0123456789abcdef".into(),
        fingerprint: Fingerprint(String::new()),
    }
    .seal("sluice:1.2.3")
}

pub(in crate::executor::kubernetes) fn content() -> Content {
    let secrets = ["mongodb-default-url", "nats-token"].map(|name| (name.to_owned(), b"canary".to_vec()));
    Content { settings: "namespace: alpha\n".into(), secrets: secrets.into(), grace: Duration::from_secs(25) }
}

pub(in crate::executor::kubernetes) fn kubernetes() -> KubernetesSettings {
    KubernetesSettings { image: "sluice:1.2.3".into(), ..Settings::default().executor.kubernetes }
}

/// Everything that settings can say.
fn everything() -> KubernetesSettings {
    let texts = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
    KubernetesSettings {
        pull: PullPolicy::Always,
        pull_secrets: vec!["registry".into()],
        memory: 1 << 30,
        milli_cpus: 1500,
        node_selector: texts("disktype", "ssd"),
        tolerations: vec![
            Tolerated { key: "dedicated".into(), value: Some("sluice".into()), effect: Some("NoSchedule".into()) },
            Tolerated { key: "spot".into(), value: None, effect: None },
        ],
        topology_spread: vec![TopologySpread { key: "topology.kubernetes.io/zone".into(), strict: true }],
        priority_class: Some("important".into()),
        service_account: Some("sluice-execution".into()),
        labels: texts("team", "core"),
        annotations: texts("prometheus.io/scrape", "true"),
        secrets: BTreeMap::from([("nats-token".into(), SecretKey { secret: "nats".into(), key: "token".into() })]),
        ..kubernetes()
    }
}

fn golden(name: &str, manifests: &Manifests) {
    let Manifests { deployment, settings, secret } = manifests;
    let shown = serde_json::to_string_pretty(&json!({"deployment": deployment, "settings": settings, "secret": secret})).unwrap() + "\n";
    let path = format!("{}/src/executor/kubernetes/manifests/{name}.json", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("SLUICE_TEST_BLESS").is_some() {
        std::fs::write(&path, &shown).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), shown, "{path}: SLUICE_TEST_BLESS=1 writes it anew");
}

#[test]
fn the_objects_of_an_execution_are_what_they_were() {
    golden("golden", &manifests(&spec(), &kubernetes(), &content()));
    golden("golden_everything", &manifests(&spec(), &everything(), &content()));
}

#[test]
fn what_changes_without_a_restart_stands_outside_of_the_template() {
    let (one, mut other) = (spec(), spec());
    (other.replicas, other.proven) = (7, true);
    let render = |spec: &ExecutionSpec| manifests(spec, &kubernetes(), &content());
    assert_eq!(render(&one).deployment, render(&other).deployment);
    assert_ne!(render(&one).settings, render(&other).settings);
}

#[test]
fn a_secret_is_nowhere_but_in_the_secret_and_in_none_where_all_are_the_operators() {
    let Manifests { deployment, settings, secret } = manifests(&spec(), &kubernetes(), &content());
    assert!(!format!("{deployment:?}{settings:?}").contains("canary") && secret.is_some());
    let own = |name: &str| (name.to_owned(), SecretKey { secret: "mine".into(), key: name.to_owned() });
    let referred = KubernetesSettings { secrets: content().secrets.keys().map(|name| own(name)).collect(), ..kubernetes() };
    assert_eq!(manifests(&spec(), &referred, &content()).secret, None);
}

#[test]
fn a_namespace_that_is_no_label_is_an_annotation() {
    let odd = ExecutionSpec { namespace: Namespace::parse("_a_").unwrap(), ..spec() };
    let metadata = manifests(&odd, &kubernetes(), &content()).deployment.metadata;
    assert_eq!(metadata.annotations.unwrap()[names::NAMESPACE], "_a_");
    assert!(!metadata.labels.unwrap().contains_key(names::NAMESPACE));
}

#[test]
fn quantities_are_written_as_the_api_server_writes_them() {
    let shown = |quantity: Quantity| quantity.0;
    assert_eq!([512 << 20, 1 << 30, 3 << 10, (1 << 20) + 1024].map(|n| shown(bytes(n))), ["512Mi", "1Gi", "3Ki", "1025Ki"]);
    assert_eq!([10, 1000, 1500, 1_000_000].map(|n| shown(cpus(n))), ["10m", "1", "1500m", "1k"]);
}

proptest::proptest! {
    #[test]
    fn every_label_and_name_is_one_that_a_cluster_takes(
        id in "[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?", version in "[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?",
        namespace in "[A-Za-z0-9_]{1,32}"
    ) {
        proptest::prop_assume!(id != "states" && namespace != "KV" && namespace != "OBJ");
        let spec = ExecutionSpec {
            id: PipelineId::parse(&id).unwrap(),
            version: VersionName::parse(&version).unwrap(),
            namespace: Namespace::parse(&namespace).unwrap(),
            ..spec()
        }.seal("");
        let Manifests { deployment, settings, .. } = manifests(&spec, &kubernetes(), &content());
        for metadata in [deployment.metadata, settings.metadata] {
            proptest::prop_assert!(metadata.labels.unwrap().values().all(|value| is_label_value(value)));
            // With what the cluster adds for its replica sets and pods it is still a label's value.
            let name = metadata.name.unwrap();
            proptest::prop_assert!(name.len() <= 63 && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'), "{}", name);
        }
        let selected = deployment.spec.unwrap().selector.match_labels.unwrap();
        proptest::prop_assert_eq!(&selected[names::ID], &id);
    }
}
