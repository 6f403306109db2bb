//! What went wrong with a command, as facts: the driver's errors mapped by kind, code and labels, never by text.

/// What the driver could tell about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// The connection broke; the command may have been carried out.
    Network,
    /// No server was there to send it to.
    Selection,
    /// Ours ran out, or the server's `maxTimeMS`; the command may have been carried out.
    Timeout,
    /// Wrong credentials.
    Auth,
    /// TLS could not be set up.
    Tls,
    /// The host name does not resolve.
    UnknownHost,
    /// The server refused the whole command; `code` says why.
    Server,
    /// The command was not sent: it is larger than a server takes.
    TooLarge,
    /// Anything else.
    Other,
}

/// A command that failed as a whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CommandFailure {
    /// What the driver could tell.
    pub kind: FailureKind,
    /// The server's error code.
    pub code: Option<i32>,
    /// Error labels, for example `RetryableWriteError`.
    pub labels: Vec<String>,
    /// For people; holds no secret, no payload, and is short.
    pub message: String,
}
