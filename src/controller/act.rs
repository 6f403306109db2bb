//! Carries out the steps of a plan: the only place that changes something, and each change checks the lease first.

use super::Controller;
use super::desire::{consumer_settings, counts};
use super::fitness::unfit;
use super::reconcile::{Failure, Pass};
use crate::pipeline::config::OnDelete;
use crate::pipeline::id::PipelineId;
use crate::pipeline::plan::{Action, Admission, DrainMark, Wish};
use crate::pipeline::status::{Admitted, Kept, PipelineStatus};
use crate::pipeline::text::{MESSAGE, bounded};
use crate::store::{Guard, PipelineStream, StatusRecord, StatusStore, StoreErrorKind, Streams, error::Unfit};
use jiff::Timestamp;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::{error, info};

/// The longest call of a holder, inside what is left of its lease.
const CALL: Duration = Duration::from_secs(5);

impl Controller {
    /// Takes one step as the holder.
    pub(super) async fn take(
        &self,
        step: &Action,
        pass: &mut Pass<'_>,
        record: &mut Option<Arc<StatusRecord>>,
        stream: Option<&PipelineStream>,
    ) -> Result<(), Failure> {
        let id = pass.id;
        match step {
            Action::EnsureStream(_) => self.ensure_stream(pass).await,
            Action::EnsureDurable => self.ensure_durable(id, record.as_deref(), stream).await,
            Action::Admit(admission) => self.admit(admission, pass, record, stream).await,
            Action::MoveSubjects => {
                let closed = self.deps.store.names.closed(id);
                self.set_subjects(stream, vec![closed]).await?;
                info!(pipeline = %id, "stream moved aside to be drained");
                Ok(())
            }
            Action::RestoreSubjects => {
                let subjects = self.subjects_before(pass, record.as_deref(), stream);
                self.set_subjects(stream, subjects).await?;
                info!(pipeline = %id, "subjects of the stream restored");
                Ok(())
            }
            Action::Pause => self.pause(id, stream).await,
            Action::Resume => self.resume_consumer(id, record, stream).await,
            Action::DeleteStream => self.delete_stream(id, record.as_deref(), stream).await,
            Action::Ensure(_) | Action::Stop | Action::Destroy => self.run_step(id, step).await,
            // The reconcile itself sees to these.
            Action::Forget | Action::Wait(_) => Ok(()),
        }
    }

    /// Takes a step that only touches this controller's executor.
    pub(super) async fn run_step(&self, id: &PipelineId, step: &Action) -> Result<(), Failure> {
        match step {
            Action::Ensure(spec) => self.deps.executor.ensure(spec).await?,
            Action::Stop => self.deps.executor.stop(id).await?,
            Action::Destroy => self.deps.executor.destroy(id).await?,
            _ => {}
        }
        Ok(())
    }

    /// Runs `call` inside the lease: not begun without it, and ended before it does.
    pub(super) async fn as_holder<T>(&self, call: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let (_, remaining) = self.holding.epoch().ok_or(Failure::NotHolder)?;
        tokio::time::timeout(remaining.min(CALL), call).await.map_err(|_| Failure::NotHolder)?
    }

    /// Says, right before a request that changes something is sent, whether this is still the holder of the same epoch.
    pub(super) fn guard(&self) -> Result<Guard, Failure> {
        let (epoch, _) = self.holding.epoch().ok_or(Failure::NotHolder)?;
        let holding = self.holding.clone();
        Ok(Arc::new(move || holding.epoch().is_some_and(|(now, _)| now == epoch)))
    }

    /// The streams, changed only while this is the holder.
    pub(super) fn streams(&self) -> Result<Streams, Failure> {
        Ok(self.deps.store.streams.clone().guarded(self.guard()?))
    }

