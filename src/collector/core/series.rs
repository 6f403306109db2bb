//! Time-series collections: the part that this core plays, which messages are suspects, which sequences are reserved.
//!
//! What always holds, where there is a ledger: who stands by neither pulls nor inserts, and gives back what still arrives; an
//! insert begins only with sequences that are reserved, and with the same messages only once: whatever may have been in an insert
//! before is resolved (recorded, looked up) first, and the part of it that is missing gets an `_id` of its own. Part of the core.

use super::Core;
use super::group::{Group, Settled, Stage};
use super::types::{Arrival, Effect, Entry, GroupId, MS, Nanos, Now, Outcome, Part, SECOND};
use crate::collector::classify::Class;
use crate::collector::ledger::Blocks;
use std::collections::HashSet;
use std::time::Duration;

/// The longest that the server may take for an insert: with the write concern's wait as long again at most.
const WRITE: Nanos = 10 * SECOND;
/// What an insert that nobody heard of again may take beyond that.
const AFTER_WRITE: Nanos = 2 * SECOND;

/// What the core of a time-series pipeline knows of its stream.
#[derive(Debug)]
pub(super) struct Series {
    part: Part,
    /// No message above this sequence has arrived in this term, or was inserted in any before.
    known: u64,
    /// The highest sequence that has arrived here at all.
    arrived: u64,
    /// Until when an insert may be under way that nobody here knows of any more.
    quiet_until: Nanos,
    /// Nothing above this sequence may be inserted.
    reserved: u64,
    /// The highest sequence that was in an insert of this term, or may have been before.
    inserted: u64,
    blocks: Blocks,
    asked: Option<u64>,
    reserved_at: Nanos,
    withdrawn: bool,
}

impl Series {
    /// Whether a message that arrives may have been in an insert before.
    pub(super) fn arrives(&mut self, sequence: u64) -> bool {
        let suspect = self.guarded() && sequence <= self.known;
        self.known = self.known.max(sequence);
        self.arrived = self.arrived.max(sequence);
        suspect
    }

    /// Until when no suspect is looked up.
    pub(super) fn quiet_until(&self) -> Nanos {
        self.quiet_until
    }

    fn guarded(&self) -> bool {
        !matches!(self.part, Part::Unguarded)
    }
}

impl Core {
    /// The same for a time-series collection: it stands by until [`super::Event::Part`] says otherwise.
    pub fn with_series(mut self) -> Self {
        self.series = Some(Series {
            part: Part::StandBy,
            known: 0,
            arrived: 0,
            quiet_until: 0,
            reserved: 0,
            inserted: 0,
            blocks: Blocks::new(),
            asked: None,
            reserved_at: 0,
            withdrawn: false,
        });
        self
    }

    /// How long an insert may take: what begins in the first half of a lease must be over before its end.
    pub fn write_limit(&self) -> Nanos {
        (self.limits.ack_wait / 2).saturating_sub(SECOND).clamp(500 * MS, WRITE)
    }

    /// Whether the measurements of the group may have been in an insert before, so that they need an `_id` of their own. In a
    /// normal collection never: there the `_id` is what makes the second insert meet the first.
    pub fn needs_own_ids(&self, group: GroupId) -> bool {
        self.guarded() && self.groups.get(&group).is_some_and(|group| group.again)
    }

    /// The highest sequence that any insert of this term, or of one before, may have held.
    pub fn inserted_upto(&self) -> u64 {
        self.series.as_ref().map_or(0, |series| series.inserted)
    }

    /// The sequences that are held, where one of `messages` may be among them: a server that was killed delivers at once what it had
    /// just delivered, while it is being inserted. `None` where they ascend, as nearly always.
    pub(super) fn held_among(&self, messages: &[Arrival]) -> Option<HashSet<u64>> {
        let mut highest = self.series.as_ref().filter(|series| series.guarded())?.arrived;
        let mut ascends = |message: &Arrival| {
            let above = message.sequence > highest;
            highest = highest.max(message.sequence);
            above
        };
        if messages.iter().all(&mut ascends) {
            return None;
        }
        let groups = self.groups.values().filter(|group| !matches!(group.stage, Stage::Acking | Stage::AckAgain));
        Some(groups.chain([&self.forming]).flat_map(|group| &group.entries).map(|entry| entry.sequence).collect())
    }

    /// Everything that was held is forgotten.
    pub(super) fn forget_series(&mut self, now: Nanos) {
        let (busy, limit) = (self.in_flight > 0, self.write_limit() + AFTER_WRITE);
        if let Some(series) = &mut self.series {
            series.arrived = 0;
            series.quiet_until = if busy { now + limit } else { series.quiet_until };
        }
    }

    /// Whether another execution reads the stream.
    pub(super) fn stands_by(&self) -> bool {
        self.series.as_ref().is_some_and(|series| series.part == Part::StandBy)
    }

    /// Whether there is a ledger.
    pub(super) fn guarded(&self) -> bool {
        self.series.as_ref().is_some_and(Series::guarded)
    }

    /// Whether the group's sequences may be inserted.
    pub(super) fn is_reserved(&self, upto: u64) -> bool {
        self.series.as_ref().is_none_or(|series| !series.guarded() || upto <= series.reserved)
    }

    /// An insert of the group begins.
    pub(super) fn inserts(&mut self, upto: u64) {
        if let Some(series) = &mut self.series {
            series.inserted = series.inserted.max(upto);
        }
    }

    pub(super) fn play(&mut self, part: Part) {
        let Some(series) = &mut self.series else { return };
        series.part = part;
        series.asked = None;
        series.withdrawn = false;
        if let Part::Active { known } = part {
            (series.known, series.reserved, series.inserted) = (known, known, known);
            // What waits was never sent in this term, but perhaps in one before.
            self.forming.suspect |= !self.forming.entries.is_empty();
            for group in self.groups.values_mut().filter(|group| group.stage != Stage::Acking) {
                group.suspect = true;
            }
        }
    }

