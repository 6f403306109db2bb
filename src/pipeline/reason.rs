//! Why a condition is as it is, and what to do about it: a closed set of reasons, each with its remedy.
//!
//! Pure. Programs match on the names, people read the remedies; both stand here and nowhere else.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `text` with `value` for each `word` that stands alone.
fn fill(text: &str, word: &str, value: &str) -> String {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(word) {
        let (before, after) = (&rest[..at], &rest[at + word.len()..]);
        let inside = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        let alone = !inside(before.chars().next_back()) && !inside(after.chars().next());
        filled.push_str(before);
        filled.push_str(if alone { value } else { word });
        rest = after;
    }
    filled.push_str(rest);
    filled
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

            /// The same with the pipeline's id, and the version that its entry names, in the place of `ID` and `VERSION`, so that a
            /// command in it can be copied as it is. `FILE` stays: only its reader knows which.
            pub fn remedy_for(self, id: &str, version: Option<&str>) -> String {
                let filled = fill(self.remedy(), "ID", id);
                match version {
                    Some(version) => fill(&filled, "VERSION", version),
                    None => filled,
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
    EntryUnreadable => "`sluice restore ID` puts the last entry back that could be read, and what ran goes on meanwhile; or put a valid one",
    /// The key is gone without a delete marker, or the bucket was made anew.
    EntryMissing => "`sluice restore ID` puts the last entry back; or `sluice delete ID` if it is really to go",
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
    /// Messages have headers or subjects that are not as NATS defines them.
    HeadersUnreadable => "their documents are stored all the same; correct the producer: names of headers in visible ASCII without a colon, values and subjects in UTF-8, `NATS/1.0` as the first line",
    /// The dead letters are full or cannot be written.
    DeadLettersUnavailable => "do what the message says; the pipeline holds the messages until dead letters can be stored",
    /// NATS does not permit something that the pipeline needs.
    NotPermitted => "grant the subject of the message to the user of the process; `sluice doctor --permissions ROLE` prints what each role needs",
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
    DrainSlow => "look at the other conditions, which say what keeps the rest from being written; `sluice restore ID` takes the deletion back; `sluice delete ID --discard` destroys the rest",
    /// A deleted pipeline's stream was kept, since it is not empty and nothing ran.
    StreamKept => "`sluice restore ID` and `sluice publish ID` write what waits; `sluice delete ID --discard` destroys it with the stream",
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

    #[test]
    fn remedies_name_the_pipeline_and_the_version_and_leave_no_placeholder_but_the_readers_own_file() {
        for reason in Reason::ALL {
            let filled = reason.remedy_for("metrics", Some("3-9f2c41aa"));
            assert!(!filled.split(|c: char| !c.is_alphanumeric()).any(|word| matches!(word, "ID" | "VERSION")), "{filled}");
        }
        assert_eq!(fill("`x ID` and ID/VERSION, not VOID nor ID_X", "ID", "a"), "`x a` and a/VERSION, not VOID nor ID_X");
    }
}
