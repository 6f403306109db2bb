//! What is wished of a pipeline: its entry, its config and the settings, read and checked, as a [`Wish`] and findings.
//!
//! Reads, never writes. A finding that is an error leaves the wish unknown, so that what ran goes on running.

use super::Controller;
use crate::executor::config_reader::{CheckedConfig, ConfigError};
use crate::pipeline::config::{DEFAULT_ACK_WAIT, DEFAULT_MAX_ACK_PENDING, InputConfig, PipelineConfig};
use crate::pipeline::entry::{Entry, EntryStatus};
use crate::pipeline::id::PipelineId;
use crate::pipeline::moves::Series;
use crate::pipeline::plan::Wish;
use crate::pipeline::spec::{ExecutionSpec, Fingerprint};
use crate::pipeline::status::{DerivedFrom, DesiredSummary, PipelineStatus, Reason};
use crate::pipeline::text::{MESSAGE, NAME, bounded};
use crate::store::{ConsumerSettings, EntryRecord, Operation, StoreError, StoreErrorKind, StreamSettings};
use jiff::Timestamp;
use tracing::warn;

/// So many previous targets are looked into at most: each message that may lie there is looked up in all of them.
pub(super) const MOST_PREVIOUS: usize = 16;

/// Something to say in the status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub reason: Reason,
    pub message: String,
}

impl Finding {
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// What is wished, and what was found on the way.
pub(super) struct Desire {
    pub wish: Wish,
    pub summary: DesiredSummary,
    /// Why the wish cannot be known or met.
    pub trouble: Option<Finding>,
    /// What is doubtful but works.
    pub advice: Vec<Finding>,
    /// The entry as it is, where there is one that can be read.
    pub entry: Option<String>,
    /// The previous targets that the entry gives up.
    pub given_up: Vec<String>,
    /// Whether the marker says that what waits in the stream is to be destroyed.
    pub discards: bool,
    /// The entry's revision, where its version was overwritten in place since it was put.
    pub overwritten: Option<u64>,
    /// When the entries' bucket was created.
    pub bucket_created: Option<Timestamp>,
    /// How to create what is missing, for a wish to run.
    pub create: Option<(StreamSettings, ConsumerSettings)>,
    /// The config, for a wish to run.
    pub config: Option<CheckedConfig>,
    /// Where it is derived from an entry of the first parent's.
    pub derived: Option<DerivedFrom>,
}

impl Desire {
    fn new(wish: Wish, status: &str, revision: u64, bucket_created: Option<Timestamp>) -> Self {
        Self {
            wish,
            summary: DesiredSummary { status: status.to_owned(), revision, ..DesiredSummary::default() },
            trouble: None,
            advice: Vec::new(),
            entry: None,
            given_up: Vec::new(),
            discards: false,
            overwritten: None,
            bucket_created,
            create: None,
            config: None,
            derived: None,
        }
    }

    /// One of which nothing is known, for tests.
    #[cfg(test)]
    pub(super) fn nothing() -> Self {
        Self::new(Wish::Unknown, "absent", 0, None)
    }

    fn unfit(status: &str, revision: u64, bucket_created: Option<Timestamp>, trouble: Finding) -> Self {
        Self { trouble: Some(trouble), ..Self::new(Wish::Unfit, status, revision, bucket_created) }
    }

    fn unknown(status: &str, revision: u64, bucket_created: Option<Timestamp>, trouble: Finding) -> Self {
        Self { trouble: Some(trouble), ..Self::new(Wish::Unknown, status, revision, bucket_created) }
    }
}

impl Controller {
    /// Reads the entry of `id` and what it names. Errors are worth a retry: NATS did not answer.
    pub(super) async fn desire(&self, id: &PipelineId, status: Option<&PipelineStatus>) -> Result<Desire, StoreError> {
        let entries = &self.deps.store.entries;
        let (record, created) = tokio::join!(entries.get(id), self.created.ask(|| entries.bucket_created()));
        let created = match created {
            Ok(created) => created,
            Err(error) if error.kind() == StoreErrorKind::Missing => {
                let finding = Finding::new(Reason::EntryMissing, "the bucket of the entries is gone");
                return Ok(Desire::unknown("absent", 0, None, finding));
            }
            Err(error) => return Err(error),
        };
        let Some(record) = record? else {
            let finding = Finding::new(Reason::EntryMissing, "the key is not in the bucket and has no delete marker");
            return Ok(Desire::unknown("absent", 0, Some(created), finding));
        };
        match record.operation {
            Operation::Put => self.desire_of_entry(id, &record, created, status).await,
            Operation::Delete | Operation::Purge => Ok(deleted(&record, created, status)),
            // By its TTL, say, in a bucket that leaves markers: as in one that leaves none.
            Operation::Lapse => {
                let message = "the key went by itself (a TTL, a limit or a purge of the bucket's stream), which is nobody's decision";
                let finding = Finding::new(Reason::EntryMissing, message);
                Ok(Desire::unknown("absent", record.revision, Some(created), finding))
            }
        }
    }

