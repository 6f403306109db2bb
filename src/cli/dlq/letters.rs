//! Dead letters as they lie in their stream: listed by headers alone, read one by one with their payloads, removed.
//!
//! A letter is read by a direct get, since the other way the client keeps only the last of several values of a header; a
//! replica that does not have it (yet) is not believed, the stream's leader is asked.

use super::super::context::Context;
use super::super::facts::{failed, stream_info};
use super::super::failure::{Exit, Failure};
use super::select::LetterName;
use crate::store::Store;
use async_nats::HeaderMap;
use async_nats::jetstream;
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{Info, LastRawMessageErrorKind, Stream};
use bytes::Bytes;
use futures_util::StreamExt;
use jiff::Timestamp;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// A dead letter, without its payload unless it is shown.
#[derive(Debug, Clone, Serialize)]
pub struct Letter {
    /// In the stream of the dead letters.
    pub sequence: u64,
    /// The last token of its subject.
    pub identity: String,
    /// When it became a dead letter.
    pub time: Option<Timestamp>,
    /// Its headers.
    pub headers: BTreeMap<String, String>,
    /// Size of the payload; 0 where that lies in an Object Store.
    pub bytes: u64,
    /// The payload as extended JSON, where it is shown and BSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub document: Option<serde_json::Value>,
    /// The payload, where it is shown and no BSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload_base64: Option<String>,
}

impl Letter {
    /// Of a message on `subject`, which begins with `prefix`.
    pub fn new(prefix: &str, subject: &str, sequence: u64, time: Option<Timestamp>, headers: &HeaderMap) -> Self {
        let mut headers: BTreeMap<String, String> = headers
            .iter()
            .map(|(name, values)| (name.to_string(), values.iter().map(|value| value.as_str()).collect::<Vec<_>>().join(", ")))
            .collect();
        let bytes = headers.remove("Nats-Msg-Size").and_then(|size| size.parse().ok()).unwrap_or(0);
        let identity = subject.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('.')).unwrap_or(subject).to_owned();
        Self { sequence, identity, time, headers, bytes, document: None, payload_base64: None }
    }

    /// A header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// The stream of the dead letters, as far as it concerns one pipeline.
pub struct Letters {
    stream: Stream<()>,
    prefix: String,
    /// The stream as it is.
    pub info: Info,
}

impl Letters {
    /// `None` where the stream was never needed. `prefix` is the subject of the pipeline's letters without the identity.
    pub async fn open(context: &Context, store: &Store, prefix: String) -> Result<Option<Self>, Failure> {
        let name = context.settings.names().dead_letters();
        let Some(info) = stream_info(store, &name).await? else { return Ok(None) };
        let jetstream = jetstream::new(store.client.clone());
        let stream = jetstream.get_stream_no_info(&name).await.map_err(|error| failed("read the dead letters", &error))?;
        Ok(Some(Self { stream, prefix, info }))
    }

    /// Hands every letter to `take`, oldest first, without payloads: one short-lived consumer that reads headers only.
    pub async fn each(&self, mut take: impl FnMut(Letter)) -> Result<(), Failure> {
        let doing = "read the dead letters";
        let config = pull::Config {
            filter_subject: format!("{}.>", self.prefix),
            headers_only: true,
            ack_policy: AckPolicy::None,
            inactive_threshold: Duration::from_secs(30),
            memory_storage: true,
            ..pull::Config::default()
        };
        let consumer = self.stream.create_consumer(config).await.map_err(|error| failed(doing, &error))?;
        let mut left = consumer.cached_info().num_pending;
        while left > 0 {
            let mut batch = consumer.fetch().max_messages(500).messages().await.map_err(|error| failed(doing, &error))?;
            let before = left;
            while let Some(message) = batch.next().await {
                let message = message.map_err(|error| failed(doing, &error))?;
                let info = message.info().map_err(|error| failed(doing, &error))?;
                left = info.pending;
                let empty = HeaderMap::new();
                let headers = message.headers.as_ref().unwrap_or(&empty);
                let time = Timestamp::from_nanosecond(info.published.unix_timestamp_nanos()).ok();
                take(Letter::new(&self.prefix, &message.subject, info.stream_sequence, time, headers));
            }
            if left == before {
                break; // Removed meanwhile: what was counted does not come any more.
            }
        }
        // It would also go by itself after its inactivity threshold.
        let _ = self.stream.delete_consumer(&consumer.cached_info().name).await;
        Ok(())
    }

