//! Answers requests for the state of a pipeline, as the first parent's producers send them: with what the own execution
//! holds, and as the holder with 0 for a pipeline that nobody executes. Of an id that nobody knows nothing is said.
//!
//! Every process answers for itself and whoever asks takes the first answer, as with several of the first parent's. Where
//! another process executes the pipeline it answers; should it be gone without a word, the holder says later what that
//! process reported last, so that nobody waits for ever.

use super::Controller;
use crate::pipeline::id::PipelineId;
use crate::pipeline::report::ExecutionReport;
use crate::store::{Operation, State, StateRequest};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

/// How long another process may take before the holder answers in its place; the first parent's producers wait 15 s.
const OTHERS: Duration = Duration::from_secs(2);
/// How soon subscribing is tried again.
const AGAIN: Duration = Duration::from_secs(2);
/// Requests that are looked into at the same time; what comes beyond them is not answered, and asked again.
const AT_ONCE: usize = 256;

impl Controller {
    /// Answers until `stop`.
    pub(super) async fn answer_states(self: Arc<Self>, stop: CancellationToken) {
        let mut requests = loop {
            match self.deps.store.states.subscribe().await {
                Ok(requests) => break requests,
                Err(error) => warn!(%error, "state requests cannot be received"),
            }
            tokio::select! {
                () = tokio::time::sleep(AGAIN) => {}
                () = stop.cancelled() => return,
            }
        };
        // They end with the controller: an answer is worth nothing later.
        let answers = TaskTracker::new();
        loop {
            let request = tokio::select! {
                request = requests.next() => request,
                () = stop.cancelled() => return,
            };
            // The end means that the connection is closed, and with it everything.
            let Some(request) = request else { return stop.cancelled().await };
            if answers.len() >= AT_ONCE {
                debug!(pipeline = %request.id, "too many state requests at once, this one is not answered");
                continue;
            }
            let (controller, stop) = (self.clone(), stop.clone());
            answers.spawn(async move {
                tokio::select! {
                    () = controller.answer_state(&request) => {}
                    () = stop.cancelled() => {}
                }
            });
        }
    }

    async fn answer_state(&self, request: &StateRequest) {
        let Some(state) = self.state_of(&request.id).await else { return };
        if let Err(error) = self.deps.store.states.answer(request, state).await {
            debug!(pipeline = %request.id, %error, "state request could not be answered");
        }
    }

    /// What this process is to say of `id`, where it is to say anything.
    async fn state_of(&self, id: &PipelineId) -> Option<State> {
        let seen = self.deps.executor.observe(id).await.ok().flatten();
        let seen = seen.map(|seen| seen.reports).unwrap_or_default();
        let here = self.deps.settings.executor.kind.per_process();
        if here && !seen.is_empty() {
            return Some(state(&seen));
        }
        self.holding.epoch()?;
        let mut others = self.peers.of(id, self.process);
        others.extend(seen);
        if !others.is_empty() {
            tokio::time::sleep(OTHERS).await;
            return Some(state(&others));
        }
        let known = self.memory().get(id).is_some_and(|memory| memory.status.is_some());
        (known || self.has_entry(id).await).then(State::default)
    }

    /// Whether there is an entry: one that was put a moment ago is not reconciled yet.
    async fn has_entry(&self, id: &PipelineId) -> bool {
        let read = self.deps.store.entries.get(id).await;
        read.is_ok_and(|record| record.is_some_and(|record| record.operation == Operation::Put))
    }
}

fn state(reports: &[ExecutionReport]) -> State {
    State { buffer_size: reports.iter().map(|report| report.counters.buffered).sum(), running: !reports.is_empty() }
}
