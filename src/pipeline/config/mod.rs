//! A pipeline's config: the YAML object that an entry's `version` names, Benthos-shaped and immutable once published.
//!
//! This file holds the types and their defaults; `lint` turns bytes into them and reports every problem at once.

mod lint;
mod target;
#[cfg(test)]
mod tests;

pub use lint::{LintContext, MAX_SUBJECTS, ON_DELETE, lint, longest_period};
pub use target::check_database;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The largest config that is read, in bytes: 1 MiB.
pub const MAX_CONFIG_BYTES: usize = 1 << 20;

/// A config that passed `lint`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PipelineConfig {
    /// Where messages come from.
    pub input: InputConfig,
    /// Where documents go.
    pub output: OutputConfig,
    /// What happens to stream and messages when the entry is deleted; the settings' default where it is absent.
    pub on_delete: Option<OnDelete>,
    /// How long a drain may take before it is only reported as slow; the settings' default where it is absent.
    pub drain_timeout: Option<Duration>,
}

/// `input.nats_jetstream`: used to create stream and consumer, never as a filter. All optional.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputConfig {
    /// Stream name; default `{ns}_{id}`.
    pub stream: Option<String>,
    /// Subjects beside `{ns}.{id}`, which the stream always listens on.
    pub subjects: Vec<String>,
    /// Durable name; default `default`.
    pub consumer: Option<String>,
    /// How long the server waits for an acknowledgement; default 30 s.
    pub ack_wait: Option<Duration>,
    /// How many messages may be unacknowledged, over all executions; default [`DEFAULT_MAX_ACK_PENDING`].
    pub max_ack_pending: Option<i64>,
}

pub use super::created::{DEFAULT_ACK_WAIT, DEFAULT_MAX_ACK_PENDING};

/// `output.mongodb`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputConfig {
    /// A name in the settings' `mongodb.connections`; default `default`.
    pub connection: String,
    /// Database; default: the connection's in the settings.
    pub database: Option<String>,
    /// Collection; default: the pipeline id.
    pub collection: Option<String>,
    /// Present: the collection is a time-series collection, created so if missing.
    pub time_series: Option<TimeSeries>,
    /// When a batch is written.
    pub batching: Batching,
    /// How many inserts may be under way at once, 1 to 16; default 2.
    pub max_in_flight: u32,
    /// What MongoDB must promise before a message is acknowledged.
    pub write_concern: WriteConcern,
}

/// `output.mongodb.time_series`: <https://www.mongodb.com/docs/manual/core/timeseries-collections/>.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeSeries {
    /// The field that holds the date of a measurement.
    pub time_field: String,
    /// The field that names the source of a measurement.
    pub meta_field: Option<String>,
    /// How far apart measurements of a source lie.
    pub granularity: Option<Granularity>,
    /// Documents older than this are removed by the server.
    pub expire_after: Option<Duration>,
}

/// `granularity` of a time-series collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Granularity {
    /// Seconds.
    Seconds,
    /// Minutes.
    Minutes,
    /// Hours.
    Hours,
}

impl Granularity {
    /// The word that MongoDB uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Seconds => "seconds",
            Self::Minutes => "minutes",
            Self::Hours => "hours",
        }
    }
}

/// `output.mongodb.batching`: a batch goes when the first of these is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batching {
    /// Documents; 1 to 100,000 (MongoDB's own limit per command), default 1000.
    pub count: u32,
    /// Bytes of payload; default and maximum 16 MiB.
    pub byte_size: u64,
    /// Time since the first document of the batch arrived; default 5 s.
    pub period: Duration,
    /// Time since the last document arrived; 0 turns it off, the default.
    pub linger: Duration,
}

impl Default for Batching {
    fn default() -> Self {
        Self { count: 1000, byte_size: 16 << 20, period: Duration::from_secs(5), linger: Duration::ZERO }
    }
}

/// `output.mongodb.write_concern`. Weaker ones than the default are warned about: what is acknowledged to NATS could
/// be lost by MongoDB.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteConcern {
    /// `majority` or a number of nodes as text.
    pub w: String,
    /// Whether the write is in the journal before it is confirmed.
    pub j: bool,
}

impl Default for WriteConcern {
    fn default() -> Self {
        Self { w: "majority".into(), j: true }
    }
}

/// How long one insert command may take; `period` plus this must lie within half of `ack_wait`.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// What happens to a deleted pipeline's stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnDelete {
    /// Everything that waits is written first, then the stream goes.
    #[default]
    Drain,
    /// The stream goes at once, with what waits in it.
    Delete,
    /// The stream stays.
    Keep,
}
