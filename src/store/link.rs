//! What the connection to NATS says of itself: why it is not there. Written by the connection's callbacks, read by health,
//! without a call to anybody.

use async_nats::{ClientError, ConnectErrorKind, Event, ServerError};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// So long what was not permitted counts as not permitted now: everything is tried again sooner.
const CURRENT: Duration = Duration::from_secs(60);
/// So many are remembered.
const MOST: usize = 10_000;

/// The connection, as it told of itself.
#[derive(Debug, Default)]
pub struct Link {
    state: Mutex<State>,
    violated: Notify,
}

/// Something that the server did not let this process do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Violation {
    /// `publish` (requests are publishes too) or `subscribe`.
    pub verb: &'static str,
    /// To what.
    pub subject: String,
}

impl Violation {
    /// Reads the server's own words, which are part of its protocol.
    fn parse(text: &str) -> Option<Self> {
        let (_, rest) = text.split_once("Permissions Violation for ")?;
        let (what, rest) = rest.split_once('"')?;
        let verb = if what.starts_with("Publish") { "publish" } else { "subscribe" };
        Some(Self { verb, subject: rest.split('"').next()?.to_owned() })
    }

    /// Whether it is about the pipeline that reads `stream`: its pulls, acknowledgements and looks name that, its dead letters and
    /// its status the id.
    pub fn is_about(&self, stream: &str, id: &str) -> bool {
        self.subject.split('.').skip(1).any(|token| token == stream || token == id)
    }
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let preposition = if self.verb == "publish" { "publish to" } else { "subscribe to" };
        write!(f, "NATS does not permit to {preposition} {}", self.subject)
    }
}

#[derive(Debug, Default)]
struct State {
    /// Whether the last try was refused because of who we are.
    refused: bool,
    /// Why the last tries failed, one for each server.
    failures: BTreeSet<String>,
    /// What was not permitted, and when last.
    violations: HashMap<Violation, Instant>,
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
            Event::ServerError(ServerError::Other(text)) => {
                let Some(violation) = Violation::parse(text) else { return };
                let mut state = self.state();
                state.violations.retain(|_, at| at.elapsed() < CURRENT);
                if state.violations.len() < MOST {
                    state.violations.insert(violation, Instant::now());
                }
                drop(state);
                self.violated.notify_waiters();
            }
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

    /// What was not permitted within the last minute: whoever is granted it is not refused again.
    pub fn violations(&self) -> Vec<Violation> {
        let state = self.state();
        let current = state.violations.iter().filter(|(_, at)| at.elapsed() < CURRENT);
        let mut current: Vec<_> = current.map(|(violation, _)| violation.clone()).collect();
        current.sort_by(|a, b| a.subject.cmp(&b.subject));
        current
    }

    /// Waits until something is not permitted that matters: without the right to remove a consumer that was only used for a
    /// listing, the server removes it by itself.
    pub async fn violated(&self) -> Violation {
        loop {
            let told = self.violated.notified();
            tokio::pin!(told);
            told.as_mut().enable();
            if let Some(violation) = self.violations().into_iter().find(|one| !one.subject.starts_with("$JS.API.CONSUMER.DELETE.")) {
                return violation;
            }
            told.await;
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
    fn what_the_server_does_not_permit_is_read_with_its_subject_and_whom_it_is_about() {
        let link = Link::default();
        for text in [
            r#"Permissions Violation for Publish to "$JS.API.CONSUMER.MSG.NEXT.alpha_metrics.default""#,
            r#"Permissions Violation for Subscription to "alpha.states" using queue "q""#,
            "Slow Consumer Detected",
        ] {
            link.hear(&Event::ServerError(ServerError::Other(text.into())));
        }
        let violations = link.violations();
        assert_eq!(violations.len(), 2);
        assert!(violations[0].verb == "publish" && violations[0].is_about("alpha_metrics", "metrics"));
        assert!(!violations[0].is_about("alpha_other", "other"));
        assert_eq!(violations[1], Violation { verb: "subscribe", subject: "alpha.states".into() });
    }

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
