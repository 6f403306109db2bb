//! What processes tell each other about the executions they run: one message a process, over core NATS.
//!
//! Every process publishes on `{ns}-reports.{process}` every 5 s what changed, at once what began or ended, and
//! everything at its start and whenever another asks for it: one that has just begun to listen, or hears of a process
//! that it does not know. The holder counts live executions from them and hands limits back through the admitted state.

use super::id::PipelineId;
use super::spec::Fingerprint;
use super::status::Reason;
use super::text::{MESSAGE, NAME, bounded};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// So many troubles of one execution are told: more than there are kinds of them.
const MOST_TROUBLES: usize = 16;

/// One report of one process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The format: 1.
    pub schema: u32,
    /// The reporting process, a UUID v7 made at its start.
    pub process: uuid::Uuid,
    /// The hostname, for people.
    pub host: String,
    /// Whether this lists every execution of the process (at its start, when asked, and every sixth time) or only changed ones.
    pub complete: bool,
    /// Whether it asks the others for complete reports: it does not know them all, or not any more.
    #[serde(default)]
    pub asks: bool,
    /// The first id that a complete report covers; none for all from the beginning. Many executions come in several
    /// messages, each complete for its part.
    #[serde(default)]
    pub from: Option<PipelineId>,
    /// The first id that it does not cover any more; none for all to the end.
    #[serde(default)]
    pub to: Option<PipelineId>,
    /// The executions.
    pub executions: Vec<ExecutionReport>,
}

impl Report {
    /// Whether a complete report that does not list `id` says that it does not run.
    pub fn covers(&self, id: &PipelineId) -> bool {
        self.from.as_ref().is_none_or(|from| from <= id) && self.to.as_ref().is_none_or(|to| id < to)
    }

    /// The same, with no more of each execution than one of ours says: it becomes part of a status.
    pub fn bounded(mut self) -> Self {
        self.host = bounded(&self.host, NAME);
        for execution in &mut self.executions {
            execution.version = bounded(&execution.version, NAME);
            execution.fingerprint.0 = bounded(&execution.fingerprint.0, NAME);
            for told in [&mut execution.troubles, &mut execution.advice] {
                told.truncate(MOST_TROUBLES);
                told.iter_mut().for_each(|trouble| *trouble = Trouble::new(trouble.reason, &trouble.message));
            }
        }
        self
    }
}

/// One execution in a report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExecutionReport {
    /// The pipeline.
    pub id: PipelineId,
    /// The version it runs.
    pub version: String,
    /// What it runs.
    pub fingerprint: Fingerprint,
    /// Whether it pulls, or why not.
    pub phase: ExecutionPhase,
    /// Why it does not make progress, where it does not; one of the closed reasons, with a message for people.
    pub troubles: Vec<Trouble>,
    /// What is doubtful but keeps nothing from making progress.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub advice: Vec<Trouble>,
    /// Counters since the execution started.
    pub counters: Counters,
    /// Its part in reading the stream; only where the collection is a time-series one, and once it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<StreamRole>,
    /// Limits in force.
    pub limits: EffectiveLimits,
    /// Whether this config has ever stored a document.
    pub proven: bool,
    /// Milliseconds since the epoch of the last sign of life of a pull: messages, its end, a heartbeat; 0 for never.
    pub last_pull_ms: u64,
    /// Milliseconds since the epoch of the last confirmed write, or of when what is held began to be, if that is later; 0 for
    /// never.
    pub last_write_ms: u64,
}

/// The part that an execution of a time-series pipeline has in reading the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StreamRole {
    /// It alone reads and writes.
    Active,
    /// Another one does; it takes over where that one ends.
    Standby,
    /// All read: the server cannot delete single measurements, and they are stored at least once.
    AtLeastOnce,
}

impl StreamRole {
    /// The word, as it stands in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Standby => "standby",
            Self::AtLeastOnce => "at_least_once",
        }
    }
}

/// What an execution is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExecutionPhase {
    /// Reads its config, connects, checks the target.
    Starting,
    /// Pulls and writes.
    Running,
    /// Holds what it has and does not pull: the database or NATS is away, or refuses.
    Blocked,
    /// Writes what it has and ends.
    Stopping,
    /// Has ended.
    Stopped,
}

/// Why an execution does not make progress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// One of the closed reasons.
    pub reason: Reason,
    /// For people; without secrets.
    pub message: String,
}

impl Trouble {
    /// One with so much of `message` as a status holds.
    pub fn new(reason: Reason, message: &str) -> Self {
        Self { reason, message: bounded(message, MESSAGE) }
    }
}

/// What an execution has done since it started. Messages unless said otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Counters {
    /// Received from NATS.
    pub received: u64,
    /// Stored, and acknowledged or about to be.
    pub written: u64,
    /// Found to be stored already.
    pub duplicates: u64,
    /// Put into the dead letters.
    pub dead_lettered: u64,
    /// Received with a delivery count above 1.
    pub redelivered: u64,
    /// Dropped without a word, because their leases had ended: they are delivered again.
    #[serde(default)]
    pub expired: u64,
    /// Held in memory now.
    pub buffered: u64,
    /// How often the stream had lost messages that were delivered from it; not messages.
    #[serde(default)]
    pub lost_tails: u64,
    /// Received with headers or a subject that cannot be read.
    #[serde(default)]
    pub unreadable_headers: u64,
}

impl std::ops::AddAssign for Counters {
    fn add_assign(&mut self, other: Self) {
        self.received = self.received.saturating_add(other.received);
        self.written = self.written.saturating_add(other.written);
        self.duplicates = self.duplicates.saturating_add(other.duplicates);
        self.dead_lettered = self.dead_lettered.saturating_add(other.dead_lettered);
        self.redelivered = self.redelivered.saturating_add(other.redelivered);
        self.expired = self.expired.saturating_add(other.expired);
        self.buffered = self.buffered.saturating_add(other.buffered);
        self.lost_tails = self.lost_tails.saturating_add(other.lost_tails);
        self.unreadable_headers = self.unreadable_headers.saturating_add(other.unreadable_headers);
    }
}

/// The limits in force, and why they are lower than the config's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EffectiveLimits {
    /// Documents a batch.
    pub batch_count: u32,
    /// `ack_wait` of the live consumer, milliseconds.
    pub ack_wait_ms: u64,
    /// `max_ack_pending` of the live consumer; 0 or less for none.
    pub max_ack_pending: i64,
    /// Whether the batch is smaller than the config's `count` because of `max_ack_pending`.
    pub limited: bool,
}
