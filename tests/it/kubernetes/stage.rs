//! A scene whose executions are pods: a namespace of a real cluster, which controllers reach with the least rights that do.

use super::left;
use crate::executor::SOON;
use crate::scene::Scene;
use crate::support::{Cluster, Namespace, eventually};
use serde_json::Value;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// What a controller may, and nothing else.
const RIGHTS: &str = "
apiVersion: v1
kind: ServiceAccount
metadata: {name: controller}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: controller}
rules:
  - {apiGroups: [apps], resources: [deployments], verbs: [get, list, watch, create, patch, delete]}
  - {apiGroups: [apps], resources: [replicasets], verbs: [list, delete]}
  - {apiGroups: [''], resources: [configmaps], verbs: [get, list, create, patch, delete]}
  - {apiGroups: [''], resources: [secrets], verbs: [get, create, patch]}
  - {apiGroups: [''], resources: [pods], verbs: [list, watch, delete]}
  - {apiGroups: [''], resources: [pods/log], verbs: [get]}
  - {apiGroups: [''], resources: [events], verbs: [list]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: controller}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: controller}
subjects: [{kind: ServiceAccount, name: controller}]
";

pub(super) struct Stage {
    pub namespace: Namespace,
    scene: Scene,
}

/// What the settings say of a cluster: this namespace of it, with what [`RIGHTS`] allow there.
pub async fn section(namespace: &Namespace) -> String {
    namespace.apply(RIGHTS).await;
    let kubeconfig = namespace.kubeconfig_of("controller").await;
    let image = namespace.cluster().image().await;
    let requests = "requests: {memory: 16MiB, cpus: 0.05}";
    format!("  kubernetes: {{kubeconfig: '{}', image: '{image}', pull: never, memory: 256MiB, {requests}}}\n", kubeconfig.display())
}

impl Stage {
    pub async fn set(cluster: Arc<Cluster>, controllers: usize) -> Self {
        let (mut scene, namespace) = tokio::join!(Scene::set(cluster.gateway()), cluster.namespace());
        let backends = section(&namespace).await;
        for _ in 0..controllers {
            scene.start("kubernetes", &backends, |_| ()).await;
        }
        Self { namespace, scene }
    }

    /// The pods of the pipeline, by kubectl.
    pub async fn pods(&self) -> Vec<String> {
        let listed = self.namespace.kubectl(&["get", "pods", "-l", "sluice/id=metrics", "-o", "name"]).await;
        listed.lines().map(str::to_owned).collect()
    }

    /// The Deployment of the pipeline.
    pub async fn deployment(&self) -> Value {
        self.namespace.get(&["deployments", "-l", "sluice/id=metrics"]).await["items"][0].clone()
    }

    pub async fn nothing_is_left(&self) {
        eventually("nothing of any kind is left", SOON, || async { left(&self.namespace, "sluice/id").await.is_empty() }).await;
    }
}

impl Deref for Stage {
    type Target = Scene;

    fn deref(&self) -> &Scene {
        &self.scene
    }
}

impl DerefMut for Stage {
    fn deref_mut(&mut self) -> &mut Scene {
        &mut self.scene
    }
}
