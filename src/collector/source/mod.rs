//! The source: pull requests of our own on one inbox of our own, and the acknowledgements of what they brought.
//!
//! What always holds: a [`Delivery`]'s `lease_from` is never later than the moment in which the server delivered it; a
//! source never ends, whatever happens to the consumer or the connection is an event; nothing here waits for a server
//! for longer than [`REPLY_TIMEOUT`]. One source has one subscription and one timer. Called by the driver.

mod ack;
mod error;
mod facts;
mod inbox;
mod leaving;
mod link;
mod requests;
mod status;
mod tracker;

pub use ack::AckSubject;
pub use error::{SourceError, SourceErrorKind};
pub use facts::{ConsumerFacts, Found, Glance, Original};

use async_nats::connection::State;
use async_nats::{Client, HeaderMap, Message, Subject};
use bytes::Bytes;
use inbox::Inbox;
use std::sync::{Arc, atomic::AtomicU64};
use std::time::{Duration, Instant};
use tracker::Kind;

/// How long acknowledgements, renewals and requests may stay unanswered.
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(5);

/// Messages that may be outstanding. The client drops what finds its queue of 65,536 full, which also takes the replies
/// to acknowledgements; what is dropped comes again only after `ack_wait`.
pub const MAX_OUTSTANDING: u64 = 16_384;

/// What a message may measure beyond its payload and headers, as the server counts it: subjects.
const LARGEST_FRAME: u64 = 64 << 10;

/// One message, as it was delivered.
#[derive(Debug)]
pub struct Delivery {
    /// Its sequence in the stream.
    pub sequence: u64,
    /// Which delivery of the consumer this is: ascends until the consumer is another one.
    pub consumer_sequence: u64,
    /// When it was published, nanoseconds since the epoch; the same in every delivery.
    pub published_ns: u64,
    /// How often the server believes to have delivered it, this one included. Proves nothing.
    pub delivered: u64,
    /// How many messages were waiting behind it.
    pub pending: u64,
    /// The message; its `reply` is what acknowledges it. See [`Source::take_reply`].
    pub message: Held,
    /// Whether its `reply` says nothing but the numbers above.
    pub(crate) reply_can_be_made: bool,
    /// A moment no later than the server's delivery, from which `ack_wait` is to be counted.
    pub lease_from: Instant,
    /// What it counts in byte budgets: payload, headers and subjects.
    pub bytes: u64,
}

impl Delivery {
    /// Whether it says of itself that more was published than came: a durable with `headers_only` hands out no bodies, and
    /// says so in a header behind those of the publisher. Who publishes may say so, too: the stream tells.
    pub fn claims_more(&self) -> bool {
        let Some(headers) = &self.message.headers else { return false };
        let claimed = headers.get_all("Nats-Msg-Size").filter_map(|size| size.as_str().trim().parse::<u64>().ok()).max();
        claimed.is_some_and(|size| size > self.message.payload.len() as u64)
    }
}

/// What is kept of a message. The rest that the client says of it is of no use any more, and would only be moved about with
/// it, several times a message.
#[derive(Debug, Clone)]
pub struct Held {
    /// Where it was published to.
    pub subject: Subject,
    /// Where its acknowledgement goes.
    pub reply: Option<Subject>,
    /// Its bytes.
    pub payload: Bytes,
    /// Boxed: few messages have any.
    pub headers: Option<Box<HeaderMap>>,
}

impl From<Message> for Held {
    fn from(message: Message) -> Self {
        let Message { subject, reply, payload, headers, .. } = message;
        Self { subject, reply, payload, headers: headers.map(Box::new) }
    }
}

impl From<&Held> for Message {
    fn from(held: &Held) -> Self {
        let Held { subject, reply, payload, headers } = held.clone();
        let length = subject.len() + reply.as_ref().map_or(0, |reply| reply.len()) + payload.len();
        Self { subject, reply, payload, headers: headers.map(|headers| *headers), status: None, description: None, length }
    }
}

