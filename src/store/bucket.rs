//! A KV bucket by its stream: the part that entries, status and lease share.
//!
//! Every read is answered by the stream's leader and every write is a compare-and-set on the key's newest sequence, so
//! that what a caller decides on is never staler than the hint that woke it, and a stale decision is a `Conflict`.

use super::api::{Api, CONFIRMS, DISCARDS, Failure, Guard, Stored, field, header};
use super::collect::Which;
use super::entries::{Deletion, Operation};
use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use jiff::Timestamp;
use std::time::Duration;

/// A KV bucket.
#[derive(Clone)]
pub(super) struct Bucket {
    api: Api,
    stream: String,
    prefix: String,
}

impl Bucket {
    /// The bucket `name`, which need not exist.
    pub fn new(client: Client, name: &str) -> Self {
        Self { api: Api::new(client), stream: format!("KV_{name}"), prefix: format!("$KV.{name}.") }
    }

    /// The same with another time limit of each call.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.api = self.api.with_timeout(timeout);
        self
    }

    /// The same for one who may not make consumers.
    pub fn without_consumers(mut self) -> Self {
        self.api = self.api.without_consumers();
        self
    }

    /// The same, with a guard that is asked right before each write.
    pub fn guarded(mut self, guard: Guard) -> Self {
        self.api = self.api.guarded(guard);
        self
    }

    /// The stream's name.
    pub fn stream(&self) -> &str {
        &self.stream
    }

    /// The key of a message.
    pub fn key<'a>(&self, message: &'a Stored) -> &'a str {
        message.subject.strip_prefix(&self.prefix).unwrap_or(&message.subject)
    }

    fn subject(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// When the bucket was created.
    pub async fn created(&self) -> Result<Timestamp, Failure> {
        field(&self.api.info(&self.stream).await?, "/created")
    }

    /// The newest message under `key`, markers included.
    pub async fn get(&self, key: &str) -> Result<Option<Stored>, Failure> {
        self.api.last(&self.stream, &self.subject(key)).await
    }

    /// The newest message under every key, markers included.
    pub async fn list(&self) -> Result<Vec<Stored>, Failure> {
        self.api.collect(&self.stream, &self.subject(">"), Which::Newest).await
    }

    /// Every kept message under `key`, oldest first.
    pub async fn history(&self, key: &str) -> Result<Vec<Stored>, Failure> {
        self.api.collect(&self.stream, &self.subject(key), Which::All).await
    }

    /// Puts `value` where the newest revision is `expected`; 0 for no message at all.
    pub async fn put(&self, key: &str, value: Bytes, expected: u64) -> Result<u64, Failure> {
        self.write(key, HeaderMap::new(), value, expected).await
    }

    /// Puts a delete marker, or a purge marker (which removes the key's history too).
    pub async fn mark(&self, key: &str, marker: Operation, expected: u64) -> Result<u64, Failure> {
        let mut headers = header("KV-Operation", if marker == Operation::Purge { "PURGE" } else { "DEL" });
        if marker == Operation::Purge {
            headers.insert("Nats-Rollup", "sub");
        }
        self.write(key, headers, Bytes::new(), expected).await
    }

    /// Puts a delete marker that says more than that the key is gone.
    pub async fn delete(&self, key: &str, deletion: &Deletion, expected: u64) -> Result<u64, Failure> {
        let mut headers = header("KV-Operation", "DEL");
        if let Some(confirms) = deletion.confirms {
            headers.insert(CONFIRMS, confirms.to_string());
        }
        if deletion.discards {
            headers.insert(DISCARDS, "true");
        }
        self.write(key, headers, Bytes::new(), expected).await
    }

    async fn write(&self, key: &str, headers: HeaderMap, value: Bytes, expected: u64) -> Result<u64, Failure> {
        self.api.publish_expecting(&self.stream, &self.subject(key), headers, value, expected).await
    }
}
