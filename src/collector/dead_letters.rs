//! Dead letters: messages that cannot be stored, kept with their reason in a stream of their own.

use async_nats::Message;

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
}

impl DeadLetters {
    /// `stream` exists; `prefix` is the subject without the identity; `objects` is the bucket for payloads that a dead
    /// letter cannot hold, made when first needed.
    pub fn new(nats: async_nats::Client, stream: &str, prefix: &str, objects: &str) -> Self {
        let _ = (stream, prefix, objects);
        Self { nats }
    }

    /// Stores a dead letter; returns once the stream has acknowledged it. Storing one twice is harmless.
    pub async fn store(&self, poison: &Poison<'_>) -> Result<Stored, DeadLetterError> {
        let _ = (poison, &self.nats);
        todo!()
    }
}
