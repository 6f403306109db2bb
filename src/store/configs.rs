//! The Object Store of the configs: safe reads (metadata first, then the chunks by direct get, digest checked before a
//! byte is handed out, size capped, links refused), immutable writes.

use super::error::StoreError;
use crate::pipeline::id::{PipelineId, VersionName};
use bytes::Bytes;
use jiff::Timestamp;

/// A config as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredConfig {
    /// Its bytes, which have the digest.
    pub bytes: Bytes,
    /// The digest, `SHA-256=…`, base64url with padding, as the Object Store writes it.
    pub digest: String,
    /// Sequence of its metadata in the store's stream: it changes when the object is overwritten.
    pub revision: u64,
}

/// One stored version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionInfo {
    /// The version.
    pub version: VersionName,
    /// Its digest.
    pub digest: String,
    /// Its size in bytes.
    pub size: u64,
    /// When it was stored.
    pub stored: Timestamp,
}

/// The Object Store of the configs.
#[derive(Clone)]
pub struct Configs {}

impl Configs {
    /// Reads `{id}/{version}`.
    ///
    /// Errors: [`super::StoreErrorKind::Missing`]; `Unfit` with `TooLarge`, `DigestMismatch`, `Link` or `Unreadable`;
    /// `Unavailable`.
    pub async fn get(&self, id: &PipelineId, version: &VersionName) -> Result<StoredConfig, StoreError> {
        let _ = (id, version);
        todo!()
    }

    /// Only the digest and revision of `{id}/{version}`, for a resync.
    pub async fn peek(&self, id: &PipelineId, version: &VersionName) -> Result<(String, u64), StoreError> {
        let _ = (id, version);
        todo!()
    }

    /// Stores `bytes` as `{id}/{version}` and returns the digest. [`super::StoreErrorKind::Conflict`] where the name
    /// is taken by other bytes; the same bytes again are no error.
    pub async fn put(&self, id: &PipelineId, version: &VersionName, bytes: Bytes) -> Result<String, StoreError> {
        let _ = (id, version, bytes);
        todo!()
    }

    /// The stored versions of `id`, oldest first.
    pub async fn versions(&self, id: &PipelineId) -> Result<Vec<VersionInfo>, StoreError> {
        let _ = id;
        todo!()
    }
}
