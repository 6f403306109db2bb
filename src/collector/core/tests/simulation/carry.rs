//! Carries out a core's effects, each looked at before: inside its lease, in order, within its bounds. Used by the world.

use super::database::{Insert, Key, Reply};
use super::mutants::Mutant;
use super::plan::What;
use super::process::Told;
use super::stream::Request;
use super::world::{Action, Settle, World};
use crate::collector::classify::Class;
use crate::collector::core::*;

/// How long a reply of NATS is awaited.
const REPLY: Nanos = 2 * SECOND;

impl World<'_> {
    pub fn carry(&mut self, p: usize, effect: Effect) {
        self.note(|| format!("process {p}: {effect:?}"));
        let certain = self.processes[p].identities.is_some();
        match effect {
            Effect::Pull { batch, max_bytes } => self.pull(p, batch, max_bytes),
            Effect::Withdraw => self.send(p, |connection| Action::Withdraw(p, connection)),
            Effect::Insert(group) => self.insert(p, group),
            Effect::LookUp(group) => {
                let what: Vec<(usize, Key)> = self.entries(p, group).into_iter().map(|slot| (slot.message.doc, slot.key)).collect();
                if std::mem::take(&mut self.processes[p].blames) {
                    let all = (0..what.len() as u32).map(|index| (index, Class::Document)).collect();
                    return self.looked_up(p, group, Some(all));
                }
                let ours = what.iter().all(|(_, key)| matches!(key, Key::Ours(_)));
                if self.mutant == Some(Mutant::DuplicatesTakenAtTheirWord) && ours {
                    return self.looked_up(p, group, Some(Vec::new()));
                }
                self.ask_database(p, Told::LookedUp(group, None), |ticket| Action::LookUp(p, ticket, group, what));
                if self.mutant == Some(Mutant::LookUpTakenAsDone) {
                    self.looked_up(p, group, Some(Vec::new()));
                }
            }
            Effect::Check(group) => {
                let slots =
                    self.entries(p, group).into_iter().map(|slot| (slot.message.doc, slot.key, slot.identity, slot.check)).collect();
                self.ask_database(p, Told::Checked(group, None), |ticket| Action::Check(p, ticket, group, slots));
            }
            Effect::Ping => {
                self.takes_its_turn(p, "pings");
                self.ask_database(p, Told::Pinged(Some(Class::Transient)), |ticket| Action::Ping(p, ticket));
            }
            Effect::Ack(group) | Effect::Terminate(group) if !certain => self.told(p, Told::Acked(group, false)),
            Effect::Renew(group) if !certain => {
                let now = self.processes[p].clock(self.now);
                self.told(p, Told::Renewed(group, now, Vec::new(), false));
            }
            Effect::Nak(entries) if !certain => self.free(p, entries),
            Effect::Ack(group) => {
                for slot in self.entries(p, group) {
                    let durable = self.database.count(slot.message.doc) > 0;
                    self.must(slot.confirmed, || format!("acknowledges {slot:?} before any reply said that it is stored"));
                    self.must(durable, || format!("acknowledges {slot:?}, which is not stored"));
                }
                self.settle(p, group, Settle::Ack);
            }
            Effect::Terminate(group) => {
                for slot in self.entries(p, group) {
                    let buried = self.database.letters.get(&slot.identity) == Some(&slot.message.doc);
                    self.must(buried, || format!("terminates {slot:?}, which is not among the dead letters"));
                }
                self.settle(p, group, Settle::Term);
            }
            Effect::Renew(group) => {
                if self.mutant != Some(Mutant::NothingRenewed) {
                    self.settle(p, group, Settle::Renew);
                }
                if self.mutant == Some(Mutant::RenewalCountedWithoutReply) {
                    let now = self.processes[p].clock(self.now);
                    self.feed(p, Event::Renewed(group, now, true));
                }
            }
            Effect::Bury(group) => self.bury(p, group),
            Effect::Nak(entries) => self.nak(p, entries),
            Effect::Release(entries) => {
                if self.mutant == Some(Mutant::StopGivesBackWhatWasSent) && self.processes[p].core.in_hand() == 0 && certain {
                    self.nak(p, entries);
                } else {
                    self.free(p, entries);
                }
            }
            Effect::Reserve(_) | Effect::Resolve(_) | Effect::Late(_) => {
                self.must(false, || "an effect of time-series collections".into());
            }
            Effect::Finished => {
                self.processes[p].give_up_early();
                self.processes[p].finished = true;
                let connection = self.processes[p].connection;
                self.stream.end_requests(|request| request.of == (p, connection));
            }
        }
    }

    /// The messages of a group.
    fn entries(&self, p: usize, group: GroupId) -> Vec<super::process::Slot> {
        let process = &self.processes[p];
        process.core.entries(group).iter().filter_map(|entry| process.slots.get(&entry.slot).cloned()).collect()
    }

    fn inside_lease(&mut self, p: usize, group: GroupId, what: &str) {
        let now = self.processes[p].clock(self.now);
        let late = self.entries(p, group).into_iter().find(|slot| now >= slot.until);
        self.must(late.is_none(), || format!("{what} past the lease of {late:?}, at {now}"));
    }

    fn pull(&mut self, p: usize, batch: u64, max_bytes: u64) {
        let plan = self.plan;
        let process = &mut self.processes[p];
        process.unsent -= batch;
        let share = plan.max_ack_pending as u64 / plan.processes as u64;
        let wanted = process.outstanding() + process.core.in_hand() + batch;
        let (failed, outstanding, held) = (process.database_failed.is_some(), process.outstanding(), process.core.in_hand());
        self.must(batch > 0 && max_bytes > 0, || "an empty pull".into());
        let shut = self.processes[p].gate.told;
        self.must(!failed, || "pulls while the database is away".into());
        self.must(!shut, || "pulls in an outage that another pipeline found".into());
        self.must(plan.max_ack_pending == 0 || wanted <= share.max(1), || {
            format!("pulls {batch} beside {outstanding} outstanding and {held} held, with a share of {share}")
        });
        if !self.processes[p].connected {
            self.told(p, Told::Refused);
            return;
        }
        let number = self.ticket();
        let process = &mut self.processes[p];
        process.requests.insert(number, batch);
        let expires = if process.core.pulls_last() { 60 * SECOND } else { FLOW_EXPIRES };
        let until = self.now + expires;
        self.send(p, |connection| Action::Pull(Request { number, of: (p, connection), left: batch, bytes: max_bytes, until }));
    }

    fn insert(&mut self, p: usize, group: GroupId) {
        self.inside_lease(p, group, "inserts");
        self.takes_its_turn(p, "inserts");
        let slots = self.entries(p, group);
        let plan = self.plan;
        let bytes: u64 = slots.iter().map(|slot| u64::from(slot.message.bytes)).sum();
        let count = self.processes[p].core.batch_count();
        self.must(!slots.is_empty() && slots.len() as u64 <= count, || format!("a batch of {} where {count} are allowed", slots.len()));
        self.must(slots.len() == 1 || bytes <= plan.batches.bytes, || format!("a batch of {bytes} bytes"));
        let now = self.processes[p].clock(self.now);
        for slot in &slots {
            let late = plan.batches.first_half_only && slot.until < now + plan.ack_wait / 2;
            self.must(!late, || format!("an insert in the second half of the lease of {slot:?}"));
            self.must(!slot.check || slot.cleared, || format!("inserts {slot:?} before it was looked up in the previous target"));
            let readable = self.docs[slot.message.doc].publish.nature != super::plan::Nature::Unreadable;
            self.must(readable, || format!("sends {slot:?}, which is no BSON"));
        }
        let busy = self.is(What::Busy);
        let documents: Vec<Insert> = slots
            .iter()
            .map(|slot| Insert {
                doc: slot.message.doc,
                nature: self.docs[slot.message.doc].publish.nature,
                key: slot.key,
                busy: busy && self.random.below(3) == 0,
            })
            .collect();
        let process = &mut self.processes[p];
        for entry in process.core.entries(group).to_vec() {
            if let Some(slot) = process.slots.get_mut(&entry.slot) {
                slot.sent = true;
            }
        }
        let place = process.place;
        self.ask_database(p, Told::Inserted(group, Reply::Failed(Class::Transient)), |ticket| {
            Action::Insert(p, ticket, place, group, documents)
        });
        if self.mutant == Some(Mutant::AckBeforeReply) {
            self.feed(p, Event::Inserted(group, Outcome::Executed { failures: &[], uncertain: None }));
        }
    }

    fn settle(&mut self, p: usize, group: GroupId, how: Settle) {
        self.inside_lease(p, group, "speaks");
        let mut sequences: Vec<u64> = self.entries(p, group).iter().map(|slot| slot.sequence).collect();
        if self.mutant == Some(Mutant::AcknowledgesTheNextToo) && how == Settle::Ack {
            let next = sequences.iter().max().map_or(0, |last| last + 1);
            sequences.push(next);
        }
        let slots = self.processes[p].core.entries(group).iter().map(|entry| entry.slot).collect();
        let now = self.processes[p].clock(self.now);
        let unanswered = match how {
            Settle::Renew => Told::Renewed(group, now, slots, false),
            _ => Told::Acked(group, false),
        };
        if !self.processes[p].connected {
            self.told(p, unanswered);
            return;
        }
        let ticket = self.await_answer(p, unanswered.clone(), REPLY);
        let answer = match unanswered {
            Told::Renewed(group, sent, slots, _) => Told::Renewed(group, sent, slots, true),
            _ => Told::Acked(group, true),
        };
        self.send(p, |connection| Action::Settle(p, connection, how, sequences, ticket, Box::new(answer)));
    }

    fn bury(&mut self, p: usize, group: GroupId) {
        let slots = self.entries(p, group);
        self.must(slots.len() == 1, || format!("{} messages in one dead letter", slots.len()));
        let Some(slot) = slots.into_iter().next() else { return };
        let bad = self.docs[slot.message.doc].publish.nature.bad();
        self.must(bad, || format!("a good document among the dead letters: {slot:?}"));
        // Of all documents ever stored, since another process may have proven the config.
        let proven = self.proven;
        self.must(proven, || "a dead letter before anything was stored".into());
        let ticket = self.await_answer(p, Told::Buried(group, false), 5 * SECOND);
        self.send(p, |connection| Action::Bury(p, connection, ticket, group, slot.identity, slot.message.doc));
        if self.mutant == Some(Mutant::TerminatedBeforeItsLetter) {
            self.feed(p, Event::Buried(group, true));
        }
    }

    fn nak(&mut self, p: usize, entries: Vec<Entry>) {
        let now = self.processes[p].clock(self.now);
        let mut sequences = Vec::new();
        for entry in &entries {
            let Some(slot) = self.processes[p].slots.get(&entry.slot).cloned() else { continue };
            self.must(now < slot.until, || format!("gives {slot:?} back past its lease"));
            self.must(!slot.sent, || format!("gives {slot:?} back, which was sent to the database"));
            sequences.push(slot.sequence);
        }
        let ticket = self.ticket();
        self.send(p, |connection| Action::Settle(p, connection, Settle::Nak, sequences, ticket, Box::new(Told::Refused)));
        self.free(p, entries);
    }

    fn free(&mut self, p: usize, entries: Vec<Entry>) {
        for entry in &entries {
            let slot = self.processes[p].slots.remove(&entry.slot);
            self.must(slot.is_some(), || format!("slot {} is released twice", entry.slot));
            if self.mutant != Some(Mutant::BudgetNotGivenBack) {
                self.processes[p].used -= u64::from(entry.bytes);
            }
        }
        self.processes[p].core.recycle(entries);
    }

    pub fn inserted(&mut self, p: usize, group: GroupId, reply: Reply) {
        let slots: Vec<u32> = self.processes[p].core.entries(group).iter().map(|entry| entry.slot).collect();
        let failed = match reply {
            Reply::Failed(class @ (Class::Transient | Class::Operator)) => Some(class),
            _ => None,
        };
        // What is known to fail alone says nothing about the database.
        let mut known = false;
        if let ([slot], Reply::Failed(_)) = (&slots[..], &reply)
            && let Some(slot) = self.processes[p].slots.get_mut(slot)
        {
            known = slot.spoilt > 0 && failed == Some(Class::Operator);
            slot.spoilt += 1;
        }
        if !known {
            self.processes[p].database_failed = failed;
        }
        let reply = match (self.mutant, reply) {
            (Some(Mutant::UnmetWriteConcernTakenAsDone), Reply::Executed { failures, .. }) => Reply::Executed { failures, uncertain: None },
            (Some(Mutant::UnmetWriteConcernTakenAsRefusal), Reply::Executed { uncertain: Some(_), .. })
            | (Some(Mutant::UnknownTakenAsRefusal), Reply::Failed(Class::Unknown)) => self.blame_all(p, slots.len()),
            (Some(Mutant::CodeOfAllTakenAsRefusal), Reply::Executed { failures, uncertain: None })
                if failures.len() == slots.len() && failures.iter().all(|(_, class)| *class == Class::Document) =>
            {
                self.blame_all(p, slots.len())
            }
            (Some(Mutant::UnknownNeverNarrowedDown), Reply::Failed(Class::Unknown)) => Reply::Failed(Class::Transient),
            (Some(Mutant::OutageTakenAsDone), Reply::Failed(Class::Transient)) => Reply::Executed { failures: Vec::new(), uncertain: None },
            (mutant, Reply::Executed { failures, uncertain }) => {
                let company = failures.len() < slots.len();
                let class = |class| match (mutant, class) {
                    (Some(Mutant::RefusalInCompanyTakenAsRefusal), Class::Doubtful) if company => Class::Document,
                    (Some(Mutant::DuplicateOfAnotherIndexTakenAsDone), Class::Document) => Class::Done,
                    (Some(Mutant::BusyTakenAsRefusal), Class::Transient) => Class::Document,
                    (Some(Mutant::DuplicateUnderItsOwnIdTakenAsRefusal), Class::LookUp) => Class::Document,
                    (_, class) => class,
                };
                let shift = u32::from(mutant == Some(Mutant::RefusalOfTheOneBefore));
                let failures = failures.into_iter().map(|(index, of)| (index.saturating_sub(shift), class(of))).collect();
                Reply::Executed { failures, uncertain }
            }
            (_, reply) => reply,
        };
        match reply {
            Reply::Executed { failures, uncertain } => {
                if uncertain.is_none() {
                    self.confirm(p, &slots, |index| failures.iter().all(|(i, class)| *i != index || *class == Class::Done));
                }
                self.feed(p, Event::Inserted(group, Outcome::Executed { failures: &failures, uncertain }));
            }
            Reply::Failed(class) => {
                self.feed(p, Event::Inserted(group, Outcome::Failed(class)));
                if self.mutant == Some(Mutant::OutageForgotten) {
                    self.feed(p, Event::Pinged(None));
                }
            }
        }
    }

    /// What makes dead letters of all the documents of a command: each is looked up, and said to be another one's.
    fn blame_all(&mut self, p: usize, documents: usize) -> Reply {
        self.processes[p].blames = true;
        Reply::Executed { failures: (0..documents as u32).map(|index| (index, Class::LookUp)).collect(), uncertain: None }
    }

    fn confirm(&mut self, p: usize, slots: &[u32], stored: impl Fn(u32) -> bool) {
        for (index, slot) in (0..).zip(slots) {
            if let Some(slot) = self.processes[p].slots.get_mut(slot).filter(|_| stored(index)) {
                slot.confirmed = true;
            }
        }
    }

    pub fn looked_up(&mut self, p: usize, group: GroupId, failures: Option<Vec<(u32, Class)>>) {
        let slots: Vec<u32> = self.processes[p].core.entries(group).iter().map(|entry| entry.slot).collect();
        let Some(failures) = failures else { return self.feed(p, Event::LookedUp(group, Outcome::Failed(Class::Transient))) };
        self.confirm(p, &slots, |index| failures.iter().all(|(i, _)| *i != index));
        self.feed(p, Event::LookedUp(group, Outcome::Executed { failures: &failures, uncertain: None }));
    }

    pub fn checked(&mut self, p: usize, group: GroupId, found: Option<Vec<(u32, Class)>>) {
        let slots: Vec<u32> = self.processes[p].core.entries(group).iter().map(|entry| entry.slot).collect();
        let Some(mut found) = found else { return self.feed(p, Event::Checked(group, Outcome::Failed(Class::Transient))) };
        if self.mutant == Some(Mutant::PreviousTargetIgnored) {
            found.clear();
        }
        self.confirm(p, &slots, |index| found.iter().any(|(i, class)| *i == index && *class == Class::Done));
        for slot in slots {
            if let Some(slot) = self.processes[p].slots.get_mut(&slot) {
                slot.cleared = true;
            }
        }
        self.feed(p, Event::Checked(group, Outcome::Executed { failures: &found, uncertain: None }));
    }

    pub fn renewed(&mut self, p: usize, group: GroupId, sent: Nanos, slots: &[u32], all: bool) {
        let now = self.processes[p].clock(self.now);
        let before: Vec<(u32, Nanos)> = self.processes[p].core.entries(group).iter().map(|e| (e.slot, e.lease_ends)).collect();
        // A renewal counts for those it was sent for, from when it was sent, and only where their old lease had not ended.
        for slot in slots.iter().filter(|_| all) {
            if let Some(slot) = self.processes[p].slots.get_mut(slot).filter(|slot| now < slot.until) {
                slot.until = slot.until.max(sent + self.plan.ack_wait);
            }
        }
        let sent = if self.mutant == Some(Mutant::RenewalCountedFromItsReply) { now } else { sent };
        self.feed(p, Event::Renewed(group, sent, all));
        for entry in self.processes[p].core.entries(group).to_vec() {
            let longer = before.iter().any(|(slot, ends)| *slot == entry.slot && entry.lease_ends > *ends);
            let until = self.processes[p].slots.get(&entry.slot).map_or(0, |slot| slot.until);
            self.must(!longer || entry.lease_ends <= until, || format!("a lease from nowhere: {entry:?} where {until} is right"));
        }
    }

    /// Whether a `_id` is the stored document's own.
    pub fn looks_stored(&self, place: usize, doc: usize, key: &Key) -> Option<Class> {
        match (self.database.find(place, key), key) {
            (None, _) => Some(match self.docs[doc].publish.nature {
                super::plan::Nature::Unique => Class::Document,
                super::plan::Nature::Hidden => Class::Unknown,
                _ => Class::Transient,
            }),
            (Some(found), _) if found == doc => None,
            (Some(_), Key::Ours(_)) => None,
            (Some(_), Key::Own(_)) => Some(Class::Document),
        }
    }
}
