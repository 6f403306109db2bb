//! A process: the core, and what the driver keeps around it, as far as the core's safety rests on it.
//!
//! `doubts` has what the driver does about streams that may be other ones. Used by the world.

use super::database::{Key, Reply};
use super::gate::{AtTheGate, came};
use super::mutants::Mutant;
use super::plan::{Nature, Plan};
use super::stream::{Delivery, Stored};
use super::world::World;
use crate::collector::classify::Class;
use crate::collector::core::*;
use crate::collector::identity::{Identities, Identity};
use crate::pipeline::moves::{Delivered, Previous};
use std::collections::{BTreeMap, BTreeSet};

/// What the consumer says of itself and its stream.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    pub created_ns: u64,
    pub last: u64,
    /// Whether the message that was asked about is there.
    pub there: bool,
}

/// What happens to a process.
#[derive(Debug, Clone)]
pub enum Told {
    Delivered(Vec<Delivery>),
    /// A pull request ended.
    Ended(u64),
    /// The answer to something that was asked by a ticket: the first one counts.
    Answer(u64, Box<Told>),
    Inserted(GroupId, Reply),
    LookedUp(GroupId, Option<Vec<(u32, Class)>>),
    Checked(GroupId, Option<Vec<(u32, Class)>>),
    Pinged(Option<Class>),
    /// The gate that the pipelines of the process share was opened or shut.
    Gate,
    /// Perhaps somebody is to try.
    Turn,
    /// Another pipeline of the process sends something; in its turn: whether a write or a ping.
    Other(Option<bool>),
    Buried(GroupId, bool),
    Acked(GroupId, bool),
    Renewed(GroupId, Nanos, Vec<u32>, bool),
    Gap,
    Gone,
    Refused,
    Asked(Option<Result<Facts, ()>>),
    Stop(Nanos),
    Wake(u64),
}

/// A message that a process holds.
#[derive(Debug, Clone)]
pub struct Slot {
    pub message: Stored,
    pub sequence: u64,
    pub key: Key,
    pub identity: Identity,
    /// Until when, by the process's own clock, it may speak for it.
    pub until: Nanos,
    /// How often a command with it alone failed.
    pub spoilt: u32,
    /// Whether a reply said that it is stored; whether it was ever sent.
    pub confirmed: bool,
    pub sent: bool,
    /// Whether it may lie in the previous target, and was looked up there.
    pub check: bool,
    pub cleared: bool,
}

/// A process.
pub struct Process {
    pub core: Core,
    /// Which target it writes to, and which one was before.
    pub place: usize,
    pub previous: Option<Previous>,
    pub slots: BTreeMap<u32, Slot>,
    next_slot: u32,
    pub identities: Option<Identities>,
    pub created_ns: u64,
    pub early: Vec<Delivery>,
    last_delivery: u64,
    pub highest: u64,
    pub asked_above: u64,
    pub asking: bool,
    pub doubted: bool,
    pub ask_at: Nanos,
    /// Which connection it has, and whether it is one.
    pub connection: u32,
    pub connected: bool,
    pub requests: BTreeMap<u64, u64>,
    /// Messages of pulls that are decided, not yet sent.
    pub unsent: u64,
    /// Its clock beside the world's.
    pub offset: i64,
    pub asleep_until: Nanos,
    /// When its clock stopped, by itself.
    pub stopped_clock: Option<Nanos>,
    pub wake: (u64, Nanos),
    /// Why the last command failed as a whole, unless others were answered since.
    pub database_failed: Option<Class>,
    pub gate: AtTheGate,
    /// Of a mutant: the next look-up is said to find another document under every `_id`.
    pub blames: bool,
    pub used: u64,
    pub buried: Option<BTreeSet<Identity>>,
    pub finished: bool,
    pub dead: bool,
    /// Tickets of what is not answered yet.
    pub awaited: BTreeSet<u64>,
    /// No message overtakes another within a connection.
    pub heard: Nanos,
    pub said: Nanos,
    pub most_held: u64,
}

