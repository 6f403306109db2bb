//! The Object Store of the configs: safe reads (metadata first, then the chunks, digest checked before a byte is handed
//! out, size capped, links refused), immutable writes.
//!
//! All is read from the stream's leader, so that it is never staler than a watch's hint, and never by direct gets: those
//! answer with the bytes as they were stored, wherever the asker says and with the server's rights, so that whoever may store
//! a chunk and get it directly could publish it anywhere. `STREAM.MSG.GET` answers in an envelope.

use super::api::{Api, Failure, Guard, Stored, TIMEOUT, header};
use super::collect::Which;
use super::error::{StoreError, StoreErrorKind, Unfit};
use crate::pipeline::config::MAX_CONFIG_BYTES;
use crate::pipeline::id::{PipelineId, VersionName};
use crate::pipeline::object::{CHUNK, Meta, chunk_subject, meta_subject, metadata, sum, unpadded_subject, written};
use async_nats::{Client, HeaderMap};
use bytes::{Bytes, BytesMut};
use jiff::Timestamp;
use serde_json::json;
use sha2::{Digest as _, Sha256};

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

/// Chunks that a config may have: a config of the largest size in chunks of 1 KiB. More would only waste round trips.
const MAX_CHUNKS: u64 = 1024;
/// The Object Store of the configs.
#[derive(Clone)]
pub struct Configs {
    api: Api,
    bucket: String,
    stream: String,
}

impl Configs {
    pub(super) fn new(client: Client, bucket: &str) -> Self {
        Self { api: Api::new(client), bucket: bucket.to_owned(), stream: format!("OBJ_{bucket}") }
    }

    /// The same for one who may not make consumers: listings ask for each message by itself.
    pub fn without_consumers(mut self) -> Self {
        self.api = self.api.without_consumers();
        self
    }

    /// The same, with a guard that is asked right before each write.
    pub fn guarded(mut self, guard: Guard) -> Self {
        self.api = self.api.guarded(guard);
        self
    }

    /// The Object Store's stream, for a watch.
    pub fn stream(&self) -> &str {
        &self.stream
    }

    /// Reads `{id}/{version}`.
    ///
    /// Errors: [`super::StoreErrorKind::Missing`]; `Unfit` with `TooLarge`, `DigestMismatch`, `Link` or `Unreadable`;
    /// `Unavailable`.
    pub async fn get(&self, id: &PipelineId, version: &VersionName) -> Result<StoredConfig, StoreError> {
        let name = format!("{id}/{version}");
        let (meta, revision) = self.meta(&name).await?;
        self.content(&name, &meta, revision).await
    }

    /// As [`Self::get`], where it is not the object of this revision and digest, which was read before: `None` where it is.
    pub async fn get_other(&self, id: &PipelineId, version: &VersionName, known: (u64, &str)) -> Result<Option<StoredConfig>, StoreError> {
        let name = format!("{id}/{version}");
        let (meta, revision) = self.meta(&name).await?;
        if revision == known.0 && sum(&meta.digest).is_some_and(|sum| written(&sum) == known.1) {
            return Ok(None);
        }
        self.content(&name, &meta, revision).await.map(Some)
    }

    async fn content(&self, name: &str, meta: &Meta, revision: u64) -> Result<StoredConfig, StoreError> {
        let sum = self.check(name, meta)?;
        let read = tokio::time::timeout(TIMEOUT, self.chunks(name, meta)).await;
        let bytes = read.map_err(|_| Failure::TimedOut.during(self.reading(name)))??;
        if Sha256::digest(&bytes).as_slice() != sum {
            return Err(self.unfit(name, Unfit::DigestMismatch, "its bytes do not have its digest"));
        }
        Ok(StoredConfig { bytes, digest: written(&sum), revision })
    }

    /// Only the digest and revision of `{id}/{version}`, for a resync. The same errors as [`Self::get`], but for those
    /// that only the bytes can show.
    pub async fn peek(&self, id: &PipelineId, version: &VersionName) -> Result<(String, u64), StoreError> {
        let name = format!("{id}/{version}");
        let (meta, revision) = self.meta(&name).await?;
        Ok((written(&self.check(&name, &meta)?), revision))
    }

