//! The commands, run as people and scripts run them: the real binary against a real nats-server, no controller.

mod config;
mod dlq;
mod dlq_act;
mod edit;
mod history;
mod logs;
mod offline;
mod restore;
mod run;
mod secrets;
mod send;
mod status;
mod terminals;

use crate::support::{Nats, temp_dir};
use async_nats::jetstream::{self, kv, stream};
use serde_json::Value;
use std::path::PathBuf;
use std::process::{Output, Stdio};

/// A config that passes lint.
pub const CONFIG: &str = "schema: 1\noutput:\n  mongodb:\n    database: example\n    collection: metrics\n";

/// The binary with settings for one nats-server, namespace `alpha`.
pub struct Cli {
    settings: PathBuf,
    dir: tempfile::TempDir,
}

impl Cli {
    pub fn new(nats_url: &str) -> Self {
        let dir = temp_dir("cli");
        let settings = dir.path().join("sluice.yml");
        std::fs::write(&settings, format!("namespace: alpha\nnats: {{urls: ['{nats_url}']}}\n")).unwrap();
        Self { settings, dir }
    }

    /// The same where a controller has made the buckets before: no command of an editor does.
    pub async fn installed(nats: &Nats) -> Self {
        let cli = Self::new(&nats.url());
        let loaded = sluice::settings::load::load(Some(&cli.settings), &[], &[]).unwrap();
        sluice::store::Store::connect(&loaded.settings).await.unwrap().prepare().await.unwrap();
        cli
    }

    /// Puts a file into its directory.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    }

    pub fn command(&self, args: &[&str]) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_sluice"));
        command.args(args).arg("--settings").arg(&self.settings).current_dir(self.dir.path());
        command.env_remove("NO_COLOR").env_remove("SLUICE_SETTINGS").stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    pub async fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().await.unwrap()
    }

    /// stdout of a command that must succeed.
    pub async fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args).await;
        assert!(output.status.success(), "sluice {args:?}: {:?}: {}", output.status, stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The same with `--output json`, parsed.
    pub async fn json(&self, args: &[&str]) -> Value {
        let args = [args, &["--output", "json"]].concat();
        let text = self.ok(&args).await;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("sluice {args:?}: {error}: {text}"))
    }

    /// stderr of a command that must fail with `code`.
    pub async fn fails(&self, code: i32, args: &[&str]) -> String {
        let output = self.run(args).await;
        assert_eq!(output.status.code(), Some(code), "sluice {args:?}: {}", stderr(&output));
        stderr(&output)
    }
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The entries' bucket.
pub async fn entries(nats: &Nats) -> kv::Store {
    nats.jetstream().await.get_key_value("alpha").await.unwrap()
}

/// The entry of a pipeline as JSON.
pub async fn entry(nats: &Nats, id: &str) -> Value {
    serde_json::from_slice(&entries(nats).await.get(id).await.unwrap().unwrap()).unwrap()
}

/// The stream of `metrics`, as a controller would create it.
pub async fn stream_of_metrics(jetstream: &jetstream::Context) -> stream::Stream {
    let config = stream::Config {
        name: "alpha_metrics".into(),
        subjects: vec!["alpha.metrics".into()],
        retention: stream::RetentionPolicy::WorkQueue,
        discard: stream::DiscardPolicy::New,
        ..stream::Config::default()
    };
    jetstream.create_stream(config).await.unwrap()
}
