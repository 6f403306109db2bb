//! The in-process backend: every execution is a supervised task of this process.
//!
//! A panic or an error in one never touches another: it is caught, shown as a trouble, and the execution is started
//! again with growing delays. A new fingerprint is started beside the old one, which is ended once the new one runs: a
//! version that cannot run goes on with the one before. Every verb begins something and returns; what ends is listed
//! until it has ended, and an event says so. The tasks are the truth; nothing is remembered beside them.

use super::execution::{ExecutionDeps, run_execution};
use super::supervise::{ABORT_AFTER_GRACE, Attempt, Life, Running, Supervisor};
use super::{BoxFuture, Executor, ExecutorError, Observed};
use crate::pipeline::id::PipelineId;
use crate::pipeline::spec::{ExecutionSpec, Fingerprint};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::broadcast;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, info, info_span, warn};

/// The in-process backend.
pub struct InProcess {
    shared: Arc<Shared>,
    attempt: Attempt,
    serials: AtomicU64,
    tasks: TaskTracker,
}

/// What the tasks share with the backend.
struct Shared {
    deps: Arc<ExecutionDeps>,
    slots: Mutex<HashMap<PipelineId, Slot>>,
    events: broadcast::Sender<PipelineId>,
}

/// What there is of one pipeline.
struct Slot {
    /// What it was last started as.
    spec: Arc<ExecutionSpec>,
    /// What runs it; `None` where it was stopped.
    running: Option<Running>,
    /// Executions before it that have not ended: one that goes on until `running` runs, and those that end.
    older: Vec<Running>,
    /// Goes as soon as nothing runs any more.
    destroyed: bool,
    /// How many executions share the durable, as it was last said: what starts later begins with it.
    live: u32,
}

impl Slot {
    fn all(&self) -> impl Iterator<Item = &Running> {
        self.running.iter().chain(&self.older)
    }

    /// Begins to end everything.
    fn end(&mut self) {
        self.older.extend(self.running.take());
        self.older.iter().for_each(Running::end);
    }

    fn observed(&self) -> Observed {
        let running = self.all().next().is_some();
        // What only ends is nothing that could go on under any fingerprint.
        let going_on = self.running.is_some() || !running;
        let fingerprint = if going_on { self.spec.fingerprint.clone() } else { Fingerprint(String::new()) };
        Observed {
            id: self.spec.id.clone(),
            fingerprint,
            running,
            reports: self.all().map(Running::report).collect(),
            replicas: None,
            instances: Vec::new(),
            troubles: Vec::new(),
        }
    }
}

impl InProcess {
    /// A backend without executions.
    pub fn new(deps: ExecutionDeps) -> Self {
        Self::with(deps, Arc::new(|spec, deps, handle| Box::pin(async move { run_execution(&spec, &deps, handle).await })))
    }

    /// The same with something else to run: a test's execution that panics or does not end.
    pub fn with(deps: ExecutionDeps, attempt: Attempt) -> Self {
        let shared = Shared { deps: Arc::new(deps), slots: Mutex::default(), events: broadcast::channel(1024).0 };
        Self { shared: Arc::new(shared), attempt, serials: AtomicU64::new(0), tasks: TaskTracker::new() }
    }

    fn start(&self, spec: &Arc<ExecutionSpec>, live: u32) -> Running {
        let serial = self.serials.fetch_add(1, Ordering::Relaxed);
        let (running, supervisor) = Supervisor::new(serial, spec, self.shared.deps.clone(), self.attempt.clone(), self.shared.clone());
        running.share(live);
        let span = info_span!("execution", pipeline = %spec.id, version = %spec.version, execution = spec.fingerprint.short());
        self.tasks.spawn(supervisor.run().instrument(span));
        info!(pipeline = %spec.id, version = %spec.version, execution = spec.fingerprint.short(), "execution started");
        running
    }

    /// Begins to make `spec` run in `slot`.
    fn begin(&self, slot: &mut Slot, spec: &Arc<ExecutionSpec>) {
        slot.destroyed = false;
        if slot.spec.fingerprint == spec.fingerprint && slot.running.is_some() {
            slot.spec = spec.clone();
            return;
        }
        slot.older.extend(slot.running.take());
        if slot.all().any(|old| !old.spec.may_overlap(spec)) {
            // Two targets never overlap: who ensures again once this has ended gets the new one.
            slot.end();
            return;
        }
        slot.spec = spec.clone();
        // What never ran has nothing to hand over; what runs goes on until the new one does.
        let back = slot.older.iter().position(|old| old.spec.fingerprint == spec.fingerprint && !old.ending());
        let running = match back {
            Some(index) => slot.older.remove(index),
            None => self.start(spec, slot.live),
        };
        let runs_already = running.ran.load(Ordering::Relaxed);
        slot.older.iter().filter(|old| runs_already || !old.ran.load(Ordering::Relaxed)).for_each(Running::end);
        slot.running = Some(running);
    }
}

