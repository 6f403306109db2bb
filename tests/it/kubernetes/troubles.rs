//! What a cluster says is wrong, as reasons in the status: images, quotas, nodes, missing Secrets, exit codes; a cluster that is
//! away.

use super::Rig;
use crate::executor::{SOON, id, observed, runs};
use crate::support::{Cluster, Component, eventually};
use sluice::executor::{Executor, kubernetes::KubernetesExecutor};
use sluice::pipeline::id::VersionName;
use sluice::pipeline::spec::ExecutionSpec;
use sluice::pipeline::status::Reason;
use sluice::settings::{SecretKey, Settings};
use std::sync::Arc;

async fn says(backend: &KubernetesExecutor, spec: &ExecutionSpec, reason: Reason, word: &str) {
    backend.ensure(spec).await.unwrap();
    eventually(&format!("{reason:?} with '{word}' is said"), 2 * SOON, || async {
        let seen = observed(backend).await;
        seen.is_some_and(|seen| seen.troubles.iter().any(|trouble| trouble.reason == reason && trouble.message.contains(word)))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_a_pod_from_running_is_a_reason_until_it_is_gone() {
    require!("kubernetes", "nats-server", "database");
    let rig = Rig::set().await;
    let one = rig.plain().await;
    let with = |change: &dyn Fn(&mut Settings)| {
        let mut settings = rig.settings.as_ref().clone();
        change(&mut settings);
        KubernetesExecutor::new(Arc::new(settings), rig.installation)
    };
    let key = SecretKey { secret: "nowhere".into(), key: "url".into() };
    type Change<'a> = (&'a dyn Fn(&mut Settings), Reason, &'a str);
    let cases: [Change<'_>; 3] = [
        (&|s| s.executor.kubernetes.image = "sluice:nowhere".into(), Reason::ImageMissing, "sluice:nowhere"),
        (
            &|s| s.executor.kubernetes.node_selector = [("disktype".to_owned(), "none".to_owned())].into(),
            Reason::ExecutionUnschedulable,
            "node",
        ),
        (&|s| s.executor.kubernetes.secrets = [("mongodb-default-url".to_owned(), key.clone())].into(), Reason::EngineRefuses, "nowhere"),
    ];
    for (change, reason, word) in cases {
        says(&with(change), &one, reason, word).await;
    }
    let good = rig.backend();
    good.ensure(&one).await.unwrap();
    runs(&good, &one).await;
    let gone = ExecutionSpec { version: VersionName::parse("nowhere").unwrap(), ..one.clone() }.seal("");
    says(&good, &gone, Reason::ExecutionMisconfigured, "exit code 3").await;
    let seen = observed(&good).await.unwrap();
    assert!(seen.instances.iter().any(|instance| instance.fingerprint == one.fingerprint && instance.state.is_live()), "{seen:?}");
    good.ensure(&one).await.unwrap();
    runs(&good, &one).await;
    good.destroy(&id()).await.unwrap();
    eventually("nothing is left", SOON, || async { rig.left().await.is_empty() }).await;

    rig.namespace.kubectl(&["create", "quota", "none", "--hard=pods=0"]).await;
    says(&good, &one, Reason::ExecutionNotAdmitted, "quota").await;
    rig.namespace.kubectl(&["delete", "quota", "none"]).await;
    runs(&good, &one).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_goes_and_comes_back_is_waited_for() {
    require!("kubernetes", "nats-server", "database");
    let cluster = Cluster::shared().await;
    if cluster.audit().is_none() {
        // Only where the tests may start clusters at all.
        return;
    }
    drop(cluster);
    let cluster = Cluster::own().await;
    let rig = Rig::on(cluster.clone()).await;
    let (backend, one) = (rig.backend(), rig.plain().await);
    backend.ensure(&one).await.unwrap();
    runs(&backend, &one).await;
    let mut events = backend.events();
    cluster.kill9(Component::ApiServer);
    rig.world.send(0..100).await;
    rig.world.stored(100).await;
    eventually("it is said to be away", SOON, || async {
        let asked = backend.observe(&id()).await;
        asked.is_err_and(|error| error.reason == Reason::EngineUnavailable && error.retry && error.message.contains("since"))
    })
    .await;
    let two = rig.version("2", &crate::executor::PLAIN.replace("1000", "900")).await;
    backend.ensure(&two).await.unwrap();
    while events.try_recv().is_ok() {}
    cluster.restart().await;
    runs(&backend, &two).await;
    eventually("an event hints at it", SOON, || {
        let hinted = events.try_recv().is_ok();
        async move { hinted }
    })
    .await;
    rig.world.send(100..200).await;
    rig.world.stored(200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_is_not_known_or_not_there_is_said() {
    let mut settings = Settings::default();
    let directory = crate::support::temp_dir("kubeconfig");
    let path = directory.path().join("config");
    settings.executor.kubernetes.kubeconfig = Some(path.clone());
    settings.executor.kubernetes.timeout = std::time::Duration::from_secs(1);
    let backend = KubernetesExecutor::new(Arc::new(settings), uuid::Uuid::new_v4());
    let error = backend.list().await.unwrap_err();
    assert!(error.retry && error.reason == Reason::EngineUnavailable, "{error}");
    let server = format!("https://127.0.0.1:{}", crate::support::free_port());
    let config = format!(
        "{{clusters: [{{name: c, cluster: {{server: '{server}'}}}}], contexts: [{{name: x, context: {{cluster: c, user: u}}}}], \
         users: [{{name: u, user: {{token: t}}}}], current-context: x}}"
    );
    std::fs::write(&path, config).unwrap();
    let error = backend.list().await.unwrap_err();
    assert!(error.reason == Reason::EngineUnavailable && error.message.contains(&server) && error.message.contains("since"), "{error}");
}
