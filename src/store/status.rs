//! The status bucket: one document a pipeline, written by the holder only, and the installation's uuid.

use super::error::StoreError;
use crate::pipeline::{id::PipelineId, status::PipelineStatus};

/// A status document with its revision.
#[derive(Debug, Clone, PartialEq)]
pub struct StatusRecord {
    /// The document.
    pub status: PipelineStatus,
    /// Its revision in the bucket.
    pub revision: u64,
}

/// The status bucket.
#[derive(Clone)]
pub struct StatusStore {}

impl StatusStore {
    /// The installation's uuid; made and stored under `_installation` by whoever is first.
    pub async fn installation(&self) -> Result<uuid::Uuid, StoreError> {
        todo!()
    }

    /// The status of `id`; `None` where there is none or it was deleted. A document that does not parse is `Unfit(Unreadable)`.
    pub async fn get(&self, id: &PipelineId) -> Result<Option<StatusRecord>, StoreError> {
        let _ = id;
        todo!()
    }

    /// All status documents; those that do not parse are logged and left out.
    pub async fn list(&self) -> Result<Vec<StatusRecord>, StoreError> {
        todo!()
    }

    /// Writes the document where the newest revision is `expected` (0 for none; after a deletion too). Returns the new
    /// revision. `Conflict` where somebody else wrote.
    pub async fn put(&self, status: &PipelineStatus, expected: u64) -> Result<u64, StoreError> {
        let _ = (status, expected);
        todo!()
    }

    /// Removes the document (purge: a status has no history worth keeping).
    pub async fn delete(&self, id: &PipelineId, expected: u64) -> Result<(), StoreError> {
        let _ = (id, expected);
        todo!()
    }
}
