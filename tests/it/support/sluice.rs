//! The real `sluice` binary as a process of its own: `sluice run` with generated settings, and its other commands.

use super::{Mongo, Nats, Process, eventually, http_get, temp_dir};
use std::{
    ffi::OsStr,
    fs,
    path::PathBuf,
    process::{Command, ExitStatus, Output, Stdio},
    time::Duration,
};

/// How a `sluice run` is to be started.
pub struct Run {
    /// `namespace` of its settings.
    pub namespace: String,
    /// Where NATS is; a proxy's address, perhaps.
    pub nats_url: String,
    /// Where MongoDB is.
    pub mongo_url: String,
    /// The default connection's database.
    pub database: String,
    /// YAML that follows the generated settings: sections that they do not have (`limits`, `executor`, …).
    pub extra: String,
    /// `--set a.b=c`, one by one.
    pub set: Vec<String>,
    /// Further environment.
    pub env: Vec<(String, String)>,
}

impl Run {
    /// Namespace `alpha` on these servers.
    pub fn new(nats: &Nats, mongo: &Mongo) -> Self {
        Self {
            namespace: "alpha".into(),
            nats_url: nats.url(),
            mongo_url: mongo.url(),
            database: mongo.database().to_owned(),
            extra: String::new(),
            set: Vec::new(),
            env: Vec::new(),
        }
    }

    fn settings(&self) -> String {
        let Self { namespace, nats_url, mongo_url, database, extra, .. } = self;
        format!(
            "namespace: {namespace}\nnats: {{urls: ['{nats_url}']}}\n\
             mongodb: {{connections: {{default: {{url: '{mongo_url}', database: {database}}}}}}}\n\
             http: {{listen: '127.0.0.1:0'}}\nlog: {{format: json, level: 'info,sluice=debug'}}\n{extra}\n"
        )
    }

    /// Starts it, does not wait for anything.
    pub fn spawn(self) -> Sluice {
        let temp = temp_dir("run");
        let dir = temp.path().to_owned();
        fs::write(dir.join("sluice.yml"), self.settings()).expect("the settings are written");
        let mut sluice = Sluice { process: None, run: self, dir, _temp: temp };
        sluice.spawn_again();
        sluice
    }

    /// Starts it and waits until it says that it is ready.
    pub async fn start(self) -> Sluice {
        let mut sluice = self.spawn();
        sluice.wait_ready().await;
        sluice
    }
}

/// A running `sluice run`; killed when dropped.
pub struct Sluice {
    process: Option<Process>,
    run: Run,
    /// Its directory: `sluice.yml`, `sluice.log`.
    pub dir: PathBuf,
    // After the process.
    _temp: tempfile::TempDir,
}

impl Sluice {
    /// Starts one on these servers, namespace `alpha`, and waits until it is ready.
    pub async fn start(nats: &Nats, mongo: &Mongo) -> Self {
        Run::new(nats, mongo).start().await
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SLUICE_")) {
            command.env_remove(name);
        }
        command.env("SLUICE_SETTINGS", self.dir.join("sluice.yml")).current_dir(&self.dir).stdin(Stdio::null());
        command.envs(self.run.env.iter().map(|(k, v)| (k, v)));
        command
    }

    fn spawn_again(&mut self) {
        let mut command = self.command();
        command.arg("run");
        for set in &self.run.set {
            command.args(["--set", set]);
        }
        let log = self.dir.join("sluice.log");
        // A fresh log, so that the address of an earlier run is not taken for this one's.
        let _ = fs::remove_file(&log);
        self.process = Some(Process::start("sluice run", command, &log));
    }

    /// Kills the process and starts it again with the same settings; does not wait.
    pub fn respawn(&mut self) {
        self.process = None;
        self.spawn_again();
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("it runs").pid()
    }

    /// Kills it at once.
    pub fn kill9(&mut self) {
        if let Some(process) = &mut self.process {
            process.kill9();
        }
    }

    /// Sends a signal by its name, `STOP`.
    pub fn signal(&self, signal: &str) {
        self.process.as_ref().expect("it runs").signal(signal);
    }

    /// Asks it to end and waits up to 40 s for that.
    pub async fn sigterm(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.wait(Duration::from_secs(40)).await
    }

    /// Waits for its end.
    pub async fn wait(&mut self, timeout: Duration) -> ExitStatus {
        self.process.as_mut().expect("it runs").wait(timeout).await
    }

    /// The status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.as_mut().and_then(Process::ended)
    }

    /// All that it has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("sluice.log")).unwrap_or_default()
    }

    /// The address of its HTTP listener, once it has logged it.
    pub fn http_url(&self) -> Option<String> {
        let log = self.log();
        let line = log.lines().find(|line| line.contains("http listening"))?;
        let (_, after) = line.split_once("127.0.0.1:")?;
        let port: String = after.chars().take_while(char::is_ascii_digit).collect();
        Some(format!("http://127.0.0.1:{port}"))
    }

    /// Waits until `/health/ready` says yes.
    pub async fn wait_ready(&mut self) {
        let process = self.process.as_mut().expect("it runs");
        if let Some(status) = process.ended() {
            panic!("sluice run ended: {status}\n{}", process.log_tail());
        }
        eventually("sluice run is ready", Duration::from_secs(30), || async {
            let Some(url) = self.http_url() else { return false };
            matches!(http_get(&url, "/health/ready", None).await, Ok((200, _)))
        })
        .await;
    }

    /// `GET` on its HTTP listener.
    pub async fn get(&self, path: &str) -> (u16, String) {
        let url = self.http_url().expect("it has logged its HTTP address");
        http_get(&url, path, None).await.expect("the HTTP listener answers")
    }

    /// Runs another command of the binary with the same settings, `&["status", "metrics", "--output", "json"]`.
    pub async fn cli<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Output {
        let mut command = tokio::process::Command::from(self.command());
        command.args(arguments).kill_on_drop(true).output().await.expect("sluice starts")
    }

    /// The same, its stdout; panics where it fails.
    pub async fn cli_ok<S: AsRef<OsStr> + std::fmt::Debug>(&self, arguments: &[S]) -> String {
        let output = self.cli(arguments).await;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "sluice {arguments:?}: {}{stdout}", String::from_utf8_lossy(&output.stderr));
        stdout
    }
}
