//! The chart in a real cluster: restricted pods, the rights of its service account, and controllers that come and go.

use super::{documents, helm, of_kind, place};
use crate::pipelines::{assert_each_once, plain, send_all};
use crate::support::{Cluster, Mongo, Namespace, Nats, Run, Sluice, eventually, http_get, temp_dir};
use async_nats::jetstream;
use bson::doc;
use serde_json::{Value, json};
use std::ops::Range;
use std::sync::{Arc, atomic::AtomicI64};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Longer than anything takes on a slow machine.
pub const SOON: Duration = Duration::from_secs(90);

/// A namespace of a real cluster, servers that its pods reach, and who operates it from outside.
pub struct Release {
    pub namespace: Namespace,
    nats: Nats,
    pub mongo: Mongo,
    /// Runs commands; its own process is not there.
    pub operator: Sluice,
    home: tempfile::TempDir,
}

/// A controller: its pod and the process in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Controller {
    pub pod: String,
    process: String,
    address: String,
}

impl Release {
    pub async fn prepare(cluster: Arc<Cluster>) -> Self {
        let (nats, mongo) = tokio::join!(Nats::start_on(cluster.gateway()), Mongo::start_on(cluster.gateway()));
        let mut operator = Run::new(&nats, &mongo).spawn();
        operator.kill9();
        Self { namespace: cluster.namespace().await, nats, mongo, operator, home: temp_dir("release") }
    }

    async fn installed(extra: Value) -> Self {
        let release = Self::prepare(Cluster::shared().await).await;
        release.helm("install", extra).await;
        release
    }

    /// `helm install` or `upgrade` with the values of this test and `extra` over them; waits until all are ready.
    pub async fn helm(&self, verb: &str, extra: Value) {
        let image = self.namespace.cluster().image().await;
        let (repository, tag) = image.rsplit_once(':').unwrap();
        let mut values = json!({
            "image": {"repository": repository, "tag": tag, "pullPolicy": "IfNotPresent"},
            "settings": {
                "namespace": "alpha",
                "nats": {"urls": [self.nats.url()]},
                "mongodb": {"connections": {"default": {"url": self.mongo.url(), "database": self.mongo.database()}}},
            },
        });
        for (name, value) in extra.as_object().unwrap() {
            values[name] = value.clone();
        }
        let file = self.home.path().join("values.json");
        std::fs::write(&file, values.to_string()).unwrap();
        let mut command = tokio::process::Command::from(helm(self.home.path()));
        command.env("KUBECONFIG", self.namespace.cluster().kubeconfig());
        command.args([verb, "sluice", "--namespace", self.namespace.name(), "--wait", "--timeout", "90s", "--values"]);
        let output = command.arg(file).arg(place("kubernetes/chart")).output().await.unwrap();
        if !output.status.success() {
            let pods = self.namespace.kubectl(&["describe", "pods"]).await;
            let logs = self.namespace.kubectl(&["logs", "--all-pods", "--tail", "20", "deployment/sluice"]).await;
            panic!("{}\n{pods}\n{logs}", String::from_utf8_lossy(&output.stderr));
        }
    }

    /// The controllers that are ready, by their pods' names.
    async fn controllers(&self) -> Vec<Controller> {
        let pods = self.namespace.get(&["pods", "--selector", "app.kubernetes.io/component=controller"]).await;
        let mut controllers = Vec::new();
        for pod in pods["items"].as_array().unwrap() {
            let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let ready = conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
            if !ready || !pod["metadata"]["deletionTimestamp"].is_null() {
                continue;
            }
            let name = pod["metadata"]["name"].as_str().unwrap().to_owned();
            let logged = self.namespace.try_kubectl(&["logs", &name]).await;
            let logged = String::from_utf8_lossy(&logged.stdout).into_owned();
            let mut lines = logged.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let process = lines.find_map(|line| Some(line["controller"].as_str()?.to_owned()));
            let address = pod["status"]["podIP"].as_str().unwrap().to_owned();
            controllers.extend(process.map(|process| Controller { pod: name, process, address }));
        }
        controllers
    }

