//! The status bucket: one document a pipeline, written by the holder only, and the installation's uuid.

use super::api::{Failure, Guard, Stored};
use super::bucket::Bucket;
use super::entries::Operation;
use super::error::{StoreError, StoreErrorKind, Unfit};
use crate::pipeline::{id::PipelineId, status::PipelineStatus};
use crate::telemetry::first::{Said, Say};
use bytes::Bytes;
use std::sync::Arc;

/// A status document with its revision.
#[derive(Debug, Clone, PartialEq)]
pub struct StatusRecord {
    /// The document.
    pub status: PipelineStatus,
    /// Its revision in the bucket.
    pub revision: u64,
}

/// What the headers of a write may take of `max_payload`.
const HEADERS: usize = 1024;

/// The key of the installation's uuid, which is no pipeline id.
const INSTALLATION: &str = "_installation";

/// The status bucket.
#[derive(Clone)]
pub struct StatusStore {
    bucket: Bucket,
    client: async_nats::Client,
    unreadable: Arc<Said>,
}

impl StatusStore {
    pub(super) fn new(client: async_nats::Client, name: &str) -> Self {
        Self { bucket: Bucket::new(client.clone(), name), client, unreadable: Arc::default() }
    }

    /// The same for one who may not make consumers: listings ask for each message by itself.
    pub fn without_consumers(mut self) -> Self {
        self.bucket = self.bucket.without_consumers();
        self
    }

    /// The same, with a guard that is asked right before each write.
    pub fn guarded(mut self, guard: Guard) -> Self {
        self.bucket = self.bucket.guarded(guard);
        self
    }

    /// The bucket's stream, for a watch.
    pub fn stream(&self) -> &str {
        self.bucket.stream()
    }

    /// When the bucket was created: another time means another bucket.
    pub async fn bucket_created(&self) -> Result<jiff::Timestamp, StoreError> {
        self.bucket.created().await.map_err(|failure| self.during("read the bucket's creation time", failure))
    }

    /// The installation's uuid; made and stored under `_installation` by whoever is first.
    pub async fn installation(&self) -> Result<uuid::Uuid, StoreError> {
        let what = "read the installation's uuid";
        let made = uuid::Uuid::new_v4();
        // Twice, since another may be first between our reading and our writing.
        for _ in 0..2 {
            let found = self.bucket.get(INSTALLATION).await.map_err(|failure| self.during(what, failure))?;
            if let Some(message) = found.as_ref().filter(|message| message.operation == Operation::Put) {
                let text = std::str::from_utf8(&message.payload).unwrap_or_default();
                return text
                    .trim()
                    .parse()
                    .map_err(|error: uuid::Error| StoreError::caused(StoreErrorKind::Unfit(Unfit::Unreadable), what, error));
            }
            let expected = found.map_or(0, |marker| marker.sequence);
            match self.bucket.put(INSTALLATION, Bytes::from(made.to_string()), expected).await {
                Ok(_) => return Ok(made),
                Err(failure) if failure.kind() == StoreErrorKind::Conflict => {}
                Err(failure) => return Err(self.during(what, failure)),
            }
        }
        Err(StoreError::new(StoreErrorKind::Conflict, what))
    }

    /// The status of `id`; `None` where there is none or it was deleted. A document that does not parse is `Unfit(Unreadable)`.
    pub async fn get(&self, id: &PipelineId) -> Result<Option<StatusRecord>, StoreError> {
        let what = || format!("read the status of {id}");
        let found = self.bucket.get(id.as_str()).await.map_err(|failure| self.during(&what(), failure))?;
        let Some(message) = found.filter(|message| message.operation == Operation::Put) else { return Ok(None) };
        let record = parse(id.as_str(), &message);
        record.map(Some).map_err(|error| StoreError::caused(StoreErrorKind::Unfit(Unfit::Unreadable), what(), error))
    }

