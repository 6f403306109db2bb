//! What stream and database do with what reaches them, and faults as they begin and end. Part of the world.

use super::database::Mood;
use super::mutants::Mutant;
use super::plan::What;
use super::process::{Facts, Told};
use super::stream::Stored;
use super::world::{Action, Doc, Settle, World};
use crate::collector::classify::Class;
use crate::collector::core::*;
use std::collections::BTreeMap;

/// How often a good document is published once nothing else is.
const TRICKLE: Nanos = 15 * SECOND;

impl World<'_> {
    /// Something happens.
    pub fn happen(&mut self, action: Action) {
        match action {
            Action::Publish(doc) => self.publish(doc),
            Action::Fault(number) => self.begins(number),
            Action::Heal(number) => self.ends(number),
            Action::Change => self.change_target(),
            Action::Trickle => self.trickle(),
            Action::Resumed => self.resumed(),
            Action::Remedy => (0..self.plan.processes).for_each(|seat| self.restart(seat)),
            Action::Serve => {
                self.serve_at = Nanos::MAX;
                self.serve();
            }
            Action::Expire(number) => {
                for request in self.stream.end_requests(|request| request.number == number) {
                    self.answer(request.of.0, request.of.1, Told::Ended(number));
                }
            }
            Action::Pull(request) => self.pulled(request),
            Action::Withdraw(p, connection) => {
                for request in self.stream.end_requests(|request| request.of == (p, connection)) {
                    self.answer(p, connection, Told::Ended(request.number));
                }
            }
            Action::Settle(p, connection, how, sequences, ticket, answer) => {
                self.settled_by(p, connection, how, sequences, ticket, *answer)
            }
            Action::Ask(p, connection, ticket, witness) => {
                if self.reaches(p, connection) {
                    let there = witness.is_none_or(|(sequence, published_ns)| self.stream.has(sequence, published_ns));
                    let facts = Facts { created_ns: self.stream.created_ns, last: self.stream.last, there };
                    let answer = if self.stream.consumer_there() { Ok(facts) } else { Err(()) };
                    self.answer(p, connection, Told::Answer(ticket, Box::new(Told::Asked(Some(answer)))));
                }
            }
            Action::Bury(p, connection, ticket, group, identity, doc) => {
                if !self.reaches(p, connection) {
                    return;
                }
                let full = self.is(What::Full) && !self.database.letters.contains_key(&identity);
                if !full {
                    self.database.letters.entry(identity).or_insert(doc);
                }
                if !self.is(What::MuteLetters) {
                    self.answer(p, connection, Told::Answer(ticket, Box::new(Told::Buried(group, !full))));
                }
            }
            Action::Insert(p, ticket, place, group, documents) => {
                let mood = self.mood();
                let reply = self.database.insert(place, &documents, mood);
                self.proven |= documents.iter().any(|document| self.database.count(document.doc) > 0);
                self.note(|| format!("the database: {documents:?} -> {reply:?}"));
                self.reply(p, ticket, Told::Inserted(group, reply));
            }
            Action::LookUp(p, ticket, group, what) => {
                let place = self.processes[p].place;
                let judged = (0..).zip(&what).filter_map(|(index, (doc, key))| Some((index, self.looks_stored(place, *doc, key)?)));
                let judged: Vec<(u32, Class)> = judged.collect();
                let there = self.reads();
                self.proven |= there && judged.len() < what.len();
                self.reply(p, ticket, Told::LookedUp(group, there.then_some(judged)));
            }
            Action::Check(p, ticket, group, what) => {
                let letters = self.database.letters.keys().copied().collect();
                let before = self.processes[p].buried.get_or_insert(letters).clone();
                let found = (0..).zip(&what).filter_map(|(index, (doc, key, identity, concerned))| {
                    let there = *concerned && self.looks_stored(0, *doc, key).is_none();
                    let buried = *concerned && before.contains(identity);
                    there.then_some((index, Class::Done)).or(buried.then_some((index, Class::Document)))
                });
                let found: Vec<(u32, Class)> = found.collect();
                // What is there, but not on a majority yet, is no answer.
                let applied = what.iter().any(|(_, key, _, concerned)| *concerned && self.database.volatile(0, key));
                let there = self.reads() && (!applied || self.mutant == Some(Mutant::UnreplicatedTakenAsAbsent));
                self.proven |= there && found.iter().any(|(_, class)| *class == Class::Done);
                self.reply(p, ticket, Told::Checked(group, there.then_some(found)));
            }
            Action::Ping(p, ticket) => {
                let failure = (!self.reads()).then_some(Class::Transient);
                self.reply(p, ticket, Told::Pinged(failure));
            }
            Action::Tell(p, connection, told) => self.tell(p, connection, told),
            Action::Connect(p) => {
                let process = &mut self.processes[p];
                if self.stream.up && !process.over() && !process.connected {
                    process.connected = true;
                    self.happens_to(p, Told::Gap);
                }
            }
            Action::Start(seat) => {
                let p = self.seats[seat];
                if self.change == super::world::Change::None && self.processes[p].over() {
                    self.start(seat);
                }
            }
        }
    }

    fn tell(&mut self, p: usize, connection: Option<u32>, told: Told) {
        let process = &self.processes[p];
        let another = connection.is_some_and(|connection| connection != process.connection);
        let put_off = matches!(told, Told::Wake(number) if number != process.wake.0);
        if process.over() || another || put_off {
            return;
        }
        if process.asleep_until > self.now {
            // It all lies there when the process wakes, in some order; what came over a connection in its own.
            let delay = process.asleep_until - self.now;
            let delay = if connection.is_some() { delay + MS } else { delay + self.random.below(5 * MS) };
            self.later(delay, Action::Tell(p, connection, told));
            return;
        }
        let stale = matches!(&told, Told::Answer(ticket, _) if !process.awaited.contains(ticket));
        if !stale && !matches!(told, Told::Wake(_)) {
            self.note(|| format!("process {p} hears {told:?}"));
        }
        self.happens_to(p, told);
    }

    /// Whether what was sent over a connection arrives.
    fn reaches(&self, p: usize, connection: u32) -> bool {
        self.stream.up && self.processes[p].connection == connection && self.processes[p].connected
    }

    fn mood(&self) -> Mood {
        Mood {
            away: self.is(What::Away),
            refuses: self.is(What::Refuses),
            mute: self.is(What::Mute),
            unreplicated: self.is(What::Failover),
            hides: self.plan.hides,
            tightened: self.is(What::Tightened),
            blocked: self.is(What::Blocked),
        }
    }

    fn reads(&self) -> bool {
        !self.is(What::Away) && !self.is(What::Mute)
    }

    fn reply(&mut self, p: usize, ticket: u64, told: Told) {
        let delay = self.database_latency();
        self.later(delay, Action::Tell(p, None, Told::Answer(ticket, Box::new(told))));
    }

    fn publish(&mut self, doc: usize) {
        if !self.stream.up {
            self.later(SECOND, Action::Publish(doc));
            return;
        }
        let Doc { publish, .. } = self.docs[doc].clone();
        let message = Stored { doc, bytes: publish.bytes, published_ns: 0, id: publish.id };
        let known = self.stream.publish(message, self.now);
        self.note(|| format!("document {doc} {publish:?} is published: {}", known.map_or("new".into(), |doc| format!("known as {doc}"))));
        self.docs[doc].messages += u32::from(known.is_none());
        if self.is(What::Lossy) && self.random.below(3) == 0 {
            // The publisher tries again. Without an id that is another message.
            let again = if publish.id.is_some() {
                doc
            } else {
                self.docs[doc].acked = true;
                self.docs.push(Doc {
                    publish: super::plan::Publish { nature: again_as(publish.nature), ..publish },
                    acked: false,
                    messages: 0,
                    lost: 0,
                });
                self.docs.len() - 1
            };
            self.later(SECOND, Action::Publish(again));
        } else {
            self.docs[doc].acked = true;
        }
        self.serve();
    }

    /// Good ones go on coming until all is settled: what is refused is told from a collection that refuses all by them.
    fn trickle(&mut self) {
        let publish = super::plan::Publish { at: self.now, nature: super::plan::Nature::Good, bytes: 100, id: None };
        self.docs.push(Doc { publish, acked: false, messages: 0, lost: 0 });
        self.later(0, Action::Publish(self.docs.len() - 1));
        if !self.stopping {
            self.later(TRICKLE, Action::Trickle);
        }
    }

    fn pulled(&mut self, request: super::stream::Request) {
        let (p, connection) = request.of;
        if !self.reaches(p, connection) {
            return;
        }
        if !self.stream.consumer_there() {
            self.answer(p, connection, Told::Gone);
            return;
        }
        self.stream.ask(request);
        self.later(request.until.saturating_sub(self.now), Action::Expire(request.number));
        self.serve();
    }

    /// Delivers what can be delivered.
    pub fn serve(&mut self) {
        let mut batches: BTreeMap<(usize, u32), Vec<super::stream::Delivery>> = BTreeMap::new();
        for (of, mut delivery) in self.stream.deliver(self.now) {
            delivery.lease_from = self.processes[of.0].clock(self.now);
            self.redelivered += u64::from(delivery.delivered > 1);
            batches.entry(of).or_default().push(delivery);
        }
        for ((p, connection), deliveries) in batches {
            self.answer(p, connection, Told::Delivered(deliveries));
        }
        for request in self.stream.full() {
            self.answer(request.of.0, request.of.1, Told::Ended(request.number));
        }
        let ends = self.stream.next_end().unwrap_or(Nanos::MAX);
        if ends < self.serve_at && ends >= self.now {
            self.serve_at = ends;
            self.later(ends - self.now + 1, Action::Serve);
        }
    }

    fn settled_by(&mut self, p: usize, connection: u32, how: Settle, sequences: Vec<u64>, ticket: u64, answer: Told) {
        if !self.reaches(p, connection) {
            return;
        }
        let lossy = self.is(What::Lossy);
        let mut last_arrived = true;
        for sequence in sequences {
            last_arrived = !lossy || self.random.below(3) > 0;
            if !last_arrived {
                continue;
            }
            match how {
                Settle::Renew => self.stream.renew(sequence, self.now),
                Settle::Nak => self.stream.nak(sequence, self.now),
                Settle::Ack | Settle::Term => {
                    let Some(message) = self.stream.ack(sequence, self.now) else { continue };
                    let stored = self.database.count(message.doc) > 0 || self.database.letters.values().any(|doc| *doc == message.doc);
                    self.must(stored, || format!("{message:?} left the stream, neither stored nor among the dead letters"));
                }
            }
        }
        let answered = last_arrived && (!lossy || self.random.below(3) > 0) && how != Settle::Nak;
        if answered {
            if lossy && self.random.below(4) == 0 {
                // The same reply once more, long after.
                let delay = self.random.below(3 * SECOND);
                self.later(delay, Action::Tell(p, Some(connection), answer.clone()));
            }
            self.answer(p, connection, Told::Answer(ticket, Box::new(answer)));
        }
        self.serve();
    }

    pub fn disconnect(&mut self, p: usize) {
        let process = &mut self.processes[p];
        let before = (p, process.connection);
        process.connection += 1;
        process.connected = false;
        self.stream.end_requests(|request| request.of == before);
    }

    fn begins(&mut self, number: usize) {
        let fault = self.plan.faults[number];
        self.note(|| format!("FAULT {fault:?}"));
        if !matches!(fault.what, What::Target | What::Jump(_) | What::Restart(_) | What::Forgotten | What::Reset) {
            self.active.push(number);
            self.later(fault.lasts, Action::Heal(number));
        }
        let of = |seat: usize| self.seats[seat];
        match fault.what {
            What::Killed | What::TailLost => {
                self.stream.up = false;
                let since = self.now.saturating_sub(self.random.below(SECOND));
                if fault.what == What::TailLost {
                    let since = self.now.saturating_sub(self.random.below(6 * SECOND));
                    self.stream.forget_deliveries(since);
                    for doc in self.stream.lose_tail(since) {
                        self.docs[doc].lost += 1;
                    }
                }
                if self.random.below(2) == 0 {
                    self.stream.forget_deliveries(since);
                }
                if self.random.below(2) == 0 {
                    self.stream.forget_acks(since);
                }
                (0..self.processes.len()).for_each(|p| self.disconnect(p));
            }
            What::Forgotten => {
                self.stream.forget_deliveries(self.now.saturating_sub(SECOND));
                for request in self.stream.end_requests(|_| true) {
                    self.later(2 * SECOND, Action::Tell(request.of.0, Some(request.of.1), Told::Ended(request.number)));
                }
            }
            What::Reset if self.stream.consumer_there() => {
                self.stream.make_consumer();
                self.serve();
            }
            What::Deleted => {
                for request in self.stream.delete_consumer() {
                    self.answer(request.of.0, request.of.1, Told::Gone);
                }
            }
            What::Cut(seat) => self.disconnect(of(seat)),
            What::Crash(seat) => {
                let p = of(seat);
                self.disconnect(p);
                self.processes[p].dead = true;
            }
            What::Sleep(seat) => {
                let p = of(seat);
                self.processes[p].asleep_until = self.processes[p].asleep_until.max(self.now + fault.lasts);
            }
            What::Frozen(seat) => {
                let p = of(seat);
                let clock = self.processes[p].clock(self.now);
                self.processes[p].stopped_clock = Some(clock);
                self.processes[p].asleep_until = self.processes[p].asleep_until.max(self.now + fault.lasts);
            }
            What::Jump(seat) => {
                let p = of(seat);
                self.processes[p].offset += fault.lasts as i64;
            }
            What::Restart(seat) => self.restart(seat),
            What::Target => self.change_target(),
            _ => {}
        }
    }

    fn ends(&mut self, number: usize) {
        let fault = self.plan.faults[number];
        self.note(|| format!("over: {fault:?}"));
        self.active.retain(|active| *active != number);
        match fault.what {
            What::Killed | What::TailLost if !self.is(What::Killed) && !self.is(What::TailLost) => {
                self.stream.up = true;
                self.stream.restart();
                for p in 0..self.processes.len() {
                    let delay = self.random.below(2 * SECOND);
                    self.later(delay, Action::Connect(p));
                }
            }
            What::Deleted if !self.stream.consumer_there() => self.stream.make_consumer(),
            What::Cut(_) => (0..self.processes.len()).for_each(|p| self.later(0, Action::Connect(p))),
            What::Failover if !self.is(What::Failover) => {
                let mut random = self.random.clone();
                self.database.recover(|| random.below(2) == 0);
                self.random = random;
                self.trouble_at = self.now;
                self.later(20 * SECOND, Action::Resumed);
            }
            What::Away | What::Mute | What::SlowDatabase => {
                self.trouble_at = self.now;
                self.later(20 * SECOND, Action::Resumed);
            }
            What::Refuses | What::Blocked => self.trouble_at = self.now + 30 * SECOND,
            What::Crash(seat) => self.later(0, Action::Start(seat)),
            What::Frozen(_) | What::Sleep(_) => {
                for process in self.processes.iter_mut() {
                    if let Some(clock) = process.stopped_clock.filter(|_| process.asleep_until <= self.now) {
                        process.offset = clock as i64 - self.now as i64;
                        process.stopped_clock = None;
                    }
                }
            }
            _ => {}
        }
    }
}

/// What is published once more without an id: of documents that have an `_id` of their own it is the same document.
fn again_as(nature: super::plan::Nature) -> super::plan::Nature {
    if nature.own_id() { super::plan::Nature::Good } else { nature }
}
