//! The pull requests that are outstanding, as far as anyone on this side can know.
//!
//! The server serves several requests in turn, and the messages do not say which one they answer: so only the total is
//! counted. Every request carries a byte limit, hence ends with a status message, which says what it did not bring.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Outstanding pull requests.
#[derive(Debug, Default)]
pub(super) struct Requests {
    open: Vec<Request>,
    outstanding: u64,
    heard: Option<Instant>,
    /// The same for those who watch, in milliseconds since the epoch.
    signs: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Request {
    id: u64,
    batch: u64,
    heartbeat: Duration,
}

impl Requests {
    /// Messages that may still come.
    pub(super) fn outstanding(&self) -> u64 {
        self.outstanding
    }

    /// A request was sent.
    pub(super) fn opened(&mut self, id: u64, batch: u64, heartbeat: Duration, now: Instant) {
        if self.open.is_empty() {
            self.heard = Some(now);
        }
        self.open.push(Request { id, batch, heartbeat });
        self.outstanding += batch;
    }

    /// A request ended, with `unused` messages not brought (all, where the server does not say). Whether it was known.
    pub(super) fn ended(&mut self, id: u64, unused: Option<u64>) -> bool {
        let Some(at) = self.open.iter().position(|request| request.id == id) else { return false };
        let request = self.open.swap_remove(at);
        self.outstanding = match self.open.is_empty() {
            true => 0,
            false => self.outstanding.saturating_sub(unused.unwrap_or(request.batch)),
        };
        true
    }

    /// Something came for a request.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = Some(now);
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.signs.store(u64::try_from(since.as_millis()).unwrap_or(u64::MAX), Relaxed);
    }

    /// When something was last heard, as a clock that others can read.
    pub(super) fn signs_of_life(&self) -> Arc<AtomicU64> {
        self.signs.clone()
    }

    /// Messages came.
    pub(super) fn brought(&mut self, messages: u64, now: Instant) {
        self.heard = Some(now);
        self.outstanding = self.outstanding.saturating_sub(messages);
        if self.outstanding == 0 {
            self.open.clear();
        }
    }

    /// All requests are gone. Whether there were any.
    pub(super) fn clear(&mut self) -> bool {
        self.outstanding = 0;
        let any = !self.open.is_empty();
        self.open.clear();
        any
    }

    /// When silence becomes a gap: two heartbeats after the last sign of life.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let heartbeat = self.open.iter().map(|request| request.heartbeat).max()?;
        Some(self.heard? + 2 * heartbeat)
    }

    /// Gives the requests one more heartbeat: it was this process that did not listen.
    pub(super) fn excuse(&mut self, now: Instant) {
        let heartbeat = self.open.iter().map(|request| request.heartbeat).max().unwrap_or_default();
        self.heard = now.checked_sub(heartbeat).or(Some(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEAT: Duration = Duration::from_secs(1);

    #[test]
    fn the_total_is_right_whichever_request_was_served() {
        let now = Instant::now();
        let mut requests = Requests::default();
        requests.opened(1, 100, BEAT, now);
        requests.opened(2, 50, BEAT, now);
        requests.brought(60, now);
        assert!(requests.ended(1, Some(70)));
        assert_eq!(requests.outstanding(), 20);
        assert!(!requests.ended(1, Some(70)), "a request ends once");
        assert!(requests.ended(2, Some(20)));
        assert_eq!(requests.outstanding(), 0);
    }

    #[test]
    fn silence_counts_from_the_last_sign_of_life_of_any_request() {
        let now = Instant::now();
        let mut requests = Requests::default();
        assert_eq!(requests.deadline(), None);
        requests.opened(1, 10, BEAT, now);
        assert_eq!(requests.deadline(), Some(now + 2 * BEAT));
        requests.heard(now + BEAT);
        requests.opened(2, 10, BEAT, now + 2 * BEAT);
        assert_eq!(requests.deadline(), Some(now + 3 * BEAT), "a new request is no sign of life");
        requests.brought(20, now + BEAT);
        assert_eq!(requests.deadline(), None, "nothing is expected any more");
    }
}
