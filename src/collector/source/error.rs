//! Why a call of the source failed.

/// What to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceErrorKind {
    /// There is no connection now; a gap is reported when there is one again.
    Disconnected,
    /// No answer in time.
    Timeout,
    /// The stream or the consumer does not exist.
    NotFound,
    /// JetStream does not answer, or answers that it cannot at the moment.
    Unavailable,
    /// The server refused.
    Refused,
}

/// Why a call of the source failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct SourceError {
    /// What to do about it.
    pub kind: SourceErrorKind,
    /// JetStream's error code, where it gave one.
    pub code: Option<u64>,
    /// For people.
    pub message: String,
}

impl SourceError {
    pub(super) fn new(kind: SourceErrorKind, message: impl Into<String>) -> Self {
        Self { kind, code: None, message: message.into() }
    }

    pub(super) fn timeout() -> Self {
        Self::new(SourceErrorKind::Timeout, format!("no answer within {} s", super::REPLY_TIMEOUT.as_secs()))
    }

    pub(super) fn disconnected() -> Self {
        Self::new(SourceErrorKind::Disconnected, "there is no connection to NATS")
    }
}
