//! One namespace of a benchmark: its settings file, and pipelines that are there before the clock runs, made as other
//! programs make them: streams, durables, configs and entries by any client, not by Sluice.

use super::{
    contender::Running,
    servers::Servers,
    stream::{CONSUMER, DATABASE},
};
use anyhow::{Context, Result};
use async_nats::jetstream::{self, consumer, kv, object_store, stream};
use futures_util::{StreamExt, TryStreamExt};
use mongodb::bson::doc;
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

/// What is made at the same time.
const AT_ONCE: usize = 16;
/// The one version of each pipeline.
const VERSION: &str = "1";

/// The environment variable that names another build of the program, for comparing two.
const PROGRAM: &str = "BENCH_SLUICE";

/// A namespace with its settings.
pub struct Installation {
    namespace: String,
    settings: PathBuf,
    log: PathBuf,
}

impl Installation {
    /// Writes the settings into `dir`.
    pub fn new(servers: &Servers, namespace: &str, dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let settings = dir.join("sluice.yml");
        let text = format!(
            "namespace: {namespace}\nnats: {{urls: ['{}']}}\nmongodb: {{connections: {{default: {{url: '{}', database: {DATABASE}}}}}}}\n\
             http: {{listen: '127.0.0.1:0'}}\n",
            servers.nats_url, servers.mongo_url
        );
        fs::write(&settings, text)?;
        Ok(Self { namespace: namespace.to_owned(), settings, log: dir.join("log") })
    }

    /// The program, with these settings.
    pub fn sluice(&self) -> Command {
        let program = std::env::var_os(PROGRAM).unwrap_or_else(|| env!("CARGO_BIN_EXE_sluice").into());
        let mut command = Command::new(program);
        command.arg("--settings").arg(&self.settings);
        command
    }

    /// Starts `sluice run`, its words into a log.
    pub fn run(&self) -> Result<Running> {
        let log = File::create(&self.log)?;
        let spawned = self.sluice().arg("run").stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
        Ok(Running(spawned.context("sluice run")?))
    }

    /// What it said.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The subject that pipeline `id` listens on.
    pub fn subject(&self, id: &str) -> String {
        format!("{}.{id}", self.namespace)
    }

    /// The stream of pipeline `id`.
    pub fn stream(&self, id: &str) -> String {
        format!("{}_{id}", self.namespace)
    }

    /// Makes stream, durable, collection, config and, with `status`, entry of each of `ids`. `output`: what the config's
    /// `output.mongodb` says.
    pub async fn prepare(&self, servers: &Servers, ids: &[String], status: &str, output: &str) -> Result<()> {
        let jetstream = jetstream::new(async_nats::connect(&servers.nats_url).await?);
        let database = mongodb::Client::with_uri_str(&servers.mongo_url).await?.database(DATABASE);
        let entries = self.entries(&jetstream).await?;
        let bucket = format!("{}-configs", self.namespace);
        let configs = match jetstream.get_object_store(&bucket).await {
            Ok(configs) => configs,
            Err(_) => jetstream.create_object_store(object_store::Config { bucket, ..Default::default() }).await?,
        };
        let make = |id: &String| {
            let (jetstream, database, entries, configs) = (jetstream.clone(), database.clone(), entries.clone(), configs.clone());
            let (id, entry) = (id.clone(), entry(status));
            let stream = stream::Config {
                name: self.stream(&id),
                subjects: vec![self.subject(&id)],
                retention: stream::RetentionPolicy::WorkQueue,
                discard: stream::DiscardPolicy::New,
                ..Default::default()
            };
            let durable = consumer::pull::Config {
                durable_name: Some(CONSUMER.into()),
                ack_wait: Duration::from_secs(30),
                max_ack_pending: 10_000,
                max_deliver: -1,
                ..Default::default()
            };
            let config = format!("schema: 1\noutput:\n  mongodb: {{collection: {id}{output}}}\n");
            async move {
                jetstream.create_stream(stream).await?.create_consumer(durable).await?;
                database.run_command(doc! {"create": &id}).await?;
                configs.put(format!("{id}/{VERSION}").as_str(), &mut config.as_bytes()).await?;
                entries.put(&id, entry.into()).await?;
                anyhow::Ok(())
            }
        };
        futures_util::stream::iter(ids.iter().map(make)).buffer_unordered(AT_ONCE).try_collect::<()>().await
    }

    /// The entries' bucket.
    pub async fn entries(&self, jetstream: &jetstream::Context) -> Result<kv::Store> {
        match jetstream.get_key_value(&self.namespace).await {
            Ok(entries) => Ok(entries),
            Err(_) => {
                let config = kv::Config { bucket: self.namespace.clone(), history: 64, ..Default::default() };
                Ok(jetstream.create_key_value(config).await?)
            }
        }
    }
}

/// An entry that names the one version.
pub fn entry(status: &str) -> String {
    format!(r#"{{"schema":1,"name":"Bench","status":"{status}","version":"{VERSION}"}}"#)
}