    async fn ensure_stream(&self, pass: &Pass<'_>) -> Result<(), Failure> {
        let Some((stream, consumer)) = &pass.desire.create else { return Ok(()) };
        self.as_holder(async {
            let streams = self.streams()?;
            streams.ensure(pass.id, stream, consumer).await.map_err(unfit).map(|_| ())
        })
        .await
    }

    async fn set_subjects(&self, stream: Option<&PipelineStream>, subjects: Vec<String>) -> Result<(), Failure> {
        let Some(stream) = stream else { return Ok(()) };
        self.as_holder(async { self.streams()?.set_subjects(&stream.name, stream.created, subjects).await.map_err(unfit) }).await
    }

    /// The durable of a stream that is being drained, as the admitted config wants it where that can still be read.
    async fn ensure_durable(&self, id: &PipelineId, record: Option<&StatusRecord>, stream: Option<&PipelineStream>) -> Result<(), Failure> {
        let Some(stream) = stream else { return Ok(()) };
        let spec = record.and_then(|record| record.status.admitted.spec.as_ref());
        let input = match spec {
            Some(spec) => {
                self.deps.configs.read(id, &spec.version, Some(&spec.digest)).await.ok().map(|config| config.config.input.clone())
            }
            None => None,
        };
        let name = spec.map_or_else(|| self.deps.store.names.consumer(), |spec| spec.consumer.clone());
        let wanted = consumer_settings(&input.unwrap_or_default(), &name);
        self.as_holder(async { self.streams()?.ensure_consumer(id, &stream.name, &wanted).await.map_err(unfit) }).await?;
        info!(pipeline = %id, stream = stream.name, "durable created anew");
        Ok(())
    }

    /// What the stream listened on before it was moved aside: as recorded, else as the config says, else the own subject.
    fn subjects_before(&self, pass: &Pass<'_>, record: Option<&StatusRecord>, stream: Option<&PipelineStream>) -> Vec<String> {
        let names = &self.deps.store.names;
        let recorded = record.map(|record| &record.status.kept).filter(|kept| {
            !kept.subjects.is_empty()
                && kept.subjects != [names.closed(pass.id)]
                && stream.is_some_and(|stream| kept.stream_created == Some(stream.created))
        });
        match (recorded, &pass.desire.create) {
            // A producer that registers anew says which subjects it wants now.
            (_, Some((wanted, _))) if pass.desire.derived.is_some() => wanted.subjects.clone(),
            (Some(kept), _) => kept.subjects.clone(),
            (None, Some((wanted, _))) => wanted.subjects.clone(),
            (None, None) => vec![names.subject(pass.id)],
        }
    }

    /// Looks once more, then deletes: the entry must still have its marker, the stream must be the recorded one, and
    /// closed and empty unless the config or the marker wants what waits destroyed.
    async fn delete_stream(&self, id: &PipelineId, record: Option<&StatusRecord>, stream: Option<&PipelineStream>) -> Result<(), Failure> {
        let (Some(stream), Some(record)) = (stream, record) else { return Ok(()) };
        let entry = self.deps.store.entries.get(id).await?;
        let created = self.deps.store.entries.bucket_created().await?;
        let recorded = record.status.kept.bucket_created;
        let marker = entry.filter(|entry| entry.operation.deletes() && counts(entry, created, recorded));
        let Some(marker) = marker else { return Ok(()) };
        if record.status.kept.on_delete != OnDelete::Delete && !marker.discards {
            let consumer =
                record.status.admitted.spec.as_ref().map_or_else(|| self.deps.store.names.consumer(), |spec| spec.consumer.clone());
            // An answer that nothing is there decides only where the leader has caught up with what was acknowledged. One copy
            // has nothing to catch up with.
            if stream.replicas > 1 {
                self.as_holder(async { self.streams()?.caught_up(&stream.name).await.map_err(unfit) }).await?;
            }
            let again = self.deps.store.streams.observe(id, &stream.name, &consumer).await.map_err(unfit)?;
            let drained = again.is_some_and(|again| {
                again.created == stream.created && again.messages == 0 && again.subjects == [self.deps.store.names.closed(id)]
            });
            if !drained {
                return Ok(());
            }
        }
        self.as_holder(async { self.streams()?.delete(&stream.name, stream.created).await.map_err(unfit) }).await?;
        info!(pipeline = %id, stream = stream.name, "stream deleted");
        Ok(())
    }

