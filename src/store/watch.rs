//! Supervised watches over a bucket: they hint that a key changed, survive server restarts, recreated buckets and
//! silence, and say whether they are alive.

use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// What a watch says. Only a hint: what counts is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent {
    /// Something happened to this key (the last token of the subject, or `id/version` of an object).
    Changed(String),
    /// The watch was made anew: anything may have happened meanwhile.
    Restarted,
}

/// Whether a watch is alive, for health.
#[derive(Debug, Default)]
pub struct WatchHealth {}

impl WatchHealth {
    /// Whether the watch has heard from the server (an event or a heartbeat) within its silence limit.
    pub fn alive(&self) -> bool {
        todo!()
    }
}

/// Watches every key of the stream `stream` (a KV bucket's `KV_…` or an Object Store's `OBJ_…`) until `stop`.
pub fn watch(
    client: async_nats::Client,
    stream: String,
    events: mpsc::Sender<WatchEvent>,
    health: Arc<WatchHealth>,
    stop: CancellationToken,
) -> tokio::task::JoinHandle<()> {
    let _ = (client, stream, events, health, stop);
    todo!()
}
