//! What a controller does that does not decide: it follows what the holder admitted, as its role has it, and never the
//! entry itself. Without a status nothing is known, and what runs goes on, unless the status says that it was removed.
//!
//! Called by the reconcile of an id.

use super::Controller;
use super::reconcile::{Failure, Outcome, PASSES};
use crate::pipeline::id::PipelineId;
use crate::pipeline::plan::{Action, LOOK_AGAIN, Role, Wish, plan};
use crate::store::{Operation, StatusRecord};
use jiff::Timestamp;
use tracing::info;

impl Controller {
    /// Acts on what is admitted, without deciding.
    pub(super) async fn follow(&self, id: &PipelineId, record: Option<&StatusRecord>, role: Role) -> Result<Outcome, Failure> {
        // Without a status nothing is known: what runs goes on.
        let Some(record) = record else { return Ok(Outcome::Converged) };
        for _ in 0..PASSES {
            // Also what the last pass started.
            self.deps.executor.share(id, record.status.admitted.live_executions);
            let world = self.world(id, Some(&record.status), None).await?.world;
            let steps = plan(&Wish::Unknown, &world, &record.status.kept, role, Timestamp::now());
            if steps.is_empty() {
                break;
            }
            for step in &steps {
                self.run_step(id, step).await?;
            }
            if self.under_way(id, &steps).await? {
                return Ok(Outcome::Again(LOOK_AGAIN));
            }
        }
        Ok(Outcome::Converged)
    }

    /// Ends what runs here of a pipeline whose status was removed: it was deleted while this controller did not look. A
    /// status that is merely not there, or its bucket anew, says nothing.
    pub(super) async fn end_forgotten(&self, id: &PipelineId, role: Role) -> Result<(), Failure> {
        let looks_only = role == Role::Looker;
        if looks_only || self.deps.executor.observe(id).await?.is_none() || !self.deps.store.status.removed(id).await? {
            return Ok(());
        }
        if self.deps.store.entries.get(id).await?.is_some_and(|entry| entry.operation == Operation::Put) {
            // Somebody deleted the status alone: the holder writes it again.
            return Ok(());
        }
        info!(pipeline = %id, "the pipeline was deleted meanwhile; what runs of it ends");
        self.run_step(id, &Action::Destroy).await
    }
}