    /// One letter of this pipeline with its payload, as it is stored; `None` where there is none (any more).
    pub async fn find(&self, name: &LetterName) -> Result<Option<StreamMessage>, Failure> {
        let subject = |identity: &str| format!("{}.{identity}", self.prefix);
        let direct = match name {
            LetterName::Sequence(sequence) => self.stream.direct_get(*sequence).await,
            LetterName::Identity(identity) => self.stream.direct_get_last_for_subject(subject(identity)).await,
        };
        let found = match direct {
            Ok(message) => Some(message),
            Err(_) => {
                let asked = match name {
                    LetterName::Sequence(sequence) => self.stream.get_raw_message(*sequence).await,
                    LetterName::Identity(identity) => self.stream.get_last_raw_message_by_subject(&subject(identity)).await,
                };
                match asked {
                    Ok(message) => Some(message),
                    Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => None,
                    Err(error) => return Err(failed("read the dead letter", &error)),
                }
            }
        };
        Ok(found.filter(|message| message.subject.strip_prefix(&self.prefix).is_some_and(|rest| rest.starts_with('.'))))
    }

    /// The letter that a message is.
    pub fn letter(&self, message: &StreamMessage) -> Letter {
        let time = Timestamp::from_nanosecond(message.time.unix_timestamp_nanos()).ok();
        let letter = Letter::new(&self.prefix, &message.subject, message.sequence, time, &message.headers);
        Letter { bytes: message.payload.len() as u64, ..letter }
    }

    /// Whether a letter with this identity is there now; the stream's leader says.
    pub async fn is_there(&self, identity: &str) -> Result<bool, Failure> {
        match self.stream.get_last_raw_message_by_subject(&format!("{}.{identity}", self.prefix)).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(false),
            Err(error) => Err(failed("look for a dead letter", &error)),
        }
    }

    /// Removes the letter with this very sequence: one that came after it under the same identity stays. `false` where it
    /// was gone already.
    pub async fn delete(&self, sequence: u64) -> Result<bool, Failure> {
        let Err(error) = self.stream.delete_message(sequence).await else { return Ok(true) };
        match self.stream.get_raw_message(sequence).await {
            Err(gone) if gone.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(false),
            _ => Err(failed(&format!("remove the dead letter {sequence}"), &error)),
        }
    }
}

/// The original bytes of a dead letter: its own payload, or the object that it names.
pub async fn payload(store: &Store, message: &StreamMessage) -> Result<Bytes, Failure> {
    match object_of(message)? {
        Some(object) => Ok(store.payloads.get(object).await?),
        None => Ok(message.payload.clone()),
    }
}

/// The name of the object that holds the payload of a letter which could not: the letter's own identity. Another object is
/// never read or removed, whatever a header says.
pub fn object_of(message: &StreamMessage) -> Result<Option<&str>, Failure> {
    let Some(named) = message.headers.get("Sluice-Object") else { return Ok(None) };
    let identity = message.subject.rsplit('.').next().unwrap_or_default();
    if named.as_str().rsplit_once('/').is_some_and(|(_, name)| name == identity) {
        return Ok(Some(identity));
    }
    let message = format!("the dead letter {} names an object that is not its own; it was not written by sluice", message.sequence);
    Err(Failure::new(Exit::Invalid, message))
}
