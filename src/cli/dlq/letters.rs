//! Dead letters as they lie in their stream: listed, read one by one with their payloads, removed. All by requests that the
//! stream's leader answers, without consumers and direct gets, which would be more than a right to read
//! ([`crate::store::letters`]).

use super::super::context::Context;
use super::super::facts::{failed, stream_info};
use super::super::failure::{Exit, Failure};
use super::select::LetterName;
use crate::store::{LetterStream, Store};
use async_nats::HeaderMap;
use async_nats::jetstream;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{Info, LastRawMessageErrorKind, Stream};
use bytes::Bytes;
use jiff::Timestamp;
use serde::Serialize;
use std::collections::BTreeMap;

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
    letters: LetterStream,
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
        Ok(Some(Self { stream, letters: store.letters.clone(), prefix, info }))
    }

    /// Hands every letter to `take`, oldest first, without payloads.
    pub async fn each(&self, take: impl FnMut(Letter)) -> Result<(), Failure> {
        let found = self.letters.each(&format!("{}.>", self.prefix), |message| self.letter(&message)).await;
        let mut found = found?;
        found.sort_by_key(|letter| letter.sequence);
        found.into_iter().for_each(take);
        Ok(())
    }

    /// One letter of this pipeline with its payload, as it is stored; `None` where there is none (any more).
    pub async fn find(&self, name: &LetterName) -> Result<Option<StreamMessage>, Failure> {
        let found = match name {
            LetterName::Sequence(sequence) => self.letters.at(*sequence).await?,
            LetterName::Identity(identity) => self.letters.last(&format!("{}.{identity}", self.prefix)).await?,
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
        Ok(self.letters.last(&format!("{}.{identity}", self.prefix)).await?.is_some())
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
