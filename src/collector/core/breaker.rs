//! Whether inserts may begin: after a failure of the database one at a time, with growing, jittered pauses.
//!
//! Used by the rest of the core only.

use super::types::{MS, Nanos, SECOND};
use crate::collector::classify::Class;
use crate::pipeline::backoff::Backoff;
use std::time::Duration;

/// The database is away: back within 3 s of its return.
const AWAY: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(3));
/// A person has to do something: slower.
const REFUSING: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(20));

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    Open { until: Nanos },
    Probing,
}

/// The breaker.
#[derive(Debug)]
pub(super) struct Breaker {
    state: State,
    failures: u32,
    class: Class,
}

impl Breaker {
    pub(super) fn new() -> Self {
        Self { state: State::Closed, failures: 0, class: Class::Transient }
    }

    /// A command failed. Others that were under way at the same time and fail too do not lengthen the pause.
    pub(super) fn failed(&mut self, class: Class, now: Nanos, random: f64) {
        self.class = class;
        if matches!(self.state, State::Open { .. }) {
            return;
        }
        self.failures += 1;
        let backoff = if class == Class::Transient { AWAY } else { REFUSING };
        let delay = Nanos::try_from(backoff.delay(self.failures, random).as_nanos()).unwrap_or(SECOND);
        self.state = State::Open { until: now + delay.max(MS) };
    }

    /// A command was carried out.
    pub(super) fn succeeded(&mut self) {
        self.state = State::Closed;
        self.failures = 0;
    }

    /// The database answers again, but nothing was there to insert: the next failure pauses as long as it would have.
    pub(super) fn answered(&mut self) {
        self.state = State::Closed;
    }

    /// How many inserts may be under way, `most` in good times.
    pub(super) fn allowed(&self, now: Nanos, most: u32) -> u32 {
        match self.state {
            State::Closed => most,
            State::Open { until } if now >= until => most,
            State::Open { .. } | State::Probing => 0,
        }
    }

    /// An insert or a ping begins.
    pub(super) fn begins(&mut self) {
        if matches!(self.state, State::Open { .. }) {
            self.state = State::Probing;
        }
    }

    /// Whether nothing is wrong.
    pub(super) fn closed(&self) -> bool {
        self.state == State::Closed
    }

    /// When a probe may begin, where one is awaited.
    pub(super) fn probe_at(&self) -> Option<Nanos> {
        match self.state {
            State::Open { until } => Some(until),
            _ => None,
        }
    }

    /// What the last failure meant; `None` where nothing is wrong.
    pub(super) fn trouble(&self) -> Option<Class> {
        (!self.closed()).then_some(self.class)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn after_a_failure_one_probe_at_a_time_and_after_a_success_all() {
        let mut breaker = Breaker::new();
        assert_eq!(breaker.allowed(0, 4), 4);
        breaker.failed(Class::Transient, 0, 1.0);
        breaker.failed(Class::Transient, 0, 1.0);
        assert_eq!(breaker.probe_at(), Some(100 * MS));
        assert_eq!(breaker.allowed(99 * MS, 4), 0);
        assert_eq!(breaker.allowed(100 * MS, 4), 4);
        breaker.begins();
        assert_eq!(breaker.allowed(100 * MS, 4), 0);
        breaker.succeeded();
        assert_eq!(breaker.allowed(100 * MS, 4), 4);
    }

    #[test]
    fn an_absent_database_is_tried_every_three_seconds_at_least() {
        let mut breaker = Breaker::new();
        let mut now = 0;
        for _ in 0..50 {
            breaker.failed(Class::Transient, now, 1.0);
            let next = breaker.probe_at().unwrap();
            assert!(next > now && next <= now + 3 * SECOND);
            now = next;
            breaker.begins();
        }
    }
}
