//! The pipelines' streams and durables: created where missing, looked at, moved aside for a drain, deleted.

use super::error::StoreError;
use crate::pipeline::id::PipelineId;
use jiff::Timestamp;
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
    /// Ways in which it may delete unacknowledged messages silently, each for people.
    pub unsafe_settings: Vec<String>,
    /// Messages in it.
    pub messages: u64,
    /// The time of its first message; `None` when empty.
    pub first_time: Option<Timestamp>,
    /// The durable, where there is one.
    pub consumer: Option<PipelineConsumer>,
}

/// What a pipeline's durable looks like now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipelineConsumer {
    /// Whether its metadata says that we created it.
    pub ours: bool,
    /// Whether it is a pull consumer with explicit acknowledgement, without a filter, and without a `max_deliver`.
    pub usable: bool,
    /// `ack_wait`.
    pub ack_wait: Duration,
    /// `max_ack_pending`; 0 or less for none.
    pub max_ack_pending: i64,
    /// Not yet delivered.
    pub pending: u64,
    /// Delivered and not yet acknowledged.
    pub ack_pending: u64,
    /// Whether it is paused.
    pub paused: bool,
}

/// The pipelines' streams.
#[derive(Clone)]
pub struct Streams {}

impl Streams {
    /// The stream `name` with its durable `consumer` as they are; `None` where there is no such stream.
    pub async fn observe(&self, id: &PipelineId, name: &str, consumer: &str) -> Result<Option<PipelineStream>, StoreError> {
        let _ = (id, name, consumer);
        todo!()
    }

    /// Creates stream and durable where they are missing, with our metadata, and says how they are then. Changes
    /// nothing that exists, but for `ack_wait` and `max_ack_pending` of a durable with our metadata.
    pub async fn ensure(
        &self,
        id: &PipelineId,
        stream: &StreamSettings,
        consumer: &ConsumerSettings,
    ) -> Result<PipelineStream, StoreError> {
        let _ = (id, stream, consumer);
        todo!()
    }

    /// Sets the stream's subjects, nothing else, where it was created at `created`: `Conflict` where it is another one.
    pub async fn set_subjects(&self, name: &str, created: Timestamp, subjects: Vec<String>) -> Result<(), StoreError> {
        let _ = (name, created, subjects);
        todo!()
    }

    /// Deletes the stream where it was created at `created`: `Conflict` where it is another one. Missing is no error.
    pub async fn delete(&self, name: &str, created: Timestamp) -> Result<(), StoreError> {
        let _ = (name, created);
        todo!()
    }
}
