//! What replies mean for the messages: acknowledged, tried again, looked up, refused. Part of the core.

use super::Core;
use super::group::{Group, Settled, Stage};
use super::refusal::Refused;
use super::types::{Effect, Entry, GroupId, Nanos, Outcome, SECOND};
use crate::collector::classify::Class;

/// How long an unconfirmed acknowledgement rests before it is sent again.
const ACK_AGAIN: Nanos = SECOND;

/// A group's entries by what their failures mean.
#[derive(Default)]
struct Parts {
    again: Vec<Entry>,
    again_class: Option<Class>,
    look_up: Vec<Entry>,
    refused: Vec<Entry>,
    doubtful: Vec<Entry>,
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
                let sent = self.groups.get(&id).map_or(0, |group| group.entries.len());
                let all = |of: fn(Class) -> bool| failures.len() == sent && sent > 0 && failures.iter().all(|(_, class)| of(*class));
                // What hits every document is no document's fault: the command failed.
                if sent > 1 && all(|class| class == Class::Unknown) {
                    return self.halve(id, Class::Unknown, now, out);
                }
                if !all(|class| matches!(class, Class::Transient | Class::Operator)) {
                    self.breaker.succeeded();
                }
                self.executed(id, failures, true, now, out);
            }
            // Unknown, never failed: everything again, until the write concern is met.
            Outcome::Executed { uncertain: Some(class), .. } => {
                self.again(id, if class == Class::Transient { class } else { Class::Operator }, now, out);
            }
            Outcome::Failed(Class::Transient) => self.again(id, Class::Transient, now, out),
            Outcome::Failed(Class::Operator) => self.halve(id, Class::Operator, now, out),
            Outcome::Failed(_) => self.halve(id, Class::Unknown, now, out),
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
    ///
    /// Where a command stored none of its documents, a duplicate of our own identity is not taken at its word: a router of
    /// release 7.0 or before says nothing of an unmet write concern then, and what is stored may be rolled back. It is
    /// looked up on a majority, which costs one read of `_id`s for each such command: after a crash, or an answer that was lost.
    fn executed(&mut self, id: GroupId, failures: &[(u32, Class)], inserted: bool, now: Nanos, out: &mut Vec<Effect>) {
        let Some(mut group) = self.take(id) else { return };
        let lease = self.lease();
        let before = self.stored();
        let mut parts = if failures.is_empty() { Parts::default() } else { split(&mut group, failures, lease) };
        if inserted && parts.done > 0 && parts.done == group.entries.len() as u64 {
            parts.look_up.append(&mut group.entries);
            parts.done = 0;
        }
        let here = group.entries.len() as u64;
        let found = if inserted { parts.done } else { here };
        self.totals.duplicates += found;
        self.totals.written += here - found;
        self.proven |= here > 0;
        let (puzzle, failed, of, busy_at) = (group.puzzle, group.failures, group.of, group.busy_at);
        // What a look-up found is certain, whatever became of the others.
        let refused = Refused { before: puzzle, of, stored_before: before, certain: here > 0 || !inserted };
        self.acknowledge(id, group, Settled::Stored, now, out);

        let entries = self.inside_lease(parts.refused, now, out);
        self.refused(entries, refused, now);
        let entries = self.inside_lease(parts.doubtful, now, out);
        self.weigh(entries, Class::Doubtful, refused, now);
        let entries = self.inside_lease(parts.unknown, now, out);
        self.weigh(entries, Class::Unknown, refused, now);
        let look_up = self.inside_lease(parts.look_up, now, out);
        if !look_up.is_empty() {
            let id = self.sent_group(Stage::LookingUp, look_up);
            if let Some(group) = self.groups.get_mut(&id) {
                // What is found nowhere has been tried as often as before, and in the same company.
                group.puzzle = puzzle;
                (group.of, group.failures) = (of, failed);
            }
            out.push(Effect::LookUp(id));
        }
        let again = self.inside_lease(parts.again, now, out);
        if let Some(class) = parts.again_class {
            // What a look-up does not find rests by itself.
            let alone = here > 0 || !inserted || busy_at.is_some_and(|then| self.stored() > then);
            let id = self.busy(again, class, alone, failed, now);
            if let Some(group) = id.and_then(|id| self.groups.get_mut(&id)) {
                (group.puzzle, group.busy_at) = (puzzle, busy_at.or(Some(before)));
            }
        }
    }

    /// Documents that the server could not take now, one by one. `alone`: others do pass, so that nothing else waits for
    /// them.
    fn busy(&mut self, entries: Vec<Entry>, class: Class, alone: bool, failures: u32, now: Nanos) -> Option<GroupId> {
        let random = self.random();
        if alone {
            self.breaker.answered();
        } else {
            self.breaker.failed(class, now, random);
        }
        if entries.is_empty() {
            return None;
        }
        let id = self.sent_group(if alone { Stage::Busy(class) } else { Stage::Ready }, entries);
        if let Some(group) = self.groups.get_mut(&id) {
            group.failures = failures + 1;
            group.due = if alone { now + super::aside::look_up_delay(failures + 1, random) } else { 0 };
        }
        if !alone {
            self.ready.push_back(id);
        }
        Some(id)
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

    pub(super) fn requeue(&mut self, id: GroupId, group: Group, now: Nanos, out: &mut Vec<Effect>) {
        let Some(mut group) = self.group_inside_lease(group, now, out) else { return };
        group.failures += 1;
        group.stage = Stage::Ready;
        self.groups.insert(id, group);
        self.ready.push_front(id);
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
            Some(Class::Doubtful) => parts.doubtful.push(*entry),
            Some(Class::Unknown) => parts.unknown.push(*entry),
        }
        false
    });
    group.recount(lease);
    parts
}