/// What happened.
#[derive(Debug)]
pub enum SourceEvent {
    /// Messages, as many as lay ready, at most as many as asked for.
    Delivered(Vec<Delivery>),
    /// A pull request is used up or expired without a fault.
    PullEnded {
        /// Messages that all requests together may still bring.
        outstanding: u64,
    },
    /// Heartbeats are missing, the connection was made anew, or the leader changed: no request is outstanding any more as
    /// far as anyone knows. Pull again.
    Gap(&'static str),
    /// Consumer or stream are gone, or nobody answers for them. No request is outstanding.
    ConsumerGone(String),
    /// The server refused a request for a reason that pulling again at once does not cure.
    Refused(String),
    /// Renewals were answered, or not in time.
    Renewed {
        /// The caller's token.
        token: u64,
        /// When they were sent: a lease that was renewed runs from here.
        sent: Instant,
        /// How many the server confirmed.
        confirmed: usize,
        /// How many were sent.
        of: usize,
    },
    /// Acknowledgements (or terminations) were answered, or not in time. Where fewer were confirmed than sent, send them all
    /// again: it is harmless inside the lease.
    Acked {
        /// The caller's token.
        token: u64,
        /// How many the server confirmed.
        confirmed: usize,
        /// How many were sent.
        of: usize,
    },
}

/// One durable consumer as a source of messages.
#[derive(Debug)]
pub struct Source {
    nats: Client,
    stream: String,
    consumer: String,
    next_message: Subject,
    inbox: Inbox,
}

/// Asks about stream and consumer beside a source, so that the answer keeps nothing waiting.
#[derive(Debug, Clone)]
pub struct Inspector {
    nats: Client,
    stream: String,
    consumer: String,
}

impl Inspector {
    /// What stream and consumer are like now: two round trips, at the same time.
    pub async fn info(&self) -> Result<ConsumerFacts, SourceError> {
        facts::ask(&self.nats, &self.stream, &self.consumer).await
    }

    /// What the stream alone is like now, for one in which nothing is thought to wait: half the cost.
    pub async fn glance(&self) -> Result<Glance, SourceError> {
        facts::glance(&self.nats, &self.stream).await
    }

    /// What the stream has under this sequence, in the place of a message that was published then (nanoseconds since the
    /// epoch): one that lost its tail may have given the sequence to another message since.
    pub async fn holds(&self, sequence: u64, published_ns: u64) -> Result<Found, SourceError> {
        facts::holds(&self.nats, &self.stream, sequence, published_ns).await
    }

    /// How a message that was delivered stands to what the stream holds under its sequence: one round trip, which brings the
    /// payload a second time.
    pub async fn original(&self, sequence: u64, published_ns: u64, payload: &[u8]) -> Result<Original, SourceError> {
        facts::original(&self.nats, &self.stream, (sequence, published_ns), payload).await
    }
}

impl Source {
    /// Subscribes the inbox. Asks nothing of the server: whether the consumer exists is said by [`Self::info`] and by what
    /// becomes of pulls.
    pub async fn open(nats: Client, stream: &str, consumer: &str) -> Result<Self, SourceError> {
        for name in [stream, consumer] {
            if name.is_empty() || name.contains(['.', '*', '>', '/', '\\']) || name.contains(char::is_whitespace) {
                return Err(SourceError::new(SourceErrorKind::Refused, format!("'{name}' is no name of a stream or consumer")));
            }
        }
        let inbox = tokio::time::timeout(REPLY_TIMEOUT, Inbox::open(&nats)).await.map_err(|_| SourceError::timeout())??;
        Ok(Self {
            stream: stream.to_owned(),
            consumer: consumer.to_owned(),
            next_message: format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}").into(),
            nats,
            inbox,
        })
    }

    /// What stream and consumer are like now: two round trips, at the same time.
    pub async fn info(&self) -> Result<ConsumerFacts, SourceError> {
        facts::ask(&self.nats, &self.stream, &self.consumer).await
    }

    /// Asks the same beside the source.
    pub fn inspector(&self) -> Inspector {
        Inspector { nats: self.nats.clone(), stream: self.stream.clone(), consumer: self.consumer.clone() }
    }