    /// Whether the newest record under `id` says that its status was removed, which nobody does but the holder, at the end
    /// of a deletion.
    pub async fn removed(&self, id: &PipelineId) -> Result<bool, StoreError> {
        let found = self.bucket.get(id.as_str()).await.map_err(|failure| self.during(&format!("read the status of {id}"), failure))?;
        Ok(found.is_some_and(|message| message.operation.deletes()))
    }

    /// All status documents; those that do not parse are logged once and left out.
    pub async fn list(&self) -> Result<Vec<StatusRecord>, StoreError> {
        let found = self.bucket.list().await.map_err(|failure| self.during("list the status", failure))?;
        let mut records = Vec::with_capacity(found.len());
        for message in found.iter().filter(|message| message.operation == Operation::Put) {
            let key = self.bucket.key(message);
            if key == INSTALLATION {
                continue;
            }
            match parse(key, message) {
                Ok(record) => records.push(record),
                Err(error) => match self.unreadable.first(&format!("{} {key}", message.sequence)) {
                    Say::It => tracing::warn!(key, error, "left out an unreadable status"),
                    Say::More => tracing::warn!("further unreadable statuses are left out and not named"),
                    Say::Nothing => {}
                },
            }
        }
        Ok(records)
    }

    /// The newest revision under `id`, be it a document, readable or not, or a marker; 0 for none: what [`Self::put`]
    /// needs to replace a document that cannot be read.
    pub async fn revision(&self, id: &PipelineId) -> Result<u64, StoreError> {
        let found = self.bucket.get(id.as_str()).await;
        let found = found.map_err(|failure| self.during(&format!("read the status of {id}"), failure))?;
        Ok(found.map_or(0, |message| message.sequence))
    }

    /// Writes the document where the newest revision is `expected` (0 for none; after a deletion too). Returns the new
    /// revision. `Conflict` where somebody else wrote; `Refused` where it is larger than the server takes.
    pub async fn put(&self, status: &PipelineStatus, expected: u64) -> Result<u64, StoreError> {
        let id = &status.id;
        let what = || format!("write the status of {id}");
        let document = serde_json::to_vec(status).map_err(|error| StoreError::caused(StoreErrorKind::Refused, what(), error))?;
        let most = self.client.max_payload().saturating_sub(HEADERS);
        if document.len() > most {
            let message = format!(
                "{}: it has {} bytes, more than max_payload of the server takes ({most}); raise that, or shorten the entry",
                what(),
                document.len()
            );
            return Err(StoreError::new(StoreErrorKind::Refused, message));
        }
        let document = Bytes::from(document);
        let conflict = match self.bucket.put(id.as_str(), document.clone(), expected).await {
            Err(failure) if expected == 0 && failure.kind() == StoreErrorKind::Conflict => failure,
            written => return written.map_err(|failure| self.during(&what(), failure)),
        };
        match self.bucket.get(id.as_str()).await.map_err(|failure| self.during(&what(), failure))? {
            Some(marker) if marker.operation != Operation::Put => {
                let written = self.bucket.put(id.as_str(), document, marker.sequence).await;
                written.map_err(|failure| self.during(&what(), failure))
            }
            _ => Err(self.during(&what(), conflict)),
        }
    }

    /// Removes the document (purge: a status has no history worth keeping).
    pub async fn delete(&self, id: &PipelineId, expected: u64) -> Result<(), StoreError> {
        let written = self.bucket.mark(id.as_str(), Operation::Purge, expected).await;
        written.map(|_| ()).map_err(|failure| self.during(&format!("delete the status of {id}"), failure))
    }

    fn during(&self, what: &str, failure: Failure) -> StoreError {
        failure.during(format!("{what} in {}", self.bucket.stream()))
    }
}

fn parse(key: &str, message: &Stored) -> Result<StatusRecord, String> {
    let status: PipelineStatus = serde_json::from_slice(&message.payload).map_err(|error| error.to_string())?;
    if status.id.as_str() != key {
        return Err(format!("the document under {key} is another pipeline's"));
    }
    Ok(StatusRecord { status, revision: message.sequence })
}
