//! Sending documents: each is acknowledged by JetStream, or its failure is said.
//!
//! ```text
//! documents ─▶ BSON ─▶ publish to {ns}.{key} ─▶ at most `in_flight` unacknowledged ─▶ acknowledged · failed (which, why)
//! ```

use super::error::{TransferError, TransferErrorKind};
use super::{Transfer, key_of};
use crate::pipeline::id::PipelineId;
use async_nats::jetstream::context::{PublishAckFuture, PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use bytes::Bytes;
use serde::Serialize;
use std::collections::VecDeque;
use std::future::IntoFuture;

/// A document on its way: BSON bytes, and on request a message id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    payload: Bytes,
    id: Option<String>,
}

impl Message {
    /// Of anything that serializes to a BSON document. [`TransferErrorKind::Document`] where it does not.
    pub fn new<T: Serialize>(document: &T) -> Result<Self, TransferError> {
        let bytes = bson::serialize_to_vec(document)
            .map_err(|error| TransferError::during(TransferErrorKind::Document, "the document cannot be written as BSON", &error))?;
        Ok(Self { payload: bytes.into(), id: None })
    }

    /// Of bytes that are a BSON document. [`TransferErrorKind::Document`] where its frame is not one.
    pub fn of_bytes(bytes: impl Into<Bytes>) -> Result<Self, TransferError> {
        let payload = bytes.into();
        bson::RawDocument::from_bytes(&payload)
            .map_err(|error| TransferError::during(TransferErrorKind::Document, "the bytes are no BSON document", &error))?;
        Ok(Self { payload, id: None })
    }

    /// With a `Nats-Msg-Id`: JetStream recognizes a message that is sent again under the same id within its duplicate
    /// window, and Sluice stores the same document under the same id once, for ever. One id per document.
    #[must_use]
    pub fn with_id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// The BSON bytes.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }
}

/// JetStream has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The stream that has it.
    pub stream: String,
    /// Its sequence there.
    pub sequence: u64,
    /// Whether JetStream had it already, by its message id.
    pub duplicate: bool,
}

/// What came of [`Transfer::send_many`].
#[derive(Debug, Default)]
pub struct Sent {
    /// How many JetStream has acknowledged, duplicates included.
    pub acknowledged: u64,
    /// How many of those it had already, by their message ids.
    pub duplicates: u64,
    /// Those that were not acknowledged, in order: the position (from 0) and why.
    pub failures: Vec<(u64, TransferError)>,
    /// Where it stopped, since as many as may be in flight had failed one after the other: this and what follows was
    /// not sent. `None` where everything was tried.
    pub stopped_at: Option<u64>,
}

impl Sent {
    /// Whether every document was acknowledged.
    pub fn is_complete(&self) -> bool {
        self.failures.is_empty() && self.stopped_at.is_none()
    }
}

struct Flying {
    position: u64,
    message: Message,
    acknowledgement: Result<PublishAckFuture, PublishError>,
}

impl Transfer {
    /// Sends one document and waits until JetStream has it.
    ///
    /// Errors: [`TransferErrorKind::Document`], [`TransferErrorKind::TooLarge`], [`TransferErrorKind::NotTaken`] where
    /// nothing of that key was added, [`TransferErrorKind::Refused`], and [`TransferErrorKind::Unreachable`]: then it
    /// is not known whether the server has it, and only a message id makes sending again safe.
    pub async fn send<T: Serialize>(&self, key: &str, document: &T) -> Result<Receipt, TransferError> {
        self.send_message(key, Message::new(document)?).await
    }

    /// The same for a prepared message, which may have a message id.
    pub async fn send_message(&self, key: &str, message: Message) -> Result<Receipt, TransferError> {
        let id = key_of(key)?;
        let acknowledgement = self.publish(&id, message.clone()).await;
        self.acknowledged(&id, message, acknowledgement, true).await.map(receipt)
    }