    /// Asks for `batch` messages. Several requests may be outstanding, of [`MAX_OUTSTANDING`] messages together: more is cut
    /// off. A `heartbeat` of zero asks for none: then the end of the request is what tells that the server knows it.
    /// `max_bytes` is raised to what one message may measure at most: a smaller one would end requests without a
    /// message, thousands of times a second. Fails at once while there is no connection; a [`SourceEvent::Gap`] follows
    /// when there is one again.
    pub async fn pull(&mut self, batch: usize, max_bytes: u64, expires: Duration, heartbeat: Duration) -> Result<(), SourceError> {
        self.connected()?;
        let room = MAX_OUTSTANDING.saturating_sub(self.inbox.outstanding());
        let batch = u64::try_from(batch).unwrap_or(u64::MAX).min(room);
        if batch == 0 {
            return Ok(());
        }
        let max_bytes = max_bytes.max(self.nats.max_payload() as u64 + LARGEST_FRAME);
        // The server refuses a heartbeat above half of the expiry.
        let heartbeat = heartbeat.min(expires / 2);
        let mut body = format!(r#"{{"batch":{batch},"max_bytes":{max_bytes},"expires":{}"#, expires.as_nanos());
        if heartbeat.is_zero() {
            body.push('}');
        } else {
            body.push_str(&format!(r#","idle_heartbeat":{}}}"#, heartbeat.as_nanos()));
        }
        // Without heartbeats it is the end that is missing; a server under load says it late.
        let reply = self.inbox.request(batch, if heartbeat.is_zero() { expires + REPLY_TIMEOUT } else { heartbeat });
        let sent = self.send(std::iter::once(self.next_message.clone()), Some(&reply), body.into()).await;
        if sent.is_err() {
            self.inbox.withdraw(&reply);
        }
        sent
    }

    /// Takes back what the outstanding requests ask for: what was on its way still comes, and then
    /// [`SourceEvent::PullEnded`] with nothing outstanding, within a second or so. For the end of a source: requests that
    /// were made to be short should rather be waited for, since what the server has in its hands for this source while
    /// they are taken back is delivered to others as a redelivery.
    pub async fn withdraw(&mut self) {
        if self.inbox.outstanding() == 0 {
            return;
        }
        let left = match self.connected() {
            Ok(()) => tokio::time::timeout(REPLY_TIMEOUT, self.inbox.leave(&self.nats)).await.is_ok_and(|left| left.is_ok()),
            Err(_) => false,
        };
        if !left {
            // There is no connection that could bring anything.
            self.inbox.give_up();
        }
    }

    /// Expects nothing of the outstanding requests any more, so that others take their place; what they bring all the same is
    /// delivered.
    pub fn forget_requests(&mut self) {
        self.inbox.requests.clear();
    }

    /// When the server last said anything about the requests, milliseconds since the epoch; 0: not yet. Heartbeats count, which are
    /// no events. Shared, so that whoever watches this source needs not wake it.
    pub fn signs_of_life(&self) -> Arc<AtomicU64> {
        self.inbox.requests.signs_of_life()
    }

    /// Messages that the outstanding requests may still bring.
    pub fn outstanding(&self) -> u64 {
        self.inbox.outstanding()
    }

    /// The next event; never ends. Cancel-safe: a dropped call loses nothing. `limit` bounds the messages of one event.
    pub async fn next(&mut self, limit: usize) -> SourceEvent {
        self.inbox.next(limit.max(1)).await
    }

    /// What acknowledges (renews, terminates, gives back) a message, for sending it perhaps not for the last time.
    pub fn reply(&self, delivery: &Delivery) -> Option<Subject> {
        match &delivery.message.reply {
            Some(reply) => Some(reply.clone()),
            None => self.inbox.reply(delivery),
        }
    }

    /// The same for what is probably the last time: a clone would cost an allocation and each of its ends a free. Should
    /// it be asked for again, it is made again from its parts.
    pub fn take_reply(&self, delivery: &mut Delivery) -> Option<Subject> {
        if !delivery.reply_can_be_made {
            return delivery.message.reply.clone();
        }
        delivery.message.reply.take().or_else(|| self.inbox.reply(delivery))
    }

    /// Takes back the vector of [`SourceEvent::Delivered`], for the next one.
    pub fn recycle(&mut self, deliveries: Vec<Delivery>) {
        self.inbox.recycle(deliveries);
    }

    /// Acknowledges: all written together, and the last one asks for a reply, which stands for all, since the server takes
    /// a connection's acknowledgements in order. A reply to each would be one more message to receive for every message.
    /// [`SourceEvent::Acked`] follows within [`REPLY_TIMEOUT`], unless this fails.
    /// `replies` is empty afterwards.
    pub async fn ack(&mut self, replies: &mut Vec<Subject>, token: u64) -> Result<(), SourceError> {
        self.last_stands_for_all(Kind::Ack, replies, token, Bytes::from_static(b"+ACK")).await
    }

    /// Renews the leases, with one reply for all as for [`Self::ack`]; [`SourceEvent::Renewed`] follows within
    /// [`REPLY_TIMEOUT`], unless this fails.
    pub async fn renew(&mut self, replies: &mut Vec<Subject>, token: u64) -> Result<(), SourceError> {
        self.last_stands_for_all(Kind::Renew, replies, token, Bytes::from_static(b"+WPI")).await
    }

    /// Gives messages back, to be delivered again after `delay`. No reply.
    pub async fn nak(&mut self, replies: &mut Vec<Subject>, delay: Duration) -> Result<(), SourceError> {
        self.connected()?;
        self.send(replies.drain(..), None, format!(r#"-NAK {{"delay":{}}}"#, delay.as_nanos()).into()).await
    }

    /// Terminates messages whose dead letters are stored; [`SourceEvent::Acked`] follows as for [`Self::ack`].
    pub async fn term(&mut self, replies: &mut Vec<Subject>, token: u64) -> Result<(), SourceError> {
        self.connected()?;
        let inbox = self.inbox.track(Kind::Ack, token, (replies.len(), replies.len()));
        let sent = self.send(replies.drain(..), Some(&inbox), Bytes::from_static(b"+TERM")).await;
        if sent.is_err() {
            self.inbox.untrack(&inbox);
        }
        sent
    }

    /// Hands everything that was written to the operating system, for a shutdown.
    pub async fn flush(&self) -> Result<(), SourceError> {
        match tokio::time::timeout(REPLY_TIMEOUT, self.nats.flush()).await {
            Ok(flushed) => flushed.map_err(|error| SourceError::new(SourceErrorKind::Disconnected, error.to_string())),
            Err(_) => Err(SourceError::timeout()),
        }
    }

    async fn last_stands_for_all(&mut self, kind: Kind, replies: &mut Vec<Subject>, token: u64, body: Bytes) -> Result<(), SourceError> {
        self.connected()?;
        let last = replies.pop();
        let frames = replies.len() + usize::from(last.is_some());
        let inbox = self.inbox.track(kind, token, (frames, usize::from(last.is_some())));
        let sent = match self.send(replies.drain(..), None, body.clone()).await {
            Ok(()) => self.send(last.into_iter(), Some(&inbox), body).await,
            failed => failed,
        };
        if sent.is_err() {
            self.inbox.untrack(&inbox);
        }
        sent
    }

    /// Puts one frame per subject into the connection's buffer, which the client writes out together.
    async fn send(&self, subjects: impl Iterator<Item = Subject>, reply: Option<&Subject>, body: Bytes) -> Result<(), SourceError> {
        let all = async {
            for subject in subjects {
                match reply {
                    Some(reply) => self.nats.publish_with_reply(subject, reply.clone(), body.clone()).await?,
                    None => self.nats.publish(subject, body.clone()).await?,
                }
            }
            Ok(())
        };
        match tokio::time::timeout(REPLY_TIMEOUT, all).await {
            Ok(sent) => sent.map_err(|error: async_nats::PublishError| SourceError::new(SourceErrorKind::Disconnected, error.to_string())),
            Err(_) => Err(SourceError::timeout()),
        }
    }

    /// Whether the connection lacks the permission to send to its own inboxes, or to receive there: then only answers say
    /// how late what arrives can be.
    pub fn mute(&self) -> bool {
        self.inbox.mute()
    }

    /// Without a connection the client only queues what is sent, and blocks when the queue is full. On a new one nothing is
    /// said before its gap was reported.
    fn connected(&self) -> Result<(), SourceError> {
        if self.nats.connection_state() == State::Connected && self.inbox.current() { Ok(()) } else { Err(SourceError::disconnected()) }
    }
}