    /// Waits until two are ready and one of them holds the lease: that one, and the other.
    pub async fn both(&self) -> (Controller, Controller) {
        let found = std::sync::Mutex::new(None);
        eventually("two controllers are ready and one of them decides", SOON, || async {
            let controllers = self.controllers().await;
            let Some((process, _)) = self.lease().await else { return false };
            let holder = controllers.iter().position(|controller| controller.process == process);
            let (Some(holder), 2) = (holder, controllers.len()) else { return false };
            *found.lock().unwrap() = Some((controllers[holder].clone(), controllers[1 - holder].clone()));
            true
        })
        .await;
        found.into_inner().unwrap().unwrap()
    }

    /// Who holds the lease, and since when the record is there (milliseconds, the NATS server's clock).
    async fn lease(&self) -> Option<(String, i128)> {
        let bucket = self.nats.jetstream().await.get_key_value("alpha-lease").await.ok()?;
        let entry = bucket.entry("holder").await.ok()??;
        if entry.operation != jetstream::kv::Operation::Put {
            return None;
        }
        let holder: Value = serde_json::from_slice(&entry.value).ok()?;
        Some((holder["process"].as_str()?.to_owned(), entry.created.unix_timestamp_nanos() / 1_000_000))
    }

    /// Does `what` to the holder; how long it took until another one held the lease, in milliseconds.
    pub async fn follows<F: Future>(&self, what: impl FnOnce(Controller) -> F) -> i128 {
        let (holder, _) = self.both().await;
        let (process, before) = (holder.process.clone(), now_ms());
        let watch = async {
            loop {
                if let Some((now, since)) = self.lease().await
                    && now != process
                {
                    return since - before;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let watched = tokio::time::timeout(SOON, watch);
        let (_, took) = tokio::join!(what(holder), watched);
        took.expect("another holds the lease")
    }

    pub async fn publish(&self, id: &str, config: &str) {
        let file = self.operator.dir.join(format!("{id}.yml"));
        std::fs::write(&file, config).unwrap();
        self.operator.cli_ok(&["publish", id, "-f", file.to_str().unwrap(), "--wait"]).await;
    }

    pub async fn send(&self, id: &str, numbers: Range<i64>) {
        send_all(&self.nats.jetstream().await, &format!("alpha.{id}"), numbers, |n| doc! {"n": n}, &AtomicI64::new(0)).await;
    }

    /// The names of the pods of the pipeline `metrics`.
    pub async fn pods(&self) -> Vec<String> {
        let listed = self.namespace.kubectl(&["get", "pods", "--selector", "sluice/id=metrics", "-o", "name"]).await;
        listed.lines().map(|name| name.trim_start_matches("pod/").to_owned()).collect()
    }

    /// The only one of them, once that is so.
    pub async fn pod(&self) -> String {
        eventually("one pod is there", SOON, || async { self.pods().await.len() == 1 }).await;
        self.pods().await.remove(0)
    }

    /// Waits until `sluice status metrics` says so.
    pub async fn says(&self, what: &str, right: impl Fn(&str) -> bool) {
        eventually(what, SOON, || async { right(&self.operator.cli_ok(&["status", "metrics"]).await) }).await;
    }

    pub async fn exactly(&self, id: &str, numbers: Range<i64>) {
        let wanted = u64::try_from(numbers.end - numbers.start).unwrap();
        eventually("all documents are stored", SOON, || async { self.mongo.count(id).await >= wanted }).await;
        assert_each_once(&self.mongo, id, numbers).await;
    }
}

fn now_ms() -> i128 {
    i128::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// The rules without what every service account may: ask about itself.
fn rules(list: &Value) -> Vec<Value> {
    let mut rules: Vec<Value> = Vec::new();
    for rule in list.as_array().into_iter().flatten() {
        let about_itself = ["authorization.k8s.io", "authentication.k8s.io"].iter().any(|group| rule["apiGroups"][0] == **group);
        for resource in rule["resources"].as_array().into_iter().flatten().filter(|_| !about_itself) {
            let mut verbs: Vec<_> = rule["verbs"].as_array().into_iter().flatten().cloned().collect();
            verbs.sort_by_key(Value::to_string);
            rules.push(json!({"group": rule["apiGroups"], "resource": resource, "verbs": verbs, "names": rule["resourceNames"]}));
        }
    }
    rules.sort_by_key(Value::to_string);
    rules
}

#[tokio::test(flavor = "multi_thread")]
async fn two_controllers_of_the_chart_follow_each_other_and_lose_nothing() {
    require!("nats-server", "database", "helm", "kubernetes");
    let release = Release::installed(json!({})).await;
    let namespace = &release.namespace;
    release.publish("metrics", &plain("metrics")).await;
    release.send("metrics", 0..2_000).await;
    // Told to end: the other decides as soon as the lease is given back.
    let mut told = Vec::new();
    for _ in 0..2 {
        let delete = |holder: Controller| async move { namespace.kubectl(&["delete", "pod", &holder.pod, "--wait=false"]).await };
        told.push(release.follows(delete).await);
    }
    assert!(*told.iter().min().unwrap() <= 2_000, "taken over after {told:?} ms, with the time that Kubernetes takes to tell them");
    // Deleted by force.
    let force = ["--force", "--grace-period=0", "--wait=false"];
    let delete = |holder: Controller| async move { namespace.kubectl(&[&["delete", "pod", &holder.pod], &force[..]].concat()).await };
    let forced = release.follows(delete).await;
    assert!(forced <= 15_000, "taken over after {forced} ms");
    // Killed on its node: it has told nobody.
    release.send("metrics", 2_000..4_000).await;
    let killed = release.follows(|holder| async move { namespace.signal(&holder.pod, "KILL").await }).await;
    assert!(killed <= 15_000, "taken over after {killed} ms");
    println!("taken over after {told:?} ms when told, {forced} ms when deleted by force, {killed} ms when killed");
    // Drained nodes take one of them at a time.
    let (one, other) = release.both().await;
    let evict = async |pod: &str| {
        let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": namespace.name()}});
        let file = release.home.path().join("eviction.json");
        std::fs::write(&file, eviction.to_string()).unwrap();
        let path = format!("/api/v1/namespaces/{}/pods/{pod}/eviction", namespace.name());
        namespace.try_kubectl(&["create", "--raw", &path, "-f", file.to_str().unwrap()]).await
    };
    assert!(evict(&one.pod).await.status.success());
    let second = evict(&other.pod).await;
    assert!(String::from_utf8_lossy(&second.stderr).contains("disruption budget"), "{second:?}");
    release.both().await;
    release.send("metrics", 4_000..5_000).await;
    release.exactly("metrics", 0..5_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_account_may_what_the_role_says_and_its_pods_are_restricted() {
    require!("nats-server", "database", "helm", "kubernetes");
    let release = Release::installed(json!({})).await;
    let namespace = &release.namespace;
    release.both().await;
    let kubeconfig = namespace.kubeconfig_of("sluice").await;
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": namespace.name()},
    });
    let file = release.home.path().join("review.json");
    std::fs::write(&file, review.to_string()).unwrap();
    let mut command = tokio::process::Command::from(namespace.cluster().command(&kubeconfig));
    let output = command.args(["create", "--validate=false", "-o", "json", "-f"]).arg(&file).output().await.unwrap();
    let may: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    let roles = namespace.get(&["roles"]).await;
    let granted: Vec<_> = roles["items"].as_array().unwrap().iter().flat_map(|role| role["rules"].as_array().cloned().unwrap()).collect();
    assert_eq!(rules(&may["status"]["resourceRules"]), rules(&granted.into()));
    // Whose pods they are, the namespace's label has decided already: any other kind is refused.
    let pods = namespace.get(&["pods"]).await;
    for pod in pods["items"].as_array().unwrap() {
        assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
        assert_eq!(pod["spec"]["containers"][0]["securityContext"]["readOnlyRootFilesystem"], true);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_values_roll_the_controllers_one_by_one_and_metrics_ask_for_the_token() {
    require!("nats-server", "database", "helm", "kubernetes");
    let release = Release::installed(json!({})).await;
    let (before, other) = release.both().await;
    // Nobody but the pod itself is answered.
    assert!(http_get(&format!("http://{}:8080", before.address), "/health/live", None).await.is_err());
    let token = "a-token-of-some-length-for-this-test";
    release.namespace.kubectl(&["create", "secret", "generic", "sluice-http", "--from-literal", &format!("token={token}")]).await;
    release.helm("upgrade", json!({"http": {"token": {"secret": "sluice-http"}}, "replicas": 2})).await;
    let (holder, follower) = release.both().await;
    assert!(![before.pod, other.pod].contains(&holder.pod), "other settings, other pods");
    let base = format!("http://{}:8080", holder.address);
    assert_eq!(http_get(&base, "/health/ready", None).await.unwrap().0, 200);
    assert_eq!(http_get(&base, "/metrics", None).await.unwrap().0, 401);
    let (code, metrics) = http_get(&base, "/metrics", Some(token)).await.unwrap();
    assert!(code == 200 && metrics.contains("# EOF"), "{code} {metrics}");
    // Who only stands by answers too.
    let base = format!("http://{}:8080", follower.address);
    assert_eq!(http_get(&base, "/health/ready", None).await.unwrap().0, 200);
    let (code, pipelines) = http_get(&base, "/api/v1/pipelines", Some(token)).await.unwrap();
    assert!(code == 200 && pipelines.starts_with('['), "{code} {pipelines}");
    let service = release.namespace.get(&["endpointslices", "--selector", "kubernetes.io/service-name=sluice"]).await;
    let endpoints = service["items"][0]["endpoints"].as_array().unwrap();
    assert!(endpoints.iter().any(|endpoint| endpoint["addresses"][0] == holder.address.as_str()), "{service:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plain_manifests_run_as_they_are_but_for_addresses_and_delete_leaves_nothing() {
    require!("nats-server", "database", "kubernetes");
    let release = Release::prepare(Cluster::shared().await).await;
    let (namespace, image) = (&release.namespace, release.namespace.cluster().image().await);
    let plain = std::fs::read_to_string(place("kubernetes/sluice.yaml")).unwrap();
    let manifests = plain
        .replace("namespace: sluice\n  labels:\n    app", &format!("namespace: {}\n  labels:\n    app", namespace.name()))
        .replace("name: sluice, namespace: sluice}", &format!("name: sluice, namespace: {}}}", namespace.name()))
        .replace("name: sluice\n  labels: {pod-security", &format!("name: {}\n  labels: {{pod-security", namespace.name()))
        .replace(concat!("\"sluice:", env!("CARGO_PKG_VERSION"), "\""), &image)
        .replace("nats://nats:4222", &release.nats.url())
        .replace("url: mongodb://mongodb:27017", &format!("url: {}\n          database: {}", release.mongo.url(), release.mongo.database()))
        .replace("namespace: sluice\n    nats:", "namespace: alpha\n    nats:");
    namespace.apply(&manifests).await;
    release.both().await;
    // Twice is once.
    namespace.apply(&manifests).await;
    assert_eq!(namespace.get(&["deployment", "sluice"]).await["metadata"]["generation"], 1);
    let deployment = of_kind(&documents(&manifests), "Deployment").clone();
    assert_eq!(deployment["metadata"]["namespace"], namespace.name());
    // Without the namespace, which is not only theirs.
    let mut kept = documents(&manifests);
    kept.retain(|document| document["kind"] != "Namespace");
    let file = release.home.path().join("manifests.json");
    let list = json!({"apiVersion": "v1", "kind": "List", "items": kept});
    std::fs::write(&file, list.to_string()).unwrap();
    namespace.kubectl(&["delete", "--wait", "-f", file.to_str().unwrap()]).await;
    let kinds = "deployments,configmaps,secrets,serviceaccounts,roles,rolebindings,networkpolicies,poddisruptionbudgets,pods,replicasets";
    eventually("nothing of it is left", SOON, || async {
        let left = namespace.kubectl(&["get", kinds, "-o", "name"]).await;
        let own = |name: &&str| !["configmap/kube-root-ca.crt", "serviceaccount/default"].contains(name);
        left.lines().filter(own).count() == 0
    })
    .await;
}
