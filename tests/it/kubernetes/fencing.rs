//! Who may act: nobody without the lease, and nothing that an earlier holder still has on its way.

use super::Rig;
use crate::executor::{SOON, observed, runs};
use crate::outliving::{changes_nothing_without_the_lease, newer};
use crate::support::eventually;
use sluice::executor::names::pipeline_name;
use sluice::executor::{Executor, Term};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_changed_in_a_cluster_without_the_lease() {
    require!("kubernetes", "nats-server", "database");
    let rig = Rig::set().await;
    changes_nothing_without_the_lease(&rig.backend(), &rig.plain().await, async || rig.left().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_holder_takes_over_what_runs_and_rolls_nothing() {
    require!("kubernetes", "nats-server", "database");
    let rig = Rig::set().await;
    let (one, two) = (rig.plain().await, rig.version("2", &newer()).await);
    let epoch = Arc::new(AtomicU64::new(7));
    let backend = rig.backend();
    let now = epoch.clone();
    let permit = move || Some(Term { epoch: now.load(Ordering::Relaxed), left: Duration::from_secs(5) });
    backend.permit(Arc::new(permit));
    backend.ensure(&one).await.unwrap();
    runs(&backend, &one).await;
    let name = pipeline_name(rig.installation, &one.id);
    let deployment = async || rig.namespace.get(&["deployment", &name]).await;
    let bears = async |epoch: &str| deployment().await["metadata"]["annotations"]["sluice/epoch"] == epoch;
    assert!(bears("7").await);
    let pods = observed(&backend).await.unwrap().instances;
    epoch.store(9, Ordering::Relaxed);
    eventually("the new epoch is on it", SOON, || bears("9")).await;
    assert_eq!(observed(&backend).await.unwrap().instances, pods, "nothing was rolled");
    backend.ensure(&two).await.unwrap();
    runs(&backend, &two).await;
}
