//! What the collector's tests share: servers, a stream with its durable and dead letters, and a collector on them.

use crate::support::{Mongo, Nats, eventually};
use async_nats::jetstream::{self, consumer::pull, stream};
use futures_util::{TryStreamExt, future::ready};
use mongodb::bson::{Document, RawDocumentBuf, doc};
use sluice::collector::{self, ByteBudget, Deps, ExecutionState, Job, sink::Databases};
use sluice::pipeline::config::{Batching, OutputConfig, WriteConcern};
use sluice::pipeline::id::{PipelineId, VersionName};
use sluice::settings::{MongoConnection, MongoSettings, Secret};
use sluice::telemetry::metrics::Metrics;
use std::{collections::BTreeMap, ops::Range, sync::Arc, time::Duration};
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

pub const STREAM: &str = "it_readings";
pub const SUBJECT: &str = "it.readings";
pub const COLLECTION: &str = "readings";

/// Two servers with a stream, a durable and a stream for dead letters.
pub struct World {
    pub nats: Nats,
    pub mongo: Mongo,
    /// Where collectors find it, if not there: a proxy.
    pub mongo_url: Option<String>,
    pub client: async_nats::Client,
    pub jetstream: jetstream::Context,
}

/// A work queue as a controller makes it, with its durable.
pub async fn work_queue(jetstream: &jetstream::Context, name: &str, subject: &str, max_ack_pending: i64) {
    let config = stream::Config {
        name: name.into(),
        subjects: vec![subject.into()],
        retention: stream::RetentionPolicy::WorkQueue,
        discard: stream::DiscardPolicy::New,
        ..Default::default()
    };
    let created = jetstream.create_stream(config).await.expect("the stream");
    let consumer = pull::Config { durable_name: Some("default".into()), max_ack_pending, ..Default::default() };
    created.create_consumer(consumer).await.expect("the durable");
}

/// The stream of the dead letters as a controller makes it.
pub async fn dead_letters(jetstream: &jetstream::Context) {
    let config = stream::Config {
        name: "it-dlq".into(),
        subjects: vec!["it-dlq.>".into()],
        max_messages_per_subject: 1,
        discard: stream::DiscardPolicy::New,
        discard_new_per_subject: true,
        ..Default::default()
    };
    jetstream.create_stream(config).await.expect("the stream of the dead letters");
}

/// `{n}` for each of `range`.
pub fn numbers(range: Range<i64>) -> impl Iterator<Item = Document> {
    range.map(|n| doc! { "n": n })
}

/// Batches that wait for a minute: what arrives is held.
pub fn holding(world: &World) -> OutputConfig {
    let output = world.output();
    OutputConfig { batching: Batching { period: Duration::from_secs(60), ..output.batching }, ..output }
}

impl World {
    pub async fn start(max_ack_pending: i64) -> Self {
        Self::on(Nats::start().await, max_ack_pending).await
    }

    /// On a nats-server that takes clients without credentials, too.
    pub async fn on(nats: Nats, max_ack_pending: i64) -> Self {
        Self::with(nats, Mongo::start_durable().await, max_ack_pending).await
    }

    /// On these servers.
    pub async fn with(nats: Nats, mongo: Mongo, max_ack_pending: i64) -> Self {
        let client = nats.client().await;
        let jetstream = jetstream::new(client.clone());
        work_queue(&jetstream, STREAM, SUBJECT, max_ack_pending).await;
        dead_letters(&jetstream).await;
        Self { nats, mongo, mongo_url: None, client, jetstream }
    }

    /// What a config says, unless the test changes it.
    pub fn output(&self) -> OutputConfig {
        OutputConfig {
            connection: "default".into(),
            database: Some(self.mongo.database().into()),
            collection: Some(COLLECTION.into()),
            time_series: None,
            batching: Batching { period: Duration::from_millis(300), ..Batching::default() },
            max_in_flight: 2,
            write_concern: WriteConcern::default(),
        }
    }

    /// Runs a collector on the stream.
    pub async fn run(&self, output: OutputConfig, proven: bool) -> Running {
        self.run_on(self.nats.client().await, output, proven).await
    }

    /// The same with a client of the test's own.
    pub async fn run_on(&self, client: async_nats::Client, output: OutputConfig, proven: bool) -> Running {
        let (job, deps) = self.job(client, output, proven).await;
        let budget = deps.budget.clone();
        let state = Arc::new(ExecutionState::default());
        let stop = CancellationToken::new();
        let (live, receiver) = watch::channel(1);
        let task = tokio::spawn({
            let (state, stop) = (state.clone(), stop.clone());
            async move { collector::run(job, deps, state, receiver, stop).await.expect("the collector ends well") }
        });
        Running { state, stop, budget, _live: live, task }
    }

