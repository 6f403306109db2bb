//! Gives up an inbox while nothing of it is lost on this side: the end of requests that nothing else ends in time.
//!
//! A server drops pull requests in which nobody is interested any more, but the client drops what is on its way to a
//! subscription as soon as it is told to unsubscribe, and such a message would wait for its lease to end. Both sides can be
//! told a *number* of messages instead, after which the subscription ends: so a few messages of our own are sent after that
//! number was told, and whatever was on its way before them arrives. What the server has taken for this inbox and not yet
//! sent when its number is reached it delivers to others at once. Used by the inbox.

use super::{SourceError, SourceErrorKind};
use async_nats::{Client, Message, Subscriber};
use bytes::Bytes;
use futures_util::Stream;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// Messages of our own: as many as may be on their way when nothing is expected.
const LAST: u64 = 16;
/// How long they may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// A subscription that ends by itself.
#[derive(Debug)]
pub(super) struct Leaving {
    subscription: Subscriber,
    deadline: Instant,
}

impl Leaving {
    /// Begins to give up `subscription`, whose inbox is `prefix` and which has brought `taken` messages. Where that is not
    /// known, as after a new connection, it is given up at once: `None`.
    pub(super) async fn begin(
        client: &Client,
        (prefix, mut subscription): (String, Subscriber),
        taken: Option<u64>,
    ) -> Result<Option<Self>, SourceError> {
        let Some(taken) = taken else { return Ok(None) };
        let failed = |error: String| SourceError::new(SourceErrorKind::Disconnected, error);
        subscription.unsubscribe_after(taken + LAST).await.map_err(|error| failed(error.to_string()))?;
        for _ in 0..LAST {
            client.publish(format!("{prefix}end"), Bytes::new()).await.map_err(|error| failed(error.to_string()))?;
        }
        Ok(Some(Self { subscription, deadline: Instant::now() + PATIENCE }))
    }

    /// When it is given up all the same.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// What still comes; `None` once nothing does any more.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        loop {
            match Pin::new(&mut self.subscription).poll_next(cx) {
                // Our own, or what is said of requests that are given up.
                Poll::Ready(Some(message)) if message.reply.is_none() => {}
                other => return other,
            }
        }
    }
}
