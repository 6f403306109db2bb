//! The Kubernetes backend on a real cluster: the contract that every backend keeps, what a cluster adds to it, and whole
//! pipelines. The cluster is shared with other tests; each has a namespace of its own there, which takes restricted pods.

mod backend;
mod fencing;
mod pipelines;
mod stage;
mod troubles;

pub use stage::section;

use crate::executor::{PLAIN, World};
use crate::support::{Cluster, Mongo, Namespace, Nats};
use sluice::executor::kubernetes::KubernetesExecutor;
use sluice::pipeline::spec::ExecutionSpec;
use sluice::settings::{ExecutorKind, PullPolicy, ResourceRequests, Settings};
use std::sync::Arc;

/// A backend, servers that its pods reach, and an installation of this test's own.
struct Rig {
    namespace: Namespace,
    world: World,
    settings: Arc<Settings>,
    installation: uuid::Uuid,
}

impl Rig {
    async fn set() -> Self {
        Self::on(Cluster::shared().await).await
    }

    async fn on(cluster: Arc<Cluster>) -> Self {
        let gateway = cluster.gateway();
        let (nats, mongo) = tokio::join!(Nats::start_on(gateway), Mongo::start_on(gateway));
        let world = World::on(nats, mongo).await;
        let mut settings = world.settings.clone();
        settings.executor.kind = ExecutorKind::Kubernetes;
        let kubernetes = &mut settings.executor.kubernetes;
        kubernetes.image = cluster.image().await;
        kubernetes.pull = PullPolicy::Never;
        kubernetes.memory = 256 << 20;
        // Fifty of them are to find room.
        kubernetes.requests = ResourceRequests { memory: 8 << 20, milli_cpus: 10 };
        let namespace = cluster.namespace().await;
        kubernetes.kubeconfig = Some(cluster.kubeconfig().to_owned());
        kubernetes.namespace = Some(namespace.name().to_owned());
        Self { namespace, world, settings: Arc::new(settings), installation: uuid::Uuid::new_v4() }
    }

    /// A backend, as a controller makes it when it starts.
    fn backend(&self) -> KubernetesExecutor {
        KubernetesExecutor::new(self.settings.clone(), self.installation)
    }

    /// Stores a config under `version`, and what runs it.
    async fn version(&self, version: &str, config: &str) -> ExecutionSpec {
        let spec = self.world.version(version, config).await;
        ExecutionSpec { installation: self.installation, ..spec }.seal(&self.settings.executor.kubernetes.image)
    }

    async fn plain(&self) -> ExecutionSpec {
        self.version("1", PLAIN).await
    }

    /// Changes the settings of the executor.
    fn change(&mut self, change: impl FnOnce(&mut Settings)) {
        let mut settings = self.settings.as_ref().clone();
        change(&mut settings);
        self.settings = Arc::new(settings);
    }

    /// What the cluster has of this installation, by kubectl.
    async fn left(&self) -> Vec<String> {
        left(&self.namespace, &format!("sluice/installation={}", self.installation)).await
    }
}

/// What a namespace has with this label.
pub async fn left(namespace: &Namespace, selector: &str) -> Vec<String> {
    let kinds = "deployments,replicasets,pods,configmaps,secrets,services,persistentvolumeclaims";
    let listed = namespace.kubectl(&["get", kinds, "-l", selector, "-o", "name"]).await;
    listed.lines().map(str::to_owned).collect()
}
