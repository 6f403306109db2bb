//! The entries' bucket: reading, compare-and-set writing, history.

use super::error::StoreError;
use crate::pipeline::id::PipelineId;
use bytes::Bytes;
use jiff::Timestamp;

/// What the last operation on a key was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A value was put.
    Put,
    /// A delete marker.
    Delete,
    /// A purge marker.
    Purge,
}

/// One revision of one key. The key is as it stands in the bucket and may be no valid pipeline id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryRecord {
    /// The key.
    pub key: String,
    /// Its value; empty for markers.
    pub value: Bytes,
    /// The bucket's revision.
    pub revision: u64,
    /// Put, or which marker.
    pub operation: Operation,
    /// When it was written.
    pub created: Timestamp,
}

/// The entries' bucket.
#[derive(Clone)]
pub struct Entries {}

impl Entries {
    /// When the bucket was created. [`super::StoreErrorKind::Missing`] where there is no bucket.
    pub async fn bucket_created(&self) -> Result<Timestamp, StoreError> {
        todo!()
    }

    /// The newest record of `id`, marker or value; `None` where the bucket holds nothing under the key.
    pub async fn get(&self, id: &PipelineId) -> Result<Option<EntryRecord>, StoreError> {
        let _ = id;
        todo!()
    }

    /// The newest record of every key, markers included, in no order. One consumer for the whole listing, whatever the
    /// number of keys; an empty bucket gives an empty list.
    pub async fn list(&self) -> Result<Vec<EntryRecord>, StoreError> {
        todo!()
    }

    /// Writes `value` where the newest revision is `expected` (0: the key must not exist, a marker counts as its own
    /// revision). Returns the new revision. [`super::StoreErrorKind::Conflict`] where somebody was faster.
    pub async fn put(&self, id: &PipelineId, value: Bytes, expected: u64) -> Result<u64, StoreError> {
        let _ = (id, value, expected);
        todo!()
    }

    /// Puts a delete marker where the newest revision is `expected`.
    pub async fn delete(&self, id: &PipelineId, expected: u64) -> Result<(), StoreError> {
        let _ = (id, expected);
        todo!()
    }

    /// Every kept revision of `id`, oldest first, markers included.
    pub async fn history(&self, id: &PipelineId) -> Result<Vec<EntryRecord>, StoreError> {
        let _ = id;
        todo!()
    }
}
