//! The pipelines' streams and durables: created where missing, looked at, moved aside for a drain, deleted.
//!
//! Configurations are read and written back as the server's own JSON, so that a field this release does not know
//! survives a change of another.

use super::api::{Api, Failure, Guard, code, field};
use super::error::{StoreError, StoreErrorKind, Unfit};
use super::safety::unsafe_settings;
use crate::pipeline::created::{CREATED_BY, CREATED_FOR, metadata};
use crate::pipeline::id::PipelineId;
use crate::pipeline::jetstream::OTHER_READERS;
use crate::pipeline::names::Names;
use crate::pipeline::subject::covers;
use async_nats::Client;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::time::Duration;

/// How to create a pipeline's stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamSettings {
    /// Name.
    pub name: String,
    /// `{ns}.{id}` and the extra subjects.
    pub subjects: Vec<String>,
    /// Replicas.
    pub replicas: usize,
}

/// How to create a pipeline's durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerSettings {
    /// Name.
    pub name: String,
    /// How long the server waits for an acknowledgement.
    pub ack_wait: Duration,
    /// How many may be unacknowledged.
    pub max_ack_pending: i64,
}

/// What a pipeline's stream and durable look like now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipelineStream {
    /// Stream name.
    pub name: String,
    /// When the stream was created.
    pub created: Timestamp,
    /// The subjects it listens on.
    pub subjects: Vec<String>,
    /// Whether its metadata says that we created it, for this pipeline.
    pub ours: bool,
    /// Whether it has work-queue retention.
    pub work_queue: bool,
    /// Ways in which it may lose messages that it has acknowledged to their publishers, each for people.
    pub unsafe_settings: Vec<String>,
    /// Its copies.
    pub replicas: u64,
    /// Messages in it.
    pub messages: u64,
    /// The time of its first message; `None` when empty.
    pub first_time: Option<Timestamp>,
    /// The sequence of its first message, or the next one when empty.
    pub first_sequence: u64,
    /// Its last sequence.
    pub last_sequence: u64,
    /// The durable, where there is one.
    pub consumer: Option<PipelineConsumer>,
}

/// What a pipeline's durable looks like now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipelineConsumer {
    /// Its name.
    pub name: String,
    /// Whether its metadata says that we created it.
    pub ours: bool,
    /// Why it cannot be read; empty where it can: it pulls whole messages of all subjects, acknowledges each, and gives none up.
    pub faults: Vec<String>,
    /// `ack_wait`.
    pub ack_wait: Duration,
    /// `max_ack_pending`; 0 or less for none.
    pub max_ack_pending: i64,
    /// Not yet delivered.
    pub pending: u64,
    /// Delivered and not yet acknowledged.
    pub ack_pending: u64,
    /// Pull requests that wait at the server.
    pub waiting: u64,
    /// For how long it is paused yet; `None` where it is not.
    pub paused: Option<Duration>,
}

impl PipelineConsumer {
    /// Whether it is as `wanted`; any number that is not positive means no limit.
    pub fn is_as(&self, wanted: &ConsumerSettings) -> bool {
        self.ack_wait == wanted.ack_wait && self.max_ack_pending.max(0) == wanted.max_ack_pending.max(0)
    }
}

/// The pipelines' streams.
#[derive(Clone)]
pub struct Streams {
    pub(super) api: Api,
    names: Names,
}

impl Streams {
    pub(super) fn new(client: Client, names: Names) -> Self {
        Self { api: Api::new(client), names }
    }

    /// The same, with a guard that is asked right before each request that changes something.
    pub fn guarded(mut self, guard: Guard) -> Self {
        self.api = self.api.guarded(guard);
        self
    }

    /// The stream `name` with its durable `consumer` as they are; `None` where there is no such stream. One round trip.
    ///
    /// A stream that listens neither on the pipeline's subject nor on its closed one is `Unfit(Foreign)`; what else may
    /// be wrong with it is in the answer.
    pub async fn observe(&self, id: &PipelineId, name: &str, consumer: &str) -> Result<Option<PipelineStream>, StoreError> {
        Ok(self.look(id, name, consumer).await?.map(|(stream, _)| stream))
    }

