//! Stores the payloads that a dead letter cannot hold as objects, under their identity.
//!
//! Written by hand: the client library reads by direct gets, which whoever may write here must not have (they answer with
//! the bytes as they were stored, wherever the asker says). The bucket is made by the controller, or by `sluice publish`.

use super::{DeadLetterError, unavailable};
use crate::pipeline::jetstream::told;
use crate::pipeline::object::{CHUNK, Meta, chunk_subject, meta_subject, metadata, written};
use async_nats::{Client, HeaderMap, Request, RequestErrorKind};
use bytes::Bytes;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::time::Duration;

/// How long all of it may take.
const TIMEOUT: Duration = Duration::from_secs(60);
/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// The bucket holds nothing under this name: an answer, not a failure.
const NO_MESSAGE_FOUND: u64 = 10037;

/// The Object Store of the payloads.
#[derive(Debug, Clone)]
pub(super) struct Objects {
    nats: Client,
    bucket: String,
}

impl Objects {
    pub fn new(nats: Client, bucket: &str) -> Self {
        Self { nats, bucket: bucket.to_owned() }
    }

    /// The bucket's name.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// Stores `payload` under `identity`, unless it is there.
    pub async fn put(&self, identity: &str, payload: &Bytes) -> Result<(), DeadLetterError> {
        let stored = tokio::time::timeout(TIMEOUT, async {
            match self.is_there(identity, payload.len()).await? {
                true => Ok(()),
                false => self.write(identity, payload).await,
            }
        });
        stored.await.unwrap_or_else(|_| Err(unavailable(format!("the bucket {} does not answer", self.bucket))))
    }

    /// The identity comes from the message: what has its name and size is this payload.
    async fn is_there(&self, identity: &str, size: usize) -> Result<bool, DeadLetterError> {
        let query = json!({ "last_by_subj": meta_subject(&self.bucket, identity) });
        let subject = format!("$JS.API.STREAM.MSG.GET.OBJ_{}", self.bucket);
        let answer = match self.request(subject, HeaderMap::new(), query.to_string().into()).await {
            Err(Refused::Answer(NO_MESSAGE_FOUND, _)) => return Ok(false),
            answer => answer.map_err(|refused| self.error(&refused))?,
        };
        let data = answer["message"]["data"].as_str().unwrap_or_default();
        let meta = crate::pipeline::object::decoded(data).and_then(|json| serde_json::from_slice::<Meta>(&json).ok());
        Ok(meta.is_some_and(|meta| !meta.deleted && meta.name == identity && meta.size == size as u64))
    }

    async fn write(&self, identity: &str, payload: &Bytes) -> Result<(), DeadLetterError> {
        let nuid = uuid::Uuid::new_v4().simple().to_string();
        let chunk = CHUNK.min(self.nats.max_payload() / 2).max(1024);
        for start in (0..payload.len()).step_by(chunk) {
            let part = payload.slice(start..(start + chunk).min(payload.len()));
            let put = self.request(chunk_subject(&self.bucket, &nuid), HeaderMap::new(), part).await;
            put.map_err(|refused| self.error(&refused))?;
        }
        let (digest, now) = (written(&Sha256::digest(payload)), jiff::Timestamp::now().to_string());
        let meta = metadata(&self.bucket, identity, &nuid, (payload.len(), chunk), &digest, &now);
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Rollup", "sub");
        let put = self.request(meta_subject(&self.bucket, identity), headers, Bytes::from(meta)).await;
        put.map(|_| ()).map_err(|refused| self.error(&refused))
    }

    async fn request(&self, subject: String, headers: HeaderMap, payload: Bytes) -> Result<Value, Refused> {
        let request = Request::new().headers(headers).payload(payload).timeout(Some(REQUEST_TIMEOUT));
        let reply = self.nats.send_request(subject, request).await.map_err(|error| match error.kind() {
            RequestErrorKind::NoResponders => Refused::Nobody,
            _ => Refused::Failed(error.to_string()),
        })?;
        let answer: Value = serde_json::from_slice(&reply.payload).map_err(|error| Refused::Failed(error.to_string()))?;
        match answer.get("error") {
            None => Ok(answer),
            Some(error) => {
                let description = error["description"].as_str().unwrap_or_default().to_owned();
                Err(Refused::Answer(error["err_code"].as_u64().unwrap_or_default(), description))
            }
        }
    }

    fn error(&self, refused: &Refused) -> DeadLetterError {
        let bucket = &self.bucket;
        match refused {
            Refused::Nobody => unavailable(format!("nobody answers for the bucket {bucket}: it is made again by the controller")),
            Refused::Failed(why) => unavailable(format!("cannot store the payload in {bucket}: {why}")),
            Refused::Answer(code, why) => unavailable(format!("cannot store the payload in {bucket}: {}", told(why, *code))),
        }
    }
}

/// Why a request came to nothing.
enum Refused {
    /// No stream listens there.
    Nobody,
    /// No answer, or none that is understood.
    Failed(String),
    /// The server's error code, and its words.
    Answer(u64, String),
}
