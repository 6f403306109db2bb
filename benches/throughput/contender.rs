//! A contender: a command that drains a stream, run as a process of its own and measured from outside.

use super::{
    bare,
    installation::Installation,
    measure,
    servers::Servers,
    stream::{CONSUMER, DATABASE, Job, META_FIELD, PIPELINE, TIME_FIELD},
};
use anyhow::{Context, Result, bail, ensure};
use std::{
    fs::{self, File},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// The name of the one that this repository is about.
pub const SLUICE: &str = "sluice";

/// What the names of the bare loops begin with.
pub const BARE: &str = "bare-";

/// Who drains the stream.
pub struct Contender {
    pub name: String,
    kind: Kind,
}

enum Kind {
    /// This program, as a bare loop.
    Bare(&'static str),
    /// `sluice run` with a published pipeline.
    Sluice,
    /// A shell command.
    Command(String),
}

/// What one run cost.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Figures {
    /// From the start of the process until every message was acknowledged.
    pub seconds: f64,
    /// From the first acknowledgement seen until the last: without the start of the process.
    pub flowing_seconds: f64,
    /// Of the contender's process and its children.
    pub cpu_seconds: f64,
    /// Of the contender's process and its children, in bytes.
    pub peak_memory: u64,
    pub nats_cpu_seconds: f64,
    pub database_cpu_seconds: f64,
}

impl Figures {
    pub fn documents_per_second(&self, documents: u64) -> f64 {
        documents as f64 / self.seconds
    }
}

impl Contender {
    pub fn bare(way: &'static str) -> Result<Self> {
        Ok(Self { name: format!("{BARE}{way}"), kind: Kind::Bare(way) })
    }

    pub fn sluice() -> Self {
        Self { name: SLUICE.into(), kind: Kind::Sluice }
    }

    /// From `name=command`.
    pub fn command(text: &str) -> Result<Self> {
        let (name, command) = text.split_once('=').context("--contender NAME=COMMAND")?;
        ensure!(!name.is_empty() && name.len() <= 20, "a contender's name has 1 to 20 characters");
        Ok(Self { name: name.into(), kind: Kind::Command(command.into()) })
    }

    /// Drains `job` and says what it cost.
    pub async fn run(&self, servers: &Servers, job: &Job, timeout: u64) -> Result<Figures> {
        let dir = servers.path().join(&job.namespace);
        fs::create_dir_all(&dir)?;
        let mut command = match &self.kind {
            Kind::Bare(way) => {
                let mut command = Command::new(std::env::current_exe()?);
                command.env(bare::WAY, way);
                command
            }
            Kind::Sluice => sluice(servers, job, &dir)?,
            Kind::Command(text) => {
                let mut command = Command::new("sh");
                command.args(["-c", text]);
                command
            }
        };
        command
            .env("NATS_URL", &servers.nats_url)
            .env("MONGO_URL", &servers.mongo_url)
            .env("STREAM", &job.stream)
            .env("SUBJECT", &job.subject)
            .env("CONSUMER", CONSUMER)
            .env("DATABASE", DATABASE)
            .env("COLLECTION", &job.collection)
            .env("COUNT", job.count.to_string());
        let log = File::create(dir.join("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);

        let servers_before = (measure::cpu(servers.nats_pid), measure::cpu(servers.database_pid));
        let start = Instant::now();
        let mut child = Running(command.spawn()?);
        let flowing = match drained(job, &mut child.0, Duration::from_secs(timeout)).await {
            Ok(flowing) => flowing,
            Err(error) => bail!("{error}\n{}", fs::read_to_string(dir.join("log")).unwrap_or_default()),
        };
        let seconds = start.elapsed().as_secs_f64();
        let figures = Figures {
            seconds,
            flowing_seconds: flowing.as_secs_f64(),
            cpu_seconds: measure::cpu(child.0.id()).as_secs_f64(),
            peak_memory: measure::peak_memory(child.0.id()),
            nats_cpu_seconds: (measure::cpu(servers.nats_pid) - servers_before.0).as_secs_f64(),
            database_cpu_seconds: (measure::cpu(servers.database_pid) - servers_before.1).as_secs_f64(),
        };
        child.end().await;
        job.check().await?;
        Ok(figures)
    }
}

/// Waits until every message is acknowledged; how long ago the first one was.
async fn drained(job: &Job, child: &mut Child, timeout: Duration) -> Result<Duration> {
    let start = Instant::now();
    let mut first = None;
    loop {
        let remaining = job.remaining().await?;
        if remaining < job.count {
            first.get_or_insert_with(Instant::now);
        }
        if remaining == 0 {
            return Ok(first.unwrap_or(start).elapsed());
        }
        if let Some(status) = child.try_wait()? {
            bail!("it ended with {remaining} messages left: {status}");
        }
        ensure!(start.elapsed() < timeout, "{remaining} messages are left after {timeout:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// `sluice run` on a pipeline that is published already: streams, durable and config are there when it starts.
fn sluice(servers: &Servers, job: &Job, dir: &Path) -> Result<Command> {
    let installation = Installation::new(servers, &job.namespace, dir)?;
    let config = dir.join("readings.yml");
    let time_series =
        if job.time_series { format!(", time_series: {{time_field: {TIME_FIELD}, meta_field: {META_FIELD}}}") } else { String::new() };
    fs::write(&config, format!("schema: 1\noutput:\n  mongodb: {{collection: {}{time_series}}}\n", job.collection))?;
    let published = installation.sluice().args(["publish", PIPELINE, "-f"]).arg(&config).output()?;
    ensure!(published.status.success(), "sluice publish: {}", String::from_utf8_lossy(&published.stderr));
    let mut command = installation.sluice();
    command.arg("run");
    Ok(command)
}

/// A contender's process; killed when dropped.
pub struct Running(pub Child);

impl Running {
    /// Asks it to end, and waits a while.
    pub async fn end(&mut self) {
        let asked = Command::new("sh").args(["-c", &format!("kill -TERM {}", self.0.id())]).status();
        let start = Instant::now();
        while asked.is_ok() && start.elapsed() < Duration::from_secs(10) && matches!(self.0.try_wait(), Ok(None)) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Errors mean that it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
