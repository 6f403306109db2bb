//! What is the same in everything that Sluice creates on NATS, whether the controller or a producer's SDK was first.
//!
//! Plain values: who finds a stream, a durable or a bucket must not care which of the two made it.

use super::id::PipelineId;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long a durable waits for an acknowledgement where the config does not say: the server's own default.
pub const DEFAULT_ACK_WAIT: Duration = Duration::from_secs(30);

/// How many messages of a durable may be unacknowledged where the config does not say.
pub const DEFAULT_MAX_ACK_PENDING: i64 = 10_000;

/// The history of the entries' bucket: the most that a KV bucket may keep.
pub const ENTRIES_HISTORY: u32 = 64;

/// The metadata key that says that we created something, and by which release.
pub const CREATED_BY: &str = "sluice";

/// The metadata key that says for which pipeline.
pub const CREATED_FOR: &str = "sluice-pipeline";

/// The metadata of what is created for `id`, or for the namespace as a whole.
pub fn metadata(id: Option<&PipelineId>) -> BTreeMap<String, String> {
    let mut found = BTreeMap::from([(CREATED_BY.to_owned(), env!("CARGO_PKG_VERSION").to_owned())]);
    found.extend(id.map(|id| (CREATED_FOR.to_owned(), id.to_string())));
    found
}
