//! Dead letters: messages that cannot be stored, kept with their reason in a stream of their own.
//!
//! One subject for each identity, published on the condition that it is empty: a second copy is refused, and where the first
//! one can be read, that counts as stored. (A leader that is cut off from its cluster refuses as well, for the sake of a copy
//! that it has only taken in, and that is gone when another one leads.) Nothing is published that the server might find too large, since it would cut the connection that all
//! pipelines share: such a payload goes to an Object Store first, and the dead letter names it. Called by the driver.

mod objects;

use super::headers;
use crate::pipeline::jetstream::told;
use async_nats::{HeaderMap, HeaderName, Message, Request, RequestErrorKind};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use jiff::Timestamp;
use objects::Objects;
use serde::Deserialize;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

/// How long the server may take to store a dead letter.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(5);
/// What is left free of `max_payload`.
const MARGIN: usize = 1024;
/// The longest detail, in bytes.
const LONGEST_DETAIL: usize = 1000;

/// The subject is not empty: 10071 and, of later servers, 10164.
const WRONG_LAST_SEQUENCE: [u64; 2] = [10071, 10164];
/// "store failed": the stream is full, or the subject is; only the text would tell.
const STORE_FAILED: u64 = 10077;
/// The stream has a `max_msg_size`.
const MESSAGE_TOO_LARGE: u64 = 10054;
/// The account or the server has no room: 10002, 10023, 10028, 10047.
const NO_ROOM: [u64; 4] = [10002, 10023, 10028, 10047];

/// Why a message is a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The payload is not one valid BSON document.
    NotBson,
    /// MongoDB refuses this document (a validator, a missing time field, an invalid key …).
    Refused,
    /// Another document with this `_id`, or with this value of another unique index, is stored.
    DuplicateId,
    /// Larger than MongoDB stores.
    TooLarge,
    /// Larger than a time-series collection stores.
    MeasurementTooLarge,
    /// A measurement with two fields of one name.
    FieldTwice,
    /// MongoDB refused it alone, repeatedly, for a reason that is not known to be about documents.
    Unknown,
}

impl Reason {
    /// The word in the header `Sluice-Reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotBson => "not_bson",
            Self::Refused => "refused",
            Self::DuplicateId => "duplicate_id",
            Self::TooLarge => "too_large",
            Self::MeasurementTooLarge => "measurement_too_large",
            Self::FieldTwice => "field_twice",
            Self::Unknown => "unknown",
        }
    }
}

/// A message that cannot be stored.
#[derive(Debug)]
pub struct Poison<'a> {
    /// The message as it was delivered.
    pub message: &'a Message,
    /// Its identity, in hex: the last token of the dead letter's subject.
    pub identity: &'a str,
    /// Why.
    pub reason: Reason,
    /// The server's error code.
    pub code: Option<i32>,
    /// For people.
    pub detail: &'a str,
    /// The pipeline.
    pub pipeline: &'a str,
    /// The config's version.
    pub version: &'a str,
    /// The stream that it came from.
    pub stream: &'a str,
    /// Its sequence there.
    pub sequence: u64,
    /// When it was published, nanoseconds since the epoch.
    pub published_ns: u64,
    /// How often it was tried.
    pub attempts: u64,
    /// Whether it was a redelivery.
    pub redelivered: bool,
}

/// What came of storing a dead letter. Either way it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// It is new.
    New,
    /// It was there already.
    AlreadyThere,
}

/// What to do about a dead letter that could not be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeadLetterErrorKind {
    /// The stream (or the account) is full: keep the message until somebody makes room.
    Full,
    /// No answer, no connection: try again.
    Unavailable,
    /// The server refuses for another reason.
    Refused,
}

/// Why a dead letter could not be stored.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct DeadLetterError {
    /// What to do about it.
    pub kind: DeadLetterErrorKind,
    /// For people.
    pub message: String,
}

/// The dead letters of one pipeline.
#[derive(Debug, Clone)]
pub struct DeadLetters {
    nats: async_nats::Client,
    stream: String,
    prefix: String,
    objects: Objects,
}

