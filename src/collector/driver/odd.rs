//! Messages with headers or subjects that are not as NATS defines them: counted, and said without flooding anybody. Part of
//! the driver.
//!
//! They are stored like all others; what is said is for whoever wrote the producer.

use crate::pipeline::report::Trouble;
use crate::pipeline::status::Reason;
use std::time::{Duration, Instant};
use tracing::warn;

/// A line of the log at the first one, and one at most every so often.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// What was found so far.
#[derive(Debug, Default)]
pub(super) struct Odd {
    count: u64,
    /// Of the last one: its sequence and what is odd about it.
    last: Option<(u64, String)>,
    /// How many of them were counted elsewhere, and shown.
    counted: u64,
    shown: u64,
    logged: Option<Instant>,
}

impl Odd {
    /// A message with something odd about it.
    pub(super) fn note(&mut self, sequence: u64, what: String) {
        self.count += 1;
        self.last = Some((sequence, what));
    }

    /// How many there were.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// How many there are since this was asked last. Logs, where it is time to.
    pub(super) fn speak(&mut self, stream: &str) -> u64 {
        let new = self.count - std::mem::replace(&mut self.counted, self.count);
        if let Some((sequence, what)) = self.last.as_ref().filter(|_| new > 0)
            && self.logged.is_none_or(|logged| logged.elapsed() >= LOG_EVERY)
        {
            self.logged = Some(Instant::now());
            warn!(stream, sequence, count = self.count, what, "messages have headers or subjects that cannot be read");
        }
        new
    }

    /// What is to be shown, where it has changed since it was asked for last.
    pub(super) fn news(&mut self, stream: &str) -> Option<Trouble> {
        if std::mem::replace(&mut self.shown, self.count) == self.count {
            return None;
        }
        let (sequence, what) = self.last.as_ref()?;
        let message = format!("{} since the execution started, the last with sequence {sequence} of {stream}: {what}", self.count);
        Some(Trouble { reason: Reason::HeadersUnreadable, message })
    }
}