    /// Stores `bytes` as `{id}/{version}` and returns the digest. [`super::StoreErrorKind::Conflict`] where the name
    /// is taken by other bytes; the same bytes again are no error (and mend an object whose chunks are damaged).
    pub async fn put(&self, id: &PipelineId, version: &VersionName, bytes: Bytes) -> Result<String, StoreError> {
        let name = format!("{id}/{version}");
        let what = || format!("store config {name} in {}", self.stream);
        if bytes.len() > MAX_CONFIG_BYTES {
            let message = format!("{}: {} bytes are more than the {MAX_CONFIG_BYTES} that a config may have", what(), bytes.len());
            return Err(StoreError::new(StoreErrorKind::Unfit(Unfit::TooLarge), message));
        }
        let digest = written(&Sha256::digest(&bytes));
        // Twice, since the metadata may be written by another between our look at it and our own writing.
        for _ in 0..2 {
            let own = meta_subject(&self.bucket, &name);
            let (subject, found) = match self.found(&name).await? {
                Some((meta, message)) => (message.subject, Some((meta, message.sequence))),
                None => (own, None),
            };
            let expected = match found {
                Some((meta, revision)) if !meta.deleted => {
                    let same = self.check(&name, &meta).is_ok_and(|sum| written(&sum) == digest);
                    if !same {
                        let message = format!("{}: the name is taken by another config", what());
                        return Err(StoreError::new(StoreErrorKind::Conflict, message));
                    }
                    match self.get(id, version).await {
                        Ok(_) => return Ok(digest),
                        Err(error) if matches!(error.kind(), StoreErrorKind::Unfit(_)) => revision,
                        Err(error) => return Err(error),
                    }
                }
                Some((_, revision)) => revision,
                None => 0,
            };
            match self.write(&name, &subject, &bytes, (&digest, expected)).await {
                Ok(()) => return Ok(digest),
                Err(failure) if failure.kind() == StoreErrorKind::Conflict => {}
                Err(failure) => return Err(failure.during(what())),
            }
        }
        Err(StoreError::new(StoreErrorKind::Conflict, format!("{}: it is being written by others", what())))
    }

    /// The stored versions of `id`, oldest first. Links and objects without a readable digest are left out.
    pub async fn versions(&self, id: &PipelineId) -> Result<Vec<VersionInfo>, StoreError> {
        let found = self.api.collect(&self.stream, &format!("$O.{}.M.>", self.bucket), Which::Newest).await;
        let found = found.map_err(|failure| failure.during(format!("list the configs of {id} in {}", self.stream)))?;
        let prefix = format!("{id}/");
        let mut versions = Vec::new();
        for message in found {
            let Ok(meta) = serde_json::from_slice::<Meta>(&message.payload) else { continue };
            let Some(version) = meta.name.strip_prefix(&prefix).and_then(|version| VersionName::parse(version).ok()) else { continue };
            let Some(sum) = sum(&meta.digest).filter(|_| !meta.deleted && !meta.is_link()) else { continue };
            // Stored under both encodings of its name: the later one counts.
            versions.retain(|known: &VersionInfo| known.version != version);
            versions.push(VersionInfo { version, digest: written(&sum), size: meta.size, stored: message.time });
        }
        Ok(versions)
    }

    /// The newest metadata of a name, however its subject was encoded.
    async fn newest(&self, name: &str) -> Result<Option<(Meta, u64)>, StoreError> {
        Ok(self.found(name).await?.map(|(meta, message)| (meta, message.sequence)))
    }

    async fn found(&self, name: &str) -> Result<Option<(Meta, Stored)>, StoreError> {
        let last = async |subject: &str| self.api.last(&self.stream, subject).await.map_err(|failure| failure.during(self.reading(name)));
        let mut found = last(&meta_subject(&self.bucket, name)).await?;
        if let Some(subject) = unpadded_subject(&self.bucket, name)
            && let Some(other) = last(&subject).await?
            && found.as_ref().is_none_or(|found| found.sequence < other.sequence)
        {
            found = Some(other);
        }
        let Some(message) = found else { return Ok(None) };
        match serde_json::from_slice::<Meta>(&message.payload) {
            Ok(meta) => Ok(Some((meta, message))),
            Err(error) => Err(self.unfit(name, Unfit::Unreadable, &format!("its metadata does not parse, {error}"))),
        }
    }