    /// Sends many, in order, with at most [`Transfer::with_in_flight`] unacknowledged at a time, and says what became of
    /// each. It goes on past failures, unless as many as may be in flight fail one after the other. Taken from the
    /// iterator only as they go out, so that it need not hold them all. Those that a stream did not take because it was
    /// closed to be drained, and whose pipeline has been added again, are sent again once it is open: then they may come
    /// after later ones.
    ///
    /// Errors only where the key is not allowed; all others are in [`Sent::failures`].
    pub async fn send_many<I>(&self, key: &str, messages: I) -> Result<Sent, TransferError>
    where
        I: IntoIterator<Item = Message>,
    {
        let id = key_of(key)?;
        let mut sent = Sent::default();
        let mut flying = VecDeque::with_capacity(self.in_flight);
        // How many in a row have failed.
        let mut failing = 0;
        for (position, message) in (0..).zip(messages) {
            if flying.len() == self.in_flight
                && let Some(oldest) = flying.pop_front()
            {
                failing = self.land(&mut sent, &id, oldest, failing).await;
            }
            if failing >= self.in_flight {
                sent.stopped_at = Some(position);
                break;
            }
            let acknowledgement = self.publish(&id, message.clone()).await;
            flying.push_back(Flying { position, message, acknowledgement });
        }
        for remaining in flying {
            failing = self.land(&mut sent, &id, remaining, failing).await;
        }
        Ok(sent)
    }

    async fn land(&self, sent: &mut Sent, id: &PipelineId, flying: Flying, failing: usize) -> usize {
        // Where the one before failed, the stream has been looked at, and is not about to take documents.
        match self.acknowledged(id, flying.message, flying.acknowledgement, failing == 0).await {
            Ok(receipt) => {
                sent.acknowledged += 1;
                sent.duplicates += u64::from(receipt.duplicate);
                0
            }
            Err(error) => {
                sent.failures.push((flying.position, error));
                failing + 1
            }
        }
    }

    /// The acknowledgement of what was published; with `again`, of the second try where no stream took the first and one
    /// does now. That nobody took it is the server's own word: it is nowhere, and sending it again doubles nothing.
    async fn acknowledged(
        &self,
        id: &PipelineId,
        message: Message,
        acknowledgement: Result<PublishAckFuture, PublishError>,
        again: bool,
    ) -> Result<PublishAck, TransferError> {
        let size = message.payload.len();
        let failed = |error: PublishError| self.failed(&self.names.subject(id), size, &error);
        match landed(acknowledgement).await {
            Err(error) if again && error.kind() == PublishErrorKind::StreamNotFound && self.opens_again(id).await? => {
                landed(self.publish(id, message).await).await.map_err(failed)
            }
            landed => landed.map_err(failed),
        }
    }

    async fn publish(&self, id: &PipelineId, message: Message) -> Result<PublishAckFuture, PublishError> {
        let mut publish = PublishMessage::build().payload(message.payload);
        if let Some(id) = message.id {
            publish = publish.message_id(id);
        }
        self.jetstream.send_publish(self.names.subject(id), publish).await
    }

    fn failed(&self, subject: &str, size: usize, error: &PublishError) -> TransferError {
        match error.kind() {
            PublishErrorKind::StreamNotFound => TransferError::new(
                TransferErrorKind::NotTaken,
                format!("no stream takes {subject}: add the key first; if it was removed, add it again"),
            ),
            PublishErrorKind::MaxPayloadExceeded => TransferError::new(
                TransferErrorKind::TooLarge,
                format!(
                    "a document of {size} bytes is too large for {subject}: the server's max_payload is {}",
                    self.client.server_info().max_payload
                ),
            ),
            PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe | PublishErrorKind::MaxAckPending => {
                TransferError::during(TransferErrorKind::Unreachable, format!("no acknowledgement for a document to {subject}"), error)
            }
            _ => TransferError::during(TransferErrorKind::Refused, format!("a document to {subject} was refused"), error),
        }
    }
}

async fn landed(acknowledgement: Result<PublishAckFuture, PublishError>) -> Result<PublishAck, PublishError> {
    acknowledgement?.into_future().await
}

fn receipt(ack: PublishAck) -> Receipt {
    Receipt { stream: ack.stream, sequence: ack.sequence, duplicate: ack.duplicate }
}