#[derive(Debug, Deserialize)]
struct Answer {
    error: Option<Refusal>,
    stream: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Refusal {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

impl DeadLetters {
    /// `stream` exists; `prefix` is the subject without the identity; `objects` is the bucket for payloads that a dead
    /// letter cannot hold.
    pub fn new(nats: async_nats::Client, stream: &str, prefix: &str, objects: &str) -> Self {
        let objects = Objects::new(nats.clone(), objects);
        Self { nats, stream: stream.to_owned(), prefix: prefix.to_owned(), objects }
    }

    /// Stores a dead letter; returns once the stream has acknowledged it. Storing one twice is harmless.
    pub async fn store(&self, poison: &Poison<'_>) -> Result<Stored, DeadLetterError> {
        let room = self.nats.max_payload().saturating_sub(MARGIN);
        let mut headers = describe(poison, &self.stream, room / 2);
        let payload = &poison.message.payload;
        if wire_length(&headers) + payload.len() <= room {
            match self.publish(poison.identity, headers.clone(), payload.clone()).await? {
                Ok(stored) => return Ok(stored),
                // The stream takes smaller messages than the server: by reference, then.
                Err(refusal) if refusal.err_code == MESSAGE_TOO_LARGE => {}
                Err(refusal) => return Err(refused(&refusal)),
            }
        }
        // The object first: a dead letter never names one that is not there.
        self.objects.put(poison.identity, payload).await?;
        headers.insert("Sluice-Object", format!("{}/{}", self.objects.bucket(), poison.identity));
        match self.publish(poison.identity, headers, Bytes::new()).await? {
            Ok(stored) => Ok(stored),
            // The original's headers alone are too large, then: better a dead letter without them than none.
            Err(refusal) if refusal.err_code == MESSAGE_TOO_LARGE => {
                let mut headers = describe(poison, &self.stream, 0);
                headers.insert("Sluice-Object", format!("{}/{}", self.objects.bucket(), poison.identity));
                let published = self.publish(poison.identity, headers, Bytes::new()).await?;
                published.map_err(|refusal| refused(&refusal))
            }
            Err(refusal) => Err(refused(&refusal)),
        }
    }

    /// The identities that have dead letters.
    pub(super) async fn identities(&self) -> Result<HashSet<String>, DeadLetterError> {
        #[derive(Deserialize)]
        struct Info {
            error: Option<Refusal>,
            state: Option<State>,
        }
        #[derive(Deserialize)]
        struct State {
            #[serde(default)]
            subjects: HashMap<String, u64>,
        }
        let mut found = HashSet::new();
        loop {
            let body = serde_json::json!({ "subjects_filter": format!("{}.*", self.prefix), "offset": found.len() }).to_string();
            let asked = self.nats.request(format!("$JS.API.STREAM.INFO.{}", self.stream), body.into());
            let reply = tokio::time::timeout(PUBLISH_TIMEOUT, asked).await.map_err(|_| unavailable("JetStream does not answer"))?;
            let reply = reply.map_err(|error| unavailable(error.to_string()))?;
            let info: Info = serde_json::from_slice(&reply.payload).map_err(|error| unavailable(error.to_string()))?;
            if let Some(refusal) = info.error {
                return Err(refused(&refusal));
            }
            let before = found.len();
            let subjects = info.state.map(|state| state.subjects).unwrap_or_default();
            found.extend(subjects.into_keys().filter_map(|subject| Some(subject.rsplit_once('.')?.1.to_owned())));
            // The server answers a page at a time; the last one brings nothing new.
            if found.len() == before {
                return Ok(found);
            }
        }
    }

    async fn publish(&self, identity: &str, headers: HeaderMap, payload: Bytes) -> Result<Result<Stored, Refusal>, DeadLetterError> {
        let subject = format!("{}.{identity}", self.prefix);
        let request = Request::new().headers(headers).payload(payload).timeout(Some(PUBLISH_TIMEOUT));
        // Around it all: without a connection the client's own queue may be full.
        let sent = tokio::time::timeout(PUBLISH_TIMEOUT, self.nats.send_request(subject.clone(), request));
        let reply = sent.await.map_err(|_| unavailable("the dead letters' stream does not answer"))?;
        let reply = reply.map_err(|error| match error.kind() {
            RequestErrorKind::NoResponders => unavailable(format!("no stream listens on {subject}")),
            _ => unavailable(error.to_string()),
        })?;
        let answer: Answer = serde_json::from_slice(&reply.payload)
            .map_err(|error| failure(DeadLetterErrorKind::Refused, format!("the answer is not understood: {error}")))?;
        match answer {
            Answer { error: None, stream: Some(stream) } if stream == self.stream => Ok(Ok(Stored::New)),
            Answer { error: None, .. } => {
                Err(failure(DeadLetterErrorKind::Refused, format!("another stream than {} answered for {subject}", self.stream)))
            }
            Answer { error: Some(refusal), .. } => {
                let occupied = WRONG_LAST_SEQUENCE.contains(&refusal.err_code);
                if (occupied || refusal.err_code == STORE_FAILED) && self.exists(&subject).await? {
                    Ok(Ok(Stored::AlreadyThere))
                } else if occupied {
                    Err(unavailable("a copy of the dead letter is on its way, and not yet stored"))
                } else {
                    Ok(Err(refusal))
                }
            }
        }
    }

    /// Whether there is a message on `subject`.
    async fn exists(&self, subject: &str) -> Result<bool, DeadLetterError> {
        let body = serde_json::json!({ "last_by_subj": subject }).to_string();
        let asked = self.nats.request(format!("$JS.API.STREAM.MSG.GET.{}", self.stream), body.into());
        let reply = tokio::time::timeout(PUBLISH_TIMEOUT, asked).await.map_err(|_| unavailable("JetStream does not answer"))?;
        let reply = reply.map_err(|error| unavailable(error.to_string()))?;
        let answer: serde_json::Value = serde_json::from_slice(&reply.payload).map_err(|error| unavailable(error.to_string()))?;
        Ok(answer.get("message").is_some())
    }
}

/// The headers of a dead letter. The original's are left out, and that is said, where they alone measure more than
/// `longest`; lines of them that cannot be read are there as they came, in base64.
fn describe(poison: &Poison<'_>, stream: &str, longest: usize) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Expected-Stream", stream);
    headers.insert("Nats-Expected-Last-Subject-Sequence", "0");
    headers.insert("Sluice-Reason", poison.reason.as_str());
    if let Some(code) = poison.code {
        headers.insert("Sluice-Code", code.to_string());
    }
    headers.insert("Sluice-Detail", line(poison.detail));
    headers.insert("Sluice-Pipeline", poison.pipeline);
    headers.insert("Sluice-Version", poison.version);
    headers.insert("Sluice-Stream", poison.stream);
    headers.insert("Sluice-Subject", poison.message.subject.as_str());
    headers.insert("Sluice-Sequence", poison.sequence.to_string());
    headers.insert("Sluice-Time", rfc3339(poison.published_ns));
    headers.insert("Sluice-Attempts", poison.attempts.to_string());
    headers.insert("Sluice-Redelivered", poison.redelivered.to_string());
    let Some(originals) = &poison.message.headers else { return headers };
    let unreadable = STANDARD.encode(headers::raw(originals));
    let measure = wire_length(originals) + unreadable.len();
    if measure > longest {
        headers.insert("Sluice-Original-Omitted", measure.to_string());
        return headers;
    }
    if !unreadable.is_empty() {
        headers.insert("Sluice-Unreadable-Headers", unreadable);
    }
    for (name, values) in originals.iter() {
        // A header that cannot be written again was never readable.
        let Ok(name) = format!("Sluice-Original-{name}").parse::<HeaderName>() else { continue };
        for value in values {
            headers.append(name.clone(), line(value.as_str()));
        }
    }
    headers
}

/// What headers measure on the wire.
fn wire_length(headers: &HeaderMap) -> usize {
    let values = headers.iter().flat_map(|(name, values)| values.iter().map(move |value| (name, value)));
    let lines = values.map(|(name, value)| AsRef::<[u8]>::as_ref(name).len() + value.as_str().len() + ": \r\n".len());
    "NATS/1.0\r\n\r\n".len() + lines.sum::<usize>()
}

/// One line, not too long.
fn line(text: &str) -> String {
    let mut length = 0;
    let fits = text.chars().take_while(|c| {
        length += c.len_utf8();
        length <= LONGEST_DETAIL
    });
    fits.map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim().to_owned()
}

fn rfc3339(nanoseconds: u64) -> String {
    match Timestamp::from_nanosecond(i128::from(nanoseconds)) {
        Ok(time) => format!("{time:.9}"),
        Err(_) => nanoseconds.to_string(),
    }
}

fn refused(refusal: &Refusal) -> DeadLetterError {
    let full = refusal.err_code == STORE_FAILED || NO_ROOM.contains(&refusal.err_code);
    let kind = if full { DeadLetterErrorKind::Full } else { DeadLetterErrorKind::Refused };
    failure(kind, format!("the dead letters' stream refuses: {}", told(&refusal.description, refusal.err_code)))
}

fn unavailable(message: impl Into<String>) -> DeadLetterError {
    failure(DeadLetterErrorKind::Unavailable, message)
}

fn failure(kind: DeadLetterErrorKind, message: impl Into<String>) -> DeadLetterError {
    DeadLetterError { kind, message: message.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_are_one_line_of_a_bounded_length() {
        assert_eq!(line("a\r\nb"), "a  b");
        assert!(line(&"ä".repeat(1000)).len() <= LONGEST_DETAIL);
    }

    #[test]
    fn times_have_nanoseconds() {
        assert_eq!(rfc3339(1_794_361_635_000_000_001), "2026-11-11T01:47:15.000000001Z");
    }
}
