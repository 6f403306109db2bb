//! The JetStream API as the rest of the store speaks it: one request, one typed failure, one time limit.
//!
//! Requests are written by hand rather than through the client library's stream handles, because those read the stream's
//! info first, drop configuration fields they do not know, and match on too little. Messages are read by
//! `STREAM.MSG.GET`, which the stream's leader alone answers, so that they are never staler than a watch's hint; direct
//! gets, which a lagging replica may answer, are not used (see [`super::configs`]).

use super::entries::Operation;
use super::error::{StoreError, StoreErrorKind};
use crate::pipeline::jetstream::told;
use async_nats::client::{Request, RequestErrorKind};
use async_nats::connection::State;
use async_nats::{Client, HeaderMap, Message};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long any single call may take, waiting for the connection included.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);

/// The server's error codes that the store tells apart.
pub(super) mod code {
    pub const CONSUMER_NOT_FOUND: u64 = 10014;
    pub const NO_MESSAGE_FOUND: u64 = 10037;
    pub const NOT_ENABLED_FOR_ACCOUNT: u64 = 10039;
    pub const STREAM_NAME_IN_USE: u64 = 10058;
    pub const STREAM_NOT_FOUND: u64 = 10059;
    pub const WRONG_LAST_SEQUENCE: u64 = 10071;
    pub const STREAM_STORE_FAILED: u64 = 10077;
    pub const CONSUMER_EXISTS: u64 = 10148;
    pub const CONSUMER_NAME_EXISTS: u64 = 10013;
    pub const WRONG_LAST_SEQUENCE_CONSTANT: u64 = 10164;
}

/// Why a call came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The server answered with an error.
    #[error("{}", told(&.0.description, .0.err_code))]
    Api(ApiError),
    /// Nobody listens: no stream on that subject, or no JetStream (yet).
    #[error("no JetStream answers there")]
    NoResponders,
    /// No answer in time.
    #[error("timed out")]
    TimedOut,
    /// Not connected, and not connected again in time.
    #[error("not connected to NATS")]
    Disconnected,
    /// The client library refused, or the answer makes no sense.
    #[error("{0}")]
    Protocol(String),
    /// The payload is larger than the server accepts.
    #[error("{0}")]
    TooLarge(String),
    /// The guard said no, and nothing was sent.
    #[error("the right to change anything ended before it was sent")]
    Fenced,
}

/// The error in an answer of the JetStream API.
#[derive(Debug, Deserialize)]
pub(super) struct ApiError {
    /// Like an HTTP status.
    pub code: u16,
    /// Which error exactly.
    #[serde(default)]
    pub err_code: u64,
    /// For people.
    #[serde(default)]
    pub description: String,
}

impl Failure {
    /// Whether the server answered with the error `code`.
    pub fn is(&self, code: u64) -> bool {
        matches!(self, Self::Api(error) if error.err_code == code)
    }

    /// What the failure means for a caller of the store.
    pub fn kind(&self) -> StoreErrorKind {
        match self {
            Self::Api(error) => match error.err_code {
                code::WRONG_LAST_SEQUENCE | code::WRONG_LAST_SEQUENCE_CONSTANT => StoreErrorKind::Conflict,
                code::NO_MESSAGE_FOUND | code::STREAM_NOT_FOUND | code::CONSUMER_NOT_FOUND => StoreErrorKind::Missing,
                // A full stream and a missing permission to use JetStream say 503 too, but waiting cures neither.
                code::STREAM_STORE_FAILED | code::NOT_ENABLED_FOR_ACCOUNT => StoreErrorKind::Refused,
                _ if matches!(error.code, 408 | 503 | 504) => StoreErrorKind::Unavailable,
                _ => StoreErrorKind::Refused,
            },
            Self::NoResponders | Self::TimedOut | Self::Disconnected | Self::Protocol(_) => StoreErrorKind::Unavailable,
            Self::TooLarge(_) => StoreErrorKind::Refused,
            Self::Fenced => StoreErrorKind::Conflict,
        }
    }

    /// The store's error, while doing `context`.
    pub fn during(self, context: impl Into<String>) -> StoreError {
        StoreError::caused(self.kind(), context, self)
    }
}

/// A message as it lies in a stream.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub subject: String,
    pub sequence: u64,
    pub time: Timestamp,
    pub operation: Operation,
    /// `Sluice-Confirms`, of a marker.
    pub confirms: Option<Timestamp>,
    /// `Sluice-Discard`, of a marker.
    pub discards: bool,
    pub payload: Bytes,
}

/// A message as it lies in a stream, with its headers as they are on the wire.
#[derive(Debug)]
pub(super) struct Raw {
    pub subject: String,
    pub sequence: u64,
    pub time: Timestamp,
    pub headers: Vec<u8>,
    pub payload: Bytes,
}

/// Says at any moment whether something may be changed.
pub type Guard = Arc<dyn Fn() -> bool + Send + Sync>;

