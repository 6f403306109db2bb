//! What replies mean for the messages: acknowledged, tried again, looked up, refused. Part of the core.

use super::Core;
use super::group::{Group, Puzzle, Settled, Stage};
use super::types::{Effect, Entry, GroupId, Nanos, Outcome, SECOND};
use crate::collector::classify::Class;

/// Failures of a whole command after which a batch is halved, where what failed is not known to pass or to need a person.
const HALVE_AFTER: u32 = 3;
/// How long an unconfirmed acknowledgement rests before it is sent again.
const ACK_AGAIN: Nanos = SECOND;

/// A group's entries by what their failures mean.
#[derive(Default)]
struct Parts {
    again: Vec<Entry>,
    again_class: Option<Class>,
    look_up: Vec<Entry>,
    refused: Vec<Entry>,
    unknown: Vec<Entry>,
    done: u64,
}

impl Core {
    pub(super) fn inserted(&mut self, id: GroupId, outcome: Outcome<'_>, now: Nanos, out: &mut Vec<Effect>) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.tell_late(id, now, out);
        if !matches!(outcome, Outcome::Executed { uncertain: None, .. }) {
            self.doubt(id);
        }
        match outcome {
            Outcome::Executed { failures, uncertain: None } => {
                self.breaker.succeeded();
                self.executed(id, failures, true, now, out);
            }
            // Unknown, never failed: everything again, until the write concern is met.
            Outcome::Executed { uncertain: Some(class), .. } => {
                self.again(id, if class == Class::Transient { class } else { Class::Operator }, now, out);
            }
            Outcome::Failed(Class::Unknown) => self.halve(id, now, out),
            Outcome::Failed(class) => self.again(id, if class == Class::Transient { class } else { Class::Operator }, now, out),
        }
    }

    pub(super) fn looked_up(&mut self, id: GroupId, outcome: Outcome<'_>, now: Nanos, out: &mut Vec<Effect>) {
        match outcome {
            Outcome::Executed { failures, uncertain: None } => self.executed(id, failures, false, now, out),
            Outcome::Executed { .. } | Outcome::Failed(_) => {
                let random = self.random();
                if let Some(group) = self.groups.get_mut(&id) {
                    group.failures += 1;
                    group.stage = Stage::LookUpAgain;
                    group.due = now + super::aside::look_up_delay(group.failures, random);
                }
            }
        }
    }

    /// Every document of the group was tried; those without a failure are durable.
    fn executed(&mut self, id: GroupId, failures: &[(u32, Class)], inserted: bool, now: Nanos, out: &mut Vec<Effect>) {
        let Some(mut group) = self.take(id) else { return };
        let lease = self.lease();
        let parts = if failures.is_empty() { Parts::default() } else { split(&mut group, failures, lease) };
        let here = group.entries.len() as u64;
        let found = if inserted { parts.done } else { here };
        self.totals.duplicates += found;
        self.totals.written += here - found;
        self.proven |= here > 0;
        let (puzzle, failures) = (group.puzzle, group.failures);
        self.acknowledge(id, group, Settled::Stored, now, out);

        for entry in self.inside_lease(parts.refused, now, out) {
            self.refuse(entry, Stage::Held, now);
        }
        let unknown = self.inside_lease(parts.unknown, now, out);
        if !unknown.is_empty() {
            self.puzzle(unknown, Puzzle { by_itself: true, ..puzzle }, now);
        }
        let look_up = self.inside_lease(parts.look_up, now, out);
        if !look_up.is_empty() {
            let group = self.sent_group(Stage::LookingUp, look_up);
            out.push(Effect::LookUp(group));
        }
        let again = self.inside_lease(parts.again, now, out);
        if let Some(class) = parts.again_class {
            self.busy(again, class, here > 0 || failures > 0, failures, now);
        }
    }

    /// Documents that the server could not take now, one by one. `alone`: others do pass, so that nothing else waits for
    /// them.
    fn busy(&mut self, entries: Vec<Entry>, class: Class, alone: bool, failures: u32, now: Nanos) {
        let random = self.random();
        if !alone {
            self.breaker.failed(class, now, random);
        }
        if entries.is_empty() {
            return;
        }
        let id = self.sent_group(if alone { Stage::Busy(class) } else { Stage::Ready }, entries);
        if let Some(group) = self.groups.get_mut(&id) {
            group.failures = failures + 1;
            group.due = if alone { now + super::aside::look_up_delay(failures + 1, random) } else { 0 };
        }
        if !alone {
            self.ready.push_back(id);
        }
    }

    /// What of the group is still inside its lease; the rest is dropped without a word. `None` where nothing is.
    pub(super) fn group_inside_lease(&mut self, mut group: Group, now: Nanos, out: &mut Vec<Effect>) -> Option<Group> {
        let lease = self.lease();
        let expired = group.take_expired(now, lease);
        self.expire(expired, out);
        if group.entries.is_empty() {
            self.recycle(group.entries);
            return None;
        }
        Some(group)
    }

    /// Sends the group's acknowledgements, or forgets what is past its lease.
    pub(super) fn acknowledge(&mut self, id: GroupId, group: Group, settled: Settled, now: Nanos, out: &mut Vec<Effect>) {
        let Some(mut group) = self.group_inside_lease(group, now, out) else { return };
        group.stage = Stage::Acking;
        group.settled = settled;
        self.groups.insert(id, group);
        out.push(if settled == Settled::Stored { Effect::Ack(id) } else { Effect::Terminate(id) });
    }

