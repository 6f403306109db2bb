//! A database that answers as another server does: MongoDB behind a mongos, at an older feature compatibility version, on Atlas, or
//! what only speaks its protocol. The real database does the work, a proxy rewrites its replies; what they become is data
//! (`tests/fixtures/replies`), so that more can be added without code.

mod codes;
mod servers;

use crate::collector_support::{dead_letters, work_queue};
use crate::support::replies::{MARK, Replies, Rule};
use crate::support::{Mongo, Nats, eventually};
use async_nats::jetstream;
use futures_util::StreamExt;
use mongodb::bson::{DateTime, Document, doc};
use serde::de::DeserializeOwned;
use sluice::collector::{self, ByteBudget, Deps, ExecutionState, Job, sink::Databases};
use sluice::pipeline::config::{Batching, OutputConfig, TimeSeries, WriteConcern};
use sluice::pipeline::id::{PipelineId, VersionName};
use sluice::pipeline::status::Reason;
use sluice::settings::{MongoConnection, MongoSettings, Secret};
use sluice::telemetry::metrics::Metrics;
use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// Two servers for all cases of a test.
struct Ground {
    nats: Nats,
    mongo: Mongo,
    server: SocketAddr,
}

impl Ground {
    /// `None` where the database is not one that a proxy can stand in front of.
    async fn new() -> Option<Self> {
        let (nats, mongo) = tokio::join!(Nats::start(), Mongo::start());
        let server = mongo.direct().await?;
        dead_letters(&nats.jetstream().await).await;
        Some(Self { nats, mongo, server })
    }
}

/// Which kind of collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Normal,
    Series,
}

/// One pipeline whose database answers by rules.
struct Lane {
    name: String,
    jetstream: jetstream::Context,
    documents: mongodb::Collection<Document>,
    proxy: Replies,
    state: Arc<ExecutionState>,
    stop: CancellationToken,
    _live: watch::Sender<u32>,
    task: JoinHandle<()>,
}

impl Lane {
    async fn start(ground: &Ground, name: &str, kind: Kind, rules: Vec<Rule>) -> Self {
        let proxy = Replies::start(ground.server, name, rules).await;
        let client = ground.nats.client().await;
        let jetstream = jetstream::new(client.clone());
        work_queue(&jetstream, name, name, 2_000).await;
        let connection = MongoConnection { url: Secret::new(proxy.url()), ..MongoConnection::default() };
        let databases = Databases::new(&MongoSettings { connections: BTreeMap::from([("default".to_owned(), connection)]) });
        let series = TimeSeries { time_field: "ts".into(), meta_field: Some("device".into()), granularity: None, expire_after: None };
        let output = OutputConfig {
            connection: "default".into(),
            database: Some(ground.mongo.database().into()),
            collection: Some(name.into()),
            time_series: (kind == Kind::Series).then_some(series),
            batching: Batching { period: Duration::from_millis(300), ..Batching::default() },
            max_in_flight: 2,
            write_concern: WriteConcern::default(),
        };
        let id = PipelineId::parse(name).expect("an id");
        let job = Job {
            id: id.clone(),
            version: VersionName::parse("1").expect("a version"),
            stream: name.into(),
            consumer: "default".into(),
            target: databases.target("default", output.database.as_deref(), name).expect("a target"),
            output,
            dead_letter_stream: "it-dlq".into(),
            dead_letter_prefix: format!("it-dlq.{name}"),
            dead_letter_objects: "it-dlq-payloads".into(),
            proven: true,
            shutdown_grace: Duration::from_secs(10),
        };
        let deps = Deps {
            nats: client,
            database: databases.get("default").await.expect("a database"),
            previous: Vec::new(),
            budget: Arc::new(ByteBudget::new(64 << 20)),
            metrics: Metrics::new().pipeline(&id),
        };
        let state = Arc::new(ExecutionState::default());
        let stop = CancellationToken::new();
        let (live, receiver) = watch::channel(1);
        let task = tokio::spawn({
            let (state, stop) = (state.clone(), stop.clone());
            async move { collector::run(job, deps, state, receiver, stop).await.expect("the collector ends well") }
        });
        let documents = ground.mongo.client().await.database(ground.mongo.database()).collection(name);
        Self { name: name.to_owned(), jetstream, documents, proxy, state, stop, _live: live, task }
    }

    /// Publishes documents with these numbers, and waits for each acknowledgement; those of `marked` are meant by rules.
    async fn publish(&self, numbers: std::ops::Range<i64>, marked: impl Fn(i64) -> bool) {
        for n in numbers {
            let mut document = doc! {"n": n, "ts": DateTime::from_millis(1_790_000_000_000 + n), "device": "a"};
            if marked(n) {
                document.insert(MARK, true);
            }
            let payload = document.to_vec().expect("BSON");
            self.jetstream.publish(self.name.clone(), payload.into()).await.expect("published").await.expect("acknowledged");
        }
    }

    /// Messages in the stream.
    async fn waiting(&self) -> u64 {
        self.jetstream.get_stream(&self.name).await.map_or(u64::MAX, |stream| stream.cached_info().state.messages)
    }

    /// Dead letters: reason and code of each.
    async fn dead(&self) -> Vec<(String, String)> {
        let stream = self.jetstream.get_stream("it-dlq").await.expect("the stream of the dead letters");
        let mut subjects = stream.info_with_subjects(format!("it-dlq.{}.>", self.name)).await.expect("its subjects");
        let mut dead = Vec::new();
        while let Some(subject) = subjects.next().await {
            let (subject, _) = subject.expect("a subject");
            let letter = stream.get_last_raw_message_by_subject(&subject).await.expect("a letter");
            let header = |name: &str| letter.headers.get(name).map(|value| value.to_string()).unwrap_or_default();
            dead.push((header("Sluice-Reason"), header("Sluice-Code")));
        }
        dead
    }

    /// The numbers that are stored, sorted; twice where they are.
    async fn stored(&self) -> Vec<i64> {
        let mut cursor = self.documents.find(doc! {}).await.expect("the database finds");
        let mut numbers = Vec::new();
        while let Some(document) = cursor.next().await {
            numbers.extend(document.expect("a document").get_i64("n"));
        }
        numbers.sort_unstable();
        numbers
    }

    /// What is in the way, for people.
    fn troubles(&self) -> Vec<(Reason, String)> {
        self.state.troubles().into_iter().map(|trouble| (trouble.reason, trouble.message)).collect()
    }

    async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(30), self.task).await.expect("it ends in time").expect("it does not panic");
        // Hundreds of collections would be in each other's way.
        let _ = self.documents.drop().await;
        let _ = self.jetstream.delete_stream(&self.name).await;
    }
}

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/replies")
}

fn read<T: DeserializeOwned>(path: PathBuf) -> T {
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_yaml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
