//! Empties the backends that ran everything before another kind was chosen: the holder, every few seconds, until nothing
//! of them is left; a backend that does not answer is asked again.
//!
//! What always holds: what is to run goes on in the old backend until the new one runs it well, so that there is no gap;
//! both drink from one work queue meanwhile. While a target changes, what is old ends at once.

use super::Controller;
use super::reconcile::{Failure, Outcome};
use crate::executor::{Executor, ExecutorError};
use crate::pipeline::id::PipelineId;
use crate::pipeline::plan::LOOK_AGAIN;
use crate::pipeline::status::Phase;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How often they are looked at, while there is something in them and later.
const SOON: Duration = Duration::from_secs(1);
const SELDOM: Duration = Duration::from_secs(30);

impl Controller {
    /// Empties the retired backends until `stop`.
    pub(super) async fn retire(self: Arc<Self>, stop: CancellationToken) {
        let mut failed = false;
        loop {
            let mut delay = SELDOM;
            for retired in &self.deps.retired {
                match self.empty(retired.as_ref()).await {
                    Ok(true) => failed = false,
                    Ok(false) => delay = SOON,
                    Err(error) => {
                        if !failed {
                            warn!(%error, "retired backend cannot be emptied and is asked again");
                        }
                        failed = true;
                        delay = SOON.saturating_mul(5);
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Removes what a shared backend has of a pipeline that has neither an entry nor a status: nothing that anybody
    /// published, but what an earlier holder began. A status that merely cannot be read keeps it.
    pub(super) async fn orphan(&self, id: &PipelineId) -> Result<Outcome, Failure> {
        let executor = &self.deps.executor;
        if !executor.shared() || executor.observe(id).await?.is_none() || self.deps.store.status.revision(id).await? != 0 {
            return Ok(Outcome::Converged);
        }
        warn!(pipeline = %id, "an execution of no pipeline is removed");
        executor.destroy(id).await?;
        Ok(Outcome::Again(LOOK_AGAIN))
    }

    /// Takes away what is not needed any more; whether nothing is left.
    async fn empty(&self, retired: &dyn Executor) -> Result<bool, ExecutorError> {
        if self.holding.epoch().is_none() {
            return Ok(false);
        }
        let left = retired.list().await?;
        for old in &left {
            let admitted = self.memory().get(&old.id).and_then(|known| Some(known.status()?.admitted.clone()));
            let needed = match admitted.map(|admitted| (admitted.phase, admitted.spec)) {
                Some((Phase::Run | Phase::Drain, Some(spec))) => {
                    let new = self.deps.executor.observe(&old.id).await?;
                    !new.is_some_and(|new| new.ready(&spec.fingerprint))
                }
                // Nothing is known of it: what runs goes on.
                None => self.last_resync.lock().unwrap_or_else(std::sync::PoisonError::into_inner).is_none(),
                Some(_) => false,
            };
            if !needed {
                info!(pipeline = %old.id, "retired backend gives up what another runs now");
                retired.destroy(&old.id).await?;
            }
        }
        Ok(left.is_empty())
    }
}