impl Process {
    pub fn new(plan: &Plan, place: usize, previous: Option<Previous>, proven: bool, seed: u64, mutant: Option<Mutant>) -> Self {
        let ack_wait = if mutant == Some(Mutant::LeaseIgnored) { 10 * plan.ack_wait } else { plan.ack_wait };
        let limits = Limits { ack_wait, max_ack_pending: plan.max_ack_pending, live: plan.processes as u32, max_batch: 0 };
        let proven = proven || mutant == Some(Mutant::ProvenFromTheStart);
        Self {
            core: Core::new(plan.batches, limits, proven, seed),
            place,
            previous,
            slots: BTreeMap::new(),
            next_slot: 0,
            identities: None,
            created_ns: 0,
            early: Vec::new(),
            last_delivery: 0,
            highest: 0,
            asked_above: 0,
            asking: false,
            doubted: false,
            ask_at: 0,
            connection: 1,
            connected: true,
            requests: BTreeMap::new(),
            unsent: 0,
            offset: 0,
            asleep_until: 0,
            stopped_clock: None,
            wake: (0, Nanos::MAX),
            database_failed: None,
            gate: AtTheGate::new(),
            blames: false,
            used: 0,
            buried: None,
            finished: false,
            dead: false,
            awaited: BTreeSet::new(),
            heard: 0,
            said: 0,
            most_held: 0,
        }
    }

    /// Its own time.
    pub fn clock(&self, now: Nanos) -> Nanos {
        self.stopped_clock.unwrap_or_else(|| now.saturating_add_signed(self.offset))
    }

    /// Messages that its requests may still bring.
    pub fn outstanding(&self) -> u64 {
        self.requests.values().sum::<u64>() + self.unsent + self.early.len() as u64
    }

    /// Messages whose stream never became certain are left to redelivery.
    pub fn give_up_early(&mut self) {
        let early = std::mem::take(&mut self.early);
        self.used -= early.iter().map(|delivery| u64::from(delivery.message.bytes)).sum::<u64>();
    }

    fn doubt(&mut self) {
        self.identities = None;
        self.doubted = true;
        self.ask_at = 0;
    }

    /// Whether there is nothing left of it.
    pub fn over(&self) -> bool {
        self.dead || self.finished
    }
}

