//! The resync: every 30 s, and whenever something may have been missed, everything is listed and what differs from what
//! was last reconciled is put into the queue. Keys, executions and statuses together, so that orphans are found.

use super::Controller;
use super::memory::Memory;
use crate::pipeline::id::PipelineId;
use crate::pipeline::plan::Role;
use crate::pipeline::status::{ConditionType, Phase, Reason};
use crate::store::{Operation, StatusRecord, StoreError, StoreErrorKind, error::Unfit};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How often everything is listed.
pub(super) const RESYNC: Duration = Duration::from_secs(30);
/// How soon a failed one is tried again.
const RETRY: Duration = Duration::from_secs(2);

impl Controller {
    /// Asks for a resync as soon as possible.
    pub(super) fn resync_soon(&self) {
        self.resync_wanted.notify_one();
    }

    pub(super) async fn resync_now_and_then(self: Arc<Self>, stop: CancellationToken) {
        let mut held = self.holding.subscribe();
        let mut delay = Duration::ZERO;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(delay) => {}
                () = self.resync_wanted.notified() => {}
                changed = held.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    // What was reconciled under another holder is not trusted.
                    self.memory().change_all(|memory| {
                        memory.reconciled = None;
                        memory.hinted();
                    });
                }
            }
            // Each of its questions takes its whole time limit where NATS is away, and a process that is to end waits for none:
            // what was half done is done anew by whoever resyncs next.
            let done = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                done = self.resync() => done,
            };
            delay = match done {
                Ok(()) => RESYNC.mul_f64(0.9 + 0.2 * rand::random::<f64>()),
                Err(error) => {
                    warn!(%error, "resync failed and is tried again");
                    RETRY
                }
            };
        }
    }

    async fn resync(&self) -> Result<(), StoreError> {
        // Whatever was deleted by mistake is made again, empty; nothing that runs is touched by that.
        if let Err(error) = self.deps.store.prepare().await {
            warn!(%error, "what is missing on nats could not be made");
        }
        let role = self.role();
        let holder = role == Role::Holder;
        let status_made_anew = self.look_at_buckets().await?;
        self.look_at_dead_letters().await;
        let entries = self.deps.store.entries.list().await?;
        let mut revisions = HashMap::with_capacity(entries.len());
        for entry in entries {
            // Keys that are no ids were reported when their watch event came.
            if let Ok(id) = PipelineId::parse(&entry.key) {
                revisions.insert(id, (entry.revision, entry.operation));
            }
        }
        if let Err(error) = self.refresh_statuses(holder, status_made_anew).await {
            warn!(%error, "statuses could not be listed");
        }
        let executions = self.deps.executor.list().await.unwrap_or_else(|error| {
            warn!(%error, "executions could not be listed");
            Vec::new()
        });
        let executions: HashMap<_, _> = executions.into_iter().map(|observed| (observed.id.clone(), observed)).collect();
        let mut differing = Vec::new();
        {
            let memory = self.memory();
            let ids: HashSet<_> = revisions.keys().chain(memory.iter().map(|(id, _)| id)).chain(executions.keys()).collect();
            for id in ids {
                let known = memory.get(id);
                let status = known.and_then(Memory::status);
                let execution = executions.get(id);
                let removed = status.is_none() && execution.is_some();
                let runs_right = status.is_none_or(|status| match (&status.admitted.spec, status.admitted.phase) {
                    _ if role == Role::Looker => true,
                    (Some(spec), Phase::Run | Phase::Drain) => {
                        let enough = |replicas: Option<u32>| replicas.is_none_or(|replicas| replicas == spec.replicas.max(1));
                        execution.is_some_and(|execution| {
                            execution.running && execution.fingerprint == spec.fingerprint && enough(execution.replicas)
                        })
                    }
                    (_, Phase::Absent) => execution.is_none(),
                    _ => execution.is_none_or(|execution| !execution.running),
                });
                let (revision, operation) = revisions.get(id).copied().unwrap_or((0, Operation::Delete));
                let seen = known.and_then(|known| known.reconciled) == Some(revision);
                // A marker without a status is a pipeline that is gone for good.
                let gone = operation != Operation::Put && status.is_none();
                let settled = status.is_some_and(|status| {
                    status.conditions.iter().all(|condition| condition.status || condition.kind == ConditionType::Progressing)
                        && !status
                            .conditions
                            .iter()
                            .any(|condition| matches!(condition.reason, Reason::StreamKept | Reason::StreamReplaced))
                });
                let unchanged = if holder { gone || (seen && settled) } else { true };
                if !(unchanged && runs_right) || removed {
                    differing.push(id.clone());
                }
            }
        }
        let first = self.last_resync.lock().unwrap_or_else(PoisonError::into_inner).replace(Instant::now()).is_none();
        if first {
            info!(pipelines = revisions.len(), differing = differing.len(), "first resync done");
        }
        differing.into_iter().for_each(|id| self.queue.add(id));
        Ok(())
    }

    /// Whether the status bucket is another one than at the last resync. Where the entries' is, nothing that was
    /// reconciled counts: its revisions begin anew, and perhaps at the same numbers.
    async fn look_at_buckets(&self) -> Result<bool, StoreError> {
        let store = &self.deps.store;
        let (entries, status) = tokio::try_join!(store.entries.bucket_created(), store.status.bucket_created())?;
        let before = self.buckets.lock().unwrap_or_else(PoisonError::into_inner).replace((entries, status));
        let Some((entries_before, status_before)) = before else { return Ok(false) };
        if entries_before != entries {
            warn!("the bucket of the entries is another one; nothing that runs is touched");
            self.memory().change_all(|memory| memory.reconciled = None);
        }
        if status_before != status {
            warn!("the bucket of the status is another one; what is remembered is written again");
        }
        Ok(status_before != status)
    }

    /// Reads all statuses, unless this controller is the one that writes them and has them in memory. As the holder,
    /// puts again what is remembered and not there any more.
    async fn refresh_statuses(&self, holder: bool, made_anew: bool) -> Result<(), StoreError> {
        let trusted = holder && !made_anew && self.memory().iter().all(|(_, memory)| !memory.stale);
        if trusted {
            return Ok(());
        }
        let hints: HashMap<_, _> = self.memory().iter().map(|(id, memory)| (id.clone(), memory.hints)).collect();
        let records = self.deps.store.status.list().await?;
        let there: HashSet<_> = records.iter().map(|record| record.status.id.clone()).collect();
        let mut lost = Vec::new();
        {
            let mut memory = self.memory();
            for record in records {
                let id = record.status.id.clone();
                let known = memory.get(&id).and_then(Memory::record);
                // Revisions of another bucket cannot be compared.
                if made_anew || known.is_none_or(|old| old.revision <= record.revision) {
                    memory.note(&id, Some(Arc::new(record)));
                    memory.recall(&id, |known| known.stale = known.hints != hints.get(&id).copied().unwrap_or_default());
                }
            }
            if made_anew {
                let gone = memory.iter().filter(|(id, _)| !there.contains(*id));
                lost.extend(gone.filter_map(|(_, known)| known.status().cloned()));
            }
        }
        if !holder {
            return Ok(());
        }
        for status in lost {
            let id = status.id.clone();
            // Written by somebody else meanwhile, it is a conflict, and read when it is reconciled.
            if let Err(error) = self.put_status(status, None).await {
                warn!(pipeline = %id, %error, "status could not be put again");
            }
            self.queue.add(id);
        }
        Ok(())
    }

    /// The status as remembered, read again where somebody else may have written it.
    pub(super) async fn status_of(&self, id: &PipelineId) -> Result<Option<Arc<StatusRecord>>, StoreError> {
        let known = self.memory().get(id).map(|known| (known.record().cloned(), known.stale, known.hints));
        let (status, stale, hints) = known.unwrap_or((None, true, 0));
        if !stale {
            return Ok(status);
        }
        let read = match self.deps.store.status.get(id).await {
            Err(error) if error.kind() == StoreErrorKind::Unfit(Unfit::Unreadable) => {
                warn!(pipeline = %id, %error, "an unreadable status counts as none and is written over");
                None
            }
            read => read?.map(Arc::new),
        };
        let mut memory = self.memory();
        // Of a pipeline that never was, nothing is remembered.
        memory.note(id, read.clone());
        // A hint that came while this was read is about something newer, perhaps.
        memory.recall(id, |memory| memory.stale = memory.hints != hints);
        Ok(read)
    }
}
