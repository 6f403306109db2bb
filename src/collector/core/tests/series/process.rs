//! One process of the simulated world: a core, a keeper, and what the driver does between them.

use super::*;

pub(super) struct Process {
    pub(super) number: usize,
    pub(super) life: u64,
    pub(super) core: Core,
    pub(super) keeper: Keeper,
    /// Which message each slot holds, and until when it may be spoken for.
    pub(super) slots: BTreeMap<u32, (usize, Nanos)>,
    next_slot: u32,
    pub(super) outstanding: u64,
    repair_at: Nanos,
    /// It hears nothing until then.
    pub(super) suspended_until: Nanos,
    pub(super) leaving: bool,
    pub(super) gone: bool,
}

type Verdict = Result<(), String>;

impl Process {
    pub(super) fn start(world: &mut World, number: usize, life: u64) -> Self {
        let batches = Batches {
            count: [5, 40][world.random(2) as usize],
            bytes: 1 << 24,
            period: 300 * MS,
            linger: 0,
            max_in_flight: 1 + world.random(3) as u32,
            first_half_only: world.mutation != Mutation::LeaseIgnored,
        };
        let limits = Limits { ack_wait: ACK_WAIT, max_ack_pending: 0, live: 1, max_batch: 0 };
        let me = Uuid::from_u128((number as u128) << 64 | u128::from(life));
        let key = Key { stream: "s".into(), created_ns: 1, collection: "c".into() };
        let mut process = Self {
            number,
            life,
            core: Core::new(batches, limits, true, world.seed + life).with_series(),
            keeper: Keeper::new(me, key, "1", ledger::lease(WAIT), 0),
            slots: BTreeMap::new(),
            next_slot: 0,
            outstanding: 0,
            repair_at: Nanos::MAX,
            suspended_until: 0,
            leaving: false,
            gone: false,
        };
        // Nothing comes of it while it stands by.
        let mut out = Vec::new();
        process.core.on(Event::Target(Target::Good), process.moment(world), &mut out);
        process
    }

    fn moment(&self, world: &World) -> Now {
        Now { at: world.now, free: 1 << 30, outstanding: self.outstanding }
    }

    /// When it has to look at the clock.
    pub(super) fn due(&self) -> Nanos {
        if self.gone {
            return Nanos::MAX;
        }
        self.core.next_deadline().min(self.keeper.due()).min(self.repair_at).max(self.suspended_until)
    }

    pub(super) fn event(&mut self, world: &mut World, event: Event<'_>) -> Verdict {
        let mut out = Vec::new();
        self.core.on(event, self.moment(world), &mut out);
        for effect in out {
            self.carry(world, effect)?;
        }
        Ok(())
    }

    /// Asks what is due.
    pub(super) fn keep(&mut self, world: &mut World) -> Verdict {
        while let Some(ask) = self.keeper.next(world.now) {
            world.send(self.number, self.life, Request::Keep(ask));
        }
        if world.now >= self.repair_at {
            self.repair_at = Nanos::MAX;
            world.send(self.number, self.life, Request::Repair { all: false });
        }
        Ok(())
    }

    fn stand(&mut self, world: &mut World) -> Verdict {
        let part = match self.keeper.standing() {
            Standing::Owner { known, .. } => {
                world.send(self.number, self.life, Request::Repair { all: true });
                Part::Active { known: if world.mutation == Mutation::TakeOverKnowsNothing { 0 } else { known } }
            }
            Standing::StandBy if world.mutation == Mutation::NobodyStepsBack => return Ok(()),
            Standing::StandBy => Part::StandBy,
        };
        self.event(world, Event::Part(part))
    }

    pub(super) fn hear(&mut self, world: &mut World, reply: Reply) -> Verdict {
        match reply {
            Reply::Kept(answer) => {
                if self.keeper.answered(answer, world.now) {
                    self.stand(world)?;
                }
            }
            Reply::Reserved(term, _) if self.keeper.term() != Some(term) => {}
            Reply::Reserved(term, Some(false)) => {
                self.keeper.lost(term, world.now);
                self.stand(world)?;
            }
            Reply::Reserved(term, answer) => {
                self.keeper.wrote(term, world.now);
                self.event(world, Event::Reserved(if answer.is_some() { None } else { Some(Class::Transient) }))?;
            }
            Reply::Inserted(group, true) => {
                self.event(world, Event::Inserted(group, Outcome::Executed { failures: &[], uncertain: None }))?;
            }
            Reply::Inserted(group, false) => self.event(world, Event::Inserted(group, Outcome::Failed(Class::Transient)))?,
            Reply::Recorded(None, _, _) => world.send(self.number, self.life, Request::Repair { all: true }),
            Reply::Recorded(Some(group), suspects, true) => {
                self.repair_at = self.repair_at.min(world.now + 2 * ACK_WAIT);
                world.send(self.number, self.life, Request::LookUp { group, suspects });
            }
            Reply::Recorded(Some(group), _, false) | Reply::LookedUp(group, None) => {
                self.event(world, Event::Resolved(group, Outcome::Failed(Class::Transient)))?;
            }
            Reply::LookedUp(group, Some(found)) => {
                let entries = self.core.entries(group).iter().enumerate();
                let there = |(index, entry): (usize, &Entry)| {
                    self.slots.get(&entry.slot).is_some_and(|(message, _)| found.contains(message)).then_some((index as u32, Class::Done))
                };
                let failures: Vec<_> = entries.filter_map(there).collect();
                self.event(world, Event::Resolved(group, Outcome::Executed { failures: &failures, uncertain: None }))?;
            }
            Reply::Repaired => {
                self.repair_at = if world.records.is_empty() { Nanos::MAX } else { world.now + 2 * ACK_WAIT };
            }
            Reply::Acked(group, all) => self.event(world, Event::Acked(group, all))?,
            Reply::Renewed(group, sent, all) => {
                if all {
                    for entry in self.core.entries(group) {
                        if let Some((_, until)) = self.slots.get_mut(&entry.slot).filter(|(_, until)| world.now < *until) {
                            *until = (*until).max(sent + ACK_WAIT);
                        }
                    }
                }
                self.event(world, Event::Renewed(group, sent, all))?;
            }
            Reply::Pinged => self.event(world, Event::Pinged(None))?,
            Reply::Delivered(batch, pending) => {
                self.outstanding = self.outstanding.saturating_sub(batch.len() as u64);
                let fresh = world.mutation == Mutation::RedeliveriesAreNew;
                let arrival = |(message, slot): &(usize, u32)| Arrival {
                    slot: *slot,
                    sequence: if fresh { u64::from(*slot) + 1 } else { (*message as u64 + 1) * STRIDE },
                    bytes: 100,
                    lease_from: self.slots[slot].1 - ACK_WAIT,
                    published_ns: 1,
                    kind: Kind::Document,
                    check: false,
                };
                let messages: Vec<Arrival> = batch.iter().map(arrival).collect();
                self.event(world, Event::Delivered { messages: &messages, pending })?;
            }
            Reply::Tick => self.event(world, Event::Tick)?,
        }
        Ok(())
    }

