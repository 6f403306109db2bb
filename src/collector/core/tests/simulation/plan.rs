//! What one life is made of: settings, what is published and when, and the faults; all of it drawn from a seed.
//!
//! A plan is data, so that a failing life can be shrunk: whatever is taken out of it, the rest still is a plan. Made by
//! the tests, carried out by the world.

use crate::collector::core::*;

/// The window in which the stream knows a `Nats-Msg-Id` again.
pub const WINDOW: Nanos = 5 * SECOND;

/// From when on documents are published that prove a config, whatever was before.
pub const PROOF: Nanos = 110 * SECOND;

/// What a document is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nature {
    /// Without an `_id`.
    Good,
    /// With an `_id` of its own, which is free.
    OwnId,
    /// With an `_id` of its own, under which itself is stored already.
    StoredSame,
    /// With an `_id` of its own, under which another document is stored.
    Taken,
    /// Refused by a validator.
    Refused,
    /// Refused by a unique index other than the one on `_id`, and the server says so.
    Unique,
    /// The same, and the server does not say which index.
    Hidden,
    /// No BSON.
    Unreadable,
    /// Makes a whole command fail for an unknown reason.
    Poison,
    /// Makes the server refuse a whole command with a code that an operator's matters have.
    Spoiler,
    /// Refused, and with it some of what is in the same command.
    Shared,
}

impl Nature {
    /// Whether it belongs into the dead letters.
    pub fn bad(self) -> bool {
        !matches!(self, Self::Good | Self::OwnId | Self::StoredSame)
    }

    /// Whether the payload has an `_id`.
    pub fn own_id(self) -> bool {
        matches!(self, Self::OwnId | Self::StoredSame | Self::Taken)
    }
}

/// One document that somebody publishes, again and again until that is acknowledged.
#[derive(Debug, Clone, Copy)]
pub struct Publish {
    pub at: Nanos,
    pub nature: Nature,
    pub bytes: u32,
    /// `Nats-Msg-Id`.
    pub id: Option<u32>,
}

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// nats-server is killed: what was delivered and acknowledged just before may be forgotten.
    Killed,
    /// Its machine is: the last messages are lost, and their sequences used for others.
    TailLost,
    /// The stream's only replica restarts behind a cluster's back: deliveries are forgotten, and no client learns of it.
    Forgotten,
    /// The consumer is reset.
    Reset,
    /// The consumer is deleted, and made anew at the end.
    Deleted,
    /// A process loses its connection.
    Cut(usize),
    /// Renewals and acknowledgements, or the replies to them, get lost.
    Lossy,
    /// NATS is slow.
    SlowNats,
    /// The database is away: nothing is carried out.
    Away,
    /// It does what it is told, and the replies get lost.
    Mute,
    /// Writes are not replicated, and lost again in half of the cases.
    Failover,
    /// It refuses whole commands until somebody changes something.
    Refuses,
    /// It cannot take single documents.
    Busy,
    /// A validator refuses every document.
    Tightened,
    /// It takes no writes, and says so of each document.
    Blocked,
    /// It is slow.
    SlowDatabase,
    /// The stream of dead letters is full.
    Full,
    /// It stores them, and the replies get lost.
    MuteLetters,
    /// A process is killed, and started again at the end.
    Crash(usize),
    /// A process is suspended, and goes on at the end.
    Sleep(usize),
    /// A process and its clock stand still.
    Frozen(usize),
    /// The clock of a process jumps forward.
    Jump(usize),
    /// A process is stopped and started again.
    Restart(usize),
    /// The pipeline gets another target.
    Target,
}

/// When, for how long, what.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    pub at: Nanos,
    pub lasts: Nanos,
    pub what: What,
}

/// One life.
#[derive(Debug, Clone)]
pub struct Plan {
    pub seed: u64,
    pub batches: Batches,
    pub ack_wait: Nanos,
    pub max_ack_pending: i64,
    /// Bytes that each process may hold.
    pub budget: u64,
    /// Whether the server keeps an unmet write concern to itself where it stored none of a command's documents.
    pub hides: bool,
    pub processes: usize,
    pub publishes: Vec<Publish>,
    pub faults: Vec<Fault>,
}

/// splitmix64.
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below.max(1)
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

impl Plan {
    /// The life of a seed.
    pub fn of(seed: u64) -> Self {
        let mut random = Random(seed.wrapping_mul(0x51_7c_c1_b7_27_22_0a_95));
        let r = &mut random;
        let ack_wait = r.one(&[10 * SECOND, 30 * SECOND]);
        let batches = Batches {
            count: r.one(&[1, 5, 20, 100]),
            bytes: r.one(&[2_000, 20_000, 1 << 24]),
            period: r.one(&[SECOND / 5, SECOND, ack_wait / 6]),
            linger: r.one(&[0, 0, 50 * MS]),
            max_in_flight: 1 + r.below(4) as u32,
            first_half_only: r.below(4) == 0,
        };
        let processes = r.one(&[1, 1, 2, 3]);
        let mut plan = Self {
            seed,
            batches,
            ack_wait,
            max_ack_pending: r.one(&[0, 10, 40, 1000]),
            budget: r.one(&[30_000, 1 << 20]),
            hides: seed.is_multiple_of(2),
            processes,
            publishes: Vec::new(),
            faults: Vec::new(),
        };
        plan.break_things(r);
        plan.publish(r);
        plan
    }