    /// Creates stream and durable where they are missing, with our metadata, and says how they are then. Changes
    /// nothing that exists, but for `ack_wait` and `max_ack_pending` of a durable with our metadata. One round trip
    /// where both exist.
    ///
    /// Errors: `Unfit` with `Foreign`, `NotWorkQueue` or `Consumer`, and then nothing was changed; `Refused` where
    /// JetStream says no.
    pub async fn ensure(
        &self,
        id: &PipelineId,
        stream: &StreamSettings,
        consumer: &ConsumerSettings,
    ) -> Result<PipelineStream, StoreError> {
        let during = |failure: Failure| failure.during(format!("create stream {} or its consumer {}", stream.name, consumer.name));
        // Four: the stream, the consumer, a change to it, and one lost race.
        for _ in 0..4 {
            let Some((found, durable)) = self.look(id, &stream.name, &consumer.name).await? else {
                self.create_stream(id, stream).await.map_err(during)?;
                continue;
            };
            if !found.work_queue {
                let message = format!("stream {} has no work-queue retention", stream.name);
                return Err(StoreError::new(StoreErrorKind::Unfit(Unfit::NotWorkQueue), message));
            }
            let Some(live) = &found.consumer else {
                if let Err(failure) = self.create_consumer(id, &stream.name, consumer).await {
                    let others = match &failure {
                        Failure::Api(error) if OTHER_READERS.contains(&error.err_code) => self.consumers(&stream.name).await,
                        _ => Vec::new(),
                    };
                    let others = if others.is_empty() { String::new() } else { format!(" (it has {})", others.join(", ")) };
                    return Err(failure.during(format!("create durable {} of stream {}{others}", consumer.name, stream.name)));
                }
                continue;
            };
            if !live.faults.is_empty() {
                let message = format!("durable {} of stream {} cannot be read: {}", consumer.name, stream.name, live.faults.join("; "));
                return Err(StoreError::new(StoreErrorKind::Unfit(Unfit::Consumer), message));
            }
            if live.is_as(consumer) || !live.ours {
                return Ok(found);
            }
            self.update_consumer(&stream.name, durable, consumer).await.map_err(during)?;
        }
        let message = format!("create stream {}: it or its consumer is being changed by others", stream.name);
        Err(StoreError::new(StoreErrorKind::Conflict, message))
    }

    /// What the account allows and uses, as the server says it.
    pub async fn account(&self) -> Result<Value, StoreError> {
        self.api.call::<Value>("INFO", Value::Null).await.map_err(|failure| failure.during("ask what the account allows"))
    }

    /// A stream's configuration and state, as the server says them.
    pub async fn configuration(&self, stream: &str) -> Result<(Value, Value), StoreError> {
        let info = self.api.info(stream).await.map_err(|failure| failure.during(format!("look at stream {stream}")))?;
        Ok((info["config"].clone(), info["state"].clone()))
    }

    /// The names of the stream's consumers; none where they cannot be asked for, which is found out soon.
    pub async fn consumers(&self, stream: &str) -> Vec<String> {
        let answer =
            self.api.clone().with_timeout(Duration::from_secs(1)).call::<Value>(&format!("CONSUMER.NAMES.{stream}"), Value::Null).await;
        answer.ok().and_then(|answer| field(&answer, "/consumers").ok()).unwrap_or_default()
    }

    /// Creates the durable on a stream that is there; one that exists stays as it is.
    pub async fn ensure_consumer(&self, id: &PipelineId, stream: &str, consumer: &ConsumerSettings) -> Result<(), StoreError> {
        let made = self.create_consumer(id, stream, consumer).await;
        made.map_err(|failure| failure.during(format!("create consumer {} of stream {stream}", consumer.name)))
    }

    /// Sets the stream's subjects, nothing else, where it was created at `created`: `Conflict` where it is another one,
    /// `Missing` where there is none.
    pub async fn set_subjects(&self, name: &str, created: Timestamp, subjects: Vec<String>) -> Result<(), StoreError> {
        let during = |failure: Failure| failure.during(format!("set the subjects of stream {name}"));
        let info = self.api.info(name).await.map_err(during)?;
        same_stream(name, &info, created)?;
        let mut config: Value = field(&info, "/config").map_err(during)?;
        if field::<Vec<String>>(&config, "/subjects").is_ok_and(|now| now == subjects) {
            return Ok(());
        }
        config["subjects"] = json!(subjects);
        self.api.call::<Value>(&format!("STREAM.UPDATE.{name}"), config).await.map(|_| ()).map_err(during)
    }

