//! What a stream and its durable are like, as far as the collector needs it.

use super::link::Link;
use super::{REPLY_TIMEOUT, SourceError, SourceErrorKind};
use crate::pipeline::jetstream::told;
use async_nats::{Client, Request, RequestErrorKind};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, de::DeserializeOwned};
use std::borrow::Cow;
use std::time::{Duration, Instant};

/// What stream and consumer were like when asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerFacts {
    /// When the stream was created, nanoseconds since the epoch.
    pub stream_created_ns: u64,
    /// When the consumer was created, nanoseconds since the epoch.
    pub consumer_created_ns: u64,
    /// How long the server waits for an acknowledgement.
    pub ack_wait: Duration,
    /// How many messages may be unacknowledged over all executions; 0 or less: no limit.
    pub max_ack_pending: i64,
    /// How many pull requests may wait at the server.
    pub max_waiting: i64,
    /// How often a message is delivered at most; 0 or less: no limit.
    pub max_deliver: i64,
    /// The most messages of one request; 0: no limit.
    pub max_batch: i64,
    /// The most bytes of one request; 0: no limit.
    pub max_bytes: i64,
    /// The longest that a request may wait; zero: no limit.
    pub max_expires: Duration,
    /// Why what the consumer hands out may not be settled, for people; `None` where it hands out what was published, and
    /// lets each message be settled alone.
    pub unfit: Option<String>,
    /// Whether the consumer is paused.
    pub paused: bool,
    /// Messages in the stream.
    pub messages: u64,
    /// Messages not yet delivered.
    pub num_pending: u64,
    /// Messages delivered and not yet acknowledged.
    pub num_ack_pending: u64,
    /// Messages delivered more than once and not yet acknowledged.
    pub num_redelivered: u64,
    /// Pull requests waiting at the server.
    pub num_waiting: u64,
    /// The highest sequence of the stream that was delivered.
    pub delivered_sequence: u64,
    /// The stream's last sequence.
    pub last_sequence: u64,
    /// When the stream's first message was published, nanoseconds since the epoch; 0 where it is empty.
    pub first_published_ns: u64,
}

/// The stream's part.
#[derive(Debug, Deserialize)]
struct StreamInfo {
    created: Timestamp,
    state: StreamState,
}

#[derive(Debug, Deserialize)]
struct StreamState {
    last_seq: u64,
    #[serde(default)]
    messages: u64,
    first_ts: Option<Timestamp>,
}

/// The consumer's part.
#[derive(Debug, Deserialize)]
struct ConsumerInfo {
    created: Timestamp,
    config: ConsumerConfig,
    #[serde(default)]
    paused: bool,
    #[serde(default)]
    num_pending: u64,
    #[serde(default)]
    num_ack_pending: u64,
    #[serde(default)]
    num_redelivered: u64,
    #[serde(default)]
    num_waiting: u64,
    #[serde(default)]
    delivered: Delivered,
}

#[derive(Debug, Default, Deserialize)]
struct Delivered {
    #[serde(default)]
    stream_seq: u64,
}

/// Durations are nanoseconds.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct ConsumerConfig {
    ack_wait: u64,
    max_ack_pending: i64,
    max_waiting: i64,
    max_deliver: i64,
    max_batch: i64,
    max_bytes: i64,
    max_expires: u64,
    /// How long each delivery's lease is, where that differs from one to the next; the last stands for all further ones.
    backoff: Vec<u64>,
    headers_only: bool,
    ack_policy: String,
}

impl ConsumerConfig {
    /// The shortest lease that any delivery may have.
    fn lease(&self) -> Duration {
        Duration::from_nanos(self.backoff.iter().copied().filter(|wait| *wait > 0).fold(self.ack_wait, u64::min))
    }

    fn unfit(&self) -> Option<String> {
        if self.headers_only {
            let message = "the durable hands out messages without their bodies (`headers_only`), so that nothing which it hands out is \
                           settled: take that off the durable, or delete the durable: it is made again, and nothing is lost";
            return Some(message.to_owned());
        }
        (self.ack_policy != "explicit").then(|| {
            format!(
                "the durable has ack_policy {}, by which one acknowledgement settles other messages, too, or none is needed: delete it, and \
                 it is made again with `explicit`",
                self.ack_policy
            )
        })
    }
}

