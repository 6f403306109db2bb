//! The entries' bucket: reading, compare-and-set writing, history. Read by controllers, written by the CLI only.

use super::api::{Failure, Stored};
use super::bucket::Bucket;
use super::error::StoreError;
use crate::pipeline::first_parent::{Past, effective, is_partial};
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
    /// A marker that the server put by itself: the value lapsed by its own TTL or a limit, or the bucket's stream was purged.
    /// Nobody has decided anything about what it stood for.
    Lapse,
}

impl Operation {
    /// Whether somebody said that the key is to go.
    pub fn deletes(self) -> bool {
        matches!(self, Self::Delete | Self::Purge)
    }
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
    /// Of a marker: when the bucket was created whose entry it deletes, where that is another one than this.
    pub confirms: Option<Timestamp>,
    /// Of a marker: whether what waits in the stream is to be destroyed, whatever `on_delete` says.
    pub discards: bool,
}

/// What a delete marker says besides.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Deletion {
    /// That the entry which was put into the bucket created then is really to go.
    pub confirms: Option<Timestamp>,
    /// That what waits in the stream is to be destroyed.
    pub discards: bool,
}

/// The entries' bucket.
#[derive(Clone)]
pub struct Entries {
    bucket: Bucket,
}

impl Entries {
    pub(super) fn new(client: async_nats::Client, name: &str) -> Self {
        Self { bucket: Bucket::new(client, name) }
    }

    /// The bucket's stream, for a watch.
    pub fn stream(&self) -> &str {
        self.bucket.stream()
    }

    /// The same for one who may not make consumers: listings ask for each message by itself.
    pub fn without_consumers(mut self) -> Self {
        self.bucket = self.bucket.without_consumers();
        self
    }

    /// When the bucket was created. [`super::StoreErrorKind::Missing`] where there is no bucket.
    pub async fn bucket_created(&self) -> Result<Timestamp, StoreError> {
        self.bucket.created().await.map_err(|failure| self.during("look at the entries' bucket", failure))
    }

    /// The newest record of `id`, marker or value; `None` where the bucket holds nothing under the key.
    /// [`super::StoreErrorKind::Missing`] where there is no bucket. Never staler than a watch's hint.
    pub async fn get(&self, id: &PipelineId) -> Result<Option<EntryRecord>, StoreError> {
        let found = self.bucket.get(id.as_str()).await;
        Ok(found.map_err(|failure| self.during(&format!("read entry {id}"), failure))?.map(|message| self.record(message)))
    }

    /// The newest record of every key, markers included, in no order. One consumer for the whole listing, whatever the
    /// number of keys; an empty bucket gives an empty list. Never staler than a watch's hint.
    pub async fn list(&self) -> Result<Vec<EntryRecord>, StoreError> {
        let found = self.bucket.list().await.map_err(|failure| self.during("list the entries", failure))?;
        Ok(found.into_iter().map(|message| self.record(message)).collect())
    }

    /// Writes `value` where the newest revision is `expected` (0: the key must not exist, a marker counts as its own
    /// revision). Returns the new revision. [`super::StoreErrorKind::Conflict`] where somebody was faster.
    pub async fn put(&self, id: &PipelineId, value: Bytes, expected: u64) -> Result<u64, StoreError> {
        let written = self.bucket.put(id.as_str(), value, expected).await;
        written.map_err(|failure| self.during(&format!("write entry {id}"), failure))
    }

    /// Puts a delete marker where the newest revision is `expected`.
    pub async fn delete(&self, id: &PipelineId, deletion: &Deletion, expected: u64) -> Result<(), StoreError> {
        let written = self.bucket.delete(id.as_str(), deletion, expected).await;
        written.map(|_| ()).map_err(|failure| self.during(&format!("delete entry {id}"), failure))
    }

    /// Every kept revision of `id`, oldest first, markers included.
    pub async fn history(&self, id: &PipelineId) -> Result<Vec<EntryRecord>, StoreError> {
        let found = self.bucket.history(id.as_str()).await;
        let found = found.map_err(|failure| self.during(&format!("read the history of entry {id}"), failure))?;
        Ok(found.into_iter().map(|message| self.record(message)).collect())
    }

    /// The entry that counts where `record` is the newest one of `id`: its own value, but where a producer of the first
    /// parent put it over one of ours (see [`crate::pipeline::first_parent`]). `kept` is what counted at a revision
    /// before, where that is known; it saves the look into the history where nothing was put since.
    pub async fn effective(&self, id: &PipelineId, record: &EntryRecord, kept: Option<(&str, u64)>) -> Result<Bytes, StoreError> {
        if !is_partial(&record.value) {
            return Ok(record.value.clone());
        }
        if let Some((entry, _)) = kept.filter(|(_, revision)| *revision == record.revision) {
            return Ok(Bytes::copy_from_slice(entry.as_bytes()));
        }
        let history = self.history(id).await?;
        let past = |record: &EntryRecord| (record.revision, (record.operation == Operation::Put).then(|| record.value.clone()));
        // What lapsed was taken back by nobody.
        let counts = |before: &&EntryRecord| before.revision < record.revision && before.operation != Operation::Lapse;
        let mut past: Vec<_> = history.iter().filter(counts).map(past).collect();
        past.push((record.revision, Some(record.value.clone())));
        let past: Vec<_> = past.iter().map(|(revision, value)| Past { revision: *revision, value: value.as_deref() }).collect();
        Ok(effective(kept, &past).map_or_else(|| record.value.clone(), Bytes::from))
    }

    fn record(&self, message: Stored) -> EntryRecord {
        EntryRecord {
            key: self.bucket.key(&message).to_owned(),
            value: message.payload,
            revision: message.sequence,
            operation: message.operation,
            created: message.time,
            confirms: message.confirms,
            discards: message.discards,
        }
    }

    fn during(&self, what: &str, failure: Failure) -> StoreError {
        failure.during(format!("{what} in {}", self.bucket.stream()))
    }
}