    /// Deletes the stream where it was created at `created`: `Conflict` where it is another one. Missing is no error.
    pub async fn delete(&self, name: &str, created: Timestamp) -> Result<(), StoreError> {
        let during = |failure: Failure| failure.during(format!("delete stream {name}"));
        match self.api.info(name).await {
            Ok(info) => same_stream(name, &info, created)?,
            Err(failure) if failure.is(code::STREAM_NOT_FOUND) => return Ok(()),
            Err(failure) => return Err(during(failure)),
        }
        match self.api.call::<Value>(&format!("STREAM.DELETE.{name}"), Value::Null).await {
            Err(failure) if !failure.is(code::STREAM_NOT_FOUND) => Err(during(failure)),
            _ => Ok(()),
        }
    }

    /// Stream and durable, and the durable's configuration as the server says it.
    async fn look(&self, id: &PipelineId, name: &str, consumer: &str) -> Result<Option<(PipelineStream, Value)>, StoreError> {
        let during = |failure: Failure| failure.during(format!("look at stream {name}"));
        let of_consumer = format!("CONSUMER.INFO.{name}.{consumer}");
        let (info, durable) = tokio::join!(self.api.info(name), self.api.call::<Value>(&of_consumer, Value::Null));
        let info = match info {
            Ok(info) => info,
            Err(failure) if failure.is(code::STREAM_NOT_FOUND) => return Ok(None),
            Err(failure) => return Err(during(failure)),
        };
        let mut stream = observed(&info, id).map_err(during)?;
        let listens = |wanted: &str| stream.subjects.iter().any(|subject| covers(subject, wanted));
        if !listens(&self.names.subject(id)) && !listens(&self.names.closed(id)) {
            let own = self.names.subject(id);
            let message = match (info["config"]["mirror"]["name"].as_str(), stream.subjects.join(", ")) {
                (Some(of), _) => {
                    format!("stream {name} is a mirror of {of}: nothing can be published to it, and it does not listen on {own}")
                }
                (None, none) if none.is_empty() => {
                    format!("stream {name} listens on no subject, and not on {own}: it belongs to something else")
                }
                (None, others) => format!("stream {name} listens on {others} and not on {own}: it belongs to something else"),
            };
            return Err(StoreError::new(StoreErrorKind::Unfit(Unfit::Foreign), message));
        }
        match durable {
            Ok(durable) => {
                stream.consumer = Some(observed_consumer(&durable, id).map_err(during)?);
                Ok(Some((stream, durable["config"].clone())))
            }
            Err(failure) if failure.is(code::CONSUMER_NOT_FOUND) || failure.is(code::STREAM_NOT_FOUND) => Ok(Some((stream, Value::Null))),
            Err(failure) => Err(during(failure)),
        }
    }

    async fn create_stream(&self, id: &PipelineId, stream: &StreamSettings) -> Result<(), Failure> {
        let config = json!({
            "name": stream.name,
            "subjects": stream.subjects,
            "retention": "workqueue",
            "discard": "new",
            "storage": "file",
            "max_msgs": -1,
            "max_bytes": -1,
            "max_consumers": -1,
            "max_msgs_per_subject": -1,
            "max_msg_size": -1,
            "num_replicas": stream.replicas,
            "allow_direct": false,
            "metadata": metadata(Some(id)),
        });
        match self.api.call::<Value>(&format!("STREAM.CREATE.{}", stream.name), config).await {
            Err(failure) if !failure.is(code::STREAM_NAME_IN_USE) => Err(failure),
            // Somebody else was faster: it is looked at again.
            _ => Ok(()),
        }
    }

    async fn create_consumer(&self, id: &PipelineId, stream: &str, consumer: &ConsumerSettings) -> Result<(), Failure> {
        let config = json!({
            "durable_name": consumer.name,
            "name": consumer.name,
            "deliver_policy": "all",
            "ack_policy": "explicit",
            "ack_wait": nanoseconds(consumer.ack_wait),
            "max_deliver": -1,
            "max_ack_pending": unlimited_below_one(consumer.max_ack_pending),
            "replay_policy": "instant",
            "metadata": metadata(Some(id)),
        });
        let body = json!({ "stream_name": stream, "config": config, "action": "create" });
        match self.api.call::<Value>(&format!("CONSUMER.CREATE.{stream}.{}", consumer.name), body).await {
            Err(failure) if !failure.is(code::CONSUMER_EXISTS) && !failure.is(code::CONSUMER_NAME_EXISTS) => Err(failure),
            _ => Ok(()),
        }
    }