/// Whether a request only reads.
fn reads(subject: &str) -> bool {
    ["STREAM.INFO.", "CONSUMER.INFO.", "STREAM.MSG.GET."]
        .iter()
        .any(|operation| subject.strip_prefix("$JS.API.").is_some_and(|rest| rest.starts_with(operation)))
}

/// The JetStream API over one connection.
#[derive(Clone)]
pub(super) struct Api {
    pub client: Client,
    timeout: Duration,
    guard: Option<Guard>,
    /// Whether listings may make consumers.
    pub consumers: bool,
}

impl Api {
    /// Calls that take at most [`TIMEOUT`].
    pub fn new(client: Client) -> Self {
        Self { client, timeout: TIMEOUT, guard: None, consumers: true }
    }

    /// The same with another time limit.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The same for one who may not make consumers.
    pub fn without_consumers(mut self) -> Self {
        self.consumers = false;
        self
    }

    /// The same, with a guard that is asked right before each request that changes something.
    pub fn guarded(mut self, guard: Guard) -> Self {
        self.guard = Some(guard);
        self
    }

    /// Waits until the connection stands.
    pub async fn connected(&self, deadline: Instant) -> Result<(), Failure> {
        while self.client.connection_state() != State::Connected {
            if Instant::now() >= deadline {
                return Err(Failure::Disconnected);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// One request and its answer. Waits for the connection first: what is sent while disconnected would lie in the
    /// client's buffer and be executed long after its sender gave up.
    pub async fn exchange(&self, subject: &str, headers: Option<HeaderMap>, payload: Bytes) -> Result<Message, Failure> {
        let deadline = Instant::now() + self.timeout;
        self.connected(deadline).await?;
        if !reads(subject) && self.guard.as_ref().is_some_and(|guard| !guard()) {
            return Err(Failure::Fenced);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let mut request = Request::new().payload(payload).timeout(Some(left));
        if let Some(headers) = headers {
            request = request.headers(headers);
        }
        // The library's own limit covers the wait for the answer only, not the queue in front of the connection.
        let answer = tokio::time::timeout_at(deadline, self.client.send_request(subject.to_owned(), request)).await;
        answer.map_err(|_| Failure::TimedOut)?.map_err(|error| match error.kind() {
            RequestErrorKind::TimedOut => Failure::TimedOut,
            RequestErrorKind::NoResponders => Failure::NoResponders,
            RequestErrorKind::MaxPayloadExceeded => Failure::TooLarge(error.to_string()),
            _ => Failure::Protocol(error.to_string()),
        })
    }

    /// Calls `$JS.API.{operation}` with `body`.
    pub async fn call<T: DeserializeOwned>(&self, operation: &str, body: Value) -> Result<T, Failure> {
        let payload = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        decode(&self.exchange(&format!("$JS.API.{operation}"), None, payload).await?.payload)
    }

    /// Publishes into a stream and returns the sequence it was given.
    pub async fn publish(&self, subject: &str, headers: HeaderMap, payload: Bytes) -> Result<u64, Failure> {
        #[derive(Deserialize)]
        struct Ack {
            seq: u64,
        }
        Ok(decode::<Ack>(&self.exchange(subject, Some(headers), payload).await?.payload)?.seq)
    }

    /// Publishes where the newest sequence of the subject is `expected` (0: there is none). `headers` may hold more.
    ///
    /// No responders on a bucket's subject mean that `stream` is gone or that JetStream is not up yet; only the former
    /// is `Missing`.
    pub async fn publish_expecting(
        &self,
        stream: &str,
        subject: &str,
        mut headers: HeaderMap,
        payload: Bytes,
        expected: u64,
    ) -> Result<u64, Failure> {
        headers.insert("Nats-Expected-Last-Subject-Sequence", expected.to_string());
        match self.publish(subject, headers, payload).await {
            Err(Failure::NoResponders) => Err(self.absent(stream).await),
            other => other,
        }
    }

    /// Why nobody listens on a subject of `stream`: because there is no such stream, or for another reason.
    pub async fn absent(&self, stream: &str) -> Failure {
        self.info(stream).await.err().unwrap_or(Failure::NoResponders)
    }

    /// `STREAM.INFO`, as the server says it.
    pub async fn info(&self, stream: &str) -> Result<Value, Failure> {
        self.call(&format!("STREAM.INFO.{stream}"), Value::Null).await
    }

    /// The newest message on `subject`, which may hold wildcards, by the stream's leader.
    pub async fn last(&self, stream: &str, subject: &str) -> Result<Option<Stored>, Failure> {
        self.message(stream, json!({ "last_by_subj": subject })).await
    }

    /// The message that `query` asks for, by the stream's leader.
    pub async fn message(&self, stream: &str, query: Value) -> Result<Option<Stored>, Failure> {
        let Some(raw) = self.raw(stream, query).await? else { return Ok(None) };
        let headers = String::from_utf8_lossy(&raw.headers);
        let header = |name: &str| {
            let mut pairs = headers.lines().filter_map(|line| line.split_once(':'));
            pairs.find(|(key, _)| *key == name).map(|(_, value)| value.trim().to_owned())
        };
        Ok(Some(Stored {
            operation: operation(header),
            confirms: confirms(header),
            discards: discards(header),
            subject: raw.subject,
            sequence: raw.sequence,
            time: raw.time,
            payload: raw.payload,
        }))
    }

    /// The same, with its headers as they are.
    pub async fn raw(&self, stream: &str, query: Value) -> Result<Option<Raw>, Failure> {
        #[derive(Deserialize)]
        struct Answer {
            message: Encoded,
        }
        #[derive(Deserialize)]
        struct Encoded {
            subject: String,
            seq: u64,
            time: Timestamp,
            #[serde(default)]
            hdrs: String,
            #[serde(default)]
            data: String,
        }
        let answer: Answer = match self.call(&format!("STREAM.MSG.GET.{stream}"), query).await {
            Ok(answer) => answer,
            Err(failure) if failure.is(code::NO_MESSAGE_FOUND) => return Ok(None),
            Err(failure) => return Err(failure),
        };
        let Encoded { subject, seq, time, hdrs, data } = answer.message;
        let plain = |text: &str| STANDARD.decode(text).map_err(|error| Failure::Protocol(format!("unreadable message: {error}")));
        Ok(Some(Raw { subject, sequence: seq, time, headers: plain(&hdrs)?, payload: Bytes::from(plain(&data)?) }))
    }

    /// Asks for the deletion of a consumer of ours without waiting for the answer: it ends by itself a little later.
    pub async fn forget_consumer(&self, stream: &str, name: &str) {
        if self.client.connection_state() != State::Connected {
            return;
        }
        let subject = format!("$JS.API.CONSUMER.DELETE.{stream}.{name}");
        let sent = self.client.publish_with_reply(subject, self.client.new_inbox(), Bytes::new());
        if !matches!(tokio::time::timeout(Duration::from_millis(100), sent).await, Ok(Ok(()))) {
            tracing::debug!(stream, "could not delete a consumer, which ends by itself");
        }
    }
}

/// Parses an answer of the API, or its error.
fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, Failure> {
    #[derive(Deserialize)]
    struct Envelope {
        error: Option<ApiError>,
    }
    let unreadable = |error: serde_json::Error| Failure::Protocol(format!("unreadable answer: {error}"));
    if let Some(error) = serde_json::from_slice::<Envelope>(payload).map_err(unreadable)?.error {
        return Err(Failure::Api(error));
    }
    serde_json::from_slice(payload).map_err(unreadable)
}

/// What a bucket's message does to its key, by its headers.
pub(super) fn operation(header: impl Fn(&str) -> Option<String>) -> Operation {
    match header("KV-Operation").as_deref() {
        Some("DEL") => Operation::Delete,
        Some("PURGE") => Operation::Purge,
        // A marker that the server put itself, in a bucket with marker TTLs, whatever its reason.
        _ if header("Nats-Marker-Reason").is_some() => Operation::Lapse,
        _ => Operation::Put,
    }
}

/// The header of a marker that deletes a pipeline although its entry was put into another bucket: that one's creation.
pub(super) const CONFIRMS: &str = "Sluice-Confirms";

/// What a marker confirms.
pub(super) fn confirms(header: impl Fn(&str) -> Option<String>) -> Option<Timestamp> {
    header(CONFIRMS)?.parse().ok()
}

/// The header of a marker that also destroys what waits in the pipeline's stream.
pub(super) const DISCARDS: &str = "Sluice-Discard";

/// Whether a marker destroys what waits.
pub(super) fn discards(header: impl Fn(&str) -> Option<String>) -> bool {
    header(DISCARDS).is_some_and(|value| value == "true")
}

/// Headers with one pair.
pub(super) fn header(name: &str, value: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(name, value);
    headers
}

/// The field of an answer at `pointer`, as `T`.
pub(super) fn field<T: DeserializeOwned>(answer: &Value, pointer: &str) -> Result<T, Failure> {
    let value = answer.pointer(pointer).cloned().unwrap_or(Value::Null);
    serde_json::from_value(value).map_err(|error| Failure::Protocol(format!("unreadable answer, {pointer}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_marker_that_somebody_put_deletes() {
        let read =
            |pairs: &[(&str, &str)]| operation(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()));
        assert_eq!(read(&[]), Operation::Put);
        assert_eq!(read(&[("KV-Operation", "DEL")]), Operation::Delete);
        assert_eq!(read(&[("KV-Operation", "PURGE"), ("Nats-Rollup", "sub")]), Operation::Purge);
        // What the server itself says: since 2.11 `MaxAge`, `Purge` and `Remove`, and whatever comes.
        for reason in ["MaxAge", "Purge", "Remove", "Another"] {
            assert_eq!(read(&[("Nats-Marker-Reason", reason)]), Operation::Lapse, "{reason}");
            assert!(!Operation::Lapse.deletes());
        }
        assert!(Operation::Delete.deletes() && Operation::Purge.deletes() && !Operation::Put.deletes());
    }
}
