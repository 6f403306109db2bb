//! A barrier: what was acknowledged before it is in what a stream says after it.
//!
//! A leader that was just elected answers `STREAM.INFO` before it has applied its log, and one that is cut off from its copies
//! answers for a while as if nothing had happened since. Neither matters where something is *there*; what decides on its
//! absence asks for a barrier first. [`Streams::caught_up`] is for whoever is about to delete what seems to be empty.

use super::api::Failure;
use super::error::StoreError;
use super::streams::Streams;
use serde_json::{Value, json};

impl Streams {
    /// Returns once the leader of `stream` has applied whatever its copies had agreed on before: a purge of a subject that
    /// no message has is an entry in the stream's own log, which a majority takes, and which the leader answers when it has
    /// come to it. A leader without a majority, or one that lags, does not answer.
    ///
    /// Errors: `Unavailable` where there is no such leader now; `Missing`; `Refused` where the stream denies purges.
    pub async fn caught_up(&self, stream: &str) -> Result<(), StoreError> {
        let nobody = format!("sluice.barrier.{}", uuid::Uuid::new_v4().simple());
        let purged: Result<Value, Failure> = self.api.call(&format!("STREAM.PURGE.{stream}"), json!({ "filter": nobody })).await;
        purged.map(|_| ()).map_err(|failure| failure.during(format!("wait until the leader of stream {stream} has caught up")))
    }
}
