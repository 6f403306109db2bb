//! A pipeline's status: what the holder admitted, what it observes, what is wrong, and what deletion will need.
//!
//! Written by the holder only, by compare-and-set with its epoch, into `{ns}-status`; read by every controller (which
//! run what is admitted, never the entry itself), by the CLI and by the HTTP API.

use super::config::OnDelete;
use super::history::Transition;
use super::id::{PipelineId, VersionName};
use super::instance::Instance;
use super::moves::Moves;
use super::report::{Counters, EffectiveLimits};
use super::spec::{ExecutionSpec, Fingerprint};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident => $remedy:literal,)*) => {
        /// Why a condition is as it is: a closed set, so that programs can match on it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        pub enum Reason {
            $($(#[$doc])* $name,)*
            /// A reason of a newer release.
            #[serde(other)]
            Unknown,
        }

        impl Reason {
            /// Every reason, for tests and documentation.
            pub const ALL: &'static [Reason] = &[$(Reason::$name),*];

            /// What a person can do about it; empty where nothing needs doing.
            pub fn remedy(self) -> &'static str {
                match self {
                    $(Reason::$name => $remedy,)*
                    Reason::Unknown => "read the status with the release that wrote it",
                }
            }

            /// The name as it stands in the status, in `CamelCase`.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Reason::$name => stringify!($name),)*
                    Reason::Unknown => "Unknown",
                }
            }
        }
    };
}

