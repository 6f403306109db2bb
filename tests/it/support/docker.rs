//! A real Docker engine and the image of this very binary in it.
//!
//! The tests of one process share an engine: the one that answers already (`DOCKER_HOST`), else one that
//! `deploy/local/docker.sh serve` starts and puts away when this process has ended, however it ends. A test that stops or
//! kills an engine has its own. Containers reach servers that listen on [`Docker::gateway`], see `Nats::start_on` and
//! `Mongo::start_on`.

use super::serving::{Serving, blocking, kept_image, script, succeeds};
use super::tool;
use std::{
    fs,
    net::IpAddr,
    path::Path,
    process::{Command, Output, Stdio},
    sync::{Arc, OnceLock},
    time::Duration,
};

/// A Docker engine.
pub struct Docker {
    host: Option<String>,
    gateway: IpAddr,
    serving: Option<Serving>,
    flags: Vec<String>,
    image: OnceLock<String>,
}

impl Docker {
    /// The engine that the tests of this process share.
    pub async fn shared() -> Arc<Self> {
        static SHARED: OnceLock<Arc<Docker>> = OnceLock::new();
        blocking(|| SHARED.get_or_init(|| Arc::new(Self::reachable().unwrap_or_else(|| Self::serve(&[])))).clone()).await
    }

    /// An engine of this test's own, with further flags of dockerd (`--live-restore`); gone when dropped.
    pub async fn own(flags: &'static [&str]) -> Arc<Self> {
        blocking(|| Arc::new(Self::serve(flags))).await
    }

    fn reachable() -> Option<Self> {
        let mut docker = Self { host: None, gateway: [127, 0, 0, 1].into(), serving: None, flags: Vec::new(), image: OnceLock::new() };
        let format = "{{range .IPAM.Config}}{{.Gateway}} {{end}}";
        let output = docker.command().args(["network", "inspect", "bridge", "--format", format]).output().ok()?;
        docker.gateway = String::from_utf8_lossy(&output.stdout).split_whitespace().find_map(|text| text.parse().ok())?;
        Some(docker)
    }

    fn serve(flags: &[&str]) -> Self {
        tool("docker").expect("docker");
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let serving = Serving::start("docker.sh", &flags, 3);
        let (host, gateway) = (serving.field("host").to_owned(), serving.field("gateway").parse().expect("an address"));
        Self { host: Some(host), gateway, serving: Some(serving), flags, image: OnceLock::new() }
    }

    /// Where it listens, as `DOCKER_HOST` says it; `None`: as the environment says.
    pub fn host(&self) -> Option<&str> {
        self.host.as_deref()
    }

    /// The address at which containers reach servers of this machine.
    pub fn gateway(&self) -> IpAddr {
        self.gateway
    }

    fn command(&self) -> Command {
        let mut command = Command::new(tool("docker").unwrap_or_else(|_| "docker".into()));
        command.envs(self.host.iter().map(|host| ("DOCKER_HOST", host)));
        command.stdin(Stdio::null());
        command
    }

    /// Runs the `docker` CLI; its stdout without the last newline. Panics where it fails.
    pub async fn cli(&self, arguments: &[&str]) -> String {
        let output = self.try_cli(arguments).await;
        assert!(output.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// The same, however it ends.
    pub async fn try_cli(&self, arguments: &[&str]) -> Output {
        tokio::process::Command::from(self.command()).args(arguments).kill_on_drop(true).output().await.expect("docker starts")
    }

    /// The image of this very binary, without symbols; built once, and kept under `target` for the next run.
    pub async fn image(self: &Arc<Self>) -> String {
        let docker = self.clone();
        blocking(move || docker.image.get_or_init(|| docker.load_image()).clone()).await
    }

    fn load_image(&self) -> String {
        let sources = ["Dockerfile", "stage.sh", "reproducible.py"].map(|file| format!("executor-image/{file}"));
        let (name, tar) = kept_image("images", &sources.each_ref().map(String::as_str), |binary, name, made| {
            let mut command = script("image.sh");
            command.envs(self.host.iter().map(|host| ("DOCKER_HOST", host)));
            command.arg("--binary").arg(binary).args(["--name", name, "--save"]).arg(made);
            succeeds(&mut command);
        });
        succeeds(self.command().args(["load", "-q", "-i"]).arg(&tar));
        name
    }

    /// Kills the engine's daemon at once; what runs in containers goes on. Only of an engine of this test's own.
    pub fn kill9(&self) {
        self.serving().kill9("docker");
    }

    /// Stops the daemon as its operator would, and waits for its end.
    pub async fn stop(&self) {
        let pid = self.serving().pid("docker");
        succeeds(Command::new("sh").args(["-c", &format!("kill {pid}")]));
        let process = Path::new("/proc").join(pid).join("status");
        // One that has ended and that nobody asked about is a zombie.
        let ended = || fs::read_to_string(&process).map_or(true, |status| status.contains("State:\tZ"));
        super::eventually("the daemon ends", Duration::from_secs(60), || async { ended() }).await;
    }

    /// Starts it again where it does not run, and waits until it answers.
    pub async fn restart(&self) {
        let mut command = script("docker.sh");
        command.arg("start").arg(&self.serving().dir).args(&self.flags);
        blocking(move || succeeds(&mut command)).await;
    }

    fn serving(&self) -> &Serving {
        self.serving.as_ref().expect("an engine of this test's own")
    }

    /// Removes what bears the label `filter` (`sluice/namespace=alpha`) when it is dropped: containers, volumes, networks.
    pub fn clean(self: &Arc<Self>, filter: &str) -> Cleaning {
        Cleaning { docker: self.clone(), filter: format!("label={filter}") }
    }
}

/// Removes the containers, volumes and networks of one test from an engine that others use too.
pub struct Cleaning {
    docker: Arc<Docker>,
    filter: String,
}

impl Drop for Cleaning {
    fn drop(&mut self) {
        let kinds: [(&[&str], &[&str]); 3] = [
            (&["ps", "-aq"], &["rm", "-fv"]),
            (&["volume", "ls", "-q"], &["volume", "rm", "-f"]),
            (&["network", "ls", "-q"], &["network", "rm"]),
        ];
        for (list, remove) in kinds {
            let Ok(listed) = self.docker.command().args(list).args(["--filter", &self.filter]).output() else { continue };
            let ids = String::from_utf8_lossy(&listed.stdout).into_owned();
            if ids.trim().is_empty() {
                continue;
            }
            // An engine that the test has killed has nothing to remove.
            let _ = self.docker.command().args(remove).args(ids.split_whitespace()).output();
        }
    }
}
