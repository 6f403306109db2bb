//! The in-process backend: every execution is a supervised task of this process.
//!
//! A panic or an error in one never touches another: it is caught, shown as a trouble, and the execution is started
//! again with growing delays. A new fingerprint is started before the old one is stopped; both drink from the same work
//! queue meanwhile. The tasks are the truth; nothing is remembered beside them.

use super::execution::{ExecutionDeps, ExecutionHandle, run_execution};
use super::{BoxFuture, Executor, ExecutorError, Observed};
use crate::collector::ExecutionState;
use crate::pipeline::backoff::Backoff;
use crate::pipeline::id::PipelineId;
use crate::pipeline::report::{ExecutionPhase, ExecutionReport, Trouble};
use crate::pipeline::spec::ExecutionSpec;
use crate::pipeline::status::Reason;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, info, info_span, warn};

const RESTART: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
/// How long a new execution may take to run before the old one is stopped all the same.
const HANDOVER: Duration = Duration::from_secs(10);
/// What a stop may take beyond the grace period before the task is aborted.
const ABORT_AFTER_GRACE: Duration = Duration::from_secs(5);

/// The in-process backend.
pub struct InProcess {
    deps: ExecutionDeps,
    slots: Mutex<HashMap<PipelineId, Slot>>,
    events: broadcast::Sender<PipelineId>,
    tasks: TaskTracker,
}

/// What there is of one pipeline: the spec it was last started with, and the execution while it runs.
struct Slot {
    spec: ExecutionSpec,
    running: Option<Running>,
    retiring: Vec<Retiring>,
}

/// An older execution that is stopped once the new one runs, or at once where somebody is in a hurry.
struct Retiring {
    hurry: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Slot {
    fn observed(&self) -> Observed {
        Observed {
            id: self.spec.id.clone(),
            fingerprint: self.spec.fingerprint.clone(),
            running: self.running.is_some(),
            report: self.running.as_ref().map(|running| running.report(&self.spec)),
        }
    }
}

/// A running execution.
struct Running {
    state: Arc<ExecutionState>,
    failure: Arc<Mutex<Option<Trouble>>>,
    live: watch::Sender<u32>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    /// Stops gracefully; aborts what does not end within the grace period and some more.
    async fn end(mut self, grace: Duration) {
        self.stop.cancel();
        if tokio::time::timeout(grace + ABORT_AFTER_GRACE, &mut self.task).await.is_err() {
            warn!("execution did not end within its grace period and is aborted");
            self.task.abort();
        }
    }

    fn report(&self, spec: &ExecutionSpec) -> ExecutionReport {
        let mut troubles = self.state.troubles();
        troubles.extend(self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone());
        let (last_pull_ms, last_write_ms) = self.state.last_activity();
        ExecutionReport {
            id: spec.id.clone(),
            version: spec.version.to_string(),
            fingerprint: spec.fingerprint.clone(),
            phase: self.state.phase(),
            troubles,
            counters: self.state.counters(),
            limits: self.state.limits(),
            proven: self.state.proven(),
            last_pull_ms,
            last_write_ms,
        }
    }
}

impl InProcess {
    /// A backend without executions.
    pub fn new(deps: ExecutionDeps) -> Self {
        Self { deps, slots: Mutex::default(), events: broadcast::channel(1024).0, tasks: TaskTracker::new() }
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<PipelineId, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&self, spec: &ExecutionSpec) -> Running {
        let state = Arc::new(ExecutionState::default());
        let failure = Arc::new(Mutex::new(None));
        let (live, live_receiver) = watch::channel(1);
        let stop = CancellationToken::new();
        let supervisor = Supervisor {
            spec: spec.clone(),
            deps: self.deps.clone(),
            handle: ExecutionHandle { state: state.clone(), live: live_receiver, stop: stop.clone() },
            failure: failure.clone(),
            events: self.events.clone(),
        };
        let span = info_span!("execution", pipeline = %spec.id, version = %spec.version, execution = spec.fingerprint.short());
        let task = self.tasks.spawn(supervisor.run().instrument(span));
        Running { state, failure, live, stop, task }
    }

