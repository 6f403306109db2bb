//! A world for the roles of time-series pipelines, seeded: several processes with a core and a keeper each, a JetStream consumer with
//! leases, a ledger, a collection without any unique index. Processes crash, leave, are suspended with a command on its way;
//! requests and replies get lost or late; the server forgets its deliveries.
//!
//! The database carries a request out when it arrives, whatever became of who sent it. A failing seed is in the message:
//! `SLUICE_SEED=n` repeats it.

use crate::collector::classify::Class;
use crate::collector::core::*;
use crate::collector::ledger::{self, Answer, Ask, Fate, Keeper, Key, Page, Standing};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;
use uuid::Uuid;

mod lives;
mod process;

const ACK_WAIT: Nanos = 30 * SECOND;
/// Other messages, long acknowledged, lie between: a block is soon used up.
const STRIDE: u64 = 25;
const WAIT: Duration = Duration::from_secs(30);

/// A rule that is broken on purpose: some seed must notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mutation {
    None,
    /// What was inserted in earlier terms counts as new.
    TakeOverKnowsNothing,
    /// What is reserved is not written down.
    NothingReserved,
    /// A message that is delivered again counts as new.
    RedeliveriesAreNew,
    /// The look-up finds nothing.
    LookUpIsBlind,
    /// The look-up misses what was inserted a moment ago, as a read without a barrier does.
    NoBarrier,
    /// Inserts begin in the second half of leases.
    LeaseIgnored,
    /// Two who repair at once keep different copies.
    RepairKeepsAny,
    /// Suspects are not recorded.
    NothingRecorded,
    /// Each copy has the same `_id`.
    OneId,
    /// Two who read the same page may both take it.
    TakenByBoth,
    /// Who stands by goes on.
    NobodyStepsBack,
    /// Whoever asks for a block gets it, in whatever term.
    ReservedInAnyTerm,
}

#[derive(Debug, Clone)]
enum Request {
    Keep(Ask),
    Reserve { term: u64, upto: u64 },
    Insert { group: GroupId, rows: Vec<(usize, u64)> },
    Record { group: Option<GroupId>, suspects: Vec<usize> },
    LookUp { group: GroupId, suspects: Vec<usize> },
    Repair { all: bool },
    Release { term: u64, reserved: u64 },
}

#[derive(Debug, Clone)]
enum Reply {
    Kept(Answer),
    Reserved(u64, Option<bool>),
    Inserted(GroupId, bool),
    Recorded(Option<GroupId>, Vec<usize>, bool),
    LookedUp(GroupId, Option<Vec<usize>>),
    Repaired,
    Acked(GroupId, bool),
    Renewed(GroupId, Nanos, bool),
    Pinged,
    Delivered(Vec<(usize, u32)>, u64),
    Tick,
}

#[derive(Debug, Clone)]
enum Coming {
    Arrives(usize, u64, Request),
    Returns(usize, u64, Reply),
}

/// One copy of a message in the collection; `id` orders copies of one message.
#[derive(Debug, Clone, Copy)]
struct Copied {
    message: usize,
    id: u64,
    at: Nanos,
}

#[derive(Debug, Clone)]
struct Record {
    suspects: Vec<usize>,
    at: Nanos,
    passes: u32,
}

#[derive(Debug, Default)]
struct Message {
    from: Nanos,
    leased_until: Nanos,
    settled: bool,
}

struct World {
    seed: u64,
    random: u64,
    mutation: Mutation,
    now: Nanos,
    /// Which faults there are: crashes and moves, deliveries forgotten, processes suspended with a command on its way.
    crashes: bool,
    resets: bool,
    zombies: bool,
    /// Messages come in bursts, and the reader is suspended just before one, which is delivered to it all the same; when it wakes the
    /// server forgets that, and the burst comes to its successor, too, who has seen nothing younger.
    bursts: bool,
    forgets_at: Nanos,
    faults_until: Nanos,
    messages: Vec<Message>,
    page: Option<Page>,
    records: Vec<Record>,
    copies: Vec<Copied>,
    /// Copies that repair took away: two of a message at a time are what the ledger is there to avoid.
    doubled: usize,
    coming: BinaryHeap<Reverse<(Nanos, u64)>>,
    things: BTreeMap<u64, Coming>,
    order: u64,
    next_id: u64,
}

impl World {
    fn random(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below.max(1)
    }

    fn chance(&mut self, per_mille: u64) -> bool {
        self.now < self.faults_until && self.random(1000) < per_mille
    }

    fn later(&mut self, delay: Nanos, coming: Coming) {
        self.order += 1;
        self.coming.push(Reverse((self.now + delay, self.order)));
        self.things.insert(self.order, coming);
    }

    /// A request sets out: it arrives soon, late, or never.
    fn send(&mut self, process: usize, life: u64, request: Request) {
        let insert = matches!(request, Request::Insert { .. });
        if self.chance(10) {
            // Lost on its way: its sender hears of that after its own time limit.
            let failed = request.failed();
            return self.later(12 * SECOND, Coming::Returns(process, life, failed));
        }
        let most = if self.zombies && insert && self.chance(25) {
            // Its sender was suspended after its last look at the lease.
            100 * SECOND
        } else if self.chance(30) {
            9 * SECOND
        } else {
            20 * MS
        };
        let delay = self.random(most) + MS;
        self.later(delay, Coming::Arrives(process, life, request));
    }

