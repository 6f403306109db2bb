//! A pipeline's status: what the holder admitted, what it observes, what is wrong, and what deletion will need.
//!
//! Written by the holder only, by compare-and-set with its epoch, into `{ns}-status`; read by every controller (which
//! run what is admitted, never the entry itself), by the CLI and by the HTTP API.

use super::config::OnDelete;
use super::history::Transition;
use super::id::{PipelineId, VersionName};
use super::instance::Instance;
use super::moves::Moves;
pub use super::reason::Reason;
use super::report::{Counters, EffectiveLimits};
use super::spec::{ExecutionSpec, Fingerprint};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The largest status, in bytes: whatever entries, servers and engines say, it stays below what a server takes by default.
pub const LARGEST: usize = 640 << 10;

/// The status document of one pipeline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PipelineStatus {
    /// The format: 1.
    pub schema: u32,
    /// The pipeline.
    pub id: PipelineId,
    /// The fencing epoch of the holder that wrote this: the lease's revision when it was acquired.
    pub epoch: u64,
    /// When it was written.
    pub updated: Timestamp,
    /// What the entry asks for.
    pub desired: DesiredSummary,
    /// What executors are to do. This, not the entry, is what is run.
    pub admitted: Admitted,
    /// What runs, as reports and executors say.
    pub observed: ObservedSummary,
    /// What is right and what is wrong, each with its remedy.
    pub conditions: Vec<Condition>,
    /// What the conditions were before, oldest first, at most [`super::history::MAX_TRANSITIONS`].
    #[serde(default)]
    pub history: Vec<Transition>,
    /// What deletion will need when the entry is gone.
    pub kept: Kept,
}

/// What the entry asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DesiredSummary {
    /// `draft`, `published`, `paused`, `deleted`, `absent` or `unreadable`.
    pub status: String,
    /// The version the entry names.
    pub version: Option<String>,
    /// The entry's revision in the bucket; 0 where there is none.
    pub revision: u64,
    /// The name in the entry.
    pub name: Option<String>,
    /// The description in the entry.
    pub description: Option<String>,
}

/// What executors are to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Admitted {
    /// Which of the phases.
    pub phase: Phase,
    /// What to run; present in `run`, `switch`, `drain`, and in `stopped` what publishing again would start.
    pub spec: Option<ExecutionSpec>,
    /// How many executions share the durable, for the effective batch.
    pub live_executions: u32,
}

/// The phase that the holder admitted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Run exactly this spec.
    Run,
    /// Between two targets: nothing of the old one may run any more, nothing of the new one yet.
    Switch,
    /// Stopped and kept.
    Stopped,
    /// Runs until the stream is empty, then goes.
    Drain,
    /// No trace of an execution.
    #[default]
    Absent,
}

/// What runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ObservedSummary {
    /// The version that runs.
    pub version: Option<String>,
    /// The fingerprint that runs.
    pub fingerprint: Option<Fingerprint>,
    /// Live executions.
    pub executions: u32,
    /// Of them, those that stand by: one alone reads the stream of a time-series pipeline.
    #[serde(default)]
    pub standby: u32,
    /// Limits in force.
    pub limits: EffectiveLimits,
    /// Counters, summed over the live executions, since they started.
    pub counters: Counters,
    /// The containers, where there are any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub instances: Vec<Instance>,
}

/// What deletion needs, kept while the pipeline lives because the entry is gone by then.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Kept {
    /// When the entries' bucket that held the entry was created: a marker in any other bucket deletes nothing.
    pub bucket_created: Option<Timestamp>,
    /// When the pipeline's stream was created.
    pub stream_created: Option<Timestamp>,
    /// The stream.
    pub stream: Option<String>,
    /// The subjects that the stream listened on, to restore them when a drain is cancelled.
    pub subjects: Vec<String>,
    /// The effective `on_delete`.
    pub on_delete: OnDelete,
    /// The effective `drain_timeout`, seconds.
    pub drain_timeout_s: u64,
    /// The last entry that could be read, as it counts: of one of ours under a put of the first parent's, both.
    pub entry: Option<String>,
    /// The revision at which it counted; 0 where a marker has taken it back, or that is not known.
    #[serde(default)]
    pub entry_revision: u64,
    /// The last version that was good, with its digest.
    pub last_good: Option<(VersionName, String)>,
    /// What last ran well. Where another spec is admitted and cannot run, this one goes on, after a restart too.
    #[serde(default)]
    pub ran: Option<ExecutionSpec>,
    /// The config digests that have ever stored a document, newest last, at most 8.
    pub proven: Vec<String>,
    /// When the drain began.
    pub drain_started: Option<Timestamp>,
    /// Target changes.
    #[serde(default)]
    pub moves: Moves,
    /// Whether nothing was admitted yet, or what was is lost: the status then only says what is wrong, and what runs is
    /// left alone.
    #[serde(default)]
    pub undecided: bool,
    /// The entry's revision, where its version was overwritten in place since it was put.
    #[serde(default)]
    pub overwritten: Option<u64>,
    /// The config that was derived, where the entry is the first parent's.
    #[serde(default)]
    pub derived: Option<DerivedFrom>,
    /// The stream as it was last seen, so that a holder to come finds out what it has lost since.
    #[serde(default)]
    pub seen: Option<StreamSeen>,
    /// What the stream has lost, said until the entry is put again.
    #[serde(default)]
    pub lost: Option<StreamLoss>,
}

/// A stream as it was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StreamSeen {
    /// When it was created.
    pub created: Timestamp,
    /// Its last sequence.
    pub last: u64,
    /// Messages in it.
    pub messages: u64,
}

/// What a stream has lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StreamLoss {
    /// The entry's revision when that was found.
    pub revision: u64,
    /// For people.
    pub message: String,
}

impl Kept {
    /// The entry that counted, and the revision from which on the history says more, for a bucket created at `created`:
    /// the revisions of another bucket say nothing here, so whatever this one has is newer.
    pub fn counted(&self, created: Timestamp) -> Option<(&str, u64)> {
        let entry = self.entry.as_deref().filter(|_| self.entry_revision > 0)?;
        Some((entry, if self.bucket_created == Some(created) { self.entry_revision } else { 0 }))
    }
}

/// A derived config, and what it was derived from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DerivedFrom {
    /// The digest of what entry and settings alone say: another one means that they say something else.
    pub base: String,
    /// The version that it was stored as.
    pub version: VersionName,
    /// Its digest.
    pub digest: String,
}

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Condition {
    /// What it is about.
    #[serde(rename = "type")]
    pub kind: ConditionType,
    /// Whether it holds.
    pub status: bool,
    /// Why.
    pub reason: Reason,
    /// For people, with the particulars.
    pub message: String,
    /// Since when the condition has had this status and reason.
    pub since: Timestamp,
}

/// What a condition is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum ConditionType {
    /// The entry, its config, the stream and the target are fit to run.
    Valid,
    /// What the entry asks for is what is running.
    Ready,
    /// Documents are being stored, or nothing waits.
    Progressing,
    /// Something is doubtful but works: a setting that could lose messages, a limit, an ignored field.
    Advisory,
}
