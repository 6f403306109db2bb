//! A real Docker engine and the image of this very binary in it.
//!
//! The tests of one process share an engine: the one that answers already (`DOCKER_HOST`), else one that
//! `deploy/local/docker.sh serve` starts and puts away when this process has ended, however it ends. A test that stops or
//! kills an engine has its own. Containers reach servers that listen on [`Docker::gateway`], see `Nats::start_on` and
//! `Mongo::start_on`.

use super::{temp_dir, tool};
use sha2::{Digest, Sha256};
use std::{
    fs,
    io::{BufRead, BufReader, Read},
    net::IpAddr,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Arc, OnceLock},
    time::Duration,
};

/// A Docker engine.
pub struct Docker {
    host: Option<String>,
    gateway: IpAddr,
    serving: Option<Serving>,
    image: OnceLock<String>,
}

/// An engine of our own.
struct Serving {
    child: Child,
    dir: PathBuf,
    flags: Vec<String>,
    _temp: tempfile::TempDir,
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
        let mut docker = Self { host: None, gateway: [127, 0, 0, 1].into(), serving: None, image: OnceLock::new() };
        let format = "{{range .IPAM.Config}}{{.Gateway}} {{end}}";
        let output = docker.command().args(["network", "inspect", "bridge", "--format", format]).output().ok()?;
        docker.gateway = String::from_utf8_lossy(&output.stdout).split_whitespace().find_map(|text| text.parse().ok())?;
        Some(docker)
    }

    fn serve(flags: &[&str]) -> Self {
        tool("docker").expect("docker");
        let temp = temp_dir("docker");
        let dir = temp.path().to_owned();
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let mut command = script("docker.sh");
        command.arg("serve").arg(&dir).args(&flags).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        // Ctrl-C ends this process; the end of its stdin then tells the script to put everything away.
        command.process_group(0);
        let mut child = command.spawn().expect("bash starts");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let said: Vec<String> = lines.map_while(Result::ok).take(3).collect();
        let field = |name: &str| said.iter().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("docker.sh said {said:?}"));
        let (host, gateway) = (field("host=").to_owned(), field("gateway=").parse().expect("an address"));
        Self { host: Some(host), gateway, serving: Some(Serving { child, dir, flags, _temp: temp }), image: OnceLock::new() }
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
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let binary = Path::new(env!("CARGO_BIN_EXE_sluice"));
        let mut hash = Sha256::new();
        for file in ["Dockerfile", "stage.sh", "reproducible.py"] {
            hash.update(fs::read(root.join("executor-image").join(file)).expect("a file of the image"));
        }
        hash.update(fs::read(binary).expect("the binary"));
        let hash: String = hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        let name = format!("sluice:it-{hash}");
        let kept = binary.parent().expect("a directory").join("images");
        let tar = kept.join(format!("{hash}.tar"));
        if !tar.exists() {
            // What earlier binaries were is of no use any more; another test may be making the same for another engine.
            let earlier = fs::read_dir(&kept).into_iter().flatten().flatten();
            for image in earlier.filter(|image| !image.file_name().to_string_lossy().starts_with(&hash)) {
                let _ = fs::remove_file(image.path());
            }
            let made = kept.join(format!("{hash}.{}", super::random_name("made")));
            let mut command = script("image.sh");
            command.envs(self.host.iter().map(|host| ("DOCKER_HOST", host)));
            command.arg("--binary").arg(binary).args(["--name", &name, "--save"]).arg(&made);
            succeeds(&mut command);
            fs::rename(&made, &tar).expect("the image is kept");
        }
        succeeds(self.command().args(["load", "-q", "-i"]).arg(&tar));
        name
    }

    /// Kills the engine's daemon at once; what runs in containers goes on. Only of an engine of this test's own.
    pub fn kill9(&self) {
        let pid = fs::read_to_string(self.serving().dir.join("docker.pid")).expect("the daemon runs");
        succeeds(Command::new("sh").args(["-c", &format!("kill -KILL {pid}")]));
    }

    /// Stops the daemon as its operator would, and waits for its end.
    pub async fn stop(&self) {
        let pid = fs::read_to_string(self.serving().dir.join("docker.pid")).expect("the daemon runs");
        succeeds(Command::new("sh").args(["-c", &format!("kill {pid}")]));
        let process = Path::new("/proc").join(pid.trim()).join("status");
        // One that has ended and that nobody asked about is a zombie.
        let ended = || fs::read_to_string(&process).map_or(true, |status| status.contains("State:\tZ"));
        super::eventually("the daemon ends", Duration::from_secs(60), || async { ended() }).await;
    }

    /// Starts it again where it does not run, and waits until it answers.
    pub async fn restart(&self) {
        let serving = self.serving();
        let mut command = script("docker.sh");
        command.arg("start").arg(&serving.dir).args(&serving.flags);
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

impl Drop for Docker {
    fn drop(&mut self) {
        let Some(serving) = &mut self.serving else { return };
        drop(serving.child.stdin.take());
        // Its directory goes after it.
        let _ = serving.child.wait();
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

pub(super) fn script(name: &str) -> Command {
    let mut command = Command::new("bash");
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/local").join(name)).stdin(Stdio::null());
    command
}

pub(super) fn succeeds(command: &mut Command) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the command starts");
    let mut said = String::new();
    // Daemons that it leaves running must not keep its output open for us: they have logs of their own.
    let _ = child.stderr.take().map(|mut stderr| stderr.read_to_string(&mut said));
    let status = child.wait().expect("the command ends");
    assert!(status.success(), "{command:?}: {said}");
}

pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}
