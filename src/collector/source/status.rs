//! What the status messages of pull requests mean: one pure table.
//!
//! The code decides; where one code stands for several things, the server's fixed descriptions do
//! (<https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-37.md>). What is not known here ends the
//! request and is reported with its text: nothing is silently taken for harmless.

use async_nats::StatusCode;

/// What a status message means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The request is alive.
    Heartbeat,
    /// The request ended as requests do.
    Ended,
    /// All requests are gone.
    Gap(&'static str),
    /// Consumer or stream are gone.
    Gone(String),
    /// The request was refused.
    Refused(String),
}

/// Reads a status message.
pub(super) fn read(code: StatusCode, description: Option<&str>) -> Meaning {
    let description = description.unwrap_or_default().trim();
    match (code.as_u16(), description) {
        (100, _) => Meaning::Heartbeat,
        (404 | 408, _) | (409, "Batch Completed" | "Message Size Exceeds MaxBytes") => Meaning::Ended,
        (409, "Leadership Change") => Meaning::Gap("the consumer's leader changed"),
        (409, "Server Shutdown") => Meaning::Gap("the server shuts down"),
        (409, "Consumer Deleted") => Meaning::Gone("the consumer was deleted".into()),
        (409, "Consumer is push based") => Meaning::Gone("the consumer is not a pull consumer".into()),
        (503, _) => Meaning::Gone("nobody answers for the consumer".into()),
        (code, "") => Meaning::Refused(format!("the server refused a pull request with status {code}")),
        (code, text) => Meaning::Refused(format!("the server refused a pull request: {text} ({code})")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(code: u16, description: &str) -> Meaning {
        read(StatusCode::from_u16(code).unwrap(), Some(description))
    }

    #[test]
    fn every_status_of_a_pull_request_has_its_row() {
        assert_eq!(of(100, "Idle Heartbeat"), Meaning::Heartbeat);
        for (code, text) in [
            (404, "No Messages"),
            (408, "Request Timeout"),
            (408, "Interest Expired"),
            (408, "Requests Pending"),
            (409, "Batch Completed"),
            (409, "Message Size Exceeds MaxBytes"),
        ] {
            assert_eq!(of(code, text), Meaning::Ended, "{code} {text}");
        }
        for text in ["Leadership Change", "Server Shutdown"] {
            assert!(matches!(of(409, text), Meaning::Gap(_)), "{text}");
        }
        for (code, text) in [(409, "Consumer Deleted"), (409, "Consumer is push based"), (503, "")] {
            assert!(matches!(of(code, text), Meaning::Gone(_)), "{code} {text}");
        }
        for (code, text) in [
            (400, "Bad Request - heartbeat value too large"),
            (409, "Exceeded MaxWaiting"),
            (409, "Exceeded MaxRequestBatch of 10"),
            (409, "Exceeded MaxRequestExpires of 1s"),
            (409, "Exceeded MaxRequestMaxBytes of 10"),
            (412, "Required Api Level"),
            (423, "Nats-Wrong-Pin-Id"),
            (409, "Something of a later release"),
        ] {
            assert!(matches!(of(code, text), Meaning::Refused(said) if said.contains(text)), "{code} {text}");
        }
    }
}
