//! What a process does where its stream may be another one: after a gap, or a consumer that counts anew, nothing is said
//! about what is held until stream and consumer have answered, as the driver does it. Used by the world.

use super::mutants::Mutant;
use super::process::{Facts, Told};
use super::world::{Action, World};
use crate::collector::core::*;
use crate::collector::identity::Identities;

impl World<'_> {
    /// Asks about stream and consumer, where that is due.
    pub fn supervise(&mut self, p: usize) {
        let process = &mut self.processes[p];
        if process.over() {
            return;
        }
        let now = process.clock(self.now);
        if !process.asking && now >= process.ask_at {
            process.asking = true;
            process.doubted = false;
            process.asked_above = process.highest;
            let youngest = process.slots.values().map(|slot| (slot.sequence, slot.message.published_ns)).max();
            let witness = youngest.filter(|_| process.identities.is_none());
            self.ask_consumer(p, witness);
        }
        let process = &self.processes[p];
        let ask_at = if process.asking { Nanos::MAX } else { process.ask_at };
        let due = process.core.next_deadline().min(ask_at);
        // What is due in centuries is never due.
        if due < Nanos::MAX / 2 && (due < process.wake.1 || process.wake.1 < now) {
            let number = process.wake.0 + 1;
            let delay = due.saturating_sub(now).max(1);
            self.processes[p].wake = (number, due);
            self.later(delay, Action::Tell(p, None, Told::Wake(number)));
        }
    }

    pub fn asked(&mut self, p: usize, answer: Option<Result<Facts, ()>>) {
        let now = self.processes[p].clock(self.now);
        let process = &mut self.processes[p];
        process.asking = false;
        let facts = match answer {
            Some(Ok(facts)) => facts,
            other => {
                process.ask_at = now + SECOND / 2;
                if other.is_some() {
                    process.identities = None;
                    self.feed(p, Event::Consumer(false));
                }
                return;
            }
        };
        if process.doubted {
            return;
        }
        process.ask_at = now + 30 * SECOND;
        let known = std::mem::replace(&mut process.created_ns, facts.created_ns);
        let there = facts.there || self.mutant == Some(Mutant::LostTailUnnoticedOnceRefilled);
        let other = known != 0 && (known != facts.created_ns || facts.last < process.asked_above || !there);
        if other && self.mutant != Some(Mutant::LostTailUnnoticed) {
            process.highest = 0;
            let early = std::mem::take(&mut process.early);
            process.used -= early.iter().map(|delivery| u64::from(delivery.message.bytes)).sum::<u64>();
            self.feed(p, Event::OtherStream);
        }
        self.feed(p, Event::Consumer(true));
        let process = &mut self.processes[p];
        process.identities = Some(Identities::new("simulated", facts.created_ns));
        let lease = self.plan.ack_wait / 10 * 9;
        let early = std::mem::take(&mut process.early);
        let (inside, late): (Vec<_>, Vec<_>) = early.into_iter().partition(|delivery| now < delivery.lease_from + lease);
        process.used -= late.iter().map(|delivery| u64::from(delivery.message.bytes)).sum::<u64>();
        if !inside.is_empty() {
            self.take_in(p, inside);
        }
    }
}