    pub(super) fn acked(&mut self, id: GroupId, all: bool, now: Nanos, out: &mut Vec<Effect>) {
        let Some(group) = self.groups.get_mut(&id).filter(|group| group.stage == Stage::Acking) else { return };
        if !all && now + ACK_AGAIN < group.lease_ends {
            group.stage = Stage::AckAgain;
            group.due = now + ACK_AGAIN;
            return;
        }
        // Confirmed; or too late to try again: then it is delivered again, and found to be stored.
        if let Some(group) = self.take(id) {
            self.release(group.entries, out);
        }
    }

    /// The command failed as a whole: keep everything and wait.
    fn again(&mut self, id: GroupId, class: Class, now: Nanos, out: &mut Vec<Effect>) {
        let random = self.random();
        self.breaker.failed(class, now, random);
        let Some(group) = self.take(id) else { return };
        self.requeue(id, group, now, out);
    }

    fn requeue(&mut self, id: GroupId, group: Group, now: Nanos, out: &mut Vec<Effect>) {
        let Some(mut group) = self.group_inside_lease(group, now, out) else { return };
        group.failures += 1;
        group.stage = Stage::Ready;
        self.groups.insert(id, group);
        self.ready.push_front(id);
    }

    /// The command failed for an unknown reason: perhaps because of one document. Narrow it down.
    fn halve(&mut self, id: GroupId, now: Nanos, out: &mut Vec<Effect>) {
        let Some(mut group) = self.take(id) else { return };
        if group.puzzle.tries > 0 && group.entries.len() == 1 {
            // Known to fail alone: that says nothing about the database.
            self.breaker.answered();
        } else {
            let random = self.random();
            self.breaker.failed(Class::Unknown, now, random);
        }
        if group.failures + 1 < HALVE_AFTER {
            self.requeue(id, group, now, out);
            return;
        }
        let second = group.entries.split_off(group.entries.len().div_ceil(2));
        let first = std::mem::take(&mut group.entries);
        if second.is_empty() {
            let single = self.inside_lease(first, now, out);
            if !single.is_empty() {
                self.puzzle(single, group.puzzle, now);
            }
            return;
        }
        for half in [second, first] {
            let half = self.inside_lease(half, now, out);
            if half.is_empty() {
                continue;
            }
            let id = self.sent_group(Stage::Ready, half);
            if let Some(new) = self.groups.get_mut(&id) {
                new.failures = HALVE_AFTER - 1;
                new.puzzle = group.puzzle;
                new.oldest_ns = group.oldest_ns;
            }
            self.ready.push_front(id);
        }
    }

    /// Refused for an unknown reason: set aside, to be tried again.
    fn puzzle(&mut self, entries: Vec<Entry>, before: Puzzle, now: Nanos) {
        let first = before.tries == 0;
        let puzzle = Puzzle {
            tries: before.tries + 1,
            since: if first { now } else { before.since },
            stored: if first { self.stored() } else { before.stored },
            by_itself: before.by_itself,
        };
        if self.proven && puzzle.hopeless(now, self.stored()) {
            for entry in entries {
                self.refuse(entry, Stage::Held, now);
            }
            return;
        }
        let id = self.sent_group(Stage::Puzzling, entries);
        if let Some(group) = self.groups.get_mut(&id) {
            group.puzzle = puzzle;
            group.due = now + puzzle.delay();
        }
    }

    /// Documents that were found to be stored, one way or the other.
    fn stored(&self) -> u64 {
        self.totals.written + self.totals.duplicates
    }

    pub(super) fn sent_group(&mut self, stage: Stage, entries: Vec<Entry>) -> GroupId {
        let lease = self.lease();
        let mut group = Group::new(stage, entries);
        group.recount(lease);
        group.sent = true;
        // Whatever became of the insert they were in.
        group.suspect = self.guarded();
        self.new_group(group)
    }

    /// Drops what is past its lease.
    pub(super) fn inside_lease(&mut self, mut entries: Vec<Entry>, now: Nanos, out: &mut Vec<Effect>) -> Vec<Entry> {
        let expired: Vec<Entry> = entries.extract_if(.., |entry| entry.lease_ends <= now).collect();
        self.expire(expired, out);
        entries
    }
}

/// Takes out of the group what did not simply succeed.
fn split(group: &mut Group, failures: &[(u32, Class)], lease: Nanos) -> Parts {
    let mut parts = Parts::default();
    let mut failures = failures.iter().peekable();
    let mut index = 0u32;
    group.entries.retain(|entry| {
        let class = failures.next_if(|(failed, _)| *failed == index).map(|(_, class)| *class);
        index += 1;
        match class {
            None => return true,
            Some(Class::Done) => {
                parts.done += 1;
                return true;
            }
            Some(class @ (Class::Transient | Class::Operator)) => {
                parts.again.push(*entry);
                parts.again_class = Some(class);
            }
            Some(Class::LookUp) => parts.look_up.push(*entry),
            Some(Class::Document) => parts.refused.push(*entry),
            Some(Class::Unknown) => parts.unknown.push(*entry),
        }
        false
    });
    group.recount(lease);
    parts
}
