//! The Object Store of payloads that are too large for a dead letter: read and removed here, written by the collector.
//!
//! Read like configs, metadata first and then chunk by chunk, since a consumer for each object would use up those that a
//! stream may have. Nothing is handed out whose digest is not what the metadata says. The CLI calls it.

use super::api::Api;
use super::error::{StoreError, StoreErrorKind, Unfit};
use crate::pipeline::object::{CHUNK, Meta, chunk_subject, meta_subject, metadata, written};
use async_nats::{Client, HeaderMap};
use bytes::{Bytes, BytesMut};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// The largest payload that is read, in bytes: what a server may be set to take as one message.
const MAX_BYTES: u64 = 64 << 20;

/// The Object Store.
#[derive(Clone)]
pub struct Payloads {
    api: Api,
    bucket: String,
    stream: String,
}

impl Payloads {
    pub(super) fn new(client: Client, bucket: &str) -> Self {
        Self { api: Api::new(client), bucket: bucket.to_owned(), stream: format!("OBJ_{bucket}") }
    }

    /// The payload under `name`, at most 64 MiB.
    ///
    /// Errors: [`StoreErrorKind::Missing`] where there is none (or no bucket); `Unfit` where it is too large, a link or
    /// damaged; `Unavailable`.
    pub async fn get(&self, name: &str) -> Result<Bytes, StoreError> {
        let meta = self.meta(name).await?;
        let Some(meta) = meta.filter(|meta| !meta.deleted) else {
            return Err(StoreError::new(StoreErrorKind::Missing, format!("{}: there is no such object", self.reading(name))));
        };
        if meta.is_link() {
            return Err(self.unfit(name, Unfit::Link, "it is a link"));
        }
        if meta.size > MAX_BYTES || meta.chunks > MAX_BYTES / 1024 {
            return Err(self.unfit(name, Unfit::TooLarge, &format!("it has {} bytes in {} chunks", meta.size, meta.chunks)));
        }
        if !meta.names_chunks() {
            return Err(self.unfit(name, Unfit::Unreadable, "its metadata names no chunks"));
        }
        let mut bytes = BytesMut::with_capacity(usize::try_from(meta.size).unwrap_or_default());
        let mut from = 1;
        for _ in 0..meta.chunks {
            let query = json!({ "seq": from, "next_by_subj": chunk_subject(&self.bucket, &meta.nuid) });
            let chunk = self.api.message(&self.stream, query).await.map_err(|failure| failure.during(self.reading(name)))?;
            let Some(chunk) = chunk.filter(|chunk| (bytes.len() + chunk.payload.len()) as u64 <= meta.size) else {
                return Err(self.unfit(name, Unfit::DigestMismatch, "its chunks are not what its metadata says"));
            };
            bytes.extend_from_slice(&chunk.payload);
            from = chunk.sequence + 1;
        }
        let digest = written(&Sha256::digest(&bytes));
        if meta.digest.trim_end_matches('=') != digest.trim_end_matches('=') {
            return Err(self.unfit(name, Unfit::DigestMismatch, "its bytes do not have its digest"));
        }
        Ok(bytes.freeze())
    }

    /// Removes the payload under `name` with its chunks; none is no error.
    pub async fn remove(&self, name: &str) -> Result<(), StoreError> {
        let what = || format!("remove the payload {name} from {}", self.stream);
        let Some(meta) = self.meta(name).await? else { return Ok(()) };
        for subject in [chunk_subject(&self.bucket, &meta.nuid), meta_subject(&self.bucket, name)] {
            let purge = json!({ "filter": subject });
            let purged = self.api.call::<Value>(&format!("STREAM.PURGE.{}", self.stream), purge).await;
            purged.map_err(|failure| failure.during(what()))?;
        }
        Ok(())
    }

    /// Puts back a payload that was removed while a dead letter came to need it.
    pub async fn restore(&self, name: &str, payload: &Bytes) -> Result<(), StoreError> {
        let what = || format!("put the payload {name} back into {}", self.stream);
        let nuid = uuid::Uuid::new_v4().simple().to_string();
        let subject = chunk_subject(&self.bucket, &nuid);
        for start in (0..payload.len()).step_by(CHUNK) {
            let part = payload.slice(start..(start + CHUNK).min(payload.len()));
            self.api.publish(&subject, HeaderMap::new(), part).await.map_err(|failure| failure.during(what()))?;
        }
        let (digest, now) = (written(&Sha256::digest(payload)), jiff::Timestamp::now().to_string());
        let meta = metadata(&self.bucket, name, &nuid, (payload.len(), CHUNK), &digest, &now);
        let headers = super::api::header("Nats-Rollup", "sub");
        let put = self.api.publish(&meta_subject(&self.bucket, name), headers, Bytes::from(meta)).await;
        put.map(|_| ()).map_err(|failure| failure.during(what()))
    }

    async fn meta(&self, name: &str) -> Result<Option<Meta>, StoreError> {
        let found = match self.api.last(&self.stream, &meta_subject(&self.bucket, name)).await {
            Ok(found) => found,
            Err(failure) if failure.kind() == StoreErrorKind::Missing => None,
            Err(failure) => return Err(failure.during(self.reading(name))),
        };
        let Some(message) = found else { return Ok(None) };
        let meta = serde_json::from_slice(&message.payload);
        meta.map(Some).map_err(|error| self.unfit(name, Unfit::Unreadable, &format!("its metadata does not parse, {error}")))
    }

    fn reading(&self, name: &str) -> String {
        format!("read the payload {name} in {}", self.stream)
    }

    fn unfit(&self, name: &str, unfit: Unfit, why: &str) -> StoreError {
        StoreError::new(StoreErrorKind::Unfit(unfit), format!("{}: {why}", self.reading(name)))
    }
}
