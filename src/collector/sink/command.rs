//! The `insert` command as bytes.

use crate::pipeline::config::WriteConcern;
use std::time::Duration;

/// The largest command of several documents, in bytes, array keys and added `_id`s included.
pub const MAX_COMMAND_BYTES: usize = 16 << 20;

/// The largest document that MongoDB stores, in bytes, with its `_id`.
pub const MAX_DOCUMENT_BYTES: usize = 16 << 20;

pub(super) fn prologue(collection: &str, concern: &WriteConcern, limit: Duration) -> Vec<u8> {
    let _ = (collection, concern, limit);
    todo!()
}
