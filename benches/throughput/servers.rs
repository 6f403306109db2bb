//! nats-server and database of the benchmark, started and stopped by `deploy/local/stack.sh` in a directory of their own.

use anyhow::{Context, Result, ensure};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const STACK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/local/stack.sh");

/// Both servers; stopped when dropped.
pub struct Servers {
    dir: tempfile::TempDir,
    pub nats_url: String,
    pub mongo_url: String,
    pub nats_pid: u32,
    pub database_pid: u32,
}

impl Servers {
    pub fn start(database_args: &str) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("sluice-bench-").tempdir()?;
        // On drop of `dir` alone, a half-started stack would stay: hold it in `Self` before anything runs.
        let mut servers = Self { dir, nats_url: String::new(), mongo_url: String::new(), nats_pid: 0, database_pid: 0 };
        let output = Command::new("bash")
            .args([STACK, "up"])
            .arg(servers.path())
            .env("STACK_DATABASE_ARGS", database_args)
            .stderr(Stdio::inherit())
            .output()?;
        ensure!(output.status.success(), "the servers do not start");
        for line in String::from_utf8(output.stdout)?.lines() {
            match line.split_once('=') {
                Some(("NATS_URL", url)) => servers.nats_url = url.to_owned(),
                Some(("MONGO_URL", url)) => servers.mongo_url = url.trim_matches('\'').to_owned(),
                _ => {}
            }
        }
        servers.nats_pid = pid(&servers.path().join("nats.pid"))?;
        servers.database_pid = pid(&servers.path().join("database.pid"))?;
        Ok(servers)
    }

    /// Their directory.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// What the servers are, for the report.
    pub fn versions() -> Vec<String> {
        let tools = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/local/tools.sh");
        let paths = Command::new("bash").args([tools, "nats-server", "database"]).output();
        let paths = paths.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        let version = |path: &str| {
            let output = Command::new(PathBuf::from(path)).arg("--version").output().ok()?;
            Some(String::from_utf8_lossy(&output.stdout).lines().next()?.to_owned())
        };
        paths.lines().filter_map(version).collect()
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        let stopped = Command::new("bash").args([STACK, "down"]).arg(self.path()).status();
        if !stopped.is_ok_and(|status| status.success()) {
            eprintln!("the servers in {} could not be stopped", self.path().display());
        }
    }
}

fn pid(file: &Path) -> Result<u32> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let pid = text.split_whitespace().next().context("an empty pid file")?;
    Ok(pid.parse()?)
}
