//! One breaker for all pipelines of a process that share a MongoDB client: what one of them finds out about the server,
//! all are told.
//!
//! ```text
//! each pipeline's commands ── failed, answered ──▶ Gatekeeper ── shut, open ──▶ every pipeline (core: Event::Gate)
//!                                                      └── one try ──▶ one at a time, in turns; a ping where none has
//!                                                                      anything to write
//! ```
//!
//! A failure counts here where it is about the server or the way to it. The first one is a doubt, and its pipeline's own
//! business: others who are answered meanwhile never hear of it. The second without an answer in between shuts the gate.
//! Then nobody pulls or writes (leases are renewed) but by turns, with growing pauses, and what is tried is a real write,
//! since a server that answers pings may not be able to write. Whatever is answered opens the gate for all.
//!
//! What always holds: while it is shut at most one try is under way; a turn that nobody uses is given to the next. Pure: the
//! time comes in. `sink` keeps one for each client and tells the drivers; the simulation of the core has one, too.

use super::classify::Class;
use super::core::{MS, Nanos, SECOND};
use super::sink::FailureKind;
use crate::pipeline::backoff::Backoff;
use std::collections::VecDeque;
use std::time::Duration;

/// The server is away: tried again within 3 s of its return.
const AWAY: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(3));
/// A person has to do something: slower.
const REFUSING: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(20));
/// What fails together within this time is one failure of its pipeline.
const TOGETHER: Nanos = 50 * MS;
/// A turn that was used ends with its command, long before this.
const TURN: Nanos = 30 * SECOND;

/// A pipeline, among those that share the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member(u64);

/// Who is to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// This pipeline.
    Of(Member),
    /// None has anything to write: a ping.
    Ping,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// One failure, of whom and when.
    Doubtful(Option<Member>, Nanos),
    Shut {
        class: Class,
        /// When the next try is due.
        due: Nanos,
        /// Who is trying, and since when.
        trying: Option<(Turn, Nanos)>,
    },
}

/// The breaker of one client.
#[derive(Debug)]
pub struct Gatekeeper {
    state: State,
    /// Failures since something was written.
    failures: u32,
    /// In the order of their turns; whether each has something to write.
    members: VecDeque<(Member, bool)>,
    next: u64,
}

/// Whether a failure is about the server or the way to it, rather than about the command: what it means for all.
pub fn concerns_all(kind: FailureKind, class: Class) -> bool {
    match kind {
        FailureKind::Network | FailureKind::Selection | FailureKind::Timeout | FailureKind::Server => class == Class::Transient,
        FailureKind::Auth | FailureKind::Tls | FailureKind::UnknownHost => true,
        FailureKind::TooLarge | FailureKind::TooLate | FailureKind::Dropped | FailureKind::Other => false,
    }
}

impl Gatekeeper {
    /// Open, without members.
    pub fn new() -> Self {
        Self { state: State::Open, failures: 0, members: VecDeque::new(), next: 1 }
    }

    /// Another pipeline uses the client.
    pub fn join(&mut self) -> Member {
        let member = Member(self.next);
        self.next += 1;
        self.members.push_back((member, false));
        member
    }

    /// One does not any more; its turn, if it had one, is the next one's. Without any the gate is open.
    pub fn leave(&mut self, member: Member) {
        self.members.retain(|(other, _)| *other != member);
        if let State::Shut { trying, .. } = &mut self.state {
            trying.take_if(|(turn, _)| *turn == Turn::Of(member));
        }
        if self.members.is_empty() {
            self.state = State::Open;
        }
    }

    /// Whether a pipeline has something to write.
    pub fn wants(&mut self, member: Member, wants: bool) {
        if let Some((_, wanted)) = self.members.iter_mut().find(|(other, _)| *other == member) {
            *wanted = wants;
        }
    }

    /// A command failed in a way that [`concerns_all`]; `None`: the ping. Whether that shut the gate.
    pub fn failed(&mut self, by: Option<Member>, class: Class, now: Nanos, random: f64) -> bool {
        match &mut self.state {
            State::Open => {
                self.state = State::Doubtful(by, now);
                return false;
            }
            State::Doubtful(doubted, at) if *doubted == by && now < *at + TOGETHER => return false,
            // What was under way when it shut says nothing new.
            State::Shut { trying, .. } if trying.is_none_or(|(turn, _)| turn != by.map_or(Turn::Ping, Turn::Of)) => return false,
            State::Doubtful(..) | State::Shut { .. } => {}
        }
        self.failures = self.failures.saturating_add(1);
        let backoff = if class == Class::Transient { AWAY } else { REFUSING };
        let delay = Nanos::try_from(backoff.delay(self.failures, random).as_nanos()).unwrap_or(SECOND);
        let shuts = self.shut().is_none();
        self.state = State::Shut { class, due: now + delay.max(MS), trying: None };
        shuts
    }

    /// The server answered, whatever it said; `wrote`: that something is stored. Whether that opened the gate.
    pub fn answered(&mut self, wrote: bool) -> bool {
        let opens = self.shut().is_some();
        self.state = State::Open;
        if wrote {
            self.failures = 0;
        }
        opens
    }

    /// What is wrong, while it is shut.
    pub fn shut(&self) -> Option<Class> {
        match self.state {
            State::Shut { class, .. } => Some(class),
            _ => None,
        }
    }

