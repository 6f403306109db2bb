//! Whether inserts may begin: after a failure of the database one at a time, with growing, jittered pauses; while the gate
//! of the client is shut, which all of its pipelines share, only when it is this one's turn.
//!
//! What others found out closes this breaker as well, but not twice without a success of its own: a pipeline that fails
//! while others are answered keeps to its own pauses. Used by the rest of the core only.

use super::types::{Gate, MS, Nanos, SECOND};
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
    /// The client's gate, while it is shut: why, and whether it is this one's turn.
    shut: Option<(Class, bool)>,
    /// Whether others' word has closed it since its own last success.
    trusted: bool,
}

impl Breaker {
    pub(super) fn new() -> Self {
        Self { state: State::Closed, failures: 0, class: Class::Transient, shut: None, trusted: false }
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
        self.trusted = false;
    }

    /// What all pipelines of the client are told.
    pub(super) fn gate(&mut self, gate: Gate) {
        match gate {
            Gate::Shut(class) => self.shut = Some((class, self.is_its_turn())),
            Gate::Once => {
                if let Some((_, turn)) = &mut self.shut {
                    *turn = true;
                }
            }
            Gate::Open => {
                // A refusal of its own is an answer, and opens the gate for the others.
                let same = self.shut.take().is_some_and(|(class, _)| class == self.class);
                if same && matches!(self.state, State::Open { .. }) && !std::mem::replace(&mut self.trusted, true) {
                    self.state = State::Closed;
                }
            }
        }
    }

    /// Whether the gate is shut and this one is to try.
    pub(super) fn is_its_turn(&self) -> bool {
        self.shut.is_some_and(|(_, turn)| turn)
    }

    /// Whether the gate is shut.
    pub(super) fn is_shut(&self) -> bool {
        self.shut.is_some()
    }

    /// The database answers again, but nothing was there to insert: the next failure pauses as long as it would have.
    pub(super) fn answered(&mut self) {
        self.state = State::Closed;
    }

    /// How many inserts may be under way, `most` in good times.
    pub(super) fn allowed(&self, now: Nanos, most: u32) -> u32 {
        match self.state {
            _ if self.is_shut() => most * u32::from(self.is_its_turn()),
            State::Closed => most,
            State::Open { until } if now >= until => most,
            State::Open { .. } | State::Probing => 0,
        }
    }

    /// An insert or a ping begins.
    pub(super) fn begins(&mut self) {
        if let Some((_, turn)) = &mut self.shut {
            *turn = false;
        }
        if matches!(self.state, State::Open { .. }) {
            self.state = State::Probing;
        }
    }

    /// Whether nothing is wrong.
    pub(super) fn closed(&self) -> bool {
        self.state == State::Closed && !self.is_shut()
    }

    /// When a probe may begin, where one is awaited.
    pub(super) fn probe_at(&self) -> Option<Nanos> {
        match (self.shut, self.state) {
            (Some((_, turn)), _) => turn.then_some(0),
            (None, State::Open { until }) => Some(until),
            (None, _) => None,
        }
    }

    /// What the last failure meant; `None` where nothing is wrong.
    pub(super) fn trouble(&self) -> Option<Class> {
        self.shut.map(|(class, _)| class).or_else(|| (!self.closed()).then_some(self.class))
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
    fn while_the_gate_is_shut_only_a_turn_lets_one_command_through() {
        let mut breaker = Breaker::new();
        breaker.gate(Gate::Shut(Class::Transient));
        assert_eq!((breaker.allowed(9 * SECOND, 4), breaker.closed(), breaker.probe_at()), (0, false, None));
        assert_eq!(breaker.trouble(), Some(Class::Transient));
        breaker.gate(Gate::Once);
        assert_eq!((breaker.allowed(0, 4), breaker.probe_at()), (4, Some(0)));
        breaker.begins();
        assert_eq!((breaker.allowed(9 * SECOND, 4), breaker.probe_at()), (0, None));
        breaker.gate(Gate::Open);
        assert!(breaker.closed() && breaker.trouble().is_none());
        breaker.gate(Gate::Once);
        assert_eq!(breaker.allowed(0, 4), 4, "a turn that comes too late");
    }

    #[test]
    fn one_that_fails_while_others_are_answered_keeps_to_its_own_pauses() {
        let mut breaker = Breaker::new();
        let opens = |breaker: &mut Breaker| {
            breaker.failed(Class::Transient, 0, 1.0);
            breaker.gate(Gate::Shut(Class::Transient));
            breaker.gate(Gate::Open);
            breaker.closed()
        };
        assert!(opens(&mut breaker), "an outage that is over");
        assert!(!opens(&mut breaker) && breaker.probe_at() == Some(200 * MS));
        breaker.succeeded();
        assert!(opens(&mut breaker));
        breaker.succeeded();
        breaker.gate(Gate::Shut(Class::Transient));
        breaker.failed(Class::Operator, 0, 1.0);
        breaker.gate(Gate::Open);
        assert!(!breaker.closed(), "its own refusal is what opened the gate");
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