impl Default for ConsumerConfig {
    /// The server's own defaults.
    fn default() -> Self {
        Self {
            ack_wait: 30_000_000_000,
            max_ack_pending: 1000,
            max_waiting: 512,
            max_deliver: -1,
            max_batch: 0,
            max_bytes: 0,
            max_expires: 0,
            backoff: Vec::new(),
            headers_only: false,
            ack_policy: "explicit".to_owned(),
        }
    }
}

/// Asks for both at once.
pub(super) async fn ask(nats: &Client, stream: &str, consumer: &str) -> Result<ConsumerFacts, SourceError> {
    let (link, sent) = (Link::of(nats), Instant::now());
    let (stream, consumer) = tokio::try_join!(
        request::<StreamInfo>(nats, format!("$JS.API.STREAM.INFO.{stream}")),
        request::<ConsumerInfo>(nats, format!("$JS.API.CONSUMER.INFO.{stream}.{consumer}")),
    )?;
    link.answered(sent);
    let config = consumer.config;
    Ok(ConsumerFacts {
        stream_created_ns: nanoseconds(stream.created),
        consumer_created_ns: nanoseconds(consumer.created),
        ack_wait: config.lease(),
        unfit: config.unfit(),
        max_ack_pending: config.max_ack_pending,
        max_waiting: config.max_waiting,
        max_deliver: config.max_deliver,
        max_batch: config.max_batch,
        max_bytes: config.max_bytes,
        max_expires: Duration::from_nanos(config.max_expires),
        paused: consumer.paused,
        messages: stream.state.messages,
        num_pending: consumer.num_pending,
        num_ack_pending: consumer.num_ack_pending,
        num_redelivered: consumer.num_redelivered,
        num_waiting: consumer.num_waiting,
        delivered_sequence: consumer.delivered.stream_seq,
        last_sequence: stream.state.last_seq,
        first_published_ns: stream.state.first_ts.filter(|_| stream.state.messages > 0).map_or(0, nanoseconds),
    })
}

/// What an idle stream has to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Glance {
    /// When it was created, nanoseconds since the epoch.
    pub created_ns: u64,
    /// Its last sequence.
    pub last_sequence: u64,
    /// Messages in it.
    pub messages: u64,
}

/// Asks for the stream alone.
pub(super) async fn glance(nats: &Client, stream: &str) -> Result<Glance, SourceError> {
    let (link, sent) = (Link::of(nats), Instant::now());
    let stream = request::<StreamInfo>(nats, format!("$JS.API.STREAM.INFO.{stream}")).await?;
    link.answered(sent);
    Ok(Glance { created_ns: nanoseconds(stream.created), last_sequence: stream.state.last_seq, messages: stream.state.messages })
}

#[derive(Debug, Deserialize)]
struct StoredMessage {
    message: Option<StoredTime>,
}

#[derive(Debug, Deserialize)]
struct StoredTime {
    time: Timestamp,
}

/// The message does not exist.
const NO_MESSAGE: u64 = 10037;

/// What the stream has under a sequence where a message that was delivered is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// The message.
    Same,
    /// None: somebody has acknowledged it, or it is lost.
    Nothing,
    /// Another one, that was published at another time: a stream gives a sequence twice only where it had lost the first.
    Another,
}

/// What the stream has under this sequence, in the place of a message that was published then.
pub(super) async fn holds(nats: &Client, stream: &str, sequence: u64, published_ns: u64) -> Result<Found, SourceError> {
    let body = format!(r#"{{"seq":{sequence}}}"#);
    match request_with::<StoredMessage>(nats, format!("$JS.API.STREAM.MSG.GET.{stream}"), body.into()).await {
        Ok(found) => Ok(match found.message {
            Some(message) if nanoseconds(message.time) == published_ns => Found::Same,
            Some(_) => Found::Another,
            None => Found::Nothing,
        }),
        Err(error) if error.code == Some(NO_MESSAGE) => Ok(Found::Nothing),
        Err(error) => Err(error),
    }
}

fn nanoseconds(time: Timestamp) -> u64 {
    u64::try_from(time.as_nanosecond()).unwrap_or(0)
}

/// How a message as it was delivered stands to what the stream holds under its sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Original {
    /// The stream holds these very bytes, published at that time.
    Same,
    /// It holds other bytes that were published at that time: what was delivered is not what was published.
    Altered,
    /// It holds nothing under the sequence, or another message: there is nothing to compare with any more.
    Gone,
}

#[derive(Debug, Deserialize)]
struct WholeMessage<'a> {
    #[serde(borrow)]
    message: Option<Whole<'a>>,
}

