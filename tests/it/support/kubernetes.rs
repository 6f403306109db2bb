//! A real Kubernetes cluster of one node, and the image of this very binary in it.
//!
//! The tests of one process share a cluster: the one that `SLUICE_TEST_KUBECONFIG` names, else one that
//! `deploy/local/cluster.sh serve` starts and puts away when this process has ended, however it ends. Each test has a
//! namespace of its own there, which asks for restricted pods. A test that kills parts of a cluster has its own cluster.
//! Pods reach servers that listen on [`Cluster::gateway`], see `Nats::start_on` and `Mongo::start_on`.
//!
//! A cluster of somebody else has to reach this machine at `SLUICE_TEST_GATEWAY`, and to have `SLUICE_TEST_IMAGE`.

use super::serving::{Serving, blocking, kept_image, root, script, succeeds};
use super::{eventually, temp_dir, tool};
use std::{
    env, fs,
    io::Write,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{Arc, OnceLock},
    time::Duration,
};

/// Names a cluster of somebody else.
const GIVEN: &str = "SLUICE_TEST_KUBECONFIG";

/// A cluster, seen by its administrator.
pub struct Cluster {
    kubeconfig: PathBuf,
    kubectl: PathBuf,
    gateway: IpAddr,
    serving: Option<Serving>,
    image: OnceLock<String>,
}

/// A part of a cluster of our own; a process by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Component {
    /// Answers all requests.
    ApiServer,
    /// Makes pods of deployments, deletes what has no owner.
    ControllerManager,
    /// Starts the pods of the node.
    Kubelet,
}

impl Component {
    fn name(self) -> &'static str {
        match self {
            Self::ApiServer => "kube-apiserver",
            Self::ControllerManager => "kube-controller-manager",
            Self::Kubelet => "kubelet",
        }
    }
}

impl Cluster {
    /// The cluster that the tests of this process share.
    pub async fn shared() -> Arc<Self> {
        static SHARED: OnceLock<Arc<Cluster>> = OnceLock::new();
        blocking(|| SHARED.get_or_init(|| Arc::new(Self::given().unwrap_or_else(Self::serve))).clone()).await
    }

    /// A cluster of this test's own, to be disturbed; gone when dropped.
    pub async fn own() -> Arc<Self> {
        blocking(|| Arc::new(Self::serve())).await
    }

    /// Whether a test may have a cluster of its own; where one of somebody else is named, it says that it is skipped.
    pub fn may_be_own() -> bool {
        let given = env::var_os(GIVEN).is_some();
        if given {
            super::skipped("parts of a cluster of somebody else are not killed");
        }
        !given
    }

    fn given() -> Option<Self> {
        let kubeconfig = env::var_os(GIVEN)?.into();
        let gateway = env::var("SLUICE_TEST_GATEWAY").expect("SLUICE_TEST_GATEWAY: where pods reach this machine");
        let gateway = gateway.parse().expect("SLUICE_TEST_GATEWAY is an address");
        Some(Self { kubeconfig, kubectl: "kubectl".into(), gateway, serving: None, image: OnceLock::new() })
    }

    fn serve() -> Self {
        tool("kubernetes").expect("kubernetes");
        let serving = Serving::start("cluster.sh", &[], 3);
        let (kubeconfig, kubectl) = (serving.field("kubeconfig").into(), serving.field("kubectl").into());
        let gateway = serving.field("gateway").parse().expect("an address");
        Self { kubeconfig, kubectl, gateway, serving: Some(serving), image: OnceLock::new() }
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The address at which pods reach servers of this machine.
    pub fn gateway(&self) -> IpAddr {
        self.gateway
    }

    /// `kubectl`, told nothing but whose cluster it is.
    pub fn command(&self, kubeconfig: &Path) -> Command {
        let mut command = Command::new(&self.kubectl);
        command.env("KUBECONFIG", kubeconfig).stdin(Stdio::null());
        command
    }

    /// Runs `kubectl` as the administrator; its stdout without the last newline. Panics where it fails.
    pub async fn kubectl(&self, arguments: &[&str]) -> String {
        told(arguments, self.try_kubectl(arguments).await)
    }

    /// The same, however it ends.
    pub async fn try_kubectl(&self, arguments: &[&str]) -> Output {
        let mut command = tokio::process::Command::from(self.command(&self.kubeconfig));
        command.args(arguments).kill_on_drop(true).output().await.expect("kubectl starts")
    }

    /// A new namespace that takes restricted pods only; deleted with everything in it when dropped.
    pub async fn namespace(self: &Arc<Self>) -> Namespace {
        let name = format!("it-{}", &uuid::Uuid::new_v4().simple().to_string()[..10]);
        let manifest = format!(
            "{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}, labels: {{pod-security.kubernetes.io/enforce: restricted}}}}}}"
        );
        let namespace = Namespace { cluster: self.clone(), name, _temp: temp_dir("namespace") };
        namespace.apply(&manifest).await;
        // Without it pods are refused.
        let account = || async { namespace.try_kubectl(&["get", "serviceaccount", "default"]).await.status.success() };
        eventually("the namespace has a service account", Duration::from_secs(30), account).await;
        namespace
    }

    /// The image of this very binary, without symbols; built once, and kept under `target` for the next run.
    pub async fn image(self: &Arc<Self>) -> String {
        let cluster = self.clone();
        blocking(move || cluster.image.get_or_init(|| cluster.load_image()).clone()).await
    }

    fn load_image(&self) -> String {
        let Some(serving) = &self.serving else {
            return env::var("SLUICE_TEST_IMAGE").expect("SLUICE_TEST_IMAGE: the image of Sluice in that cluster");
        };
        static MADE: OnceLock<(String, PathBuf)> = OnceLock::new();
        let (name, tar) = MADE.get_or_init(make_image);
        succeeds(script("cluster.sh").arg("load").arg(&serving.dir).arg(tar));
        name.clone()
    }

    /// Kills a part of it at once. Only of a cluster of this test's own.
    pub fn kill9(&self, component: Component) {
        self.serving().kill9(component.name());
    }

    /// Starts what was killed, and waits until it is ready.
    pub async fn restart(&self) {
        let mut command = script("cluster.sh");
        command.arg("start").arg(&self.serving().dir);
        blocking(move || succeeds(&mut command)).await;
    }

    /// The requests that service accounts have made of the API server, one JSON object a line (`audit.k8s.io/v1` events):
    /// only of a cluster of our own.
    pub fn audit(&self) -> Option<String> {
        let serving = self.serving.as_ref()?;
        Some(fs::read_to_string(serving.dir.join("audit.log")).unwrap_or_default())
    }

    /// Where everything of it is that lies on this machine's disk, and the name of its bridge. Only of a cluster of our own.
    pub fn places(&self) -> (PathBuf, String) {
        let dir = self.serving().dir.clone();
        let number = fs::read_to_string(dir.join("number")).expect("it runs");
        (dir, format!("sluicek{}", number.trim()))
    }

    fn serving(&self) -> &Serving {
        self.serving.as_ref().expect("a cluster of this test's own")
    }
}

/// A namespace of one test.
pub struct Namespace {
    cluster: Arc<Cluster>,
    name: String,
    _temp: tempfile::TempDir,
}

impl Namespace {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its cluster.
    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// Runs `kubectl` in it, as the administrator; its stdout without the last newline. Panics where it fails.
    pub async fn kubectl(&self, arguments: &[&str]) -> String {
        told(arguments, self.try_kubectl(arguments).await)
    }

