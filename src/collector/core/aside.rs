//! Messages that cannot simply be stored: held while the config is not proven, tried again, or put into the dead letters.
//!
//! What always holds: nothing is dead-lettered before a document of this config was stored; a message is terminated only
//! after its dead letter is stored; how many wait here is bounded, since pulling stops above the bound. Part of the core.

use super::Core;
use super::group::{Group, Puzzle, Settled, Stage};
use super::types::{Effect, Entry, GroupId, Nanos, SECOND, Target};
use crate::pipeline::backoff::Backoff;
use std::time::Duration;

/// How often what is refused is tried again while nothing was ever stored: somebody may have corrected the validator.
const HELD_AGAIN: Nanos = 30 * SECOND;
/// How many may wait aside at least, where the consumer allows it.
const ASIDE: u64 = 1000;
/// Dead letters on their way at once.
const BURYING: u32 = 32;
/// Tries after which, and time over which, a document refused for an unknown reason counts as refused.
const PUZZLE_TRIES: u32 = 5;
const PUZZLE_TIME: Nanos = 120 * SECOND;

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

impl Puzzle {
    /// Whether it has been tried often and long enough, while others were stored. Where whole commands failed, it may have
    /// been the database: then only what was stored since counts.
    pub(super) fn hopeless(&self, now: Nanos, stored: u64) -> bool {
        let neighbours = if self.by_itself { stored > 0 } else { stored > self.stored };
        self.tries >= PUZZLE_TRIES && now >= self.since + PUZZLE_TIME && neighbours
    }

    pub(super) fn delay(&self) -> Nanos {
        match self.tries {
            0 | 1 => 2 * SECOND,
            2 => 10 * SECOND,
            3 => 30 * SECOND,
            _ => 60 * SECOND,
        }
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

    /// A message that cannot be stored as it is. Joins the others, so that there are few groups.
    pub(super) fn refuse(&mut self, entry: Entry, stage: Stage, now: Nanos) {
        let stage = if self.proven { Stage::Doomed } else { stage };
        let lease = self.lease();
        let count = self.batch_count() as usize;
        let bytes = self.batches.bytes;
        let room =
            |group: &&mut Group| group.stage == stage && group.entries.len() < count && group.bytes + u64::from(entry.bytes) <= bytes;
        if let Some(group) = self.groups.values_mut().rev().find(room) {
            group.push(entry, lease);
            self.aside += 1;
            return;
        }
        let mut group = Group::new(stage, Vec::new());
        group.push(entry, lease);
        group.sent = stage == Stage::Held;
        group.suspect = self.guarded();
        group.due = if stage == Stage::Held { now + HELD_AGAIN } else { 0 };
        self.new_group(group);
    }

    pub(super) fn retry_aside(&mut self, now: Nanos, out: &mut Vec<Effect>) {
        let calm = self.breaker.closed() && self.target == Target::Good;
        let (proven, shut) = (self.proven, self.breaker.is_shut());
        let stopping = self.stopping.is_some();
        let due: Vec<GroupId> = self
            .groups
            .iter()
            .filter(|(_, group)| match group.stage {
                Stage::LookUpAgain => now >= group.due && !shut,
                Stage::AckAgain => now >= group.due,
                Stage::CheckAgain => calm && now >= group.due && !stopping,
                Stage::Busy(_) => calm && now >= group.due,
                Stage::Held => calm && (proven || (now >= group.due && !stopping)),
                Stage::Puzzling => calm && now >= group.due && !stopping,
                Stage::Unreadable => proven,
                _ => false,
            })
            .map(|(id, _)| *id)
            .collect();
        // What finds no room would keep others from being written while it waits.
        let mut room = self.batches.max_in_flight.saturating_sub(self.checking);
        for id in due {
            if self.groups.get(&id).is_some_and(|group| group.stage == Stage::CheckAgain) {
                if room == 0 {
                    continue;
                }
                room -= 1;
            }
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
                _ => {
                    group.stage = Stage::Ready;
                    self.ready.push_back(id);
                }
            }
            self.groups.insert(id, group);
        }
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
                self.refuse(entry, Stage::Held, now);
            }
        }
    }
}
