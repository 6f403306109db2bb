//! Messages that cannot simply be stored: held while the config is not proven, tried again, or put into the dead letters.
//!
//! What always holds: nothing is dead-lettered before a document of this config was stored; a message is terminated only
//! after its dead letter is stored; how many wait here is bounded, since pulling stops above the bound. Part of the core.

use super::Core;
use super::group::{Group, Settled, Stage};
use super::refusal::Puzzle;
use super::types::{Effect, Entry, GroupId, Nanos, SECOND, Target};
use crate::pipeline::backoff::Backoff;
use std::time::Duration;

/// How many may wait aside at least, where the consumer allows it.
const ASIDE: u64 = 1000;
/// Dead letters on their way at once.
const BURYING: u32 = 32;
const LOOK_UP: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(3));
const BURY: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(10));

/// The dead letters on their way.
#[derive(Debug, Default)]
pub(super) struct Burials {
    active: u32,
    failures: u32,
    next_at: Nanos,
    waiting: bool,
}

impl Burials {
    /// Whether dead letters cannot be stored at the moment.
    pub(super) fn failing(&self) -> bool {
        self.failures > 0
    }

    pub(super) fn due(&self, now: Nanos) -> Nanos {
        if self.waiting && self.next_at > now { self.next_at } else { Nanos::MAX }
    }
}

pub(super) fn look_up_delay(failures: u32, random: f64) -> Nanos {
    nanos(LOOK_UP.delay(failures, random))
}

fn nanos(delay: Duration) -> Nanos {
    Nanos::try_from(delay.as_nanos()).unwrap_or(SECOND)
}

impl Core {
    /// How many messages may wait aside: enough to look further than a few bad ones, few enough that others still fit
    /// into what the consumer allows.
    pub(super) fn aside_bound(&self) -> u64 {
        let batch = self.batch_count();
        (4 * batch).max(ASIDE).min(self.share().saturating_sub(batch)).max(1)
    }

    /// Bytes of the messages that wait aside.
    pub(super) fn aside_bytes(&self) -> u64 {
        if self.aside == 0 {
            return 0;
        }
        self.groups.values().filter(|group| group.stage.aside()).map(|group| group.bytes).sum()
    }

    /// A payload that cannot be sent, or whose dead letter is there already.
    pub(super) fn cannot_be_sent(&mut self, entry: Entry) {
        self.join(entry, if self.proven { Stage::Doomed } else { Stage::Unreadable }, Puzzle::default(), 0);
    }

    /// Tries again what is due, as few at a time as may be written at once: what is tried again keeps nothing waiting.
    pub(super) fn retry_aside(&mut self, now: Nanos, out: &mut Vec<Effect>) {
        let calm = self.breaker.closed() && self.target == Target::Good;
        let (proven, shut) = (self.proven, self.breaker.is_shut());
        let stopping = self.stopping.is_some();
        let stored = self.stored();
        let due: Vec<GroupId> = self
            .groups
            .iter()
            .filter(|(_, group)| match group.stage {
                Stage::LookUpAgain => now >= group.due && !shut,
                Stage::AckAgain => now >= group.due,
                Stage::CheckAgain => calm && now >= group.due && !stopping,
                Stage::Busy(_) => calm && now >= group.due,
                Stage::Held => calm && !stopping && (now >= group.due || proven && group.puzzle.stored.is_some_and(|then| stored > then)),
                Stage::Puzzling => calm && now >= group.due && !stopping,
                Stage::Unreadable => proven,
                _ => false,
            })
            .map(|(id, _)| *id)
            .collect();
        if due.is_empty() {
            return;
        }
        // What finds no room would keep others from being written while it waits.
        let mut checks = self.batches.max_in_flight.saturating_sub(self.checking);
        let retried = self.groups.values().filter(|group| group.retry && group.stage != Stage::Acking).count();
        let mut room = (self.batches.max_in_flight as usize).saturating_sub(retried);
        for id in due {
            let Some(mut group) = self.take(id) else { continue };
            match group.stage {
                Stage::LookUpAgain => {
                    group.stage = Stage::LookingUp;
                    out.push(Effect::LookUp(id));
                }
                Stage::AckAgain => {
                    group.stage = Stage::Acking;
                    out.push(if group.settled == Settled::Stored { Effect::Ack(id) } else { Effect::Terminate(id) });
                }
                Stage::Unreadable => {
                    group.stage = Stage::Doomed;
                    self.aside += group.entries.len() as u64;
                }
                Stage::CheckAgain if checks > 0 => {
                    checks -= 1;
                    group.stage = Stage::Ready;
                    self.ready.push_back(id);
                }
                Stage::Held if room > 0 && now < group.due => {
                    room -= 1;
                    self.one_by_one(&mut group);
                    self.aside += group.entries.len() as u64;
                }
                Stage::Busy(_) | Stage::Held | Stage::Puzzling if room > 0 => {
                    room -= 1;
                    group.stage = Stage::Ready;
                    group.retry = true;
                    group.due = 0;
                    self.ready.push_back(id);
                }
                _ => self.aside += if group.stage.aside() { group.entries.len() as u64 } else { 0 },
            }
            if !group.entries.is_empty() {
                self.groups.insert(id, group);
            }
        }
    }