    async fn desire_of_entry(
        &self,
        id: &PipelineId,
        record: &EntryRecord,
        created: Timestamp,
        status: Option<&PipelineStatus>,
    ) -> Result<Desire, StoreError> {
        let value = self.counting(id, record, created, status).await?;
        let entry = match Entry::parse(&value) {
            Ok(entry) => entry,
            Err(error) => {
                let finding = Finding::new(error.reason(), error.to_string());
                return Ok(Desire::unfit("unreadable", record.revision, Some(created), finding));
            }
        };
        let wish = match entry.status {
            EntryStatus::Draft => Wish::Draft,
            EntryStatus::Paused => Wish::Paused,
            EntryStatus::Published => Wish::Unfit,
        };
        let mut desire = Desire::new(wish, entry.status.as_str(), record.revision, Some(created));
        desire.summary.version = entry.version.as_ref().map(ToString::to_string);
        desire.summary.name = entry.name.as_deref().map(|name| bounded(name, NAME));
        desire.summary.description = entry.description.as_deref().map(|description| bounded(description, MESSAGE));
        desire.entry = std::str::from_utf8(&value).ok().map(str::to_owned);
        desire.advice.extend(entry.ignored.iter().map(|field| Finding::new(Reason::UnknownEntryField, field.clone())));
        if entry.status == EntryStatus::Published {
            match self.resolve(id, &entry, status, &mut desire).await {
                Ok(()) => {}
                Err(Unresolved::Store(error)) => return Err(error),
                Err(Unresolved::Finding(finding)) => desire.trouble = Some(finding),
            }
        }
        Ok(desire)
    }

    /// Turns a published entry into a spec.
    async fn resolve(
        &self,
        id: &PipelineId,
        entry: &Entry,
        status: Option<&PipelineStatus>,
        desire: &mut Desire,
    ) -> Result<(), Unresolved> {
        let (version, digest) = match (&entry.version, &entry.producer) {
            (Some(version), _) => (version.clone(), entry.digest.clone()),
            (None, Some(producer)) => {
                let derived = self.derived(id, producer, status, desire).await?;
                let named = (derived.version.clone(), Some(derived.digest.clone()));
                desire.derived = Some(derived);
                named
            }
            (None, None) => return Err(Finding::new(Reason::EntryUnreadable, "the entry names no version").into()),
        };
        let checked = self.deps.configs.read(id, &version, digest.as_deref()).await?;
        let config = &checked.config;
        let names = &self.deps.store.names;
        let collection = config.output.collection.as_deref().unwrap_or(id.as_str());
        let target = self
            .deps
            .databases
            .target(&config.output.connection, config.output.database.as_deref(), collection)
            .map_err(|error| Finding::new(connection_reason(&error), error.to_string()))?;
        let stream = config.input.stream.clone().unwrap_or_else(|| names.stream(id));
        let consumer = config.input.consumer.clone().unwrap_or_else(|| names.consumer());
        if let Some(other) = self.memory().reader_of(&stream, id) {
            return Err(Finding::new(Reason::StreamShared, format!("pipeline {other} reads stream {stream} already")).into());
        }
        let taken = |subject: &&String| **subject != names.subject(id);
        for subject in config.input.subjects.iter().filter(taken) {
            if let Some(other) = self.memory().listener_on(subject, names, id) {
                let message = format!("the stream of pipeline {other} listens on what '{subject}' matches");
                return Err(Finding::new(Reason::SubjectTaken, message).into());
            }
        }
        // Said until the entry is put again: once the new content runs, nothing else tells.
        let revision = desire.summary.revision;
        let known = status.and_then(|status| status.kept.overwritten) == Some(revision);
        let differs = status
            .and_then(|status| status.admitted.spec.as_ref())
            .is_some_and(|admitted| digest.is_none() && admitted.version == version && admitted.digest != checked.digest);
        if differs && !known {
            warn!(pipeline = %id, %version, "a version was overwritten in place and runs with its new content");
        }
        if differs || known {
            desire.overwritten = Some(revision);
            let message = format!("version {version} was overwritten in place; it runs with its new content");
            desire.advice.push(Finding::new(Reason::ConfigOverwritten, message));
        }
        let limit = self.deps.settings.executor.max_replicas;
        if entry.replicas > 1 && !self.deps.executor.shared() {
            desire.advice.push(Finding::new(Reason::ReplicasIgnored, format!("replicas is {}; every controller runs one", entry.replicas)));
        }
        desire.advice.extend(checked.warnings.iter().map(|warning| Finding::new(Reason::ConfigDoubtful, warning.to_string())));
        desire.create = Some(self.create_settings(id, config, &stream, &consumer));
        desire.given_up.clone_from(&entry.give_up);
        let moves = status.map_or(0, |status| status.kept.moves.number_for(&target, status.admitted.spec.as_ref(), &entry.give_up));
        if let Some(known) = status.filter(|status| moves > status.kept.moves.count && status.kept.moves.previous.len() >= MOST_PREVIOUS) {
            let message = format!(
                "messages in the stream may lie in {} previous targets already; the target changes once they are settled",
                known.kept.moves.previous.len()
            );
            return Err(Finding::new(Reason::PreviousTargetUnavailable, message).into());
        }
        let proven = status.is_some_and(|status| status.kept.proven.contains(&checked.digest));
        let spec = ExecutionSpec {
            schema: 1,
            installation: self.installation,
            namespace: names.namespace().clone(),
            id: id.clone(),
            version,
            digest: checked.digest.clone(),
            stream,
            consumer,
            target,
            connection: config.output.connection.clone(),
            series: config
                .output
                .time_series
                .as_ref()
                .map(|series| Series { time_field: series.time_field.clone(), meta_field: series.meta_field.clone() }),
            moves,
            previous: Vec::new(),
            replicas: entry.replicas.min(limit),
            proven,
            settings_digest: self.deps.settings.execution_digest(),
            fingerprint: Fingerprint(String::new()),
        };
        desire.summary.version = Some(spec.version.to_string());
        desire.wish = Wish::Run(Box::new(spec.seal(self.deps.settings.execution_image())));
        desire.config = Some(checked);
        Ok(())
    }

