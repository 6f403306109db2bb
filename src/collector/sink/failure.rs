//! What went wrong with a command, as facts: the driver's errors mapped by kind, code and labels, never by text.

pub use super::kind::FailureKind;
use mongodb::error::{Error, ErrorKind, WriteFailure};

/// Unauthorized, AuthenticationFailed, ReauthenticationRequired.
const REFUSALS: [i32; 3] = [13, 18, 391];

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

impl CommandFailure {
    /// A failure of our own finding.
    pub(super) fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, code: None, labels: Vec::new(), message: message.into() }
    }

    /// Whether it is because of who we are: other credentials or certificates may help.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self.kind, FailureKind::Auth | FailureKind::Tls) || self.code.is_some_and(|code| REFUSALS.contains(&code))
    }

    /// What the driver says.
    pub(super) fn from_driver(error: &Error) -> Self {
        let (kind, code, message) = match error.kind.as_ref() {
            ErrorKind::Command(refusal) => (FailureKind::Server, Some(refusal.code), named(&refusal.code_name, &refusal.message)),
            ErrorKind::Write(WriteFailure::WriteConcernError(refusal)) => {
                (FailureKind::Server, Some(refusal.code), named(&refusal.code_name, &refusal.message))
            }
            ErrorKind::Authentication { message, .. } => (FailureKind::Auth, None, message.clone()),
            ErrorKind::DnsResolve { message, .. } => (FailureKind::UnknownHost, None, message.clone()),
            ErrorKind::InvalidTlsConfig { message, .. } => (FailureKind::Tls, None, message.clone()),
            // The driver's own text is a dump of all that it knows of the servers.
            ErrorKind::ServerSelection { .. } => (FailureKind::Selection, None, "no server that takes writes was found".to_owned()),
            ErrorKind::ConnectionPoolCleared { message, .. } => (FailureKind::Network, None, message.clone()),
            ErrorKind::Io(cause) if is_tls(cause) => (FailureKind::Tls, None, cause.to_string()),
            ErrorKind::Io(cause) => (FailureKind::Network, None, in_words(cause)),
            other => (FailureKind::Other, None, other.to_string()),
        };
        let mut labels: Vec<String> = error.labels().iter().cloned().collect();
        labels.sort_unstable();
        Self { kind, code, labels, message: shorten(&message) }
    }
}

/// Whether the driver's failure might be a name that does not resolve: the standard library gives the resolver's errors
/// neither a stable kind nor a code of the operating system.
pub(super) fn may_be_unknown_host(error: &Error) -> bool {
    matches!(error.kind.as_ref(), ErrorKind::Io(cause) if cause.raw_os_error().is_none() && cause.get_ref().is_some())
}

fn is_tls(cause: &std::io::Error) -> bool {
    cause.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())
}

/// `connection refused`, without the number that the system has for it.
fn in_words(cause: &std::io::Error) -> String {
    let text = cause.to_string();
    match cause.raw_os_error() {
        Some(_) => text.split(" (os error").next().unwrap_or(&text).to_lowercase(),
        None => text,
    }
}

fn named(name: &str, message: &str) -> String {
    if name.is_empty() { message.to_owned() } else { format!("{name}: {message}") }
}

/// One line of at most 300 characters.
pub(super) fn shorten(message: &str) -> String {
    const LONGEST: usize = 300;
    let mut short: String = message.chars().take(LONGEST).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if message.chars().nth(LONGEST).is_some() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_connections_tls_and_dns_are_told_apart_by_kind() {
        let kind = |error: Error| CommandFailure::from_driver(&error).kind;
        assert_eq!(kind(std::io::Error::from(std::io::ErrorKind::ConnectionReset).into()), FailureKind::Network);
        let tls = std::io::Error::new(std::io::ErrorKind::InvalidData, rustls::Error::DecryptError);
        assert_eq!(kind(tls.into()), FailureKind::Tls);
    }

    #[test]
    fn an_error_of_the_system_is_told_in_words() {
        let refused = std::io::Error::from_raw_os_error(111);
        assert_eq!(CommandFailure::from_driver(&refused.into()).message, "connection refused");
    }

    #[test]
    fn messages_are_one_short_line() {
        let short = shorten(&format!("a\nb{}", "ä".repeat(1000)));
        assert!(short.starts_with("a bä") && short.chars().count() == 301, "{short}");
        assert_eq!(shorten("as it is"), "as it is");
    }
}
