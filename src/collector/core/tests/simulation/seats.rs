//! Processes as a controller starts and stops them, and its target change: the old ones are stopped, what they may still
//! hold is awaited, and the new ones look there before they insert. Part of the world.

use super::process::{Process, Told};
use super::stream::EPOCH_NS;
use super::world::{Action, Change, GRACE, World};
use crate::collector::core::*;
use crate::pipeline::moves::{Place, Previous};
use crate::pipeline::spec::Target as Where;

impl World<'_> {
    /// Starts a process in a seat.
    pub fn start(&mut self, seat: usize) {
        let seed = self.random.below(u64::MAX);
        let told = self.now > self.plan.quiet_from() || self.random.below(2) == 0;
        let proven = self.proven && told;
        let mut process = Process::new(self.plan, self.place, self.previous.clone(), proven, seed, self.mutant);
        process.connected = self.stream.up;
        self.processes.push(process);
        let p = self.processes.len() - 1;
        self.seats[seat] = p;
        self.note(|| format!("process {p} starts"));
        self.feed(p, Event::Target(Target::Good));
        self.happens_to(p, Told::Wake(0));
        let delay = self.random.below(4 * SECOND);
        self.later(delay, Action::Tell(p, None, Told::Other(None)));
    }

    /// Goes on with a target change, as a controller does.
    pub fn change_target(&mut self) {
        let again = match self.change {
            Change::None => {
                self.stream.paused = true;
                self.change = Change::Stopping(self.now);
                for p in self.seats.clone() {
                    self.later(0, Action::Tell(p, None, Told::Stop(10 * SECOND)));
                }
                true
            }
            Change::Stopping(since) => {
                let seats = self.seats.clone();
                if seats.iter().all(|p| self.processes[*p].over()) || self.now > since + 40 * SECOND {
                    // Whoever cannot be told is given up; one that is suspended lives on.
                    for p in seats {
                        if self.processes[p].asleep_until <= self.now {
                            self.disconnect(p);
                            self.processes[p].dead = true;
                        }
                    }
                    self.change = Change::Awaiting(self.now);
                }
                true
            }
            Change::Awaiting(since) => {
                let done = self.stream.pending() == 0 || self.now > since + 2 * self.plan.ack_wait;
                if done && self.stream.up {
                    self.arrive_at_target();
                }
                !(done && self.stream.up)
            }
        };
        if again {
            self.later(SECOND / 2, Action::Change);
        }
    }

    fn arrive_at_target(&mut self) {
        let until = EPOCH_NS + self.now + (120 * SECOND).max(2 * self.plan.ack_wait);
        let target = Where { hosts: Vec::new(), database: String::new(), collection: String::new() };
        self.previous = Some(Previous {
            place: Place { target, connection: String::new(), series: None },
            stream: String::new(),
            created: None,
            up_to: self.stream.last,
            until: jiff::Timestamp::from_nanosecond(i128::from(until)).unwrap(),
        });
        self.place = 1;
        self.change = Change::None;
        self.stream.paused = false;
        self.note(|| "the target is another one now".into());
        for seat in 0..self.plan.processes {
            self.start(seat);
        }
    }

    /// Starts another one in a seat, and stops the one that was there.
    pub fn restart(&mut self, seat: usize) {
        let p = self.seats[seat];
        if self.change == Change::None && !self.processes[p].over() {
            self.later(0, Action::Tell(p, None, Told::Stop(GRACE)));
            self.start(seat);
        }
    }
}
