//! What can go wrong for a producer, by kind: so that a program can tell what to try again from what a person must mend.

use crate::pipeline::causes::with_causes;
use crate::pipeline::id::NameError;
use std::fmt::Display;

/// The kind of a [`TransferError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TransferErrorKind {
    /// The namespace or key is not allowed. Nothing was sent.
    Name,
    /// The document cannot be written as BSON, or the bytes given are none. Nothing was sent.
    Document,
    /// The document is larger than the server's `max_payload`. Nothing was sent.
    TooLarge,
    /// There is no pipeline of that key.
    NotFound,
    /// No stream listens on the pipeline's subject: it was never added, or it is being removed.
    NotTaken,
    /// Something of that name is there and is not this pipeline's: a stream, or an entry that cannot be read.
    Foreign,
    /// The server refused: a limit of the stream or account, or a permission.
    Refused,
    /// Somebody else changed the entry at the same time, again and again.
    Conflict,
    /// No answer: whether the server has it is not known. Sending again is safe with a message id.
    Unreachable,
}

/// A producer's error: what was being done, and why it failed.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct TransferError {
    kind: TransferErrorKind,
    message: String,
}

impl TransferError {
    pub(super) fn new(kind: TransferErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// For `error`, which happened `during` something.
    pub(super) fn during(kind: TransferErrorKind, during: impl Display, error: &dyn std::error::Error) -> Self {
        // The libraries' own words stand in the sources.
        Self { kind, message: format!("{during}: {}", with_causes(error)) }
    }

    /// The kind, for a program.
    pub fn kind(&self) -> TransferErrorKind {
        self.kind
    }

    /// Whether the same call can succeed later without anybody mending anything.
    pub fn retry(&self) -> bool {
        matches!(self.kind, TransferErrorKind::Unreachable | TransferErrorKind::Conflict)
    }
}

impl From<NameError> for TransferError {
    fn from(error: NameError) -> Self {
        Self::new(TransferErrorKind::Name, error.to_string())
    }
}
