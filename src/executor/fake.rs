//! A scriptable backend for tests of the controller: it keeps what it was told, and fails or hangs where a test says so.

use super::{BoxFuture, Executor, ExecutorError, Observed};
use crate::pipeline::{id::PipelineId, spec::ExecutionSpec, status::Reason};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::broadcast;

/// What the next call does instead of succeeding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Script {
    /// Fails; the flag says whether a retry can help.
    Fail(bool),
    /// Takes this long, then succeeds.
    Delay(Duration),
}

#[derive(Default)]
struct State {
    executions: BTreeMap<PipelineId, Observed>,
    script: VecDeque<Script>,
    calls: Vec<String>,
}

/// The scriptable backend.
pub struct Fake {
    state: Mutex<State>,
    /// `None` once a test has closed it.
    events: Mutex<Option<broadcast::Sender<PipelineId>>>,
}

impl Default for Fake {
    fn default() -> Self {
        Self { state: Mutex::default(), events: Mutex::new(Some(broadcast::channel(64).0)) }
    }
}

impl Fake {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the next calls of a verb do, in order; afterwards they succeed.
    pub fn script(&self, steps: impl IntoIterator<Item = Script>) {
        self.state().script.extend(steps);
    }

    /// The verbs called so far, as `ensure metrics 3-9f2c41aa`.
    pub fn calls(&self) -> Vec<String> {
        self.state().calls.clone()
    }

    /// Makes an execution vanish or appear behind the controller's back, and says so as a hint.
    pub fn drift(&self, id: &PipelineId, change: impl FnOnce(&mut BTreeMap<PipelineId, Observed>)) {
        change(&mut self.state().executions);
        if let Some(events) = &*self.events.lock().unwrap_or_else(PoisonError::into_inner) {
            // Only a hint: without a receiver nobody needs it.
            let _ = events.send(id.clone());
        }
    }

    /// Closes the channel of events, as no backend does that works.
    pub fn close_events(&self) {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    async fn step(&self, call: String) -> Result<(), ExecutorError> {
        let step = {
            let mut state = self.state();
            state.calls.push(call);
            state.script.pop_front()
        };
        match step {
            Some(Script::Fail(retry)) => {
                Err(ExecutorError { message: "the script says so".into(), retry, reason: Reason::ExecutionFailed })
            }
            Some(Script::Delay(delay)) => {
                tokio::time::sleep(delay).await;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl Executor for Fake {
    fn ensure<'a>(&'a self, spec: &'a ExecutionSpec) -> BoxFuture<'a, Result<(), ExecutorError>> {
        Box::pin(async move {
            self.step(format!("ensure {} {}", spec.id, spec.version)).await?;
            let observed = Observed {
                id: spec.id.clone(),
                fingerprint: spec.fingerprint.clone(),
                running: true,
                reports: Vec::new(),
                replicas: None,
                instances: Vec::new(),
                troubles: Vec::new(),
            };
            self.state().executions.insert(spec.id.clone(), observed);
            Ok(())
        })
    }

    fn go_on<'a>(&'a self, spec: &'a ExecutionSpec) -> BoxFuture<'a, Result<(), ExecutorError>> {
        Box::pin(async move { self.step(format!("go on {} {}", spec.id, spec.version)).await })
    }

    fn stop<'a>(&'a self, id: &'a PipelineId) -> BoxFuture<'a, Result<(), ExecutorError>> {
        Box::pin(async move {
            self.step(format!("stop {id}")).await?;
            if let Some(observed) = self.state().executions.get_mut(id) {
                observed.running = false;
            }
            Ok(())
        })
    }

    fn destroy<'a>(&'a self, id: &'a PipelineId) -> BoxFuture<'a, Result<(), ExecutorError>> {
        Box::pin(async move {
            self.step(format!("destroy {id}")).await?;
            self.state().executions.remove(id);
            Ok(())
        })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Observed>, ExecutorError>> {
        Box::pin(async move { Ok(self.state().executions.values().cloned().collect()) })
    }

    fn observe<'a>(&'a self, id: &'a PipelineId) -> BoxFuture<'a, Result<Option<Observed>, ExecutorError>> {
        Box::pin(async move { Ok(self.state().executions.get(id).cloned()) })
    }

    fn share(&self, _id: &PipelineId, _live: u32) {}

    fn events(&self) -> broadcast::Receiver<PipelineId> {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        // Of a closed channel every receiver is at its end.
        events.as_ref().map_or_else(|| broadcast::channel(1).1, broadcast::Sender::subscribe)
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}
