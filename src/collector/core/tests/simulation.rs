//! A world for the core, seeded: a JetStream consumer with leases, a database that goes away, loses replies and refuses
//! documents, dead letters that fill up, renewals and acknowledgements that get lost, a process that stalls.
//!
//! Each effect is checked when it is carried out; at the end of the faults everything must be settled. A failing seed is
//! in the message of the panic: `run(seed)` repeats it exactly.

use crate::collector::classify::Class;
use crate::collector::core::*;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

mod lives;

const ACK_WAIT: Nanos = 30 * SECOND;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nature {
    Good,
    /// Refused as a document.
    Refused,
    /// Not BSON.
    Unreadable,
    /// Has an `_id` under which itself is stored already.
    Stored,
    /// Has an `_id` under which another document is stored.
    Taken,
    /// Makes the whole command fail for an unknown reason.
    Poison,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Coming {
    Deliver(Vec<(usize, u32)>, u64),
    Inserted(GroupId, Vec<u32>, bool),
    LookedUp(GroupId, Vec<u32>, bool),
    Checked(GroupId, bool),
    Acked(GroupId, Vec<usize>, bool, bool),
    Renewed(GroupId, Nanos, Vec<usize>, bool),
    Buried(GroupId, usize, bool),
    Pinged(bool),
    Tick,
}

#[derive(Debug)]
struct Message {
    nature: Nature,
    bytes: u32,
    /// When it is published.
    from: Nanos,
    /// Whether it was there before the target changed, and whether it lies in the previous one.
    check: bool,
    elsewhere: bool,
    /// At the server: delivered until then.
    leased_until: Option<Nanos>,
    settled: bool,
    stored: bool,
    buried: bool,
}

struct World {
    seed: u64,
    random: u64,
    now: Nanos,
    messages: Vec<Message>,
    /// Slots that the core holds: which message, and until when it may speak for it.
    slots: BTreeMap<u32, (usize, Nanos)>,
    /// Slots whose messages were looked up in the previous target and lie not there.
    cleared: BTreeSet<u32>,
    next_slot: u32,
    /// Pull requests: messages and bytes left.
    pulls: Vec<(u64, u64)>,
    coming: BinaryHeap<Reverse<(Nanos, u64, Coming)>>,
    order: u64,
    faults_until: Nanos,
    batches: Batches,
    max_ack_pending: i64,
    most_held: u64,
}

impl World {
    fn random(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below.max(1)
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.now < self.faults_until && self.random(100) < percent
    }

    /// In stretches of five seconds the database and the dead letters are away together or not.
    fn away(&self, what: u64) -> bool {
        self.now < self.faults_until && ((self.now / (5 * SECOND)).wrapping_mul(self.seed | 1).wrapping_add(what)).is_multiple_of(3)
    }

    fn later(&mut self, delay: Nanos, coming: Coming) {
        self.order += 1;
        self.coming.push(Reverse((self.now + delay, self.order, coming)));
    }

    fn latency(&mut self) -> Nanos {
        let most = if self.chance(2) { 12 * SECOND } else { 20 * MS };
        self.random(most) + MS
    }

    fn outstanding(&self) -> u64 {
        self.pulls.iter().map(|(messages, _)| messages).sum()
    }

    /// What the server delivers now.
    fn deliver(&mut self) {
        let pending = self.messages.iter().filter(|m| !m.settled && m.leased_until.is_some_and(|until| until > self.now)).count();
        let mut room = if self.max_ack_pending <= 0 { usize::MAX } else { (self.max_ack_pending as usize).saturating_sub(pending) };
        let mut batch = Vec::new();
        for number in 0..self.messages.len() {
            let message = &mut self.messages[number];
            if message.settled || message.from > self.now || message.leased_until.is_some_and(|until| until > self.now) {
                continue;
            }
            let Some(pull) = self.pulls.first_mut() else { break };
            if room == 0 || batch.len() >= 300 {
                break;
            }
            room -= 1;
            message.leased_until = Some(self.now + ACK_WAIT);
            pull.0 -= 1;
            pull.1 = pull.1.saturating_sub(u64::from(message.bytes));
            let slot = self.next_slot;
            self.next_slot += 1;
            self.slots.insert(slot, (number, self.now + ACK_WAIT));
            batch.push((number, slot));
            if pull.0 == 0 || pull.1 == 0 {
                self.pulls.remove(0);
            }
        }
        if !batch.is_empty() {
            let left = self
                .messages
                .iter()
                .filter(|m| !m.settled && m.from <= self.now && m.leased_until.is_none_or(|until| until <= self.now))
                .count();
            // A process that stalls finds them late.
            let delay = if self.chance(1) { 40 * SECOND } else { self.random(5 * MS) };
            self.later(delay, Coming::Deliver(batch, left as u64));
        }
    }

    /// The messages of a group whose leases, as the core may count them, have not ended.
    fn speaks_for(&self, core: &Core, group: GroupId) -> Vec<usize> {
        let mut numbers = Vec::new();
        for entry in core.entries(group) {
            let (number, until) = self.slots[&entry.slot];
            assert!(self.now < until, "seed {}: speaks for a message past its lease", self.seed);
            numbers.push(number);
        }
        numbers
    }

    fn numbers(&self, core: &Core, group: GroupId) -> Vec<usize> {
        core.entries(group).iter().map(|entry| self.slots[&entry.slot].0).collect()
    }

    fn carry(&mut self, core: &Core, effect: Effect) {
        let seed = self.seed;
        match effect {
            Effect::Pull { batch, max_bytes } => {
                assert!(batch > 0 && max_bytes > 0, "seed {seed}: an empty pull");
                self.pulls.push((batch, max_bytes));
                self.later(MS, Coming::Tick);
            }
            Effect::Insert(group) => {
                let numbers = self.numbers(core, group);
                assert!(!numbers.is_empty() && numbers.len() as u64 <= core.batch_count(), "seed {seed}: a batch of {}", numbers.len());
                let bytes: u64 = core.entries(group).iter().map(|e| u64::from(e.bytes)).sum();
                assert!(numbers.len() == 1 || bytes <= self.batches.bytes, "seed {seed}: a batch of {bytes} bytes");
                assert!(core.entries(group).iter().all(|e| self.now < self.slots[&e.slot].1), "seed {seed}: a late insert");
                if self.batches.first_half_only {
                    let half = |entry: &Entry| self.now + ACK_WAIT / 2 <= self.slots[&entry.slot].1;
                    assert!(core.entries(group).iter().all(half), "seed {seed}: an insert in the second half of a lease");
                }
                for entry in core.entries(group) {
                    let message = &self.messages[self.slots[&entry.slot].0];
                    assert!(!message.check || self.cleared.contains(&entry.slot), "seed {seed}: inserted before it was looked up");
                    assert!(!message.elsewhere, "seed {seed}: inserted although it lies in the previous target");
                }
                let poisoned = numbers.iter().any(|n| self.messages[*n].nature == Nature::Poison);
                let away = self.away(0);
                // A network error may come before or after the database did it.
                let carried_out = !poisoned && (!away || self.random(2) == 0);
                let mut failures = Vec::new();
                for (index, number) in numbers.iter().enumerate().filter(|_| carried_out) {
                    let busy = self.chance(1);
                    let message = &mut self.messages[*number];
                    match message.nature {
                        // Now and then the server cannot take a single one.
                        Nature::Good if !message.stored && busy => failures.push(index as u32),
                        Nature::Good if !message.stored => message.stored = true,
                        Nature::Unreadable => panic!("seed {seed}: sent what is no BSON"),
                        _ => failures.push(index as u32),
                    }
                }
                let latency = self.latency();
                self.later(latency, Coming::Inserted(group, failures, away || poisoned));
            }
            Effect::LookUp(group) => {
                let taken = |number: &usize| self.messages[*number].nature == Nature::Taken;
                let failures = self.numbers(core, group).iter().enumerate().filter(|(_, n)| taken(n)).map(|(i, _)| i as u32).collect();
                let (latency, away) = (self.latency(), self.away(0));
                self.later(latency, Coming::LookedUp(group, failures, away));
            }
            Effect::Check(group) => {
                let (latency, away) = (self.latency(), self.away(2));
                self.later(latency, Coming::Checked(group, away));
            }
            Effect::Ack(group) => {
                let numbers = self.speaks_for(core, group);
                for number in &numbers {
                    let message = &self.messages[*number];
                    let stored = message.stored || message.elsewhere || message.nature == Nature::Stored;
                    assert!(stored, "seed {seed}: acknowledged what is not stored");
                }
                self.acknowledge(group, numbers);
            }
            Effect::Terminate(group) => {
                let numbers = self.speaks_for(core, group);
                assert!(numbers.iter().all(|n| self.messages[*n].buried), "seed {seed}: terminated what is no dead letter");
                self.acknowledge(group, numbers);
            }
            Effect::Renew(group) => {
                let numbers = self.speaks_for(core, group);
                let (latency, lost, sent) = (self.latency(), self.chance(10), self.now);
                // The server renews when the renewal arrives.
                for number in numbers.iter().filter(|_| !lost) {
                    self.messages[*number].leased_until = self.messages[*number].leased_until.map(|until| until.max(sent + ACK_WAIT));
                }
                let slots = core.entries(group).iter().map(|e| e.slot as usize).collect();
                self.later(latency, Coming::Renewed(group, sent, slots, lost));
            }
            Effect::Bury(group) => {
                let numbers = self.numbers(core, group);
                assert_eq!(numbers.len(), 1);
                assert!(core.proven(), "seed {seed}: a dead letter before anything was stored");
                let message = &mut self.messages[numbers[0]];
                let bad = matches!(message.nature, Nature::Refused | Nature::Unreadable | Nature::Taken | Nature::Poison);
                assert!(bad, "seed {seed}: a good document among the dead letters");
                let failed = self.away(1);
                self.messages[numbers[0]].buried |= !failed;
                let latency = self.latency();
                self.later(latency, Coming::Buried(group, numbers[0], failed));
            }
            Effect::Nak(entries) => {
                for entry in &entries {
                    let (number, until) = self.slots[&entry.slot];
                    assert!(self.now < until && !self.messages[number].stored, "seed {seed}: gave back what was sent");
                }
                self.free(entries);
            }
            Effect::Ping => {
                let (latency, away) = (self.latency(), self.away(0));
                self.later(latency, Coming::Pinged(away));
            }
            Effect::Release(entries) => self.free(entries),
            Effect::Reserve(_) | Effect::Resolve(_) | Effect::Late(_) => panic!("seed {seed}: {effect:?} of a normal collection"),
            Effect::Finished | Effect::Withdraw => {}
        }
    }

    fn acknowledge(&mut self, group: GroupId, numbers: Vec<usize>) {
        let (latency, lost, unconfirmed) = (self.latency(), self.chance(5), self.chance(5));
        for number in numbers.iter().filter(|_| !lost) {
            self.messages[*number].settled = true;
        }
        self.later(latency, Coming::Acked(group, numbers, lost, unconfirmed));
    }

    fn free(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            assert!(self.slots.remove(&entry.slot).is_some(), "seed {}: released twice", self.seed);
        }
    }

    fn happen(&mut self, core: &mut Core, coming: Coming, out: &mut Vec<Effect>) {
        let now = Now { at: self.now, free: 1 << 30, outstanding: self.outstanding() };
        match coming {
            Coming::Deliver(batch, pending) => {
                let arrival = |(number, slot): &(usize, u32)| {
                    let unreadable = self.messages[*number].nature == Nature::Unreadable;
                    let kind = if unreadable { Kind::Unreadable } else { Kind::Document };
                    let lease_from = self.slots[slot].1 - ACK_WAIT;
                    Arrival {
                        slot: *slot,
                        sequence: *number as u64 + 1,
                        bytes: self.messages[*number].bytes,
                        lease_from,
                        published_ns: 1,
                        kind,
                        check: self.messages[*number].check,
                    }
                };
                let messages: Vec<Arrival> = batch.iter().map(arrival).collect();
                core.on(Event::Delivered { messages: &messages, pending }, now, out);
            }
            Coming::Inserted(group, failures, failed) => {
                let numbers = self.numbers(core, group);
                // The group may be forgotten by now.
                let class = |index: &u32| match numbers.get(*index as usize).map(|number| &self.messages[*number]) {
                    Some(message) if message.nature == Nature::Good && !message.stored => Class::Transient,
                    Some(message) if message.nature == Nature::Good => Class::Done,
                    Some(message) if message.nature == Nature::Refused => Class::Document,
                    _ => Class::LookUp,
                };
                let poisoned = numbers.iter().any(|n| self.messages[*n].nature == Nature::Poison);
                let failures: Vec<(u32, Class)> = failures.iter().map(|index| (*index, class(index))).collect();
                let outcome = match failed {
                    true => Outcome::Failed(if poisoned { Class::Unknown } else { Class::Transient }),
                    false => Outcome::Executed { failures: &failures, uncertain: None },
                };
                core.on(Event::Inserted(group, outcome), now, out);
            }
            Coming::LookedUp(group, failures, away) => {
                let failures: Vec<(u32, Class)> = failures.into_iter().map(|index| (index, Class::Document)).collect();
                let outcome =
                    if away { Outcome::Failed(Class::Transient) } else { Outcome::Executed { failures: &failures, uncertain: None } };
                core.on(Event::LookedUp(group, outcome), now, out);
            }
            Coming::Checked(group, true) => core.on(Event::Checked(group, Outcome::Failed(Class::Transient)), now, out),
            Coming::Checked(group, false) => {
                let mut found = Vec::new();
                for (index, entry) in core.entries(group).iter().enumerate() {
                    if self.messages[self.slots[&entry.slot].0].elsewhere {
                        found.push((index as u32, Class::Done));
                    } else {
                        self.cleared.insert(entry.slot);
                    }
                }
                core.on(Event::Checked(group, Outcome::Executed { failures: &found, uncertain: None }), now, out);
            }
            Coming::Acked(group, _, lost, unconfirmed) => core.on(Event::Acked(group, !lost && !unconfirmed), now, out),
            Coming::Renewed(group, sent, slots, lost) => {
                let before: BTreeMap<u32, Nanos> = core.entries(group).iter().map(|e| (e.slot, e.lease_ends)).collect();
                core.on(Event::Renewed(group, sent, !lost), now, out);
                // A renewal counts only for those it was sent for, and only if their old lease had not ended.
                for slot in slots.iter().filter(|_| !lost) {
                    if let Some((_, until)) = self.slots.get_mut(&(*slot as u32)).filter(|(_, until)| self.now < *until) {
                        *until = (*until).max(sent + ACK_WAIT);
                    }
                }
                for entry in core.entries(group) {
                    let longer = before.get(&entry.slot).is_some_and(|old| entry.lease_ends > *old);
                    assert!(!longer || entry.lease_ends <= self.slots[&entry.slot].1, "seed {}: a lease from nowhere", self.seed);
                }
            }
            Coming::Buried(group, _, failed) => core.on(Event::Buried(group, !failed), now, out),
            Coming::Pinged(away) => core.on(Event::Pinged(away.then_some(Class::Transient)), now, out),
            Coming::Tick => {}
        }
    }
}