    /// Stops `old` once `new` runs, or cannot for reasons of its own, or takes too long, or somebody is in a hurry.
    fn hand_over(&self, old: Running, new: Arc<ExecutionState>) -> Retiring {
        let grace = self.deps.shutdown_grace;
        let hurry = CancellationToken::new();
        let hurried = hurry.clone();
        let task = self.tasks.spawn(async move {
            let ready = async {
                let begun = tokio::time::Instant::now();
                while new.phase() == ExecutionPhase::Starting && begun.elapsed() < HANDOVER {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            tokio::select! {
                () = ready => {}
                () = hurried.cancelled() => {}
            }
            old.end(grace).await;
        });
        Retiring { hurry, task }
    }

    /// Ends everything of these slots' pipelines, gracefully and side by side.
    async fn end(&self, running: Vec<Running>, retiring: Vec<Retiring>) {
        for one in &running {
            one.stop.cancel();
        }
        for one in &retiring {
            one.hurry.cancel();
        }
        let grace = self.deps.shutdown_grace;
        futures_util::future::join_all(running.into_iter().map(|one| one.end(grace))).await;
        for one in retiring {
            // Its own result was logged where it ended.
            let _ = one.task.await;
        }
    }

    /// The live state of the execution of `id`, while it runs.
    pub fn state(&self, id: &PipelineId) -> Option<Arc<ExecutionState>> {
        self.slots().get(id)?.running.as_ref().map(|running| running.state.clone())
    }
}

impl Executor for InProcess {
    fn ensure<'a>(&'a self, spec: &'a ExecutionSpec) -> BoxFuture<'a, Result<(), ExecutorError>> {
        Box::pin(async move {
            let mut slots = self.slots();
            let old = match slots.get_mut(&spec.id) {
                Some(slot) if slot.running.is_some() && slot.spec.fingerprint == spec.fingerprint => {
                    slot.spec = spec.clone();
                    return Ok(());
                }
                Some(slot) => Some((slot.running.take(), std::mem::take(&mut slot.retiring))),
                None => None,
            };
            let running = self.start(spec);
            let mut retiring = Vec::new();
            if let Some((old, older)) = old {
                retiring = older;
                retiring.retain(|one| !one.task.is_finished());
                retiring.extend(old.map(|old| self.hand_over(old, running.state.clone())));
            }
            slots.insert(spec.id.clone(), Slot { spec: spec.clone(), running: Some(running), retiring });
            drop(slots);
            info!(pipeline = %spec.id, version = %spec.version, execution = spec.fingerprint.short(), "execution started");
            Ok(())
        })
    }

    fn stop<'a>(&'a self, id: &'a PipelineId) -> BoxFuture<'a, Result<(), ExecutorError>> {
        Box::pin(async move {
            let ending = self.slots().get_mut(id).map(|slot| (slot.running.take(), std::mem::take(&mut slot.retiring)));
            if let Some((running, retiring)) = ending {
                let ran = running.is_some();
                self.end(running.into_iter().collect(), retiring).await;
                if ran {
                    info!(pipeline = %id, "execution stopped");
                }
            }
            Ok(())
        })
    }

    fn destroy<'a>(&'a self, id: &'a PipelineId) -> BoxFuture<'a, Result<(), ExecutorError>> {
        Box::pin(async move {
            self.stop(id).await?;
            if self.slots().remove(id).is_some() {
                self.deps.metrics.forget(id);
                self.deps.configs.forget(id);
                info!(pipeline = %id, "execution destroyed");
            }
            Ok(())
        })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Observed>, ExecutorError>> {
        Box::pin(async move { Ok(self.slots().values().map(Slot::observed).collect()) })
    }

    fn observe<'a>(&'a self, id: &'a PipelineId) -> BoxFuture<'a, Result<Option<Observed>, ExecutorError>> {
        Box::pin(async move { Ok(self.slots().get(id).map(Slot::observed)) })
    }

    fn share(&self, id: &PipelineId, live: u32) {
        if let Some(running) = self.slots().get(id).and_then(|slot| slot.running.as_ref()) {
            running.live.send_if_modified(|old| std::mem::replace(old, live.max(1)) != live.max(1));
        }
    }

    fn events(&self) -> broadcast::Receiver<PipelineId> {
        self.events.subscribe()
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let (mut running, mut retiring) = (Vec::new(), Vec::new());
            for slot in self.slots().values_mut() {
                running.extend(slot.running.take());
                retiring.append(&mut slot.retiring);
            }
            self.end(running, retiring).await;
            self.tasks.close();
            self.tasks.wait().await;
        })
    }
}

/// Runs one execution again and again until it is stopped.
struct Supervisor {
    spec: ExecutionSpec,
    deps: ExecutionDeps,
    handle: ExecutionHandle,
    failure: Arc<Mutex<Option<Trouble>>>,
    events: broadcast::Sender<PipelineId>,
}

impl Supervisor {
    async fn run(self) {
        let mut failures = 0;
        loop {
            let begun = tokio::time::Instant::now();
            let (spec, deps, handle) = (self.spec.clone(), self.deps.clone(), self.handle.clone());
            // A task of its own, so that a panic ends here.
            let attempt = tokio::spawn(async move { run_execution(&spec, &deps, handle).await }.in_current_span());
            let message = match attempt.await {
                Ok(Ok(())) => return self.changed(),
                Ok(Err(error)) => error.to_string(),
                Err(panic) => format!("panic: {panic}"),
            };
            if begun.elapsed() > RESTART.cap {
                failures = 0;
            }
            failures += 1;
            warn!(error = message, failures, "execution failed and is started again");
            *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(Trouble { reason: Reason::ExecutionFailed, message });
            self.changed();
            tokio::select! {
                () = tokio::time::sleep(RESTART.delay(failures, rand::random())) => {}
                () = self.handle.stop.cancelled() => return,
            }
            *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    fn changed(&self) {
        // Only a hint: without a receiver nobody needs it.
        let _ = self.events.send(self.spec.id.clone());
    }
}