    /// Whether nothing is wrong or doubtful.
    pub fn calm(&self) -> bool {
        self.state == State::Open && self.failures == 0
    }

    /// When to ask for [`Self::turn`]; `None` while it is open.
    pub fn due(&self) -> Option<Nanos> {
        match self.state {
            State::Shut { trying: Some((_, since)), .. } => Some(since + TURN),
            State::Shut { due, .. } => Some(due),
            _ => None,
        }
    }

    /// Who is to try now, if anybody: those with something to write in turns.
    pub fn turn(&mut self, now: Nanos) -> Option<Turn> {
        if self.due().is_none_or(|due| now < due) {
            return None;
        }
        let turn = match self.members.iter().position(|(_, wants)| *wants).and_then(|at| self.members.remove(at)) {
            Some((member, wants)) => {
                self.members.push_back((member, wants));
                Turn::Of(member)
            }
            None => Turn::Ping,
        };
        if let State::Shut { trying, .. } = &mut self.state {
            *trying = Some((turn, now));
        }
        Some(turn)
    }
}

impl Default for Gatekeeper {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shut(members: usize) -> (Gatekeeper, Vec<Member>) {
        let mut gate = Gatekeeper::new();
        let members: Vec<_> = (0..members).map(|_| gate.join()).collect();
        assert!(!gate.failed(Some(members[0]), Class::Transient, 0, 1.0));
        assert!(gate.failed(members.last().copied(), Class::Transient, SECOND, 1.0), "a second failure shuts it");
        (gate, members)
    }

    #[test]
    fn one_failure_is_a_doubt_and_what_others_are_answered_meanwhile_ends_it() {
        let mut gate = Gatekeeper::new();
        let (one, two) = (gate.join(), gate.join());
        for round in 0..100 {
            assert!(!gate.failed(Some(one), Class::Transient, round * SECOND, 1.0));
            // What was under way with it fails with it.
            assert!(!gate.failed(Some(one), Class::Transient, round * SECOND + MS, 1.0));
            assert!(!gate.answered(true) && gate.calm());
        }
        gate.failed(Some(one), Class::Transient, 0, 1.0);
        assert!(gate.failed(Some(two), Class::Transient, MS, 1.0));
        assert_eq!(gate.shut(), Some(Class::Transient));
    }

    #[test]
    fn while_it_is_shut_one_tries_at_a_time_and_each_in_its_turn() {
        let (mut gate, members) = shut(3);
        members[..2].iter().for_each(|member| gate.wants(*member, true));
        let (mut now, mut turns) = (SECOND, Vec::new());
        for _ in 0..20 {
            assert!(gate.due().is_some_and(|due| due > now && due <= now + 3 * SECOND));
            now = gate.due().unwrap();
            let Some(Turn::Of(member)) = gate.turn(now) else { panic!("nobody's turn") };
            assert_eq!(gate.turn(now + SECOND), None, "one at a time");
            let other = members.iter().find(|other| **other != member);
            assert!(!gate.failed(other.copied(), Class::Transient, now, 1.0) && gate.turn(now + SECOND).is_none());
            gate.failed(Some(member), Class::Transient, now, 1.0);
            turns.push(member);
        }
        assert!(turns.windows(2).all(|pair| pair[0] != pair[1]) && !turns.contains(&members[2]));
        assert!(gate.answered(true), "any answer opens it");
        assert_eq!((gate.shut(), gate.due(), gate.turn(now + SECOND)), (None, None, None));
    }

    #[test]
    fn a_turn_of_somebody_who_leaves_is_the_next_ones_and_a_ping_goes_where_nobody_has_anything_to_write() {
        let (mut gate, members) = shut(2);
        gate.wants(members[1], true);
        assert_eq!(gate.turn(5 * SECOND), Some(Turn::Of(members[1])));
        gate.leave(members[1]);
        assert_eq!(gate.turn(5 * SECOND), Some(Turn::Ping));
        assert!(!gate.failed(None, Class::Operator, 6 * SECOND, 1.0));
        assert_eq!(gate.shut(), Some(Class::Operator));
        assert_eq!(gate.turn(6 * SECOND + 100 * MS), None);
        assert!(gate.turn(30 * SECOND).is_some());
        assert_eq!(gate.turn(40 * SECOND), None);
        assert!(gate.turn(61 * SECOND).is_some(), "a turn that nobody used");
        gate.leave(members[0]);
        assert_eq!(gate.shut(), None, "nobody is left who could try");
    }

    #[test]
    fn a_server_that_answers_pings_and_cannot_write_is_tried_ever_more_slowly_all_the_same() {
        let (mut gate, members) = shut(1);
        for _ in 0..10 {
            assert!(gate.answered(false));
            gate.failed(Some(members[0]), Class::Transient, 0, 1.0);
            gate.failed(Some(members[0]), Class::Transient, SECOND, 1.0);
        }
        assert_eq!(gate.due(), Some(4 * SECOND));
    }

    #[test]
    fn what_is_about_a_single_command_is_not_everybodys_business() {
        use FailureKind::*;
        assert!(concerns_all(Network, Class::Transient) && concerns_all(Server, Class::Transient) && concerns_all(Auth, Class::Operator));
        assert!(!concerns_all(Server, Class::Operator) && !concerns_all(Server, Class::Unknown) && !concerns_all(TooLarge, Class::Unknown));
    }
}
