//! Answers requests for the state of a pipeline, as the first parent's producers send them: with what the own execution
//! holds, and as the holder with 0 for a pipeline that nobody executes. Of an id that nobody knows nothing is said.
//!
//! Every process answers for itself and whoever asks takes the first answer, as with several of the first parent's. Where
//! another process executes the pipeline it answers; should it be gone without a word, the holder says later what that
//! process reported last, so that nobody waits for ever.

use super::Controller;
use crate::executor::{BoxFuture, answers::answer_states};
use crate::pipeline::id::PipelineId;
use crate::store::{Operation, State};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long another process may take before the holder answers in its place; the first parent's producers wait 15 s.
const OTHERS: Duration = Duration::from_secs(2);

impl Controller {
    /// Answers until `stop`.
    pub(super) async fn answer_states(self: Arc<Self>, stop: CancellationToken) {
        let states = self.deps.store.states.clone();
        let state = move |id| Box::pin(self.clone().state_of(id)) as BoxFuture<'static, _>;
        answer_states(states, state, stop).await;
    }

    /// What this process is to say of `id`, where it is to say anything.
    async fn state_of(self: Arc<Self>, id: PipelineId) -> Option<State> {
        let seen = self.deps.executor.observe(&id).await.ok().flatten();
        let seen = seen.map(|seen| seen.reports).unwrap_or_default();
        let here = self.deps.settings.executor.kind.per_process();
        if here && !seen.is_empty() {
            return Some(State::of(&seen));
        }
        self.holding.epoch()?;
        let mut others = self.peers.of(&id, self.process);
        others.extend(seen);
        if !others.is_empty() {
            tokio::time::sleep(OTHERS).await;
            return Some(State::of(&others));
        }
        let known = self.memory().get(&id).is_some_and(|memory| memory.status().is_some());
        (known || self.has_entry(&id).await).then(State::default)
    }

    /// Whether there is an entry: one that was put a moment ago is not reconciled yet.
    async fn has_entry(&self, id: &PipelineId) -> bool {
        let read = self.deps.store.entries.get(id).await;
        read.is_ok_and(|record| record.is_some_and(|record| record.operation == Operation::Put))
    }
}
