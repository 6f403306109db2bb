//! Reads many messages of a stream at once, through one ephemeral pull consumer whatever their number.
//!
//! Two things always hold: an empty stream gives an empty list at once, and the result is at least as new as what the
//! stream's leader had when the listing began, although the consumer may live on a replica that lags behind.

use super::api::{Api, Failure, Stored, TIMEOUT, confirms, discards, field, operation};
use async_nats::Message;
use bytes::Bytes;
use futures_util::StreamExt as _;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// Messages a pull: well below the capacity of a subscription.
const PULL: u64 = 5_000;

/// Which messages to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    /// All that are kept.
    All,
    /// The newest of each subject.
    Newest,
}

impl Api {
    /// The messages of `stream` on `filter`, oldest first.
    pub async fn collect(&self, stream: &str, filter: &str, which: Which) -> Result<Vec<Stored>, Failure> {
        if !self.consumers {
            return self.collect_one_by_one(stream, filter, which).await;
        }
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let Some(newest) = self.last(stream, filter).await? else { return Ok(Vec::new()) };
            let read = tokio::time::timeout_at(deadline, self.read(stream, filter, which)).await;
            let messages = match read {
                Err(_) => return Err(Failure::TimedOut),
                Ok(Err(failure)) if Instant::now() >= deadline => return Err(failure),
                // The consumer went away under us, or the replica it lives on lags: once more.
                Ok(Err(Failure::Protocol(_))) => None,
                Ok(Err(failure)) => return Err(failure),
                Ok(Ok(messages)) => Some(messages),
            };
            match messages {
                Some(messages) if messages.last().is_some_and(|last| last.sequence >= newest.sequence) => return Ok(messages),
                _ if Instant::now() >= deadline => return Err(Failure::TimedOut),
                _ => tokio::time::sleep(Duration::from_millis(25)).await,
            }
        }
    }

    async fn read(&self, stream: &str, filter: &str, which: Which) -> Result<Vec<Stored>, Failure> {
        let name = format!("sluice-{}", uuid::Uuid::new_v4().simple());
        let config = json!({
            "name": name,
            "filter_subject": filter,
            "deliver_policy": if which == Which::All { "all" } else { "last_per_subject" },
            "ack_policy": "none",
            "replay_policy": "instant",
            "mem_storage": true,
            "num_replicas": 1,
            "inactive_threshold": 5_000_000_000_u64,
        });
        let body = json!({ "stream_name": stream, "config": config, "action": "create" });
        let created: Value = self.call(&format!("CONSUMER.CREATE.{stream}.{name}"), body).await?;
        let messages = self.pull_all(stream, &name, field(&created, "/num_pending")?).await;
        self.forget_consumer(stream, &name).await;
        let mut messages = messages?;
        if which == Which::Newest {
            // A key that is written while we read arrives twice.
            let newest: HashMap<String, u64> = messages.iter().map(|m| (m.subject.clone(), m.sequence)).collect();
            messages.retain(|m| newest.get(&m.subject) == Some(&m.sequence));
        }
        Ok(messages)
    }

    async fn pull_all(&self, stream: &str, name: &str, mut pending: u64) -> Result<Vec<Stored>, Failure> {
        let lost = |error: &dyn std::fmt::Display| Failure::Protocol(error.to_string());
        let inbox = self.client.new_inbox();
        let mut answers = self.client.subscribe(inbox.clone()).await.map_err(|error| lost(&error))?;
        let next = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}");
        let mut messages = Vec::with_capacity(usize::try_from(pending).unwrap_or_default().min(100_000));
        while pending > 0 {
            let asked = pending.min(PULL);
            let body = Bytes::from(json!({ "batch": asked, "no_wait": true }).to_string());
            self.client.publish_with_reply(next.clone(), inbox.clone(), body).await.map_err(|error| lost(&error))?;
            let mut received = 0;
            while received < asked && pending > 0 {
                let message = answers.next().await.ok_or_else(|| lost(&"the subscription ended"))?;
                match message.status.map(|status| status.as_u16()) {
                    None => {}
                    // Nothing is left: messages that were pending have been replaced or removed meanwhile.
                    Some(404 | 408) => return Ok(messages),
                    Some(status) => return Err(lost(&format!("the listing was interrupted with status {status}"))),
                }
                let delivery = Delivery::parse(&message).ok_or_else(|| lost(&"a message without delivery information"))?;
                received += 1;
                pending = delivery.pending;
                messages.push(stored(message, &delivery));
            }
        }
        Ok(messages)
    }
}

fn stored(message: Message, delivery: &Delivery) -> Stored {
    let headers = message.headers.as_ref();
    let header = |name: &str| headers.and_then(|headers| headers.get(name)).map(ToString::to_string);
    Stored {
        operation: operation(header),
        confirms: confirms(header),
        discards: discards(header),
        subject: message.subject.to_string(),
        sequence: delivery.sequence,
        time: delivery.time,
        payload: message.payload,
    }
}

/// What the reply subject of a delivered message says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Delivery {
    /// Sequence in the stream.
    pub sequence: u64,
    /// Sequence in the consumer.
    pub delivered: u64,
    /// When it was stored.
    pub time: Timestamp,
    /// How many more there are.
    pub pending: u64,
}

impl Delivery {
    /// Reads `$JS.ACK.{stream}.{consumer}.{count}.{sequence}.{delivered}.{time}.{pending}`, which has two tokens (domain
    /// and account) more in front of the stream, and perhaps one at the end, where the server is so configured.
    pub fn parse(message: &Message) -> Option<Self> {
        Self::of(message.reply.as_ref()?)
    }

    fn of(reply: &str) -> Option<Self> {
        let tokens: Vec<&str> = reply.strip_prefix("$JS.ACK.")?.split('.').collect();
        let at = if tokens.len() == 7 { 3 } else { 5 };
        let number = |index: usize| tokens.get(index)?.parse::<u64>().ok();
        let nanoseconds: i128 = tokens.get(at + 2)?.parse().ok()?;
        Some(Self {
            sequence: number(at)?,
            delivered: number(at + 1)?,
            time: Timestamp::from_nanosecond(nanoseconds).ok()?,
            pending: number(at + 3)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_the_reply_subject_are_read() {
        let time = Timestamp::from_nanosecond(1_700_000_000_123_456_789).unwrap();
        let expected = Delivery { sequence: 7, delivered: 3, time, pending: 12 };
        assert_eq!(Delivery::of("$JS.ACK.KV_a.c.1.7.3.1700000000123456789.12"), Some(expected));
        let expected = Delivery { sequence: 7, delivered: 3, time, pending: 12 };
        assert_eq!(Delivery::of("$JS.ACK._.ACC.KV_a.c.1.7.3.1700000000123456789.12.rnd"), Some(expected));
        assert_eq!(Delivery::of("_INBOX.x"), None);
    }
}
