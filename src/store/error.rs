//! The errors of the store: a kind to match on, the place, and the cause.

use std::error::Error;

/// What an error means for the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// NATS did not answer or is not connected: trying again helps.
    Unavailable,
    /// Somebody else wrote first: read again, then decide again.
    Conflict,
    /// It is not there.
    Missing,
    /// It is there but not what it must be (a stream that is not ours, an object that is a link): trying again does not help.
    Unfit(Unfit),
    /// NATS refuses: permissions, limits, a wrong name. The message says which.
    Refused,
}

/// What is wrong with something that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfit {
    /// An object is larger than allowed.
    TooLarge,
    /// An object's bytes do not have the digest that its metadata states.
    DigestMismatch,
    /// An object is a link to another one.
    Link,
    /// A document does not parse.
    Unreadable,
    /// A stream does not listen on the pipeline's subject.
    Foreign,
    /// A stream has no work-queue retention.
    NotWorkQueue,
    /// A durable is no pull consumer with explicit acknowledgement and without a filter.
    Consumer,
}

/// An error of the store.
#[derive(Debug, thiserror::Error)]
#[error("{context}")]
pub struct StoreError {
    kind: StoreErrorKind,
    /// What was being done to what, and what came back: `read entry metrics: timed out`.
    context: String,
    #[source]
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl StoreError {
    /// An error of `kind` while doing `context`.
    pub fn new(kind: StoreErrorKind, context: impl Into<String>) -> Self {
        Self { kind, context: context.into(), source: None }
    }

    /// The same with its cause, whose text is appended to the context.
    pub fn caused(kind: StoreErrorKind, context: impl Into<String>, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        let source = source.into();
        Self { kind, context: format!("{}: {source}", context.into()), source: Some(source) }
    }

    /// What it means for the caller.
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }

    /// Whether trying again can help.
    pub fn retry(&self) -> bool {
        matches!(self.kind, StoreErrorKind::Unavailable | StoreErrorKind::Conflict)
    }
}