    fn write_page(&mut self, ask: &Ask) -> Answer {
        match ask {
            Ask::Read => Answer::Page(self.page.clone()),
            Ask::Take { from, to } => {
                let same = match (from, &self.page) {
                    _ if self.mutation == Mutation::TakenByBoth => true,
                    (None, None) => true,
                    (Some(from), Some(page)) => (from.term, from.beat) == (page.term, page.beat),
                    _ => false,
                };
                if same {
                    self.page = Some(to.clone());
                }
                Answer::Written(same)
            }
            Ask::Renew { term } => match self.page.as_mut().filter(|page| page.term == *term) {
                Some(page) => {
                    page.beat += 1;
                    Answer::Written(true)
                }
                None => Answer::Written(false),
            },
        }
    }

    /// The database carries a request out.
    fn carry_out(&mut self, request: Request) -> Reply {
        match request {
            Request::Keep(ask) => Reply::Kept(self.write_page(&ask)),
            Request::Reserve { term, upto } => {
                let upto = if self.mutation == Mutation::NothingReserved { 0 } else { upto };
                let any = self.mutation == Mutation::ReservedInAnyTerm;
                let page = self.page.as_mut().filter(|page| any || page.term == term);
                Reply::Reserved(
                    term,
                    Some(page.map(|page| (page.reserved, page.beat) = (page.reserved.max(upto), page.beat + 1)).is_some()),
                )
            }
            Request::Release { term, reserved } => {
                if let Some(page) = self.page.as_mut().filter(|page| page.term == term) {
                    (page.owner, page.reserved, page.beat) = (None, reserved, page.beat + 1);
                }
                Reply::Tick
            }
            Request::Insert { group, rows } => {
                let at = self.now;
                self.copies.extend(rows.into_iter().map(|(message, id)| Copied { message, id, at }));
                Reply::Inserted(group, true)
            }
            Request::Record { group, suspects } => {
                if self.mutation != Mutation::NothingRecorded {
                    self.records.push(Record { suspects: suspects.clone(), at: self.now, passes: 0 });
                }
                Reply::Recorded(group, suspects, true)
            }
            Request::LookUp { group, suspects } => {
                let (blind, old) = (self.mutation == Mutation::LookUpIsBlind, self.mutation == Mutation::NoBarrier);
                let seen = |copy: &Copied| !blind && (!old || copy.at + 15 * SECOND < self.now);
                let found = suspects.into_iter().filter(|message| self.copies.iter().any(|copy| copy.message == *message && seen(copy)));
                Reply::LookedUp(group, Some(found.collect()))
            }
            Request::Repair { all } => {
                self.repair(all);
                Reply::Repaired
            }
        }
    }

    fn repair(&mut self, all: bool) {
        let mut records = std::mem::take(&mut self.records);
        records.retain_mut(|record| {
            let fate = ledger::fate(Duration::from_nanos(self.now - record.at), record.passes, WAIT);
            if all || fate != Fate::Rest {
                for message in &record.suspects {
                    self.repair_one(*message);
                }
            }
            record.passes += u32::from(fate == Fate::Keep);
            fate != Fate::Forget
        });
        self.records = records;
    }

    /// Deletes every copy but the smallest; one read and one delete, so that others may come between.
    fn repair_one(&mut self, message: usize) {
        let mut ids: Vec<u64> = self.copies.iter().filter(|copy| copy.message == message).map(|copy| copy.id).collect();
        ids.sort_unstable();
        if ids.len() < 2 {
            return;
        }
        // Two who look at once, and keep different ones, leave nothing.
        let keep = usize::from(self.mutation != Mutation::RepairKeepsAny);
        let surplus = ids[keep..].to_vec();
        self.doubled += 1;
        self.copies.retain(|copy| copy.message != message || !surplus.contains(&copy.id));
    }

    /// What the server delivers to the process with these requests.
    fn deliver(&mut self, wanted: u64) -> (Vec<usize>, u64) {
        let now = self.now;
        let ready = |message: &Message| !message.settled && message.from <= now && message.leased_until <= now;
        let most = wanted.min(200);
        let mut batch = Vec::new();
        for number in 0..self.messages.len() {
            if batch.len() as u64 >= most {
                break;
            }
            if ready(&self.messages[number]) {
                self.messages[number].leased_until = now + ACK_WAIT;
                batch.push(number);
            }
        }
        let pending = self.messages.iter().filter(|message| ready(message)).count() as u64;
        (batch, pending)
    }
}

impl Request {
    /// What its sender hears where it got lost.
    fn failed(&self) -> Reply {
        match self {
            Self::Keep(_) => Reply::Kept(Answer::Failed),
            Self::Reserve { term, .. } => Reply::Reserved(*term, None),
            Self::Insert { group, .. } => Reply::Inserted(*group, false),
            Self::Record { group, suspects } => Reply::Recorded(*group, suspects.clone(), false),
            Self::LookUp { group, .. } => Reply::LookedUp(*group, None),
            Self::Repair { .. } => Reply::Repaired,
            Self::Release { .. } => Reply::Tick,
        }
    }
}