impl World<'_> {
    /// Hands an event to the core, and carries out what follows.
    pub fn feed(&mut self, p: usize, event: Event<'_>) {
        let process = &mut self.processes[p];
        let now =
            Now { at: process.clock(self.now), free: self.plan.budget.saturating_sub(process.used), outstanding: process.outstanding() };
        let mut effects = Vec::new();
        process.core.on(event, now, &mut effects);
        process.most_held = process.most_held.max(process.core.in_hand());
        let pulls = effects.iter().map(|effect| if let Effect::Pull { batch, .. } = effect { *batch } else { 0 });
        process.unsent += pulls.sum::<u64>();
        self.effects.extend(effects.into_iter().map(|effect| (p, effect)));
    }

    /// Something happens to a process that is awake, and what follows is carried out.
    pub fn happens_to(&mut self, p: usize, told: Told) {
        self.told(p, told);
        while let Some((p, effect)) = self.effects.pop_front() {
            self.carry(p, effect);
        }
        self.supervise(p);
        self.books(p);
    }

    /// Whether everybody counts the same.
    fn books(&mut self, p: usize) {
        let process = &self.processes[p];
        let early: u64 = process.early.iter().map(|delivery| u64::from(delivery.message.bytes)).sum();
        let (used, held) = (process.used, process.core.in_hand_bytes() + early);
        let (slots, in_hand) = (process.slots.len() as u64, process.core.in_hand());
        if !process.finished {
            self.must(used == held, || format!("{used} bytes of the budget are used, and {held} held"));
            self.must(slots == in_hand, || format!("{slots} slots for {in_hand} messages"));
        }
    }

    /// What a process is told, without what follows.
    pub fn told(&mut self, p: usize, told: Told) {
        match told {
            Told::Answer(ticket, told) => {
                if self.processes[p].awaited.remove(&ticket) {
                    self.told(p, *told);
                }
            }
            Told::Delivered(deliveries) => self.arrive(p, deliveries),
            Told::Ended(request) => {
                self.processes[p].requests.remove(&request);
                self.feed(p, Event::Tick);
            }
            Told::Inserted(group, reply) => {
                self.found_out(p, came(&reply));
                self.inserted(p, group, reply);
            }
            Told::LookedUp(group, failures) => {
                self.found_out(p, if failures.is_some() { Ok(false) } else { Err(Class::Transient) });
                self.looked_up(p, group, failures);
            }
            Told::Checked(group, found) => self.checked(p, group, found),
            Told::Pinged(failure) => {
                // What was found out last counts.
                let failed = &mut self.processes[p].database_failed;
                *failed = failed.and(failure);
                self.found_out(p, failure.map_or(Ok(false), Err));
                self.feed(p, Event::Pinged(failure));
            }
            Told::Gate => self.hear_the_gate(p),
            Told::Turn => self.next_turn(p),
            Told::Other(turn) => self.other_pipeline(p, turn),
            Told::Buried(group, stored) => self.feed(p, Event::Buried(group, stored)),
            Told::Acked(group, all) => self.feed(p, Event::Acked(group, all)),
            Told::Renewed(group, sent, slots, all) => self.renewed(p, group, sent, &slots, all),
            Told::Gap => {
                let process = &mut self.processes[p];
                process.requests.clear();
                if self.mutant != Some(Mutant::NoDoubtAfterAGap) {
                    process.doubt();
                }
                self.feed(p, Event::Gap);
            }
            Told::Gone => {
                self.processes[p].requests.clear();
                self.processes[p].doubt();
                self.feed(p, Event::Consumer(false));
            }
            Told::Refused => self.feed(p, Event::PullRefused),
            Told::Asked(answer) => self.asked(p, answer),
            Told::Stop(grace) => {
                let grace = if self.mutant == Some(Mutant::StopWithoutFlush) { 0 } else { grace };
                let deadline = self.processes[p].clock(self.now) + grace;
                self.feed(p, Event::Stop(deadline));
            }
            Told::Wake(_) => {
                self.processes[p].wake.1 = Nanos::MAX;
                self.feed(p, Event::Tick);
            }
        }
    }

    fn arrive(&mut self, p: usize, deliveries: Vec<Delivery>) {
        let process = &mut self.processes[p];
        let mut fell = false;
        for delivery in &deliveries {
            fell |= delivery.consumer_sequence <= process.last_delivery;
            process.last_delivery = delivery.consumer_sequence;
            process.highest = process.highest.max(delivery.sequence);
            process.used += u64::from(delivery.message.bytes);
            if let Some(left) = process.requests.get_mut(&delivery.request) {
                *left -= 1;
            }
        }
        process.requests.retain(|_, left| *left > 0);
        if fell {
            process.doubt();
        }
        if process.identities.is_none() {
            process.early.extend(deliveries);
            self.feed(p, Event::Tick);
        } else {
            self.take_in(p, deliveries);
        }
    }

    pub fn take_in(&mut self, p: usize, deliveries: Vec<Delivery>) {
        let mutant = self.mutant;
        let process = &mut self.processes[p];
        let Some(identities) = process.identities.clone() else { return };
        let pending = deliveries.last().map_or(0, |delivery| delivery.pending);
        let mut arrivals = Vec::new();
        for delivery in deliveries {
            let publish = self.docs[delivery.message.doc].publish;
            let message = delivery.message;
            let identity = match message.id {
                Some(id) if mutant == Some(Mutant::IdentityWithoutPayload) => identities.with_message_id(id.to_string(), b""),
                Some(id) => identities.with_message_id(id.to_string(), &(message.doc as u64).to_be_bytes()),
                None if mutant == Some(Mutant::IdentityWithoutTime) => identities.without_message_id(delivery.sequence, 0),
                None if mutant == Some(Mutant::IdentityOfTheDelivery) => identities.without_message_id(delivery.consumer_sequence, 0),
                None => identities.without_message_id(delivery.sequence, message.published_ns),
            };
            let key = if publish.nature.own_id() { Key::Own(message.doc) } else { Key::Ours(identity) };
            let told = Delivered {
                sequence: delivery.sequence,
                published_ns: message.published_ns,
                again: delivery.delivered > 1,
                has_id: message.id.is_some(),
            };
            let check = process.previous.as_ref().is_some_and(|previous| previous.concerns(told));
            let lease_from = delivery.lease_from.min(process.clock(self.now));
            let slot = process.next_slot;
            process.next_slot += 1;
            let kind = if publish.nature == Nature::Unreadable { Kind::Unreadable } else { Kind::Document };
            arrivals.push(Arrival {
                slot,
                sequence: delivery.sequence,
                bytes: message.bytes,
                lease_from,
                published_ns: message.published_ns,
                kind,
                check,
            });
            process.slots.insert(
                slot,
                Slot {
                    message,
                    sequence: delivery.sequence,
                    key,
                    identity,
                    until: lease_from + self.plan.ack_wait,
                    spoilt: 0,
                    confirmed: false,
                    sent: false,
                    check: check && kind == Kind::Document,
                    cleared: false,
                },
            );
        }
        self.feed(p, Event::Delivered { messages: &arrivals, pending });
    }
}
