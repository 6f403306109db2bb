//! One life: what is published, faults that come and go, processes, and the clock. `servers` has what stream and database
//! do, `carry` what a core asks for. The first thing that is wrong ends it.

use super::database::{Database, Insert, Key, STRANGER};
use super::mutants::Mutant;
use super::plan::{Nature, Plan, Publish, Random, What};
use super::process::{Process, Told};
use super::stream::{Request, Stream};
use crate::collector::classify::Class;
use crate::collector::core::*;
use crate::collector::identity::Identity;
use crate::pipeline::moves::Previous;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

/// How long stopping may take.
pub const GRACE: Nanos = 25 * SECOND;
/// How long after the last fault everything has to be settled.
const SETTLED_WITHIN: Nanos = 900 * SECOND;
/// When everybody is started anew: one whose whole share of the consumer is bad documents, and which never stored a good
/// one, does not know that others have.
const REMEDY: Nanos = 300 * SECOND;
/// How soon after an outage the database is used again.
const RESUMED_WITHIN: Nanos = 10 * SECOND;

/// More than any life takes.
const STEPS: u32 = 50_000;

/// What to do with messages at the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settle {
    Ack,
    Term,
    Renew,
    Nak,
}

/// What is to happen.
#[derive(Debug, Clone)]
pub enum Action {
    Publish(usize),
    Fault(usize),
    Heal(usize),
    /// The target change goes on.
    Change,
    Serve,
    Expire(u64),
    /// An outage was over for a while.
    Resumed,
    /// Everybody is started anew.
    Remedy,
    /// A good document is published, and another one later.
    Trickle,
    // From a process to a server: process, connection or ticket, and what.
    Pull(Request),
    Withdraw(usize, u32),
    Settle(usize, u32, Settle, Vec<u64>, u64, Box<Told>),
    Ask(usize, u32, u64, Option<(u64, u64)>),
    Bury(usize, u32, u64, GroupId, Identity, usize),
    Insert(usize, u64, usize, GroupId, Vec<Insert>),
    LookUp(usize, u64, GroupId, Vec<(usize, Key)>),
    Check(usize, u64, GroupId, Vec<(usize, Key, Identity, bool)>),
    Ping(usize, u64),
    /// To a process, over a connection or not.
    Tell(usize, Option<u32>, Told),
    Connect(usize),
    Start(usize),
}

/// What is known of a document.
#[derive(Debug, Clone)]
pub struct Doc {
    pub publish: Publish,
    pub acked: bool,
    /// Messages of it that were stored in the stream, and that were lost with its tail.
    pub messages: u32,
    pub lost: u32,
}

/// How far a target change is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    None,
    Stopping(Nanos),
    Awaiting(Nanos),
}

/// What a life came to, in numbers.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    pub published: u64,
    pub stored: u64,
    pub buried: u64,
    pub redelivered: u64,
}

impl Tally {
    /// Both together.
    pub fn plus(self, other: Self) -> Self {
        Self {
            published: self.published + other.published,
            stored: self.stored + other.stored,
            buried: self.buried + other.buried,
            redelivered: self.redelivered + other.redelivered,
        }
    }
}

/// The world.
pub struct World<'a> {
    pub plan: &'a Plan,
    pub mutant: Option<Mutant>,
    pub random: Random,
    pub now: Nanos,
    pub stream: Stream,
    pub database: Database,
    pub docs: Vec<Doc>,
    pub processes: Vec<Process>,
    /// The process in each seat.
    pub seats: Vec<usize>,
    pub effects: VecDeque<(usize, Effect)>,
    /// Which faults are active.
    pub active: Vec<usize>,
    pub place: usize,
    pub previous: Option<Previous>,
    pub change: Change,
    /// Whether a document of the config was ever stored.
    pub proven: bool,
    /// When the database was last in trouble.
    pub trouble_at: Nanos,
    queue: BinaryHeap<Reverse<(Nanos, u64)>>,
    actions: BTreeMap<u64, Action>,
    order: u64,
    tickets: u64,
    pub serve_at: Nanos,
    pub redelivered: u64,
    /// Whether all is settled, and everybody told to stop.
    pub stopping: bool,
    violation: Option<String>,
    trace: Option<Vec<String>>,
}

/// What went wrong, and what happened before it.
#[derive(Debug, Clone)]
pub struct Failure {
    pub message: String,
    pub trace: Vec<String>,
}