    pub(super) fn reserved(&mut self, failure: Option<Class>, now: Nanos) {
        let random = self.random();
        let Some(series) = &mut self.series else { return };
        let Some(asked) = series.asked.take() else { return };
        match failure {
            None => {
                series.reserved = series.reserved.max(asked);
                series.blocks.reserved(Duration::from_nanos(now - series.reserved_at));
                series.reserved_at = now;
            }
            Some(class) => self.breaker.failed(class, now, random),
        }
    }

    /// Asks for the next block, before the last one is used up.
    pub(super) fn reserve_more(&mut self, out: &mut Vec<Effect>) {
        let wants = self.in_hand > 0 && self.breaker.closed();
        let Some(series) = self.series.as_mut().filter(|series| wants && matches!(series.part, Part::Active { .. })) else { return };
        if series.asked.is_none()
            && let Some(upto) = series.blocks.wanted(series.known, series.reserved)
        {
            series.asked = Some(upto);
            out.push(Effect::Reserve(upto));
        }
    }

    /// Who stands by keeps nothing but what is being settled.
    pub(super) fn step_back(&mut self, now: Now, out: &mut Vec<Effect>) {
        if !self.stands_by() {
            return;
        }
        if now.outstanding > 0
            && let Some(series) = self.series.as_mut().filter(|series| !series.withdrawn)
        {
            series.withdrawn = true;
            out.push(Effect::Withdraw);
        }
        self.close();
        let (mut back, mut gone) = (Vec::new(), Vec::new());
        let settling = |stage: Stage| stage.indexed() || matches!(stage, Stage::Acking | Stage::AckAgain | Stage::Doomed);
        let ids: Vec<GroupId> = self.groups.iter().filter(|(_, group)| !settling(group.stage)).map(|(id, _)| *id).collect();
        for id in ids {
            let Some(mut group) = self.take(id) else { continue };
            if !group.sent {
                back.extend(group.entries.extract_if(.., |entry| entry.lease_ends > now.at));
            }
            gone.append(&mut group.entries);
        }
        self.ready.clear();
        if !back.is_empty() {
            self.count_out(&back);
            out.push(Effect::Nak(back));
        }
        self.release(gone, out);
    }

    /// Begins to resolve a group of suspects that was taken from those that are ready; whether there was room for it.
    pub(super) fn begin_resolve(&mut self, id: GroupId, now: Nanos, out: &mut Vec<Effect>) -> bool {
        let quiet = self.series.as_ref().is_none_or(|series| now >= series.quiet_until);
        let room = quiet && self.resolving < self.batches.max_in_flight;
        if let Some(group) = self.groups.get_mut(&id).filter(|_| room) {
            group.stage = Stage::Resolving;
            self.resolving += 1;
            self.breaker.begins();
            out.push(Effect::Resolve(id));
        }
        room
    }

    /// Suspects were looked up: a failure of class `Done` is in the collection, the others are not.
    pub(super) fn resolved(&mut self, id: GroupId, outcome: Outcome<'_>, now: Nanos, out: &mut Vec<Effect>) {
        self.resolving = self.resolving.saturating_sub(1);
        let (random, lease) = (self.random(), self.lease());
        let Outcome::Executed { failures, uncertain: None } = outcome else {
            let class = if let Outcome::Failed(class) = outcome { class } else { Class::Transient };
            self.breaker.failed(if class == Class::Transient { class } else { Class::Operator }, now, random);
            let Some(group) = self.take(id) else { return };
            let Some(mut group) = self.group_inside_lease(group, now, out) else { return };
            group.failures += 1;
            group.due = now + super::aside::look_up_delay(group.failures, random);
            self.wait_again(id, group);
            return;
        };
        self.breaker.answered();
        let Some(mut group) = self.take(id) else { return };
        let (found, _) = super::check::split(&mut group, failures);
        group.recount(lease);
        group.suspect = false;
        group.again = true;
        group.failures = 0;
        if !found.is_empty() {
            self.totals.duplicates += found.len() as u64;
            self.proven = true;
            let mut stored = Group::new(Stage::Acking, found);
            stored.recount(lease);
            stored.oldest_ns = group.oldest_ns;
            let id = GroupId(self.next_id);
            self.next_id += 1;
            self.acknowledge(id, stored, Settled::Stored, now, out);
        }
        let Some(group) = self.group_inside_lease(group, now, out) else { return };
        self.wait_again(id, group);
    }

    fn wait_again(&mut self, id: GroupId, mut group: Group) {
        group.stage = Stage::Ready;
        self.groups.insert(id, group);
        self.ready.push_front(id);
    }

    /// What an insert without a certain answer means for its group: whatever is tried again is resolved first, but not before the
    /// server must have ended it.
    pub(super) fn doubt(&mut self, id: GroupId) {
        let limit = self.write_limit() + AFTER_WRITE;
        if self.guarded()
            && let Some(group) = self.groups.get_mut(&id)
        {
            group.suspect = true;
            group.due = group.begun_at + limit;
        }
    }

    /// An answer came after the end of leases: another may have stored the same meanwhile, without having seen this.
    pub(super) fn tell_late(&self, id: GroupId, now: Nanos, out: &mut Vec<Effect>) {
        if !self.guarded() {
            return;
        }
        let late: Vec<Entry> = self.entries(id).iter().filter(|entry| entry.lease_ends <= now).copied().collect();
        if !late.is_empty() {
            out.push(Effect::Late(late));
        }
    }
}