    /// Takes one out of a group, to be tried alone.
    fn one_by_one(&mut self, group: &mut Group) {
        let lease = self.lease();
        let Some(entry) = group.entries.pop() else { return };
        group.recount(lease);
        let id = self.sent_group(Stage::Ready, vec![entry]);
        if let Some(single) = self.groups.get_mut(&id) {
            single.retry = true;
            single.puzzle = group.puzzle;
            single.suspect = group.suspect;
            single.oldest_ns = group.oldest_ns;
        }
        self.ready.push_back(id);
    }

    pub(super) fn bury_doomed(&mut self, now: Nanos, out: &mut Vec<Effect>) {
        self.burials.waiting = false;
        let lease = self.lease();
        while let Some((&id, _)) = self.groups.iter().find(|(_, group)| group.stage == Stage::Doomed) {
            if now < self.burials.next_at || self.burials.active >= if self.burials.failing() { 1 } else { BURYING } {
                self.burials.waiting = true;
                return;
            }
            let Some(mut group) = self.take(id) else { return };
            if let Some(entry) = group.entries.pop() {
                let single = self.sent_group(Stage::Burying, vec![entry]);
                self.burials.active += 1;
                out.push(Effect::Bury(single));
            }
            if group.entries.is_empty() {
                self.recycle(group.entries);
            } else {
                group.recount(lease);
                self.aside += group.entries.len() as u64;
                self.groups.insert(id, group);
            }
        }
        if self.burials.active == 0 {
            // Nothing is left that a failure could be about: its leases ended.
            self.burials.failures = 0;
        }
    }

    /// What was to become a dead letter is not what was published.
    pub(super) fn disowned(&mut self, id: GroupId, out: &mut Vec<Effect>) {
        self.burials.active = self.burials.active.saturating_sub(1);
        if let Some(group) = self.take(id) {
            self.release(group.entries, out);
        }
    }

    pub(super) fn buried(&mut self, id: GroupId, stored: bool, now: Nanos, out: &mut Vec<Effect>) {
        self.burials.active = self.burials.active.saturating_sub(1);
        if stored {
            self.burials.failures = 0;
            self.burials.next_at = 0;
        } else {
            self.burials.failures += 1;
            let random = self.random();
            self.burials.next_at = now + nanos(BURY.delay(self.burials.failures, random));
        }
        let Some(group) = self.take(id) else { return };
        if stored {
            self.totals.dead_lettered += group.entries.len() as u64;
            self.acknowledge(id, group, Settled::Buried, now, out);
        } else {
            for entry in self.inside_lease(group.entries, now, out) {
                self.join(entry, Stage::Doomed, Puzzle::default(), 0);
            }
        }
    }
}