reasons! {
    /// All is as it should be.
    AsDesired => "",
    /// Being brought about.
    InProgress => "",
    /// The entry says paused.
    Paused => "publish the pipeline to go on",
    /// The entry says draft.
    Draft => "publish the pipeline to run it",
    /// The entry is no JSON object or has a wrong field.
    EntryUnreadable => "put a valid entry; `sluice publish` or `nats kv put` with the JSON from the README",
    /// The key is gone without a delete marker, or the bucket was made anew.
    EntryMissing => "put the entry again, or `sluice delete ID` if it is really to go",
    /// What a producer's entry asks for was clamped or left out in the derived config.
    EntryAdjusted => "look at the message; `sluice publish ID -f FILE` puts a config of your own in the place of the derived one",
    /// The entry has fields that nobody reads.
    UnknownEntryField => "check the field's spelling; it is kept but has no effect",
    /// The entry's `schema` is newer than this release knows.
    SchemaTooNew => "upgrade sluice, or write the entry with schema 1",
    /// The Object Store holds no such version.
    VersionMissing => "store the config under `ID/VERSION` in the configs' Object Store, or name a version that is there (`sluice rollback ID`)",
    /// The config does not pass lint.
    ConfigInvalid => "`sluice lint FILE` shows each problem; publish a corrected version",
    /// The config is larger than 1 MiB.
    ConfigTooLarge => "a config may have 1 MiB; publish a smaller one",
    /// The object's bytes do not have its digest.
    DigestMismatch => "store the config again and publish it; the stored object is damaged",
    /// The entry's digest is not the object's.
    DigestDiffers => "the object under this version is not what was published; publish a new version",
    /// The object is a link.
    ConfigIsLink => "store the config itself; links are not followed",
    /// The object was overwritten in place.
    ConfigOverwritten => "publish a new version instead of overwriting one",
    /// Lint warns of something in the config.
    ConfigDoubtful => "`sluice lint FILE` shows each warning",
    /// The config names a connection that the settings do not have.
    UnknownConnection => "add the connection to `mongodb.connections` in the settings, or name one that is there",
    /// No database is named in the config or settings.
    NoDatabase => "name the database in the config or in the settings",
    /// The stream belongs to something else.
    StreamForeign => "the stream of that name does not listen on this pipeline's subject; rename one of the two",
    /// A stream is set up so that it can lose what it has confirmed: the pipeline's, or that of the dead letters.
    StreamUnsafe => "set discard new and remove max age, per-subject limits, message TTLs and rollups from the stream, and give it three copies in a cluster; what cannot be changed on it (storage, persist_mode, TTLs): let it run empty without producers and delete it, and it is made again",
    /// The stream lost messages that JetStream had acknowledged to their publishers.
    StreamLostMessages => "what nobody had read yet is gone: set `sync_interval: always` or three copies; said until the execution starts anew, or the entry is put again",
    /// The stream is no work queue.
    StreamNotWorkQueue => "the stream must have work-queue retention; delete it or name another in the config",
    /// A subject that the config names is another pipeline's.
    SubjectTaken => "choose a subject that no other pipeline's stream listens on, or delete the other one first",
    /// Two pipelines read the same stream.
    StreamShared => "one pipeline per stream; give the second its own",
    /// The stream cannot be created.
    StreamUnavailable => "do what the message says, and it goes on by itself",
    /// The durable is of a kind that cannot be read.
    ConsumerUnusable => "change what the message names, or remove the durable (`nats consumer rm STREAM NAME`): it is made again as it must be, and nothing is lost",
    /// The durable holds messages back.
    ConsumerStuck => "look at the message; `nats consumer resume`, or take `max_deliver` from the durable, or delete it: it is made again, and nothing is lost",
    /// `ack_wait` or `max_ack_pending` of a durable that is not ours differ from the config.
    ConsumerDiffers => "change the durable with the nats CLI, or take the values out of the config",
    /// The stream does not listen on every subject that the config names.
    StreamDiffers => "add the subjects to the stream with the nats CLI, or take them out of the config",
    /// The batch is smaller than asked for, because of `max_ack_pending`.
    BatchLimited => "raise max_ack_pending of the durable, or lower `count`",
    /// Measurements are stored at least once.
    AtLeastOnce => "a crash between insert and acknowledgement can store a measurement twice; MongoDB from 7.0 on, at a feature compatibility version of 7.0 (`setFeatureCompatibilityVersion`), and a user who may `remove` end that; or use a normal collection",
    /// The server has no time-series collections.
    TimeSeriesUnsupported => "take `time_series` out of the config, or write to MongoDB from 5.0 on (from 7.0 on each measurement is there exactly once)",
    /// MongoDB cannot be reached or answers that it cannot write now.
    DatabaseUnavailable => "nothing is lost; writing goes on by itself when MongoDB is back",
    /// MongoDB refuses the whole command: credentials, permissions, names, options.
    DatabaseRefuses => "do what the message says, and it goes on by itself",
    /// A previous target, where what was in flight when the target changed may lie, does not answer.
    PreviousTargetUnavailable => "bring it back, and it goes on by itself; or `sluice give-up ID`: what was in flight may then be in both",
    /// The settings have no connection to a previous target.
    PreviousTargetUnknown => "keep a connection to its hosts in the settings until this is gone; or `sluice give-up ID`: what was in flight may then be in both",
    /// The durable cannot be paused.
    ConsumerNotPaused => "nats-server 2.11 or later, and the right to publish to $JS.API.CONSUMER.PAUSE.>; target changes go on without",
    /// The collection is not of the kind that the config says.
    CollectionKindDiffers => "drop or rename the collection, or make the config's `time_series` agree with it",
    /// The collection deletes by itself what MongoDB confirmed.
    TargetUnsafe => "look at the message; what the collection deletes by itself nobody brings back: take the option off it, or let it stay if it is meant",
    /// No document of this config was ever stored and all are refused.
    NothingStoredYet => "all documents are refused; check `time_field`, the validator and the unique indexes against the documents",
    /// No document of this config was ever stored, and what comes is no BSON.
    PayloadsNotBson => "publish BSON documents: the message says what the payloads look like; they wait in the stream meanwhile, and become dead letters once a good document is stored",
    /// Single documents are refused and lie in the dead letters.
    DocumentsRefused => "`sluice dlq list ID` shows them with their reasons",
    /// The dead letters are full or cannot be written.
    DeadLettersUnavailable => "do what the message says; the pipeline holds the messages until dead letters can be stored",
    /// NATS cannot be reached.
    NatsUnavailable => "nothing is lost; reading goes on by itself when NATS is back",
    /// The byte budget of the process is used up.
    MemoryLimited => "raise `limits.memory`, or run more processes",
    /// The execution ended in an error and is started again.
    ExecutionFailed => "look at the message; it is started again with growing delays",
    /// The engine that runs the executions cannot be reached.
    EngineUnavailable => "what runs goes on; look after the engine or the cluster, or correct its address under `executor` in the settings",
    /// The engine refuses what is asked of it.
    EngineRefuses => "look at the message; correct the executor's section in the settings, or the engine or cluster",
    /// The engine does not have the image of executions and cannot get it.
    ImageMissing => "load the image onto the engine or the nodes, or correct `image` of the executor in the settings, and its registry",
    /// An object of the name that one of ours would have is somebody else's.
    ObjectForeign => "remove or rename the object; nothing of somebody else's is ever touched",
    /// Somebody else has set a field that we set.
    FieldConflict => "set the field back, or take the object out of the other manager's hands (`kubectl get --show-managed-fields`); with an autoscaler set `executor.kubernetes.autoscaled`",
    /// The cluster does not admit the pods: a quota, pod security, a webhook.
    ExecutionNotAdmitted => "look at the message; raise the quota, or correct `executor.kubernetes` in the settings",
    /// The scheduler finds no node for a pod.
    ExecutionUnschedulable => "add nodes, or lower `requests` or correct selector and tolerations of `executor.kubernetes` in the settings",
    /// The engine's health check of an execution fails.
    ExecutionUnhealthy => "look at `sluice status ID` and `sluice logs ID`; it goes on by itself once what it needs is there",
    /// The execution needed more memory than it may have, and was killed.
    ExecutionOutOfMemory => "raise `memory` of the executor in the settings, or lower the config's batches",
    /// The execution ended because of its settings or config; a restart alone does not help.
    ExecutionMisconfigured => "look at `sluice logs ID`; correct the settings or the config; it is tried again every few minutes",
    /// The entry's `replicas` have no effect with this executor.
    ReplicasIgnored => "in-process, run more controllers instead",
    /// Waiting messages are written before the stream goes.
    Draining => "",
    /// The drain takes longer than `drain_timeout`.
    DrainSlow => "look at the other conditions; or delete the stream by hand if the messages are not needed",
    /// A deleted pipeline's stream was kept, since it is not empty and nothing ran.
    StreamKept => "publish the pipeline again to write what waits, or delete the stream by hand",
    /// The stream is another one than the one that was recorded.
    StreamReplaced => "the stream was made anew while the pipeline was being deleted; it is kept",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_that_needs_action_has_a_remedy() {
        let quiet = [Reason::AsDesired, Reason::InProgress, Reason::Draining];
        let wrong = Reason::ALL.iter().filter(|reason| reason.remedy().is_empty() != quiet.contains(reason));
        assert_eq!(wrong.count(), 0);
    }
}