    async fn admit(
        &self,
        admission: &Admission,
        pass: &mut Pass<'_>,
        record: &mut Option<Arc<StatusRecord>>,
        stream: Option<&PipelineStream>,
    ) -> Result<(), Failure> {
        let now = Timestamp::now();
        let old = record.as_deref().map(|record| &record.status);
        let mut kept = old.map(|status| status.kept.clone()).unwrap_or_default();
        match admission.drain {
            DrainMark::Begin => kept.drain_started = kept.drain_started.or(Some(now)),
            DrainMark::Leave => {}
            DrainMark::Clear => kept.drain_started = None,
        }
        self.keep(&mut kept, pass);
        kept.undecided = false;
        kept.moves = admission.moves.clone();
        if let Wish::Run(spec) = &pass.desire.wish {
            kept.last_good = Some((spec.version.clone(), spec.digest.clone()));
            kept.stream = Some(spec.stream.clone());
        }
        if let (Wish::Run(_), Some(stream)) = (&pass.desire.wish, stream) {
            kept.stream_created = Some(stream.created);
            kept.subjects.clone_from(&stream.subjects);
        }
        let status = PipelineStatus {
            schema: 1,
            id: pass.id.clone(),
            epoch: 0,
            updated: now,
            desired: pass.desire.summary.clone(),
            admitted: Admitted {
                phase: admission.phase,
                spec: admission.spec.clone(),
                live_executions: old.map_or(1, |status| status.admitted.live_executions),
            },
            observed: old.map(|status| status.observed.clone()).unwrap_or_default(),
            conditions: old.map(|status| status.conditions.clone()).unwrap_or_default(),
            history: old.map(|status| status.history.clone()).unwrap_or_default(),
            kept,
        };
        info!(
            pipeline = %pass.id,
            phase = ?admission.phase,
            version = admission.spec.as_ref().map(|spec| spec.version.as_str()),
            "admitted"
        );
        *record = Some(self.put_status(status, record.as_deref()).await?);
        Ok(())
    }

    /// Notes what deletion will need of the entry and its config.
    pub(super) fn keep(&self, kept: &mut Kept, pass: &Pass<'_>) {
        let desire = &pass.desire;
        if !matches!(desire.wish, Wish::Deleted | Wish::Unknown) {
            kept.bucket_created = desire.bucket_created;
            kept.overwritten = desire.overwritten;
        }
        if let Some(entry) = &desire.entry {
            kept.entry = Some(entry.clone());
            kept.entry_revision = desire.summary.revision;
        }
        if desire.wish == Wish::Deleted {
            kept.entry_revision = 0;
        }
        if let (Wish::Run(_), Some(config), None) = (&desire.wish, &desire.config, &pass.failure) {
            let defaults = &self.deps.settings.pipelines;
            kept.derived.clone_from(&desire.derived);
            kept.on_delete = config.config.on_delete.unwrap_or(defaults.on_delete);
            kept.drain_timeout_s = config.config.drain_timeout.unwrap_or(defaults.drain_timeout).as_secs();
        }
    }

    /// The epoch to write over `old` with. An older one than `old` has means that somebody else holds the lease by now,
    /// unless the lease's bucket was made anew: then the lease itself names us, and the epochs go on from the status'.
    async fn epoch_over(&self, old: Option<&StatusRecord>) -> Result<u64, Failure> {
        let (epoch, remaining) = self.holding.epoch().ok_or(Failure::NotHolder)?;
        let Some(newer) = old.map(|old| old.status.epoch).filter(|newer| *newer > epoch) else { return Ok(epoch) };
        let current =
            tokio::time::timeout(remaining.min(CALL), self.deps.store.lease.current()).await.map_err(|_| Failure::NotHolder)??;
        if current.is_some_and(|holder| holder.process == self.process && holder.epoch == epoch) {
            return Ok(newer.saturating_add(1));
        }
        self.holding.lost();
        Err(Failure::NotHolder)
    }

