//! Fills batches and begins their inserts.
//!
//! A batch goes when it is full by count or bytes; when its period or linger is over; after a short silence while more is
//! known to wait (then something limits us, and waiting for the period would make that worse); or when stopping. For the
//! reasons of time only while an insert could begin at once: until then it may as well grow. Part of the core.

use super::Core;
use super::group::{Group, Stage};
use super::types::{Arrival, Effect, Entry, GroupId, Kind, MS, Nanos, Target};

/// How long nothing may arrive, while more is pending, before a partial batch goes.
const SILENCE: Nanos = 50 * MS;

impl Core {
    pub(super) fn delivered(&mut self, messages: &[Arrival], pending: u64, now: Nanos, out: &mut Vec<Effect>) {
        self.pulls.delivered(pending, now);
        let lease = self.lease();
        let count = self.batch_count() as usize;
        let mut held = self.held_among(messages);
        let mut twice = Vec::new();
        for message in messages {
            let suspect = self.series.as_mut().is_some_and(|series| series.arrives(message.sequence));
            let entry =
                Entry { slot: message.slot, sequence: message.sequence, bytes: message.bytes, lease_ends: message.lease_from + lease };
            self.in_hand += 1;
            self.in_hand_bytes += u64::from(entry.bytes);
            if held.as_mut().is_some_and(|held| !held.insert(entry.sequence)) {
                twice.push(entry);
                continue;
            }
            if message.kind == Kind::Unreadable {
                self.cannot_be_sent(entry);
                continue;
            }
            if !self.forming.entries.is_empty()
                && (self.forming.entries.len() >= count || self.forming.bytes + u64::from(entry.bytes) > self.batches.bytes)
            {
                self.close();
            }
            if self.forming.entries.is_empty() {
                self.forming.first_at = now;
            }
            self.forming.last_at = now;
            self.forming.unchecked |= message.check;
            self.forming.suspect |= suspect;
            self.forming.upto = self.forming.upto.max(message.sequence);
            self.forming.oldest_ns = self.forming.oldest_ns.min(message.published_ns);
            self.forming.push(entry, lease);
        }
        if self.forming.entries.len() >= count {
            self.close();
        }
        // The one that is held is settled, or else this one is delivered once more.
        self.release(twice, out);
    }

    /// The batch that is being filled becomes ready.
    pub(super) fn close(&mut self) {
        if self.forming.entries.is_empty() {
            return;
        }
        let entries = self.vector();
        let group = std::mem::replace(&mut self.forming, Group::new(Stage::Ready, entries));
        // It keeps its id, so that a renewal under way still finds it.
        let id = self.forming_id;
        self.forming_id = GroupId(self.next_id);
        self.next_id += 1;
        self.groups.insert(id, group);
        self.ready.push_back(id);
    }

    /// When the batch that is being filled goes for a reason of time; never while no insert could begin.
    pub(super) fn forming_due(&self) -> Nanos {
        let waits = self.forming.entries.is_empty()
            || !self.ready.is_empty()
            || self.in_flight >= self.batches.max_in_flight
            || self.target != Target::Good
            || !self.breaker.closed();
        if waits {
            return Nanos::MAX;
        }
        let mut due = self.forming.first_at + self.batches.period;
        if self.batches.linger > 0 {
            due = due.min(self.forming.last_at + self.batches.linger);
        }
        if self.pulls.more_pending() {
            due = due.min(self.forming.last_at + SILENCE);
        }
        due
    }

    pub(super) fn close_when_due(&mut self, now: Nanos) {
        // A probe after an outage takes what there is.
        let probe = self.ready.is_empty() && self.breaker.probe_at().is_some_and(|probe| now >= probe);
        if self.stopping.is_some() || probe || now >= self.forming_due() {
            self.close();
        }
    }

    pub(super) fn start_inserts(&mut self, now: Nanos, out: &mut Vec<Effect>) {
        if self.target != Target::Good || self.stands_by() {
            return self.ping_in_its_turn(out);
        }
        let mut skipped = 0;
        while skipped < self.ready.len() && self.in_flight < self.breaker.allowed(now, self.batches.max_in_flight) {
            let Some(id) = self.ready.remove(skipped) else { return };
            let lease = self.lease();
            let Some(group) = self.groups.get_mut(&id) else { continue };
            let expired = group.take_expired(now, lease);
            let empty = group.entries.is_empty();
            // In the second half of a lease a renewal comes first; it is under way, as half of the lease is gone.
            let late = self.batches.first_half_only && group.lease_ends < now + self.limits.ack_wait / 2;
            if !expired.is_empty() {
                self.expire(expired, out);
            }
            if empty {
                self.groups.remove(&id);
                continue;
            }
            if self.groups.get(&id).is_some_and(|group| group.unchecked) {
                if !self.begin_check(id, out) {
                    self.ready.insert(skipped, id);
                    skipped += 1;
                }
                continue;
            }
            let (suspect, due, upto) = self.groups.get(&id).map_or((false, 0, 0), |group| (group.suspect, group.due, group.upto));
            if suspect && now >= due && self.begin_resolve(id, now, out) {
                continue;
            }
            if late || suspect || !self.is_reserved(upto) {
                self.ready.insert(skipped, id);
                skipped += 1;
                continue;
            }
            if let Some(group) = self.groups.get_mut(&id) {
                group.stage = Stage::Inserting;
                group.again |= group.sent;
                group.sent = true;
                group.begun_at = now;
                group.of = group.entries.len();
                // Reserved for good.
                group.upto = 0;
            }
            self.inserts(upto);
            self.in_flight += 1;
            self.breaker.begins();
            out.push(Effect::Insert(id));
        }
        let probe = self.breaker.probe_at().is_some_and(|probe| now >= probe);
        // Also where what waits cannot begin yet.
        if probe && self.in_flight + self.resolving == 0 {
            self.breaker.begins();
            out.push(Effect::Ping);
        }
        self.ping_in_its_turn(out);
    }

    /// A turn that no insert has used: the others wait for what comes of it.
    fn ping_in_its_turn(&mut self, out: &mut Vec<Effect>) {
        if self.breaker.is_its_turn() {
            self.breaker.begins();
            out.push(Effect::Ping);
        }
    }
}
