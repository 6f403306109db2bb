//! The source: pull requests of our own on one inbox of our own, and the acknowledgements of what they brought.
//!
//! What always holds: a [`Delivery`]'s `lease_from` is never later than the moment in which the server delivered it; a
//! source never ends, whatever happens to the consumer or the connection is an event; nothing here waits for a server
//! for longer than [`REPLY_TIMEOUT`]. One source has one subscription and one timer. Called by the driver.

mod ack;
mod error;
mod facts;
mod link;
mod status;

pub use ack::AckSubject;
pub use error::{SourceError, SourceErrorKind};
pub use facts::ConsumerFacts;

use async_nats::{Message, Subject};
use std::time::{Duration, Instant};

/// How long acknowledgements, renewals and requests may stay unanswered.
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(5);

/// One message, as it was delivered.
#[derive(Debug)]
pub struct Delivery {
    /// Its sequence in the stream.
    pub sequence: u64,
    /// When it was published, nanoseconds since the epoch; the same in every delivery.
    pub published_ns: u64,
    /// How often the server believes to have delivered it, this one included. Proves nothing.
    pub delivered: u64,
    /// How many messages were waiting behind it.
    pub pending: u64,
    /// The message; its `reply` is what acknowledges it.
    pub message: Message,
    /// When it was taken from the inbox.
    pub received: Instant,
    /// A moment no later than the server's delivery, from which `ack_wait` is to be counted.
    pub lease_from: Instant,
    /// What it counts in byte budgets: payload, headers and subjects.
    pub bytes: u64,
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
    nats: async_nats::Client,
}

impl Source {
    /// Subscribes the inbox. Asks nothing of the server: whether the consumer exists is said by [`Self::info`] and by what
    /// becomes of pulls.
    pub async fn open(nats: async_nats::Client, stream: &str, consumer: &str) -> Result<Self, SourceError> {
        let _ = (nats, stream, consumer);
        todo!()
    }

    /// What stream and consumer are like now: two round trips.
    pub async fn info(&self) -> Result<ConsumerFacts, SourceError> {
        todo!()
    }

    /// Asks for `batch` messages. Several requests may be outstanding. `max_bytes` is raised to what one message may
    /// measure at most: a smaller one would end requests without a message, thousands of times a second. Fails at once
    /// while there is no connection; a [`SourceEvent::Gap`] follows when there is one again.
    pub async fn pull(&mut self, batch: usize, max_bytes: u64, expires: Duration, heartbeat: Duration) -> Result<(), SourceError> {
        let _ = (batch, max_bytes, expires, heartbeat, &self.nats);
        todo!()
    }

    /// Messages that the outstanding requests may still bring.
    pub fn outstanding(&self) -> u64 {
        todo!()
    }

    /// The next event; never ends. Cancel-safe: a dropped call loses nothing. `limit` bounds the messages of one event.
    pub async fn next(&mut self, limit: usize) -> SourceEvent {
        let _ = limit;
        todo!()
    }

    /// Acknowledges, each with a reply: all written together; [`SourceEvent::Acked`] follows within [`REPLY_TIMEOUT`],
    /// unless this fails.
    pub async fn ack(&mut self, replies: &[Subject], token: u64) -> Result<(), SourceError> {
        let _ = (replies, token);
        todo!()
    }

    /// Renews the leases; [`SourceEvent::Renewed`] follows within [`REPLY_TIMEOUT`], unless this fails.
    pub async fn renew(&mut self, replies: &[Subject], token: u64) -> Result<(), SourceError> {
        let _ = (replies, token);
        todo!()
    }

    /// Gives messages back, to be delivered again after `delay`. No reply.
    pub async fn nak(&mut self, replies: &[Subject], delay: Duration) -> Result<(), SourceError> {
        let _ = (replies, delay);
        todo!()
    }

    /// Terminates messages whose dead letters are stored; [`SourceEvent::Acked`] follows as for [`Self::ack`].
    pub async fn term(&mut self, replies: &[Subject], token: u64) -> Result<(), SourceError> {
        let _ = (replies, token);
        todo!()
    }

    /// Hands everything that was written to the operating system, for a shutdown.
    pub async fn flush(&self) -> Result<(), SourceError> {
        todo!()
    }
}