    /// Writes a status by compare-and-set, with the epoch of this holder.
    pub(super) async fn put_status(&self, mut status: PipelineStatus, old: Option<&StatusRecord>) -> Result<Arc<StatusRecord>, Failure> {
        status.epoch = self.epoch_over(old).await?;
        status.updated = Timestamp::now();
        let hints = self.memory().get(&status.id).map_or(0, |memory| memory.hints);
        let store = self.deps.store.status.clone().guarded(self.guard()?);
        let written = self
            .as_holder(async {
                let expected = match old {
                    Some(old) => old.revision,
                    None => over_unreadable(&store, &status.id).await?,
                };
                store.put(&status, expected).await.map_err(unfit)
            })
            .await;
        match written {
            Ok(revision) => {
                let record = Arc::new(StatusRecord { status, revision });
                self.memory().note(&record.status.id, Some(record.clone()));
                self.recall(&record.status.id, |memory| {
                    memory.stale = memory.hints != hints;
                    memory.unwritten = None;
                });
                Ok(record)
            }
            Err(error) => {
                self.remember(&status.id, |memory| memory.stale = true);
                self.unwritten(&status.id, &error);
                Err(error)
            }
        }
    }

    /// Says that the status of `id` cannot be written, which the status itself cannot say: what it shows is old.
    fn unwritten(&self, id: &PipelineId, error: &Failure) {
        let another_writes = match error {
            Failure::NotHolder => true,
            Failure::Store(error) => error.kind() == StoreErrorKind::Conflict,
            Failure::Executor(_) | Failure::Finding(_) => false,
        };
        if another_writes {
            return;
        }
        self.deps.metrics.status_unwritten();
        let message = bounded(&error.to_string(), MESSAGE);
        let mut first = false;
        self.remember(id, |memory| {
            first = memory.unwritten.is_none();
            memory.unwritten = Some((memory.unwritten.as_ref().map_or_else(Instant::now, |(since, _)| *since), message.clone()));
        });
        if first {
            error!(pipeline = %id, error = message, "the status cannot be written, what it says is old");
        }
    }

    /// Removes the status: nothing is left of the pipeline.
    pub(super) async fn forget(&self, id: &PipelineId, record: Option<&StatusRecord>) -> Result<(), Failure> {
        if let Some(record) = record {
            // The marker comes back as a hint: by then nothing is to be remembered that could be written again.
            self.memory().note(id, None);
            self.recall(id, |memory| memory.stale = true);
            let removed = self
                .as_holder(async { Ok(self.deps.store.status.clone().guarded(self.guard()?).delete(id, record.revision).await?) })
                .await;
            match removed {
                Err(Failure::Store(error)) if error.kind() == StoreErrorKind::Missing => {}
                other => other?,
            }
        }
        self.memory().forget(id);
        self.deps.configs.forget(id);
        self.deps.metrics.forget(id);
        info!(pipeline = %id, "pipeline removed");
        Ok(())
    }
}

/// The revision to write over where there is no status: that of a document that cannot be read, else none.
async fn over_unreadable(store: &StatusStore, id: &PipelineId) -> Result<u64, Failure> {
    // First the revision: what is written after it, readable or not, is a conflict.
    let revision = store.revision(id).await?;
    match store.get(id).await {
        Err(error) if error.kind() == StoreErrorKind::Unfit(Unfit::Unreadable) => Ok(revision),
        Err(error) => Err(error.into()),
        Ok(_) => Ok(0),
    }
}