    async fn update_consumer(&self, stream: &str, mut config: Value, consumer: &ConsumerSettings) -> Result<(), Failure> {
        config["ack_wait"] = json!(nanoseconds(consumer.ack_wait));
        config["max_ack_pending"] = json!(unlimited_below_one(consumer.max_ack_pending));
        let body = json!({ "stream_name": stream, "config": config, "action": "update" });
        self.api.call::<Value>(&format!("CONSUMER.CREATE.{stream}.{}", consumer.name), body).await.map(|_| ())
    }
}

fn same_stream(name: &str, info: &Value, created: Timestamp) -> Result<(), StoreError> {
    let now: Timestamp = field(info, "/created").map_err(|failure| failure.during(format!("look at stream {name}")))?;
    if now == created {
        return Ok(());
    }
    let message = format!("stream {name} was created at {now} and is not the one of {created}");
    Err(StoreError::new(StoreErrorKind::Conflict, message))
}

/// The server takes 0 for its default.
fn unlimited_below_one(max_ack_pending: i64) -> i64 {
    if max_ack_pending > 0 { max_ack_pending } else { -1 }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// What `STREAM.INFO` says, without the durable.
fn observed(info: &Value, id: &PipelineId) -> Result<PipelineStream, Failure> {
    let config = &info["config"];
    let messages = field(info, "/state/messages")?;
    Ok(PipelineStream {
        name: field(config, "/name")?,
        created: field(info, "/created")?,
        subjects: field::<Option<_>>(config, "/subjects")?.unwrap_or_default(),
        ours: is_ours(config, id),
        work_queue: config["retention"] == "workqueue",
        unsafe_settings: unsafe_settings(info),
        replicas: config["num_replicas"].as_u64().unwrap_or(1),
        messages,
        first_time: if messages > 0 { Some(field(info, "/state/first_ts")?) } else { None },
        first_sequence: if messages > 0 { field(info, "/state/first_seq")? } else { field::<u64>(info, "/state/last_seq")? + 1 },
        last_sequence: field(info, "/state/last_seq")?,
        consumer: None,
    })
}

/// What `CONSUMER.INFO` says.
fn observed_consumer(info: &Value, id: &PipelineId) -> Result<PipelineConsumer, Failure> {
    let config = &info["config"];
    Ok(PipelineConsumer {
        name: field(info, "/name")?,
        ours: is_ours(config, id),
        faults: faults(config),
        ack_wait: Duration::from_nanos(config["ack_wait"].as_u64().unwrap_or_default()),
        max_ack_pending: config["max_ack_pending"].as_i64().unwrap_or_default(),
        pending: field(info, "/num_pending")?,
        ack_pending: field(info, "/num_ack_pending")?,
        waiting: info["num_waiting"].as_u64().unwrap_or_default(),
        paused: (info["paused"] == json!(true)).then(|| Duration::from_nanos(info["pause_remaining"].as_u64().unwrap_or_default())),
    })
}

/// Why a durable of this configuration cannot be read, each with what ends it.
fn faults(config: &Value) -> Vec<String> {
    let filters = config["filter_subjects"].as_array().map_or(0, Vec::len);
    let unfiltered = filters == 0 && matches!(config["filter_subject"].as_str(), None | Some("" | ">"));
    let most = config["max_deliver"].as_i64().unwrap_or(-1);
    let checks = [
        (
            config["deliver_subject"].as_str().is_some_and(|subject| !subject.is_empty()),
            "it pushes, and has to be a pull consumer: remove it".to_owned(),
        ),
        (config["ack_policy"] != "explicit", "its ack_policy is not explicit: remove it".to_owned()),
        (!unfiltered, "it filters subjects: remove the filter (`nats consumer edit STREAM NAME --filter=`), or the durable".to_owned()),
        (config["headers_only"] == json!(true), "it delivers headers only: `nats consumer edit STREAM NAME --no-headers-only`".to_owned()),
        (config["priority_groups"].as_array().is_some_and(|groups| !groups.is_empty()), "it has priority groups: remove it".to_owned()),
        (
            most > 0,
            format!(
                "its max_deliver is {most}, after which messages lie in the stream unseen: `nats consumer edit STREAM NAME --max-deliver=-1`"
            ),
        ),
    ];
    checks.into_iter().filter_map(|(wrong, why)| wrong.then_some(why)).collect()
}

fn is_ours(config: &Value, id: &PipelineId) -> bool {
    config["metadata"][CREATED_BY].is_string() && config["metadata"][CREATED_FOR] == id.as_str()
}