    /// What a collector on the stream is to do, and what it works with.
    pub async fn job(&self, client: async_nats::Client, output: OutputConfig, proven: bool) -> (Job, Deps) {
        let connection =
            MongoConnection { url: Secret::new(self.mongo_url.clone().unwrap_or_else(|| self.mongo.url())), ..MongoConnection::default() };
        let databases = Databases::new(&MongoSettings { connections: BTreeMap::from([("default".to_owned(), connection)]) });
        let target = databases.target("default", output.database.as_deref(), COLLECTION).expect("a target");
        let id = PipelineId::parse("readings").expect("an id");
        let metrics = Metrics::new();
        let job = Job {
            id: id.clone(),
            version: VersionName::parse("1").expect("a version"),
            stream: STREAM.into(),
            consumer: "default".into(),
            target,
            output,
            dead_letter_stream: "it-dlq".into(),
            dead_letter_prefix: "it-dlq.readings".into(),
            dead_letter_objects: "it-dlq-payloads".into(),
            proven,
            shutdown_grace: Duration::from_secs(10),
        };
        let deps = Deps {
            nats: client,
            database: databases.get("default").await.expect("a database"),
            previous: Vec::new(),
            budget: Arc::new(ByteBudget::new(256 << 20)),
            metrics: metrics.pipeline(&id),
        };
        (job, deps)
    }

    /// Publishes documents, pipelined; returns once all are acknowledged.
    pub async fn publish(&self, documents: impl IntoIterator<Item = Document>) {
        let payloads = documents.into_iter().map(|document| RawDocumentBuf::try_from(&document).expect("BSON").into_bytes());
        self.publish_bytes(payloads).await;
    }

    pub async fn publish_bytes(&self, payloads: impl IntoIterator<Item = Vec<u8>>) {
        let mut acks = Vec::new();
        for payload in payloads {
            acks.push(self.jetstream.publish(SUBJECT, payload.into()).await.expect("published").into_future());
            if acks.len() == 500 {
                for ack in acks.drain(..) {
                    ack.await.expect("acknowledged");
                }
            }
        }
        for ack in acks {
            ack.await.expect("acknowledged");
        }
    }

    /// Messages in the stream.
    pub async fn waiting(&self) -> u64 {
        messages(&self.jetstream, STREAM).await.unwrap_or(u64::MAX)
    }

    /// Dead letters.
    pub async fn dead(&self) -> u64 {
        messages(&self.jetstream, "it-dlq").await.unwrap_or(u64::MAX)
    }

    /// The reasons of all dead letters, sorted.
    pub async fn dead_reasons(&self) -> Vec<String> {
        let stream = self.jetstream.get_stream("it-dlq").await.expect("the stream of the dead letters");
        let wanted = usize::try_from(stream.cached_info().state.messages).expect("few");
        let consumer = stream.create_consumer(pull::Config::default()).await.expect("a consumer");
        let letters = consumer.fetch().max_messages(wanted).messages().await.expect("a batch");
        let reason = |letter: jetstream::Message| letter.headers.as_ref()?.get("Sluice-Reason").map(|reason| reason.to_string());
        let mut reasons: Vec<String> = letters.try_filter_map(|letter| ready(Ok(reason(letter)))).try_collect().await.expect("letters");
        reasons.sort_unstable();
        reasons
    }

    /// Waits until nothing is in the stream any more.
    pub async fn drained(&self, within: Duration) {
        eventually("the stream is empty", within, || async { self.waiting().await == 0 }).await;
    }

    /// How many documents there are, and how many different values of `n`.
    pub async fn counted(&self) -> (usize, usize) {
        let documents = self.mongo.documents(COLLECTION).await;
        let mut numbers: Vec<i64> = documents.iter().filter_map(|d| d.get_i64("n").ok()).collect();
        numbers.sort_unstable();
        numbers.dedup();
        (documents.len(), numbers.len())
    }
}

async fn messages(jetstream: &jetstream::Context, stream: &str) -> Option<u64> {
    Some(jetstream.get_stream(stream).await.ok()?.cached_info().state.messages)
}

/// A collector that runs.
pub struct Running {
    pub state: Arc<ExecutionState>,
    pub budget: Arc<ByteBudget>,
    stop: CancellationToken,
    _live: watch::Sender<u32>,
    task: JoinHandle<()>,
}

impl Running {
    /// Ends it as a crash of its process would.
    pub async fn crash(self) {
        self.task.abort();
        assert!(self.task.await.is_err_and(|ended| ended.is_cancelled()));
    }

    /// Stops it gracefully; nothing is held afterwards.
    pub async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(15), self.task).await.expect("it ends in time").expect("it does not panic");
        assert_eq!(self.budget.used(), 0, "every byte is given back");
    }
}
