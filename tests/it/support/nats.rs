//! A real nats-server with JetStream, on a port and a directory of its own.

use super::{Process, Proxy, free_port, temp_dir, tool};
use async_nats::jetstream;
use std::{
    fmt::Write as _,
    fs,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A nats-server; killed when dropped.
pub struct Nats {
    process: Option<Process>,
    host: IpAddr,
    port: u16,
    monitoring: Option<u16>,
    /// Its directory: `nats.conf`, `nats.log`, `store`.
    pub dir: PathBuf,
    // After the process: it must be gone before its directory is.
    _temp: tempfile::TempDir,
}

impl Nats {
    /// Starts one with JetStream and nothing else.
    pub async fn start() -> Self {
        Self::start_with("").await
    }

    /// Starts one whose configuration file ends in `extra`.
    pub async fn start_with(extra: &str) -> Self {
        Self::build(LOOPBACK, "", extra, None).await
    }

    /// Starts one that writes each message to the disk before it acknowledges it: what it confirmed survives a kill -9.
    pub async fn start_synced() -> Self {
        Self::build(LOOPBACK, "sync_interval: always", "", None).await
    }

    /// Starts one that syncs each message, with more in its configuration: a node of a cluster.
    pub async fn start_synced_with(extra: &str) -> Self {
        Self::build(LOOPBACK, "sync_interval: always", extra, None).await
    }

    /// Starts one with its monitoring port open, see [`Nats::monitoring_url`].
    pub async fn start_monitored(extra: &str) -> Self {
        Self::build(LOOPBACK, "", extra, Some(free_port())).await
    }

    /// Starts one that listens on `host` and nowhere else: on the address at which containers reach this machine.
    pub async fn start_on(host: IpAddr) -> Self {
        Self::build(host, "", "", None).await
    }

    async fn build(host: IpAddr, jetstream: &str, extra: &str, monitoring: Option<u16>) -> Self {
        let temp = temp_dir("nats");
        let dir = temp.path().to_owned();
        let mut nats = Self { process: None, host, port: free_port(), monitoring, dir, _temp: temp };
        let store = nats.dir.join("store");
        // One block: a second one would replace the first, and with it the directory.
        let mut config = format!("host: {host}\nport: {}\njetstream {{\nstore_dir: \"{}\"\n{jetstream}\n}}\n", nats.port, store.display());
        if let Some(port) = monitoring {
            writeln!(config, "http: 127.0.0.1:{port}").expect("a string takes it");
        }
        config.push_str(extra);
        fs::write(nats.config_path(), config).expect("the configuration is written");
        nats.restart().await;
        nats
    }

    fn config_path(&self) -> PathBuf {
        self.dir.join("nats.conf")
    }

    /// Changes its configuration file, for the next [`Nats::restart`] or [`Nats::reload`].
    pub fn reconfigure(&self, from: &str, to: &str) {
        let config = fs::read_to_string(self.config_path()).expect("its own configuration");
        assert!(config.contains(from), "{from}: {config}");
        fs::write(self.config_path(), config.replace(from, to)).expect("the configuration is written");
    }

    /// Makes it read its configuration again while it runs.
    pub async fn reload(&self) {
        let reloads = || self.process().log().matches("Reloaded server configuration").count();
        let before = reloads();
        self.process().signal("HUP");
        super::eventually("nats-server has reloaded", Duration::from_secs(20), || async { reloads() > before }).await;
    }

    /// `nats://127.0.0.1:port`, or wherever it was told to listen.
    pub fn url(&self) -> String {
        format!("nats://{}:{}", self.host, self.port)
    }

    /// The same through a proxy in front of it.
    pub fn url_through(&self, proxy: &Proxy) -> String {
        format!("nats://{}", proxy.address())
    }

    /// The port for clients.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The port for monitoring, where it was asked for.
    pub fn monitoring(&self) -> Option<u16> {
        self.monitoring
    }

    /// The server's process id.
    pub fn pid(&self) -> u32 {
        self.process().pid()
    }

    fn process(&self) -> &Process {
        self.process.as_ref().expect("the server runs")
    }

    /// A client without credentials.
    pub async fn client(&self) -> async_nats::Client {
        async_nats::ConnectOptions::new().connect(self.url()).await.expect("nats-server takes a client")
    }

    /// A JetStream context on a client of its own.
    pub async fn jetstream(&self) -> jetstream::Context {
        jetstream::new(self.client().await)
    }

    /// Kills the server at once.
    pub fn kill9(&mut self) {
        self.process = None;
    }

    /// Starts it again on the same port and directory (kills it first where it still runs) and waits until it serves.
    pub async fn restart(&mut self) {
        self.process = None;
        let mut command = Command::new(tool("nats-server").expect("nats-server"));
        command.arg("-c").arg(self.config_path());
        self.process = Some(Process::start("nats-server", command, &self.dir.join("nats.log")));
        self.wait_until_it_serves().await;
    }

    async fn wait_until_it_serves(&mut self) {
        let start = Instant::now();
        loop {
            // Its own words, and not a client: the tests' configurations may ask for any credentials.
            let serves = self.process().log().rsplit("Starting nats-server").next().is_some_and(|l| l.contains("Server is ready"));
            if serves && tokio::net::TcpStream::connect((self.host, self.port)).await.is_ok() {
                return;
            }
            let process = self.process.as_mut().expect("just started");
            let ended = process.ended();
            assert!(ended.is_none(), "nats-server ended: {ended:?}\n{}", process.log_tail());
            assert!(start.elapsed() < Duration::from_secs(20), "nats-server does not get ready\n{}", process.log_tail());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Stops the server where it stands.
    pub fn sigstop(&self) {
        self.process().signal("STOP");
    }

    /// Lets it go on.
    pub fn sigcont(&self) {
        self.process().signal("CONT");
    }

    /// Runs the real `nats` CLI against this server; its stdout. Panics where it fails.
    pub async fn nats_cli(&self, args: &[&str]) -> String {
        self.try_nats_cli(args).await.unwrap_or_else(|why| panic!("nats {args:?}: {why}"))
    }

    /// The same, with its failure (stderr and stdout) as a value.
    pub async fn try_nats_cli(&self, args: &[&str]) -> Result<String, String> {
        let output = tokio::process::Command::new(tool("nats").expect("nats CLI"))
            .args(["--server", &self.url()])
            .args(args)
            // Neither contexts nor settings of whoever runs the tests.
            .env("XDG_CONFIG_HOME", &self.dir)
            .env("HOME", &self.dir)
            .stdin(Stdio::null())
            .output()
            .await
            .expect("the nats CLI starts");
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() { Ok(stdout) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned() + &stdout) }
    }
}
