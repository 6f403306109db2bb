//! Carries out the steps of a plan: the only place that changes something, and each change checks the lease first.

use super::Controller;
use super::reconcile::{Failure, Pass, unfit};
use crate::pipeline::id::PipelineId;
use crate::pipeline::plan::{Action, Admission, DrainMark, Wish};
use crate::pipeline::status::{Admitted, PipelineStatus};
use crate::store::{Operation, PipelineStream, StatusRecord, StoreErrorKind};
use jiff::Timestamp;
use std::future::Future;
use std::time::Duration;
use tracing::info;

/// The longest call of a holder, inside what is left of its lease.
const CALL: Duration = Duration::from_secs(5);

impl Controller {
    /// Takes one step as the holder.
    pub(super) async fn take(
        &self,
        step: &Action,
        pass: &mut Pass<'_>,
        record: &mut Option<StatusRecord>,
        stream: Option<&PipelineStream>,
    ) -> Result<(), Failure> {
        let id = pass.id;
        match step {
            Action::EnsureStream(_) => self.ensure_stream(pass).await,
            Action::Admit(admission) => self.admit(admission, pass, record, stream).await,
            Action::MoveSubjects => {
                let closed = self.deps.store.names.closed(id);
                self.set_subjects(stream, vec![closed]).await?;
                info!(pipeline = %id, "stream moved aside to be drained");
                Ok(())
            }
            Action::RestoreSubjects => {
                let subjects = record.as_ref().map(|record| record.status.kept.subjects.clone()).unwrap_or_default();
                let subjects = if subjects.is_empty() { vec![self.deps.store.names.subject(id)] } else { subjects };
                self.set_subjects(stream, subjects).await?;
                info!(pipeline = %id, "drain cancelled and subjects restored");
                Ok(())
            }
            Action::DeleteStream => self.delete_stream(id, record.as_ref(), stream).await,
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
    async fn as_holder<T>(&self, call: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let (_, remaining) = self.holding.epoch().ok_or(Failure::NotHolder)?;
        tokio::time::timeout(remaining.min(CALL), call).await.map_err(|_| Failure::NotHolder)?
    }

    async fn ensure_stream(&self, pass: &Pass<'_>) -> Result<(), Failure> {
        let Some((stream, consumer)) = &pass.desire.create else { return Ok(()) };
        self.as_holder(async {
            let streams = &self.deps.store.streams;
            streams.ensure(pass.id, stream, consumer).await.map_err(unfit).map(|_| ())
        })
        .await
    }

    async fn set_subjects(&self, stream: Option<&PipelineStream>, subjects: Vec<String>) -> Result<(), Failure> {
        let Some(stream) = stream else { return Ok(()) };
        self.as_holder(async { Ok(self.deps.store.streams.set_subjects(&stream.name, stream.created, subjects).await?) }).await
    }

    /// Looks once more, then deletes: the entry must still have its marker, the stream must be the recorded one, and a
    /// drained one must be closed and empty.
    async fn delete_stream(&self, id: &PipelineId, record: Option<&StatusRecord>, stream: Option<&PipelineStream>) -> Result<(), Failure> {
        let (Some(stream), Some(record)) = (stream, record) else { return Ok(()) };
        let entry = self.deps.store.entries.get(id).await?;
        let created = self.deps.store.entries.bucket_created().await?;
        let marked = entry.is_some_and(|entry| entry.operation != Operation::Put);
        if !marked || record.status.kept.bucket_created != Some(created) {
            return Ok(());
        }
        if record.status.kept.drain_started.is_some() {
            let consumer =
                record.status.admitted.spec.as_ref().map_or_else(|| self.deps.store.names.consumer(), |spec| spec.consumer.clone());
            let again = self.deps.store.streams.observe(id, &stream.name, &consumer).await.map_err(unfit)?;
            let drained = again.is_some_and(|again| {
                again.created == stream.created && again.messages == 0 && again.subjects == [self.deps.store.names.closed(id)]
            });
            if !drained {
                return Ok(());
            }
        }
        self.as_holder(async { Ok(self.deps.store.streams.delete(&stream.name, stream.created).await?) }).await?;
        info!(pipeline = %id, stream = stream.name, "stream deleted");
        Ok(())
    }

    async fn admit(
        &self,
        admission: &Admission,
        pass: &mut Pass<'_>,
        record: &mut Option<StatusRecord>,
        stream: Option<&PipelineStream>,
    ) -> Result<(), Failure> {
        let now = Timestamp::now();
        let old = record.as_ref().map(|record| &record.status);
        let mut kept = old.map(|status| status.kept.clone()).unwrap_or_default();
        match admission.drain {
            DrainMark::Begin => kept.drain_started = kept.drain_started.or(Some(now)),
            DrainMark::Leave => {}
            DrainMark::Clear => kept.drain_started = None,
        }
        if let (Wish::Run(spec), Some(config)) = (&pass.desire.wish, &pass.desire.config) {
            let defaults = &self.deps.settings.pipelines;
            kept.on_delete = config.config.on_delete.unwrap_or(defaults.on_delete);
            kept.drain_timeout_s = config.config.drain_timeout.unwrap_or(defaults.drain_timeout).as_secs();
            kept.last_good = Some((spec.version.clone(), spec.digest.clone()));
            kept.stream = Some(spec.stream.clone());
        }
        if let (Wish::Run(_), Some(stream)) = (&pass.desire.wish, stream) {
            kept.stream_created = Some(stream.created);
            kept.subjects.clone_from(&stream.subjects);
        }
        if let Some(entry) = &pass.desire.entry {
            kept.entry = Some(entry.clone());
            kept.bucket_created = pass.desire.bucket_created;
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
            kept,
        };
        info!(
            pipeline = %pass.id,
            phase = ?admission.phase,
            version = admission.spec.as_ref().map(|spec| spec.version.as_str()),
            "admitted"
        );
        *record = Some(self.put_status(status, record.as_ref()).await?);
        Ok(())
    }

    /// Writes a status by compare-and-set, with the epoch of this holder.
    pub(super) async fn put_status(&self, mut status: PipelineStatus, old: Option<&StatusRecord>) -> Result<StatusRecord, Failure> {
        let (epoch, _) = self.holding.epoch().ok_or(Failure::NotHolder)?;
        if old.is_some_and(|old| old.status.epoch > epoch) {
            // Somebody holds a newer lease than ours: whatever our clock says, we are not the holder.
            self.holding.lost();
            return Err(Failure::NotHolder);
        }
        status.epoch = epoch;
        status.updated = Timestamp::now();
        let expected = old.map_or(0, |old| old.revision);
        let hints = self.memory().get(&status.id).map_or(0, |memory| memory.hints);
        let written = self.as_holder(async { Ok(self.deps.store.status.put(&status, expected).await?) }).await;
        match written {
            Ok(revision) => {
                let record = StatusRecord { status, revision };
                self.remember(&record.status.id, |memory| {
                    memory.status = Some(record.clone());
                    memory.stale = memory.hints != hints;
                });
                Ok(record)
            }
            Err(error) => {
                self.remember(&status.id, |memory| memory.stale = true);
                Err(error)
            }
        }
    }

    /// Removes the status: nothing is left of the pipeline.
    pub(super) async fn forget(&self, id: &PipelineId, record: Option<&StatusRecord>) -> Result<(), Failure> {
        if let Some(record) = record {
            let removed = self.as_holder(async { Ok(self.deps.store.status.delete(id, record.revision).await?) }).await;
            match removed {
                Err(Failure::Store(error)) if error.kind() == StoreErrorKind::Missing => {}
                other => other?,
            }
        }
        self.memory().remove(id);
        self.deps.configs.forget(id);
        self.deps.metrics.forget(id);
        info!(pipeline = %id, "pipeline removed");
        Ok(())
    }
}