    async fn meta(&self, name: &str) -> Result<(Meta, u64), StoreError> {
        let found = self.newest(name).await?.filter(|(meta, _)| !meta.deleted);
        found.ok_or_else(|| StoreError::new(StoreErrorKind::Missing, format!("{}: there is no such object", self.reading(name))))
    }

    /// What can be refused by the metadata alone; gives the SHA-256.
    fn check(&self, name: &str, meta: &Meta) -> Result<[u8; 32], StoreError> {
        if meta.is_link() {
            return Err(self.unfit(name, Unfit::Link, "it is a link"));
        }
        if meta.size > MAX_CONFIG_BYTES as u64 || meta.chunks > MAX_CHUNKS {
            let message = format!("it has {} bytes in {} chunks, more than the {MAX_CONFIG_BYTES} allowed", meta.size, meta.chunks);
            return Err(self.unfit(name, Unfit::TooLarge, &message));
        }
        if !meta.names_chunks() {
            return Err(self.unfit(name, Unfit::Unreadable, "its metadata names no chunks"));
        }
        sum(&meta.digest).ok_or_else(|| self.unfit(name, Unfit::DigestMismatch, "its metadata states no SHA-256 digest"))
    }

    async fn chunks(&self, name: &str, meta: &Meta) -> Result<Bytes, StoreError> {
        let subject = chunk_subject(&self.bucket, &meta.nuid);
        let mut bytes = BytesMut::with_capacity(usize::try_from(meta.size).unwrap_or_default());
        let mut from = 1;
        for _ in 0..meta.chunks {
            let query = json!({ "seq": from, "next_by_subj": subject });
            let chunk = self.api.message(&self.stream, query).await.map_err(|failure| failure.during(self.reading(name)))?;
            let Some(chunk) = chunk else {
                return Err(self.unfit(name, Unfit::DigestMismatch, "some of its chunks are gone"));
            };
            if bytes.len() + chunk.payload.len() > MAX_CONFIG_BYTES {
                return Err(self.unfit(name, Unfit::TooLarge, "its chunks hold more than its metadata says"));
            }
            bytes.extend_from_slice(&chunk.payload);
            from = chunk.sequence + 1;
        }
        Ok(bytes.freeze())
    }

    async fn write(&self, name: &str, meta_subject: &str, bytes: &Bytes, (digest, expected): (&str, u64)) -> Result<(), Failure> {
        let nuid = uuid::Uuid::new_v4().simple().to_string();
        let subject = chunk_subject(&self.bucket, &nuid);
        let chunk = CHUNK.min(self.api.client.max_payload() / 2).max(1024);
        for start in (0..bytes.len()).step_by(chunk) {
            let part = bytes.slice(start..(start + chunk).min(bytes.len()));
            match self.api.publish(&subject, HeaderMap::new(), part).await {
                Err(Failure::NoResponders) => return Err(self.api.absent(&self.stream).await),
                written => written?,
            };
        }
        let now = Timestamp::now().to_string();
        let meta = metadata(&self.bucket, name, &nuid, (bytes.len(), chunk), digest, &now);
        let headers = header("Nats-Rollup", "sub");
        let meta = Bytes::from(meta);
        let written = self.api.publish_expecting(&self.stream, meta_subject, headers, meta, expected).await;
        if written.is_err() {
            let purge = json!({ "filter": subject });
            if let Err(failure) = self.api.call::<serde_json::Value>(&format!("STREAM.PURGE.{}", self.stream), purge).await {
                tracing::debug!(%failure, "could not remove the chunks of a config that was not stored");
            }
        }
        written.map(|_| ())
    }

    fn reading(&self, name: &str) -> String {
        format!("read config {name} in {}", self.stream)
    }

    fn unfit(&self, name: &str, unfit: Unfit, why: &str) -> StoreError {
        StoreError::new(StoreErrorKind::Unfit(unfit), format!("{}: {why}", self.reading(name)))
    }
}
