//! The configs of pipelines whose entries are the first parent's: which entry counts, and the config that is derived from
//! it, stored as the version `derived-{digest8}` and from then on read, checked and run like any other.
//!
//! ```text
//! entry ─▶ effective entry ─▶ derive ─▶ lint ─▶ [collection there already? its kind] ─▶ stored where missing
//! ```
//!
//! A collection that is a time-series one stays one: the first parent has it made by hand, so MongoDB is asked once, when
//! the config is derived, and again where an execution finds another kind. The object's name is its content's, so storing
//! it again is a no-op. Called by [`super::desire`].

use super::Controller;
use super::desire::{Desire, Finding, Unresolved};
use super::reconcile::Failure;
use crate::collector::sink::{CommandFailure, Existing, existing};
use crate::executor::config_reader::ConfigError;
use crate::pipeline::config::{LintContext, TimeSeries, lint};
use crate::pipeline::first_parent::{Defaults, Derived, ProducerEntry, derive};
use crate::pipeline::id::PipelineId;
use crate::pipeline::problem::Severity;
use crate::pipeline::status::{DerivedFrom, PipelineStatus, Reason};
use crate::store::{EntryRecord, StoreError, StoreErrorKind};
use bytes::Bytes;
use jiff::Timestamp;
use tracing::info;

impl Controller {
    /// The entry that counts where `record` is the newest.
    pub(super) async fn counting(
        &self,
        id: &PipelineId,
        record: &EntryRecord,
        created: Timestamp,
        status: Option<&PipelineStatus>,
    ) -> Result<Bytes, StoreError> {
        let kept = status.and_then(|status| status.kept.counted(created));
        self.deps.store.entries.effective(id, record, kept).await
    }

    /// The derived version of `producer`'s entry, stored and fit to run; what was clamped goes into `desire`'s advice.
    pub(super) async fn derived(
        &self,
        id: &PipelineId,
        producer: &ProducerEntry,
        status: Option<&PipelineStatus>,
        desire: &mut Desire,
    ) -> Result<DerivedFrom, Unresolved> {
        if producer.key != id.as_str() {
            let key: String = producer.key.chars().take(64).flat_map(char::escape_debug).collect();
            let message = format!("field `key` is '{key}', and the entry lies under '{id}'");
            return Err(Finding::new(Reason::EntryUnreadable, message).into());
        }
        let base = self.checked(id, producer, None)?;
        desire.advice.extend(base.notes.iter().map(|note| Finding::new(Reason::EntryAdjusted, note.clone())));
        let known = status.and_then(|status| status.kept.derived.as_ref());
        if let Some(known) = known.filter(|known| known.base == base.digest && !status.is_some_and(kind_differs)) {
            match self.deps.configs.read(id, &known.version, Some(&known.digest)).await {
                // Gone with its Object Store: it is made again.
                Err(ConfigError::Store(error)) if error.kind() == StoreErrorKind::Missing => {}
                read => return read.map(|_| known.clone()).map_err(Unresolved::from),
            }
        }
        let derived = match self.series(id, producer).await? {
            Some(series) => self.checked(id, producer, Some(&series))?,
            None => base.clone(),
        };
        self.store_derived(id, &derived).await?;
        Ok(DerivedFrom { base: base.digest, version: derived.version, digest: derived.digest })
    }

    /// Derives, and lints what comes out. Nothing that does not pass is stored.
    fn checked(&self, id: &PipelineId, producer: &ProducerEntry, series: Option<&TimeSeries>) -> Result<Derived, Unresolved> {
        let (names, pipelines) = (&self.deps.store.names, &self.deps.settings.pipelines);
        let defaults = Defaults { batch_count: pipelines.batch_count, batch_period: pipelines.batch_period };
        let unfit = |message: String| Unresolved::from(Finding::new(Reason::ConfigInvalid, message));
        let derived = derive(id, producer, series, defaults, names).map_err(|error| unfit(error.to_string()))?;
        let context = LintContext { names: Some(names.clone()), id: Some(id.clone()), connections: None };
        let (_, problems) = lint(&format!("{id}/{}", derived.version), derived.text.as_bytes(), &context);
        match problems.iter().find(|problem| problem.severity == Severity::Error) {
            Some(problem) => Err(unfit(problem.to_string())),
            None => Ok(derived),
        }
    }

    /// The options of the time-series collection that the entry names, where there is one already.
    async fn series(&self, id: &PipelineId, producer: &ProducerEntry) -> Result<Option<TimeSeries>, Unresolved> {
        let collection = producer.collection.as_deref().unwrap_or(id.as_str());
        // Without a database there is nothing to look at; whoever resolves the config says so.
        let Ok(target) = self.deps.databases.target(CONNECTION, None, collection) else { return Ok(None) };
        let refused = |message: String| Unresolved::from(Finding::new(Reason::DatabaseRefuses, message));
        let database = self.deps.databases.get(CONNECTION).await.map_err(|error| refused(error.to_string()))?;
        match existing(&database, &target).await {
            Ok(Existing::Normal) => Ok(None),
            Ok(Existing::Series(series)) => Ok(Some(series)),
            Ok(Existing::Hidden) => {
                let message = format!(
                    "'{collection}' is a time-series collection whose options cannot be seen; allow listCollections on the database, \
                     or publish a config that names them"
                );
                Err(Finding::new(Reason::CollectionKindDiffers, message).into())
            }
            Err(failure) => Err(Finding::new(reason_of(&failure), failure.message).into()),
        }
    }

    /// Stores the derived config where it is not there yet.
    async fn store_derived(&self, id: &PipelineId, derived: &Derived) -> Result<(), Unresolved> {
        match self.deps.configs.read(id, &derived.version, Some(&derived.digest)).await {
            Err(ConfigError::Store(error)) if error.kind() == StoreErrorKind::Missing => {}
            read => return read.map(|_| ()).map_err(Unresolved::from),
        }
        let put = async {
            let configs = self.deps.store.configs.clone().guarded(self.guard()?);
            Ok(configs.put(id, &derived.version, Bytes::from(derived.text.clone())).await?)
        };
        match self.as_holder(put).await {
            Ok(_) => info!(pipeline = %id, version = %derived.version, "config derived from the entry of a producer"),
            Err(Failure::Store(error)) => return Err(ConfigError::Store(error).into()),
            Err(error) => return Err(Unresolved::Store(StoreError::new(StoreErrorKind::Conflict, error.to_string()))),
        }
        // Read back, so that what runs is what lies there.
        Ok(self.deps.configs.read(id, &derived.version, Some(&derived.digest)).await.map(|_| ())?)
    }
}

/// The connection of a derived config.
const CONNECTION: &str = "default";

fn reason_of(failure: &CommandFailure) -> Reason {
    if failure.is_away() { Reason::DatabaseUnavailable } else { Reason::DatabaseRefuses }
}

/// Whether an execution found a collection of another kind than its config says.
fn kind_differs(status: &PipelineStatus) -> bool {
    status.conditions.iter().any(|condition| !condition.status && condition.reason == Reason::CollectionKindDiffers)
}