    fn create_settings(
        &self,
        id: &PipelineId,
        config: &PipelineConfig,
        stream: &str,
        consumer: &str,
    ) -> (StreamSettings, ConsumerSettings) {
        let mut subjects = vec![self.deps.store.names.subject(id)];
        subjects.extend(config.input.subjects.iter().filter(|subject| **subject != subjects[0]).cloned().collect::<Vec<_>>());
        let stream = StreamSettings { name: stream.to_owned(), subjects, replicas: self.deps.settings.jetstream.replicas };
        (stream, consumer_settings(&config.input, consumer))
    }
}

/// How to create the durable `name` for `input`.
pub(super) fn consumer_settings(input: &InputConfig, name: &str) -> ConsumerSettings {
    ConsumerSettings {
        name: name.to_owned(),
        ack_wait: input.ack_wait.unwrap_or(DEFAULT_ACK_WAIT),
        max_ack_pending: input.max_ack_pending.unwrap_or(DEFAULT_MAX_ACK_PENDING),
    }
}

/// Whether a marker counts: it deletes only what the same bucket published, unless who put it named the other bucket.
pub(super) fn counts(marker: &EntryRecord, created: Timestamp, recorded: Option<Timestamp>) -> bool {
    recorded == Some(created) || (recorded.is_some() && marker.confirms == recorded)
}

fn deleted(record: &EntryRecord, created: Timestamp, status: Option<&PipelineStatus>) -> Desire {
    let recorded = status.and_then(|status| status.kept.bucket_created);
    if status.is_none() || counts(record, created, recorded) {
        return Desire { discards: record.discards, ..Desire::new(Wish::Deleted, "deleted", record.revision, Some(created)) };
    }
    let finding = Finding::new(Reason::EntryMissing, "the key was deleted in another bucket than the one it was published in");
    Desire::unknown("absent", record.revision, Some(created), finding)
}

fn connection_reason(error: &crate::collector::sink::ConnectionError) -> Reason {
    use crate::collector::sink::ConnectionError;
    match error {
        ConnectionError::Unknown(_) => Reason::UnknownConnection,
        ConnectionError::NoDatabase(_) => Reason::NoDatabase,
        ConnectionError::Invalid { .. } => Reason::DatabaseRefuses,
    }
}

/// Why a published entry has no spec.
pub(super) enum Unresolved {
    /// NATS did not answer: try again.
    Store(StoreError),
    /// Something is wrong with it: say so.
    Finding(Finding),
}

impl From<Finding> for Unresolved {
    fn from(finding: Finding) -> Self {
        Self::Finding(finding)
    }
}

impl From<ConfigError> for Unresolved {
    fn from(error: ConfigError) -> Self {
        match error {
            ConfigError::Store(error) if error.retry() => Self::Store(error),
            error => Self::Finding(Finding::new(error.reason(), error.to_string())),
        }
    }
}
