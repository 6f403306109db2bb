//! The consumer's part in a target change: paused while the old execution finishes, resumed by whoever finds it over.
//!
//! A pause that cannot be had (no permission, an old server) is no reason to stop: it is noted, and the change goes on by
//! stopping and waiting alone. Carried out for the plan, as the holder.

use super::Controller;
use super::fitness::unfit;
use super::reconcile::Failure;
use crate::pipeline::id::PipelineId;
use crate::pipeline::plan::PAUSE;
use crate::pipeline::status::PipelineStatus;
use crate::store::{PipelineStream, StatusRecord, StoreErrorKind};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// How long a refused pause is not asked for again: longer than a target change of common settings takes.
const REFUSED: Duration = Duration::from_secs(90);

impl Controller {
    /// Whether the durable of `id` can be paused, as far as is known.
    pub(super) fn can_pause(&self, id: &PipelineId) -> bool {
        let refused = self.memory().get(id).and_then(|memory| memory.unpausable);
        self.deps.store.streams.can_pause() && refused.is_none_or(|at| at.elapsed() >= REFUSED)
    }

    /// Pauses the durable for [`PAUSE`] from now on.
    pub(super) async fn pause(&self, id: &PipelineId, stream: Option<&PipelineStream>) -> Result<(), Failure> {
        let Some((stream, consumer)) = stream.and_then(|stream| Some((stream, stream.consumer.as_ref()?))) else { return Ok(()) };
        let paused = self.as_holder(async { Ok(self.streams()?.pause(&stream.name, &consumer.name, PAUSE).await) }).await?;
        match paused {
            Ok(()) => {
                info!(pipeline = %id, stream = stream.name, "consumer paused for a change of the target");
                Ok(())
            }
            // Deleted or fenced meanwhile: looked at again.
            Err(error) if matches!(error.kind(), StoreErrorKind::Conflict | StoreErrorKind::Missing) => Err(error.into()),
            Err(error) => {
                warn!(pipeline = %id, stream = stream.name, %error, "consumer could not be paused; the target changes without");
                self.remember(id, |memory| memory.unpausable = Some(Instant::now()));
                Ok(())
            }
        }
    }

    /// Ends a pause of ours, and then notes that there is none any more.
    pub(super) async fn resume_consumer(
        &self,
        id: &PipelineId,
        record: &mut Option<Arc<StatusRecord>>,
        stream: Option<&PipelineStream>,
    ) -> Result<(), Failure> {
        let paused = stream.and_then(|stream| Some((stream, stream.consumer.as_ref()?)));
        if let Some((stream, consumer)) = paused.filter(|(_, consumer)| consumer.paused.is_some_and(|left| left <= PAUSE)) {
            self.as_holder(async { self.streams()?.pause(&stream.name, &consumer.name, Duration::ZERO).await.map_err(unfit) }).await?;
            info!(pipeline = %id, stream = stream.name, "consumer resumed");
        }
        let Some(old) = record.as_deref() else { return Ok(()) };
        let mut status: PipelineStatus = old.status.clone();
        status.kept.moves.paused = false;
        *record = Some(self.put_status(status, Some(old)).await?);
        Ok(())
    }
}