    fn publish(&mut self, r: &mut Random) {
        let count = r.one(&[10, 25, 50]);
        let puzzling = r.below(10) == 0;
        if puzzling {
            // A share that holds nothing but such documents has no neighbours to tell them by.
            self.max_ack_pending = r.one(&[0, 1000]);
        }
        let waiting = r.below(count);
        let mut ids = 0;
        for number in 0..count {
            let near = self.faults[r.below(self.faults.len() as u64) as usize].at;
            // Many are under way when something happens.
            let at = match r.below(3) {
                _ if number < waiting => 0,
                0 => r.below(60 * SECOND),
                _ => (near + r.below(8 * SECOND)).saturating_sub(4 * SECOND),
            };
            let nature = match r.below(20) {
                _ if number == 0 => Nature::Good,
                0..12 => Nature::Good,
                12..16 => Nature::OwnId,
                _ if puzzling && number % 7 == 3 => r.one(&[Nature::Poison, Nature::Hidden, Nature::Spoiler]),
                _ => r.one(&[Nature::StoredSame, Nature::Taken, Nature::Refused, Nature::Unique, Nature::Unreadable, Nature::Shared]),
            };
            self.publishes.push(Publish { at, nature, bytes: 20 + r.below(400) as u32, id: None });
        }
        self.publishes.sort_by_key(|publish| publish.at);
        for number in 0..self.publishes.len() {
            if r.below(3) > 0 {
                continue;
            }
            // Now and then an id that was used for another document, well before.
            let at = self.publishes[number].at;
            let before = self.publishes[..number].iter().rev().find(|other| other.id.is_some() && other.at + 3 * WINDOW < at);
            let again = before.and_then(|before| before.id).filter(|_| r.below(3) == 0);
            ids += 1;
            self.publishes[number].id = again.or(Some(ids));
        }
        // Good ones at the end prove a config that could not be proven before; and what fails alone is told from a database
        // that fails by its neighbours.
        let (more, every) = if puzzling { (40, 15 * SECOND) } else { (8, 8 * SECOND) };
        for number in 0..more {
            self.publishes.push(Publish { at: PROOF + number * every, nature: Nature::Good, bytes: 100, id: None });
        }
    }

    fn break_things(&mut self, r: &mut Random) {
        let database = [
            What::Away,
            What::Mute,
            What::Failover,
            What::Refuses,
            What::Busy,
            What::SlowDatabase,
            What::Full,
            What::MuteLetters,
            What::Tightened,
            What::Blocked,
        ];
        let nats = [What::Killed, What::TailLost, What::Forgotten, What::Reset, What::Deleted, What::Cut(0), What::Lossy, What::SlowNats];
        let process = [What::Crash(0), What::Sleep(0), What::Frozen(0), What::Jump(0), What::Restart(0)];
        let kind = r.below(8);
        let target = matches!(kind, 4 | 5);
        for _ in 0..1 + r.below(5) {
            let what = match (kind, r.below(3)) {
                (0, _) | (4.., 0) => r.one(&database),
                (1, _) | (4.., 1) => r.one(&nats),
                (2, _) => What::Restart(0),
                (_, _) => r.one(&process),
            };
            let of = r.below(self.processes as u64) as usize;
            let what = match what {
                What::Cut(_) => What::Cut(of),
                What::Crash(_) => What::Crash(of),
                What::Sleep(_) => What::Sleep(of),
                // A clock that stood still while the target changed lets a process write where it must not: not promised.
                What::Frozen(_) if !target => What::Frozen(of),
                What::Frozen(_) => What::Sleep(of),
                What::Jump(_) => What::Jump(of),
                What::Restart(_) => What::Restart(of),
                what => what,
            };
            let lasts = r.one(&[SECOND / 4, 2 * SECOND, 8 * SECOND, 45 * SECOND]);
            self.faults.push(Fault { at: r.below(60 * SECOND), lasts: lasts / 2 + r.below(lasts), what });
        }
        if target {
            self.faults.push(Fault { at: SECOND + r.below(40 * SECOND), lasts: 0, what: What::Target });
        }
        if let Some(change) = self.faults.last().filter(|_| kind == 5).copied() {
            // In the middle of it.
            let at = change.at.saturating_sub(r.below(15 * SECOND));
            self.faults.push(Fault { at, lasts: 70 * SECOND, what: What::Failover });
        }
        self.faults.sort_by_key(|fault| fault.at);
        // Two of them look like one document that is refused twice while others are stored.
        let mut tightened = false;
        self.faults.retain(|fault| fault.what != What::Tightened || !std::mem::replace(&mut tightened, true));
    }

    /// Whether nothing in it is a reason to deliver a message twice.
    pub fn calm(&self) -> bool {
        let harmless = |what| {
            use What::{Away, Blocked, Busy, Failover, Full, Mute, MuteLetters, Refuses, SlowDatabase, Tightened};
            matches!(what, Away | Mute | Failover | Refuses | Busy | SlowDatabase | Full | MuteLetters | Tightened | Blocked)
        };
        let restarts = self.faults.iter().all(|fault| matches!(fault.what, What::Restart(_)));
        restarts && !self.unsettled() || self.faults.iter().all(|fault| harmless(fault.what))
    }

    /// Whether something waits aside for long, which a stop leaves to redelivery.
    fn unsettled(&self) -> bool {
        self.publishes.iter().any(|publish| publish.nature.bad())
    }

    /// When the last fault is over and everything is published.
    pub fn quiet_from(&self) -> Nanos {
        let faults = self.faults.iter().map(|fault| fault.at + fault.lasts);
        faults.chain(self.publishes.iter().map(|publish| publish.at)).max().unwrap_or(0)
    }
}