    pub(super) fn pull(&mut self, world: &mut World) {
        let (batch, pending) = world.deliver(self.outstanding);
        if batch.is_empty() {
            return;
        }
        let held = batch.into_iter().map(|message| {
            self.next_slot += 1;
            self.slots.insert(self.next_slot, (message, world.now + ACK_WAIT));
            (message, self.next_slot)
        });
        let held = held.collect();
        let delay = world.random(5 * MS);
        world.later(delay, Coming::Returns(self.number, self.life, Reply::Delivered(held, pending)));
    }

    fn messages(&self, group: GroupId) -> Vec<usize> {
        self.core.entries(group).iter().map(|entry| self.slots[&entry.slot].0).collect()
    }

    fn carry(&mut self, world: &mut World, effect: Effect) -> Verdict {
        let (number, life) = (self.number, self.life);
        match effect {
            Effect::Pull { batch, .. } => {
                if self.keeper.term().is_none() && world.mutation != Mutation::NobodyStepsBack {
                    return Err("a pull while it stands by".into());
                }
                self.outstanding += batch;
            }
            Effect::Withdraw => self.outstanding = 0,
            Effect::Reserve(upto) => {
                let Some(term) = self.keeper.term() else { return Err("a reservation while it stands by".into()) };
                world.send(number, life, Request::Reserve { term, upto });
            }
            Effect::Insert(group) => self.insert(world, group)?,
            Effect::Resolve(group) => {
                let suspects = self.messages(group);
                world.send(number, life, Request::Record { group: Some(group), suspects });
            }
            Effect::Late(entries) => {
                let suspects = entries.iter().map(|entry| self.slots[&entry.slot].0).collect();
                world.send(number, life, Request::Record { group: None, suspects });
            }
            Effect::Ack(group) => {
                let lost = world.chance(50);
                for entry in self.core.entries(group) {
                    let (message, until) = self.slots[&entry.slot];
                    if world.now >= until {
                        return Err(format!("message {message} is acknowledged past its lease"));
                    }
                    if !world.copies.iter().any(|copy| copy.message == message) {
                        return Err(format!("message {message} is acknowledged and not stored"));
                    }
                    world.messages[message].settled |= !lost;
                }
                let unconfirmed = lost || world.chance(50);
                world.later(5 * MS, Coming::Returns(number, life, Reply::Acked(group, !unconfirmed)));
            }
            Effect::Renew(group) => {
                let (lost, sent) = (world.chance(100), world.now);
                for message in self.messages(group).into_iter().filter(|_| !lost) {
                    world.messages[message].leased_until = world.messages[message].leased_until.max(sent + ACK_WAIT);
                }
                world.later(5 * MS, Coming::Returns(number, life, Reply::Renewed(group, sent, !lost)));
            }
            Effect::Ping => world.later(5 * MS, Coming::Returns(number, life, Reply::Pinged)),
            Effect::Nak(entries) => {
                for entry in entries {
                    if let Some((message, _)) = self.slots.remove(&entry.slot) {
                        world.messages[message].leased_until = world.now + 500 * MS;
                    }
                }
            }
            Effect::Release(entries) => {
                for entry in entries {
                    if self.slots.remove(&entry.slot).is_none() {
                        return Err("released twice".into());
                    }
                }
            }
            Effect::Finished => {
                self.gone = true;
                if let Some(term) = self.keeper.term() {
                    world.send(number, life, Request::Release { term, reserved: self.core.inserted_upto() });
                }
            }
            Effect::LookUp(_) | Effect::Check(_) | Effect::Terminate(_) | Effect::Bury(_) => {
                return Err(format!("{effect:?} of good messages"));
            }
        }
        Ok(())
    }

    fn insert(&mut self, world: &mut World, group: GroupId) -> Verdict {
        let again = self.core.needs_own_ids(group) && world.mutation != Mutation::OneId;
        let mut rows = Vec::new();
        for entry in self.core.entries(group) {
            let (message, until) = self.slots[&entry.slot];
            if world.now + ACK_WAIT / 2 > until {
                return Err(format!("an insert of message {message} begins in the second half of its lease"));
            }
            world.next_id += 1;
            rows.push((message, if again { world.next_id } else { 0 }));
        }
        world.send(self.number, self.life, Request::Insert { group, rows });
        Ok(())
    }
}
