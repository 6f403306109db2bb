//! A cluster, servers that its pods reach, and controllers of one namespace, each a process of its own that reaches the
//! cluster with the least rights that do.

use super::left;
use crate::executor::SOON;
use crate::pipelines::{assert_each_once, has};
use crate::support::{Cluster, Mongo, Namespace, Nats, Run, Sluice, eventually, http_get, random_name};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

pub(super) const LONG: Duration = Duration::from_secs(240);

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
  - {apiGroups: [''], resources: [configmaps], verbs: [get, list, create, patch, delete]}
  - {apiGroups: [''], resources: [secrets], verbs: [get, create, patch]}
  - {apiGroups: [''], resources: [pods], verbs: [list, watch]}
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
    pub nats: Nats,
    pub mongo: Mongo,
    pub controllers: Vec<Sluice>,
    /// Of Sluice.
    pub name: String,
    settings: String,
}

impl Stage {
    pub async fn set(cluster: Arc<Cluster>, kind: &str, controllers: usize) -> Self {
        let gateway = cluster.gateway();
        let (nats, mongo) = tokio::join!(Nats::start_on(gateway), Mongo::start_on(gateway));
        let namespace = cluster.namespace().await;
        namespace.apply(RIGHTS).await;
        let kubeconfig = namespace.kubeconfig_of("controller").await;
        let settings = format!(
            "  kubernetes: {{kubeconfig: '{}', image: '{}', pull: never, memory: 256MiB, requests: {{memory: 16MiB, cpus: 0.05}}}}\n",
            kubeconfig.display(),
            cluster.image().await
        );
        let mut stage = Self { namespace, nats, mongo, controllers: Vec::new(), name: random_name("ns"), settings };
        for _ in 0..controllers {
            let mut run = Run::new(&stage.nats, &stage.mongo);
            run.namespace.clone_from(&stage.name);
            run.extra = stage.section(kind, "");
            stage.controllers.push(run.start().await);
        }
        stage
    }

    /// The `executor` section of the settings.
    fn section(&self, kind: &str, retire: &str) -> String {
        format!("executor:\n  kind: {kind}\n  retire: [{retire}]\n{}", self.settings)
    }

    pub fn subject(&self) -> String {
        format!("{}.metrics", self.name)
    }

    /// A controller that answers.
    pub fn sluice(&self) -> &Sluice {
        &self.controllers[0]
    }

    pub async fn publish(&self, count: u32) {
        let file = self.sluice().dir.join("metrics.yml");
        let config =
            format!("schema: 1\noutput:\n  mongodb: {{collection: metrics, batching: {{count: {count}, period: 1s, linger: 20ms}}}}\n");
        std::fs::write(&file, config).unwrap();
        let file = file.display().to_string();
        self.sluice().cli_ok(&["publish", "metrics", "-f", &file, "--wait=3m"]).await;
    }

    pub async fn status(&self) -> Value {
        let (code, body) = self.sluice().get("/api/v1/pipelines/metrics").await;
        if code == 200 { serde_json::from_str(&body).unwrap() } else { Value::Null }
    }

    pub async fn says(&self, kind: &str, status: bool, reason: &str) {
        eventually(&format!("{kind}={status} because {reason}"), LONG, || async { has(&self.status().await, kind, status, reason) }).await;
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

    pub async fn exactly(&self, count: i64) {
        let wanted = u64::try_from(count).unwrap();
        eventually(&format!("{wanted} documents are stored"), LONG, || async { self.mongo.count("metrics").await >= wanted }).await;
        assert_each_once(&self.mongo, "metrics", 0..count).await;
    }

    /// Restarts the only controller with another `executor` section.
    pub async fn restart_as(&mut self, kind: &str, retire: &str) {
        let section = self.section(kind, retire);
        let sluice = &mut self.controllers[0];
        let path = sluice.dir.join("sluice.yml");
        let text = std::fs::read_to_string(&path).unwrap();
        let before = text.split("executor:").next().unwrap().to_owned();
        std::fs::write(&path, before + &section).unwrap();
        sluice.sigterm().await;
        sluice.respawn();
        sluice.wait_ready().await;
    }

    /// The controller that says that it holds the lease.
    pub async fn holder(&self) -> usize {
        loop {
            for (place, member) in self.controllers.iter().enumerate() {
                let Some(url) = member.http_url() else { continue };
                if let Ok((_, body)) = http_get(&url, "/health/ready", None).await
                    && serde_json::from_str::<Value>(&body).is_ok_and(|health| health["holder"] == true)
                {
                    return place;
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