/// Runs one life.
pub fn live(plan: &Plan, mutant: Option<Mutant>, traced: bool) -> Result<Tally, Failure> {
    let mut world = World {
        plan,
        mutant,
        random: Random(plan.seed),
        now: 0,
        stream: Stream::new(plan.ack_wait, plan.max_ack_pending),
        database: Database::default(),
        docs: Vec::new(),
        processes: Vec::new(),
        seats: Vec::new(),
        effects: VecDeque::new(),
        active: Vec::new(),
        place: 0,
        previous: None,
        change: Change::None,
        proven: false,
        trouble_at: 0,
        queue: BinaryHeap::new(),
        actions: BTreeMap::new(),
        order: 0,
        tickets: 0,
        serve_at: Nanos::MAX,
        redelivered: 0,
        stopping: false,
        violation: None,
        trace: traced.then(Vec::new),
    };
    let tally = world.run();
    match world.violation {
        Some(message) => Err(Failure { message, trace: world.trace.unwrap_or_default() }),
        None => Ok(tally),
    }
}

impl World<'_> {
    fn run(&mut self) -> Tally {
        for (doc, publish) in self.plan.publishes.iter().enumerate() {
            self.docs.push(Doc { publish: *publish, acked: false, messages: 0, lost: 0 });
            match publish.nature {
                Nature::StoredSame => self.database.prepare(Key::Own(doc), doc),
                Nature::Taken => self.database.prepare(Key::Own(doc), STRANGER),
                _ => {}
            }
            self.later(publish.at, Action::Publish(doc));
        }
        for (number, fault) in self.plan.faults.iter().enumerate() {
            self.later(fault.at, Action::Fault(number));
        }
        for seat in 0..self.plan.processes {
            self.seats.push(0);
            self.start(seat);
        }
        self.later(self.plan.quiet_from() + REMEDY, Action::Remedy);
        self.later(self.plan.quiet_from() + SECOND, Action::Trickle);
        let end = self.plan.quiet_from() + SETTLED_WITHIN;
        let mut steps = 0;
        while let Some(Reverse((at, order))) = self.queue.pop() {
            if self.violation.is_some() {
                break;
            }
            self.now = at;
            steps += 1;
            self.must(steps < STEPS, || "the clock spins".into());
            if let Some(action) = self.actions.remove(&order) {
                self.happen(action);
            }
            if self.stopping && self.processes.iter().all(Process::over) {
                break;
            }
            if !self.stopping && self.settled() {
                self.stopping = true;
                (0..self.processes.len()).for_each(|p| self.later(0, Action::Tell(p, None, Told::Stop(GRACE))));
                self.later(5 * GRACE, Action::Resumed);
            }
            if self.now > end + 10 * GRACE || !self.stopping && self.now > end {
                break;
            }
        }
        self.judge()
    }

    /// Whether everything is published, settled and over.
    fn settled(&self) -> bool {
        self.now > self.plan.quiet_from()
            && self.active.is_empty()
            && self.change == Change::None
            && self.stream.empty()
            && self.docs.iter().all(|doc| doc.acked)
            && self.processes.iter().all(|process| process.over() || process.core.in_hand() == 0)
    }

    pub fn note(&mut self, what: impl FnOnce() -> String) {
        let now = self.now;
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>9.3} s  {}", now as f64 / SECOND as f64, what()));
        }
    }

    /// Notes what is wrong, once.
    pub fn must(&mut self, right: bool, wrong: impl FnOnce() -> String) {
        if !right && self.violation.is_none() {
            let message = wrong();
            self.note(|| format!("WRONG: {message}"));
            self.violation = Some(message);
        }
    }

    pub fn later(&mut self, delay: Nanos, action: Action) {
        self.order += 1;
        self.queue.push(Reverse((self.now + delay, self.order)));
        self.actions.insert(self.order, action);
    }

    /// Whether a fault of this kind is active.
    pub fn is(&self, what: What) -> bool {
        self.active.iter().any(|number| self.plan.faults[*number].what == what)
    }

    pub fn ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }

    /// A ticket whose answer is `otherwise` after a while.
    pub fn await_answer(&mut self, p: usize, otherwise: Told, within: Nanos) -> u64 {
        let ticket = self.ticket();
        self.processes[p].awaited.insert(ticket);
        self.later(within, Action::Tell(p, None, Told::Answer(ticket, Box::new(otherwise))));
        ticket
    }

    /// Sends something to NATS over the process's connection, in order.
    pub fn send(&mut self, p: usize, action: impl FnOnce(u32) -> Action) {
        let most = if self.is(What::SlowNats) { 4 * SECOND } else { 5 * MS };
        let at = (self.now + self.random.below(most)).max(self.processes[p].said);
        self.processes[p].said = at;
        let connection = self.processes[p].connection;
        self.later(at - self.now, action(connection));
    }

    /// Sends something back, in order.
    pub fn answer(&mut self, p: usize, connection: u32, told: Told) {
        let most = if self.is(What::SlowNats) { 4 * SECOND } else { 5 * MS };
        let at = (self.now + self.random.below(most)).max(self.processes[p].heard);
        self.processes[p].heard = at;
        self.later(at - self.now, Action::Tell(p, Some(connection), told));
    }

    pub fn ask_consumer(&mut self, p: usize, witness: Option<(u64, u64)>) {
        let ticket = self.await_answer(p, Told::Asked(None), SECOND);
        self.send(p, |connection| Action::Ask(p, connection, ticket, witness));
    }

    /// Sends something to the database; whatever is not answered in time has failed.
    pub fn ask_database(&mut self, p: usize, unanswered: Told, action: impl FnOnce(u64) -> Action) {
        let ticket = self.await_answer(p, unanswered, (self.plan.ack_wait / 3).min(10 * SECOND));
        let delay = self.database_latency();
        self.later(delay, action(ticket));
    }

    pub fn database_latency(&mut self) -> Nanos {
        let most = if self.is(What::SlowDatabase) { 6 * SECOND } else { 10 * MS };
        MS + self.random.below(most)
    }

    /// Whether the database is used again some time after an outage.
    pub fn resumed(&mut self) {
        let troubles = [What::Away, What::Mute, What::SlowDatabase, What::Refuses, What::Failover];
        let calm = self.now >= self.trouble_at + RESUMED_WITHIN + self.plan.ack_wait / 3 && !troubles.iter().any(|what| self.is(*what));
        // A document that has whole commands refused is no trouble of the database.
        let spoilt = self.docs.iter().any(|doc| doc.publish.nature == Nature::Spoiler);
        let late = (0..self.processes.len()).find(|p| {
            let process = &self.processes[*p];
            process.database_failed.is_some_and(|class| !spoilt || class == Class::Transient)
                && !process.over()
                && process.asleep_until + RESUMED_WITHIN < self.now
                && process.stopped_clock.is_none()
        });
        self.must(!calm || late.is_none(), || format!("process {late:?} has not tried the database since it is back"));
    }

    /// What became of everything.
    fn judge(&mut self) -> Tally {
        let (stored, buried) = self.database.counts(self.docs.len());
        let mut tally = Tally { published: self.docs.len() as u64, redelivered: self.redelivered, ..Tally::default() };
        for doc in 0..self.docs.len() {
            let known = self.docs[doc].clone();
            let waits = self.stream.holds(doc);
            self.must(!waits, || format!("document {doc} {known:?} still waits in the stream"));
            let bad = known.publish.nature.bad();
            let certain = known.messages > known.lost;
            let before = if known.publish.nature == Nature::StoredSame { 2 } else { 0 };
            let (good_most, bad_most) = if bad { (0, 1) } else { (before.max(1), 0) };
            let least = if certain { 1 } else { 0 };
            let (stored, buried) = (stored[doc], buried[doc]);
            tally.stored += stored as u64;
            tally.buried += buried as u64;
            self.must(stored <= good_most && buried <= bad_most, || {
                format!("document {doc} {known:?} is stored {stored} times and among the dead letters {buried} times")
            });
            self.must(stored + buried >= least, || format!("document {doc} {known:?} is lost"));
        }
        for p in 0..self.processes.len() {
            let process = &self.processes[p];
            let (over, slots, used, held) = (process.over(), process.slots.len(), process.used, process.most_held);
            let finished = process.finished;
            self.must(over, || format!("process {p} does not end"));
            self.must(!finished || (slots == 0 && used == 0), || format!("process {p} ends with {slots} slots and {used} bytes"));
            let batch = u64::from(self.plan.batches.count);
            let bound = (batch * u64::from(self.plan.batches.max_in_flight + 5)).max(256) + 300 + 1000.max(4 * batch);
            self.must(held <= bound, || format!("process {p} held {held} messages of {bound}"));
        }
        let most = self.stream.most;
        // A restart of everybody leaves what waits for others to be stored to redelivery.
        let calm = self.plan.calm() && self.now < self.plan.quiet_from() + REMEDY;
        self.must(!calm || most <= 1, || format!("a message was delivered {most} times although nothing was wrong with NATS or a process"));
        tally
    }
}
