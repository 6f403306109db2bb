//! The kinds of failures: apart from the driver's types, so that what decides about them (`classify`, the core) can be
//! built and measured without the driver.

/// What the driver could tell about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// The connection broke, or its pool was cleared; the command may have been carried out.
    Network,
    /// No server was there to send it to.
    Selection,
    /// No reply in our own time; the command may have been carried out. (The server's `maxTimeMS` is `Server`, code 50.)
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
    /// The command was not sent: the leases of what it holds had ended.
    TooLate,
    /// The collection is not what it was when it was opened; it is opened again.
    Dropped,
    /// Anything else.
    Other,
}
