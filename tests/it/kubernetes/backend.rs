//! The backend alone: its contract, what it finds after a restart, drift, strangers, other field managers, secrets.

use super::Rig;
use crate::executor::{PLAIN, SOON, id, keeps_the_contract, observed, runs};
use crate::outliving::{is_stopped, newer, says};
use crate::support::eventually;
use serde_json::json;
use sluice::executor::names::{execution_name, pipeline_name};
use sluice::executor::{Executor, kubernetes::KubernetesExecutor};
use sluice::pipeline::spec::ExecutionSpec;
use sluice::pipeline::status::Reason;
use sluice::settings::{Secret, SecretKey};

#[tokio::test(flavor = "multi_thread")]
async fn the_kubernetes_backend_keeps_the_contract() {
    require!("kubernetes", "nats-server", "database");
    let rig = Rig::set().await;
    let (one, two) = (rig.plain().await, rig.version("2", &newer()).await);
    keeps_the_contract(&rig.backend(), &one, &two).await;
    let backend = rig.backend();
    backend.destroy(&id()).await.unwrap();
    eventually("nothing of any kind is left", SOON, || async { rig.left().await.is_empty() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_controller_left_in_a_cluster_is_adopted_and_goes_on_where_it_stood() {
    require!("kubernetes", "nats-server", "database");
    let rig = Rig::set().await;
    let (one, two) = (rig.plain().await, rig.version("2", &newer()).await);
    let first = rig.backend();
    first.ensure(&one).await.unwrap();
    runs(&first, &one).await;
    let before = names(&first).await;
    drop(first);
    let second = rig.backend();
    second.ensure(&one).await.unwrap();
    runs(&second, &one).await;
    assert_eq!(names(&second).await, before, "the same pod goes on");
    // As a controller that is killed in the middle of a version change: its drivers end wherever they are.
    second.ensure(&two).await.unwrap();
    drop(second);
    let third = rig.backend();
    third.ensure(&two).await.unwrap();
    runs(&third, &two).await;
    eventually("the settings of the version before are gone", SOON, || async {
        rig.namespace.kubectl(&["get", "configmaps", "-l", "sluice/id", "-o", "name"]).await.lines().count() == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_target_starts_only_when_no_pod_of_the_old_is_left() {
    require!("kubernetes", "nats-server", "database");
    let rig = Rig::set().await;
    let one = rig.plain().await;
    let mut two = rig.version("2", &PLAIN.replace("collection: metrics", "collection: others")).await;
    two.target.collection = "others".into();
    let two = two.seal(&rig.settings.executor.kubernetes.image);
    let backend = rig.backend();
    backend.ensure(&one).await.unwrap();
    runs(&backend, &one).await;
    backend.ensure(&two).await.unwrap();
    eventually("the other runs, and both never did", SOON, || async {
        let instances = observed(&backend).await.unwrap().instances;
        let of = |spec: &ExecutionSpec| instances.iter().any(|one| one.fingerprint == spec.fingerprint);
        assert!(!(of(&one) && of(&two)), "{instances:?}");
        of(&two)
    })
    .await;
    runs(&backend, &two).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn drift_in_a_cluster_is_seen_by_an_event_and_repaired() {
    require!("kubernetes", "nats-server", "database");
    let rig = Rig::set().await;
    let (backend, one) = (rig.backend(), rig.plain().await);
    backend.ensure(&one).await.unwrap();
    runs(&backend, &one).await;
    let name = &pipeline_name(rig.installation, &one.id);
    let files = &execution_name(rig.installation, &one.id, &one.fingerprint);
    let drifts: [&[&str]; 5] = [
        &["delete", "deployment", name],
        &["delete", "deployment", name, "--cascade=orphan"],
        &["delete", "configmap", files],
        &["label", "deployment", name, "sluice/version-"],
        &["delete", "pods", "--all", "--force", "--grace-period=0"],
    ];
    let mut events = backend.events();
    for drift in drifts {
        while events.try_recv().is_ok() {}
        rig.namespace.kubectl(drift).await;
        // What only the next resync of a controller sees has no event of its own.
        if !drift.contains(&"configmap") {
            eventually(&format!("an event hints at {drift:?}"), SOON, || {
                let hinted = events.try_recv().is_ok_and(|hinted| hinted == id());
                async move { hinted }
            })
            .await;
        }
        eventually(&format!("{drift:?} is repaired"), SOON, || async {
            let right = observed(&backend).await.is_some_and(|seen| seen.running && seen.fingerprint == one.fingerprint);
            if !right {
                backend.ensure(&one).await.unwrap();
            }
            right && rig.namespace.try_kubectl(&["get", "configmap", files]).await.status.success()
        })
        .await;
        runs(&backend, &one).await;
        let label = rig.namespace.get(&["deployment", name]).await["metadata"]["labels"]["sluice/version"].clone();
        assert_eq!(label, "1");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_that_somebody_else_set_is_reported_and_not_fought_but_what_is_to_stop_stops() {
    require!("kubernetes", "nats-server", "database");
    let rig = Rig::set().await;
    let (backend, one) = (rig.backend(), rig.plain().await);
    backend.ensure(&one).await.unwrap();
    runs(&backend, &one).await;
    let name = &pipeline_name(rig.installation, &one.id);
    let said = |field: &'static str| {
        let backend = &backend;
        let one = &one;
        async move {
            eventually(&format!("the conflict over {field} is said"), SOON, || async {
                backend.ensure(one).await.unwrap();
                let troubles = observed(backend).await.unwrap().troubles;
                troubles.iter().any(|trouble| trouble.reason == Reason::FieldConflict && trouble.message.contains(field))
            })
            .await;
        }
    };
    rig.namespace.kubectl(&["scale", "deployment", name, "--replicas=2"]).await;
    said(".spec.replicas").await;
    assert_eq!(rig.namespace.get(&["deployment", name]).await["spec"]["replicas"], 2, "not fought");
    rig.namespace.kubectl(&["scale", "deployment", name, "--replicas=1"]).await;
    runs(&backend, &one).await;

    rig.namespace.kubectl(&["set", "image", &format!("deployment/{name}"), "sluice=sluice:other"]).await;
    said("image").await;
    // What is paused must not run, whoever wants it to.
    rig.namespace.kubectl(&["scale", "deployment", name, "--replicas=3"]).await;
    backend.stop(&one.id).await.unwrap();
    is_stopped(&backend).await;
    let image = &rig.settings.executor.kubernetes.image;
    rig.namespace.kubectl(&["set", "image", &format!("deployment/{name}"), &format!("sluice={image}")]).await;
    backend.ensure(&one).await.unwrap();
    runs(&backend, &one).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_autoscaler_has_its_way_until_the_pipeline_is_stopped() {
    require!("kubernetes", "nats-server", "database");
    let mut rig = Rig::set().await;
    rig.change(|settings| settings.executor.kubernetes.autoscaled = true);
    let (backend, one) = (rig.backend(), rig.plain().await);
    backend.ensure(&one).await.unwrap();
    runs(&backend, &one).await;
    let name = &pipeline_name(rig.installation, &one.id);
    rig.namespace.kubectl(&["scale", "deployment", name, "--replicas=2"]).await;
    let two = rig.version("2", &newer()).await;
    backend.ensure(&two).await.unwrap();
    eventually("two of the new version run", SOON, || async {
        let seen = observed(&backend).await.unwrap();
        let right = seen.instances.iter().filter(|one| one.fingerprint == two.fingerprint && one.state.is_live()).count();
        right == 2 && seen.instances.len() == 2 && seen.troubles.is_empty()
    })
    .await;
    backend.stop(&one.id).await.unwrap();
    is_stopped(&backend).await;
    backend.ensure(&two).await.unwrap();
    runs(&backend, &two).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_others_are_neither_seen_nor_touched() {
    require!("kubernetes", "nats-server", "database");
    let rig = Rig::set().await;
    let (backend, one) = (rig.backend(), rig.plain().await);
    let name = pipeline_name(rig.installation, &one.id);
    let other = uuid::Uuid::new_v4();
    let squatter = |name: &str, kind: &str, api: &str| {
        let spec = json!({
            "replicas": 0, "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
        });
        let labels = json!({"sluice/installation": other, "sluice/id": one.id});
        let mut object = json!({"apiVersion": api, "kind": kind, "metadata": {"name": name, "labels": labels}});
        if kind == "Deployment" {
            object["spec"] = spec;
        }
        object.to_string()
    };
    rig.namespace.apply(&squatter(&name, "Deployment", "apps/v1")).await;
    assert!(backend.list().await.unwrap().is_empty());
    backend.destroy(&one.id).await.unwrap();
    let refused = async |kind: &str| {
        backend.ensure(&one).await.unwrap();
        says(&backend, Reason::ObjectForeign, kind).await;
    };
    refused("Deployment").await;
    rig.namespace.kubectl(&["delete", "deployment", &name]).await;
    runs(&backend, &one).await;
    backend.destroy(&one.id).await.unwrap();
    eventually("nothing is left", SOON, || async { rig.left().await.is_empty() }).await;
    let files = execution_name(rig.installation, &one.id, &one.fingerprint);
    for kind in ["ConfigMap", "Secret"] {
        rig.namespace.apply(&squatter(&files, kind, "v1")).await;
        refused(kind).await;
        assert_eq!(rig.namespace.get(&[kind, &files]).await["data"], json!(null), "untouched");
        rig.namespace.kubectl(&["delete", kind, &files]).await;
        runs(&backend, &one).await;
        backend.destroy(&one.id).await.unwrap();
        eventually("nothing is left", SOON, || async { rig.left().await.is_empty() }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_lost_their_owner_go_on_where_they_are_to_run_and_are_removed_elsewhere_and_strangers_stay() {
    require!("kubernetes", "nats-server", "database");
    let rig = Rig::set().await;
    let (backend, one) = (rig.backend(), rig.plain().await);
    let mut two = rig.version("2", &PLAIN.replace("collection: metrics", "collection: others")).await;
    two.target.collection = "others".into();
    let two = two.seal(&rig.settings.executor.kubernetes.image);
    // Somebody else's that has lost its owner, too; it bears their labels.
    let labels = json!({"sluice/installation": uuid::Uuid::new_v4(), "sluice/id": one.id});
    let container =
        json!({"name": "c", "image": "i", "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}});
    let security = json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}});
    let pod = json!({"containers": [container], "securityContext": security, "nodeSelector": {"disktype": "none"}});
    let template = json!({"metadata": {"labels": {"set": "theirs"}}, "spec": pod});
    // Not of those pods.
    let set = json!({"replicas": 0, "selector": {"matchLabels": {"set": "theirs"}}, "template": template});
    for (kind, api, spec) in [("Pod", "v1", pod.clone()), ("ReplicaSet", "apps/v1", set)] {
        let metadata = json!({"name": "stranger", "labels": labels, "annotations": {"theirs": "yes"}});
        rig.namespace.apply(&json!({"apiVersion": api, "kind": kind, "metadata": metadata, "spec": spec}).to_string()).await;
    }
    let ours = format!("sluice/installation={}", rig.installation);
    let orphan = async |kinds: &str| rig.namespace.kubectl(&["delete", kinds, "-l", &ours, "--cascade=orphan"]).await;

    backend.ensure(&one).await.unwrap();
    runs(&backend, &one).await;
    let before = names(&backend).await;
    for kinds in ["deployments", "deployments,replicasets"] {
        orphan(kinds).await;
        backend.ensure(&one).await.unwrap();
        runs(&backend, &one).await;
        assert_eq!(names(&backend).await, before, "the same pod goes on without a gap");
    }
    // Taken out of its replica set, as for a look at it: another takes its place.
    rig.namespace.kubectl(&["label", "pod", &before[0], "pod-template-hash-"]).await;
    eventually("another pod runs alone", SOON, || async {
        let now = names(&backend).await;
        backend.ensure(&one).await.unwrap();
        now.len() == 1 && now != before
    })
    .await;
    runs(&backend, &one).await;
    orphan("deployments").await;
    backend.stop(&id()).await.unwrap();
    is_stopped(&backend).await;
    backend.ensure(&one).await.unwrap();
    runs(&backend, &one).await;
    orphan("deployments,replicasets").await;
    backend.ensure(&two).await.unwrap();
    runs(&backend, &two).await;
    orphan("deployments").await;
    backend.destroy(&id()).await.unwrap();
    eventually("nothing is left", SOON, || async { rig.left().await.is_empty() }).await;
    for kind in ["pod", "replicaset"] {
        let stranger = rig.namespace.get(&[kind, "stranger"]).await;
        assert_eq!(
            (&stranger["metadata"]["annotations"]["theirs"], &stranger["metadata"]["deletionTimestamp"]),
            (&"yes".into(), &json!(null))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_in_secrets_alone_and_in_none_of_ours_where_the_operator_names_their_own() {
    require!("kubernetes", "nats-server", "database");
    let mut rig = Rig::set().await;
    let canary = "canary-7f3a";
    rig.change(|settings| settings.http.token = Some(Secret::new(canary)));
    let (backend, one) = (rig.backend(), rig.plain().await);
    backend.ensure(&one).await.unwrap();
    runs(&backend, &one).await;
    let shown = async || {
        let kinds = "deployments,replicasets,pods,configmaps,events";
        let pod = names(&backend).await.remove(0);
        rig.namespace.kubectl(&["get", kinds, "-o", "yaml"]).await + &rig.namespace.kubectl(&["logs", &pod]).await
    };
    assert!(!shown().await.contains(canary));
    let secrets = rig.namespace.kubectl(&["get", "secrets", "-l", "sluice/id", "-o", "jsonpath={.items[*].data}"]).await;
    assert!(secrets.contains("http-token") && secrets.contains("mongodb-default-url"), "{secrets}");
    backend.destroy(&one.id).await.unwrap();
    eventually("the secret goes with the execution", SOON, || async { rig.left().await.is_empty() }).await;

    let url = rig.world.mongo.url();
    let literals = [format!("--from-literal=t={canary}"), format!("--from-literal=u={url}")];
    rig.namespace.kubectl(&["create", "secret", "generic", "mine", &literals[0], &literals[1]]).await;
    let key = |key: &str| SecretKey { secret: "mine".into(), key: key.into() };
    let mut settings = rig.settings.as_ref().clone();
    settings.executor.kubernetes.secrets = [("http-token".into(), key("t")), ("mongodb-default-url".into(), key("u"))].into();
    let referring = KubernetesExecutor::new(settings.into(), rig.installation);
    let two = rig.version("2", &newer()).await;
    referring.ensure(&two).await.unwrap();
    runs(&referring, &two).await;
    assert_eq!(rig.namespace.kubectl(&["get", "secrets", "-l", "sluice/id", "-o", "name"]).await, "");
    rig.world.send(0..10).await;
    rig.world.stored(10).await;
}

/// The names of the pods.
async fn names(backend: &KubernetesExecutor) -> Vec<String> {
    observed(backend).await.map(|seen| seen.instances.into_iter().map(|one| one.name).collect()).unwrap_or_default()
}