#[derive(Debug, Deserialize)]
struct Whole<'a> {
    time: Timestamp,
    /// In base64; left out where it is empty.
    #[serde(borrow, default)]
    data: Cow<'a, str>,
}

/// Compares a message with what the stream holds of it.
pub(super) async fn original(
    nats: &Client,
    stream: &str,
    (sequence, published_ns): (u64, u64),
    payload: &[u8],
) -> Result<Original, SourceError> {
    let body = format!(r#"{{"seq":{sequence}}}"#);
    let reply = match exchange(nats, format!("$JS.API.STREAM.MSG.GET.{stream}"), body.into()).await {
        Ok(reply) => reply,
        Err(error) if error.code == Some(NO_MESSAGE) => return Ok(Original::Gone),
        Err(error) => return Err(error),
    };
    let found = serde_json::from_slice::<WholeMessage<'_>>(&reply).map_err(|error| unreadable(&error))?.message;
    let Some(found) = found.filter(|found| nanoseconds(found.time) == published_ns) else { return Ok(Original::Gone) };
    // Of another length they are not the same: nothing large is decoded to find that out.
    let same = found.data.len() == payload.len().div_ceil(3) * 4 && STANDARD.decode(&*found.data).is_ok_and(|data| data == payload);
    Ok(if same { Original::Same } else { Original::Altered })
}

async fn request<T: DeserializeOwned>(nats: &Client, subject: String) -> Result<T, SourceError> {
    request_with(nats, subject, Bytes::new()).await
}

async fn request_with<T: DeserializeOwned>(nats: &Client, subject: String, body: Bytes) -> Result<T, SourceError> {
    let reply = exchange(nats, subject, body).await?;
    serde_json::from_slice(&reply).map_err(|error| unreadable(&error))
}

/// One request to JetStream, and its answer where that is no refusal.
async fn exchange(nats: &Client, subject: String, body: Bytes) -> Result<Bytes, SourceError> {
    let asked = nats.send_request(subject, Request::new().payload(body).timeout(Some(REPLY_TIMEOUT)));
    // Around it all: without a connection the client's own queue may be full.
    let reply = tokio::time::timeout(REPLY_TIMEOUT, asked).await.map_err(|_| SourceError::timeout())?;
    let reply = reply.map_err(|error| match error.kind() {
        RequestErrorKind::TimedOut => SourceError::timeout(),
        RequestErrorKind::NoResponders => SourceError::new(SourceErrorKind::Unavailable, "JetStream does not answer"),
        _ => SourceError::new(SourceErrorKind::Disconnected, error.to_string()),
    })?;
    match serde_json::from_slice::<Answer>(&reply.payload).map_err(|error| unreadable(&error))?.error {
        Some(refusal) => Err(refusal.into()),
        None => Ok(reply.payload),
    }
}

fn unreadable(error: &serde_json::Error) -> SourceError {
    SourceError::new(SourceErrorKind::Refused, format!("JetStream's answer is not understood: {error}"))
}

#[derive(Debug, Deserialize)]
struct Answer {
    error: Option<Refusal>,
}

#[derive(Debug, Deserialize)]
struct Refusal {
    code: u16,
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

impl From<Refusal> for SourceError {
    fn from(refusal: Refusal) -> Self {
        let kind = match refusal.code {
            404 => SourceErrorKind::NotFound,
            500.. => SourceErrorKind::Unavailable,
            _ => SourceErrorKind::Refused,
        };
        Self { kind, code: Some(refusal.err_code), message: told(&refusal.description, refusal.err_code) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: &str) -> ConsumerConfig {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_durable_is_fit_where_it_hands_out_whole_messages_and_each_is_settled_alone() {
        assert_eq!(config("{}").unfit(), None);
        assert_eq!(config(r#"{"ack_policy":"explicit","headers_only":false}"#).unfit(), None);
        assert!(config(r#"{"headers_only":true}"#).unfit().unwrap().contains("headers_only"));
        for policy in ["all", "none", "flow_control"] {
            assert!(config(&format!(r#"{{"ack_policy":"{policy}"}}"#)).unfit().unwrap().contains(policy));
        }
    }

    #[test]
    fn a_lease_is_the_shortest_that_a_backoff_gives() {
        assert_eq!(config(r#"{"ack_wait":30}"#).lease(), Duration::from_nanos(30));
        assert_eq!(config(r#"{"ack_wait":30,"backoff":[30,5,60]}"#).lease(), Duration::from_nanos(5));
    }
}
