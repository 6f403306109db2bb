//! What a cluster says is wrong, as reasons in the status: images, quotas, nodes, missing Secrets, exit codes; a cluster that is
//! away.

use super::Rig;
use crate::executor::{SOON, SUBJECT, id, observed, runs};
use crate::outliving::{newer, says, waits_for_its_engine};
use crate::pipelines::acknowledged;
use crate::support::{Cluster, Component, eventually};
use sluice::executor::{Executor, kubernetes::KubernetesExecutor};
use sluice::pipeline::id::VersionName;
use sluice::pipeline::spec::ExecutionSpec;
use sluice::pipeline::status::Reason;
use sluice::settings::{PullPolicy, SecretKey, Settings};
use std::sync::Arc;
use std::time::Duration;

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
    let nobody = format!("127.0.0.1:{}/sluice:nowhere", crate::support::free_port());
    let pulled = |s: &mut Settings| (s.executor.kubernetes.image, s.executor.kubernetes.pull) = (nobody.clone(), PullPolicy::Missing);
    let starved = |s: &mut Settings| {
        // Enough to begin, and too little for what waits in the stream.
        s.executor.kubernetes.memory = 6 << 20;
        s.executor.kubernetes.requests.memory = 1 << 20;
    };
    let jetstream = rig.world.nats.jetstream().await;
    for n in 0..60_i64 {
        let document = bson::doc! {"n": n, "text": "x".repeat(64 << 10)};
        acknowledged(&jetstream, SUBJECT, document.to_vec().unwrap()).await;
    }
    // An image of our own cluster that has no such program; a cluster of somebody else's has no such image.
    let other = |s: &mut Settings| s.executor.kubernetes.image = "sluice.local/pause:1".into();
    let said = if rig.namespace.cluster().audit().is_some() { Reason::EngineRefuses } else { Reason::ImageMissing };
    let cases: [Change<'_>; 6] = [
        (&|s| s.executor.kubernetes.image = "sluice:nowhere".into(), Reason::ImageMissing, "sluice:nowhere"),
        (&pulled, Reason::ImageMissing, "Pull"),
        (&other, said, ""),
        (&starved, Reason::ExecutionOutOfMemory, "memory"),
        (
            &|s| s.executor.kubernetes.node_selector = [("disktype".to_owned(), "none".to_owned())].into(),
            Reason::ExecutionUnschedulable,
            "node",
        ),
        (&|s| s.executor.kubernetes.secrets = [("mongodb-default-url".to_owned(), key.clone())].into(), Reason::EngineRefuses, "nowhere"),
    ];
    for (change, reason, word) in cases {
        let backend = with(change);
        backend.ensure(&one).await.unwrap();
        says(&backend, reason, word).await;
    }
    let good = rig.backend();
    good.ensure(&one).await.unwrap();
    runs(&good, &one).await;
    // Killed whenever its node starts it again.
    let pod = observed(&good).await.unwrap().instances.remove(0).name;
    eventually("it is said to crash again and again", 2 * SOON, || async {
        rig.namespace.signal(&pod, "KILL").await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let troubles = observed(&good).await.unwrap().troubles;
        troubles.iter().any(|trouble| trouble.reason == Reason::ExecutionFailed && trouble.message.contains("exit code 137"))
    })
    .await;
    let gone = ExecutionSpec { version: VersionName::parse("nowhere").unwrap(), ..one.clone() }.seal("");
    good.ensure(&gone).await.unwrap();
    says(&good, Reason::ExecutionMisconfigured, "exit code 3").await;
    let seen = observed(&good).await.unwrap();
    assert!(seen.instances.iter().any(|instance| instance.fingerprint == one.fingerprint && instance.state.is_live()), "{seen:?}");
    good.destroy(&id()).await.unwrap();
    eventually("nothing is left", SOON, || async { rig.left().await.is_empty() }).await;

    rig.namespace.kubectl(&["create", "quota", "none", "--hard=pods=0"]).await;
    good.ensure(&one).await.unwrap();
    says(&good, Reason::ExecutionNotAdmitted, "quota").await;
    rig.namespace.kubectl(&["delete", "quota", "none"]).await;
    runs(&good, &one).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_goes_and_comes_back_is_waited_for() {
    require!("kubernetes", "nats-server", "database");
    if !Cluster::may_be_own() {
        return;
    }
    let cluster = Cluster::own().await;
    let rig = Rig::on(cluster.clone()).await;
    let (one, two) = (rig.plain().await, rig.version("2", &newer()).await);
    let kill = || cluster.kill9(Component::ApiServer);
    waits_for_its_engine(&rig.backend(), &rig.world, [&one, &two], kill, async || cluster.restart().await).await;
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
