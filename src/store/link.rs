//! What the connection to NATS says of itself: why it is not there. Written by the connection's callbacks, read by health,
//! without a call to anybody.

use async_nats::{ClientError, ConnectErrorKind, Event, ServerError};
use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The connection, as it told of itself.
#[derive(Debug, Default)]
pub struct Link {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Whether the last try was refused because of who we are.
    refused: bool,
    /// Why the last tries failed, one for each server.
    failures: BTreeSet<String>,
}

impl Link {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what the library says.
    pub(super) fn hear(&self, event: &Event) {
        match event {
            Event::Connected => *self.state() = State::default(),
            // Said of each try that failed; the library hands on the kind's words alone.
            Event::ClientError(ClientError::Other(kind)) => self.state().refused = is_refusal(kind),
            Event::ServerError(ServerError::AuthorizationViolation) => self.state().refused = true,
            _ => {}
        }
    }

    /// Takes in why the tries before this one failed.
    pub(super) fn try_failed(&self, failures: impl Iterator<Item = String>) {
        let failures: BTreeSet<String> = failures.collect();
        if !failures.is_empty() {
            self.state().failures = failures;
        }
    }

    /// Why it is not connected, for people.
    pub fn trouble(&self) -> String {
        let state = self.state();
        let why = state.failures.iter().map(String::as_str).collect::<Vec<_>>().join("; ");
        match (state.refused, why.is_empty()) {
            (true, _) => {
                let why = if why.is_empty() { String::new() } else { format!(" ({why})") };
                format!(
                    "NATS refuses the credentials{why}: correct them, or the files that `nats` in the settings names, which are read \
                     again at each try; then it reconnects by itself"
                )
            }
            (false, true) => "not connected; reconnecting by itself".to_owned(),
            (false, false) => format!("not connected ({why}); reconnecting by itself"),
        }
    }
}

fn is_refusal(kind: &str) -> bool {
    [ConnectErrorKind::AuthorizationViolation, ConnectErrorKind::Authentication].iter().any(|refusal| kind == refusal.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_is_told_until_it_is_connected_again() {
        let link = Link::default();
        assert_eq!(link.trouble(), "not connected; reconnecting by itself");
        link.hear(&Event::ClientError(ClientError::Other(ConnectErrorKind::Io.to_string())));
        link.try_failed(["IO error: connection refused".to_owned()].into_iter());
        assert!(link.trouble().contains("connection refused"));
        link.hear(&Event::ClientError(ClientError::Other(ConnectErrorKind::AuthorizationViolation.to_string())));
        assert!(link.trouble().starts_with("NATS refuses the credentials"), "{}", link.trouble());
        link.hear(&Event::Connected);
        assert_eq!(link.trouble(), "not connected; reconnecting by itself");
    }
}