    /// The same, however it ends.
    pub async fn try_kubectl(&self, arguments: &[&str]) -> Output {
        self.cluster.try_kubectl(&[&["--namespace", &self.name], arguments].concat()).await
    }

    /// What `kubectl get … -o json` says.
    pub async fn get(&self, arguments: &[&str]) -> serde_json::Value {
        let said = self.kubectl(&[&["get", "-o", "json"], arguments].concat()).await;
        serde_json::from_str(&said).expect("kubectl writes JSON")
    }

    /// `kubectl apply`, of one YAML document or several. Panics where something is refused.
    pub async fn apply(&self, manifests: &str) {
        let mut command = self.cluster.command(&self.cluster.kubeconfig);
        command.args(["--namespace", &self.name, "apply", "-f", "-"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let manifests = manifests.to_owned();
        let output = blocking(move || {
            let mut child = command.spawn().expect("kubectl starts");
            child.stdin.take().expect("a pipe").write_all(manifests.as_bytes()).expect("kubectl reads");
            child.wait_with_output().expect("kubectl ends")
        });
        told(&["apply"], output.await);
    }

    /// Sends a signal by its name (`KILL`, `STOP`) to what runs in a pod; the node's own part of it, the sandbox, is left
    /// alone. Only where the node is this machine.
    pub async fn signal(&self, pod: &str, signal: &str) {
        let uid = self.kubectl(&["get", "pod", pod, "-o", "jsonpath={.metadata.uid}"]).await;
        let find = format!(
            "for pid in $(find /sys/fs/cgroup -path '*pod{uid}*' -name cgroup.procs -exec cat {{}} + 2>/dev/null | sort -u); do\n\
             grep -qz pause /proc/$pid/comm || kill -{signal} $pid; done"
        );
        blocking(move || succeeds(Command::new("sh").args(["-c", &find]))).await;
    }

    /// A kubeconfig of one of its service accounts, in this namespace; good for an hour.
    pub async fn kubeconfig_of(&self, account: &str) -> PathBuf {
        let token = self.kubectl(&["create", "token", account, "--duration", "1h"]).await;
        let said = self.kubectl(&["config", "view", "--minify", "--flatten", "--raw", "-o", "json"]).await;
        let mut config: serde_json::Value = serde_json::from_str(&said).expect("kubectl writes JSON");
        config["users"][0]["user"] = serde_json::json!({ "token": token });
        config["contexts"][0]["context"]["namespace"] = self.name.as_str().into();
        let path = self._temp.path().join(format!("{account}.kubeconfig"));
        fs::write(&path, config.to_string()).expect("the kubeconfig is written");
        path
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // A cluster whose API server was killed takes its namespaces with it.
        let arguments = ["delete", "namespace", &self.name, "--wait=false", "--ignore-not-found", "--request-timeout=10s"];
        let _ = self.cluster.command(&self.cluster.kubeconfig).args(arguments).output();
    }
}

/// The image's name, and the tar that holds it.
fn make_image() -> (String, PathBuf) {
    let sources = ["executor-image/Dockerfile", "executor-image/stage.sh", "deploy/local/cluster/image.py"];
    let [dockerfile, stage, assemble] = sources.map(|file| root().join(file));
    kept_image("cluster-images", &sources, |binary, name, made| {
        let tree = temp_dir("image");
        succeeds(Command::new("sh").arg(&stage).arg(binary).arg(tree.path()));
        // The first stage of the Dockerfile is the one without a base.
        let mut command = Command::new("python3");
        command.arg(&assemble).arg(tree.path()).arg(&dockerfile).arg(name).stdout(fs::File::create(made).expect("a file"));
        assert!(command.status().expect("python3 starts").success(), "{command:?}");
    })
}

fn told(arguments: &[&str], output: Output) -> String {
    assert!(output.status.success(), "kubectl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}