impl Shared {
    fn slots(&self) -> MutexGuard<'_, HashMap<PipelineId, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops a destroyed slot in which nothing runs any more.
    fn sweep(&self, slots: &mut HashMap<PipelineId, Slot>, id: &PipelineId) {
        if slots.get(id).is_some_and(|slot| slot.destroyed && slot.all().next().is_none()) {
            slots.remove(id);
            self.deps.metrics.forget(id);
            self.deps.configs.forget(id);
            info!(pipeline = %id, "execution destroyed");
        }
    }
}

impl Life for Shared {
    fn runs(&self, spec: &ExecutionSpec, serial: u64) {
        if let Some(slot) = self.slots().get(&spec.id)
            && slot.running.as_ref().is_some_and(|running| running.serial == serial)
        {
            slot.older.iter().for_each(Running::end);
        }
        self.changed(spec);
    }

    fn changed(&self, spec: &ExecutionSpec) {
        // Only a hint: without a receiver nobody needs it.
        let _ = self.events.send(spec.id.clone());
    }

    fn ended(&self, spec: &ExecutionSpec, serial: u64) {
        let mut slots = self.slots();
        if let Some(slot) = slots.get_mut(&spec.id) {
            slot.running.take_if(|running| running.serial == serial);
            slot.older.retain(|old| old.serial != serial);
        }
        info!(pipeline = %spec.id, version = %spec.version, execution = spec.fingerprint.short(), "execution stopped");
        self.sweep(&mut slots, &spec.id);
        drop(slots);
        self.changed(spec);
    }
}

impl Executor for InProcess {
    fn ensure<'a>(&'a self, spec: &'a ExecutionSpec) -> BoxFuture<'a, Result<(), ExecutorError>> {
        Box::pin(async move {
            let mut slots = self.shared.slots();
            let spec = &Arc::new(spec.clone());
            let new = || Slot { spec: spec.clone(), running: None, older: Vec::new(), destroyed: false, live: 1 };
            self.begin(slots.entry(spec.id.clone()).or_insert_with(new), spec);
            Ok(())
        })
    }

    fn go_on<'a>(&'a self, spec: &'a ExecutionSpec) -> BoxFuture<'a, Result<(), ExecutorError>> {
        Box::pin(async move {
            let mut slots = self.shared.slots();
            if !slots.contains_key(&spec.id) {
                let spec = Arc::new(spec.clone());
                let running = self.start(&spec, 1);
                // It did run, before: so it is what the next one takes over from.
                running.ran.store(true, Ordering::Relaxed);
                let id = spec.id.clone();
                slots.insert(id, Slot { spec, running: Some(running), older: Vec::new(), destroyed: false, live: 1 });
            }
            Ok(())
        })
    }

    fn stop<'a>(&'a self, id: &'a PipelineId) -> BoxFuture<'a, Result<(), ExecutorError>> {
        Box::pin(async move {
            if let Some(slot) = self.shared.slots().get_mut(id) {
                slot.end();
            }
            Ok(())
        })
    }

    fn destroy<'a>(&'a self, id: &'a PipelineId) -> BoxFuture<'a, Result<(), ExecutorError>> {
        Box::pin(async move {
            let mut slots = self.shared.slots();
            if let Some(slot) = slots.get_mut(id) {
                slot.end();
                slot.destroyed = true;
            }
            self.shared.sweep(&mut slots, id);
            Ok(())
        })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Observed>, ExecutorError>> {
        Box::pin(async move { Ok(self.shared.slots().values().map(Slot::observed).collect()) })
    }

    fn observe<'a>(&'a self, id: &'a PipelineId) -> BoxFuture<'a, Result<Option<Observed>, ExecutorError>> {
        Box::pin(async move { Ok(self.shared.slots().get(id).map(Slot::observed)) })
    }

    fn share(&self, id: &PipelineId, live: u32) {
        if let Some(slot) = self.shared.slots().get_mut(id) {
            slot.live = live;
            slot.all().for_each(|one| one.share(live));
        }
    }

    fn events(&self) -> broadcast::Receiver<PipelineId> {
        self.shared.events.subscribe()
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.shared.slots().values_mut().for_each(Slot::end);
            self.tasks.close();
            // Aborting comes first; what even that does not end (it never yields) ends with the process.
            let longest = self.shared.deps.shutdown_grace + 2 * ABORT_AFTER_GRACE;
            if tokio::time::timeout(longest, self.tasks.wait()).await.is_err() {
                warn!("executions are left behind that cannot be aborted");
            }
        })
    }
}
