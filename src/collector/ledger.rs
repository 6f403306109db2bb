//! The ledger of time-series pipelines: which execution reads a stream, and which messages may be in the collection already.
//!
//! A time-series collection has no unique index, so what a second insert would store cannot be left to it: before a message is
//! inserted it must be certain that it never was. Looking for each would cost a read a batch; the ledger makes it certain without.
//! It is a normal collection, [`COLLECTION`], in the pipeline's database, with one page for each stream and collection:
//!
//! ```text
//! page:   owner, term, beat, reserved          records: suspects that were inserted again, to be looked at once more
//!
//! message ─▶ sequence ≤ known? ──no──▶ within `reserved`? ──no──▶ reserve a block, if the term is still ours ─┐
//!               │                          └───────yes──────────────────────────────────────────────────────┴▶ insert ▶ ack
//!               └─yes: suspect ▶ record it (majority) ▶ look it up (majority, causally after) ─found─▶ ack
//!                                                                                              └missing▶ insert ▶ ack
//! ```
//!
//! **Terms.** Taking a page over adds one to its term; `reserved` as it was then is `known`: whatever anybody inserted of this
//! stream has a sequence up to there, since a block is reserved before anything in it is inserted, and only by the owner of the
//! newest term. Within a term messages arrive in order, so `known` follows the highest one that arrived: a lower one was here before,
//! whatever the server says of its deliveries (its counts do not survive a crash). What is above `known` was never inserted by
//! anybody, and goes straight in. An insert without a certain answer makes its batch suspect, too.
//!
//! **Nobody's clock decides that.** The owner says every few seconds that it lives (`beat`); who stands by takes over when the
//! beat has not moved for the lease that the page names, by its own clock; too early costs suspects, and nothing else. An owner that
//! leaves says so, with the highest sequence that it inserted, and is followed at once.
//!
//! **What remains** is an insert that arrives after the look-up which missed it: of a process that was suspended between the look at
//! its lease and the send, or a command stuck on its way. Each insert of a suspect has an `_id` of its own (seconds, hash, attempt);
//! [`crate::collector::repair`] deletes all copies of a recorded suspect but the one with the smallest `_id`: when the page is taken over,
//! some times in the hour after ([`fate`]), and by the process itself that finds its answer late. Who repairs does not matter: a copy goes
//! only where a smaller one was seen by a majority read, so that two of them never delete everything.
//!
//! Pure; used by the driver and by the simulation of the core. `sink` reads and writes.

mod blocks;
mod keeper;
#[cfg(test)]
mod tests;

pub use blocks::Blocks;
pub use keeper::{Answer, Ask, Keeper, Standing};

use std::time::Duration;
use uuid::Uuid;

/// The collection of the ledger, in the database of each time-series pipeline. It may be dropped where no such pipeline runs and no
/// message of one is unacknowledged.
pub const COLLECTION: &str = crate::pipeline::reserved::LEDGER;

/// A page whose beat stands for so long is taken over, at most.
const LONGEST_LEASE: Duration = Duration::from_secs(15);
/// And at least, however short the lease of a message is.
const SHORTEST_LEASE: Duration = Duration::from_secs(2);

/// What is looked at again after the first time: so many times, each four times as old as before.
const PASSES: u32 = 4;

/// Whose page it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// The stream.
    pub stream: String,
    /// When it was created, nanoseconds since the epoch: one that was made anew counts anew, and has another page.
    pub created_ns: u64,
    /// The collection.
    pub collection: String,
}

impl Key {
    /// The `_id` of the page; those of its records begin with it.
    pub fn id(&self) -> String {
        format!("{}@{}/{}", self.stream, self.created_ns, self.collection)
    }
}

/// A page as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Ascends whenever it is taken over.
    pub term: u64,
    /// Ascends with everything that its owner writes.
    pub beat: u64,
    /// Who has it; `None`: given back.
    pub owner: Option<Uuid>,
    /// The version that the owner runs.
    pub version: String,
    /// No message above this sequence was ever inserted.
    pub reserved: u64,
    /// How long the beat may stand.
    pub lease: Duration,
}

/// How long the beat of a page may stand, where the messages' leases last `ack_wait`: what a dead owner held is delivered
/// again only after that, so a shorter one would win nothing.
pub fn lease(ack_wait: Duration) -> Duration {
    (ack_wait / 2).clamp(SHORTEST_LEASE, LONGEST_LEASE)
}

/// What `known` is for a page that does not exist yet, where the durable has delivered up to `delivered`: executions without a
/// ledger may have inserted that much, and a server that was just killed may have forgotten its last deliveries.
pub fn known_at_first(delivered: u64) -> u64 {
    if delivered == 0 { 0 } else { delivered.saturating_add(Blocks::LARGEST / 2) }
}

/// What becomes of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is not its time yet.
    Rest,
    /// It is looked at, and kept.
    Keep,
    /// It is looked at for the last time.
    Forget,
}

/// How old a record is when it is looked at after `passes` looks.
pub fn due(passes: u32, ack_wait: Duration) -> Duration {
    (2 * ack_wait).saturating_mul(4_u32.saturating_pow(passes))
}

/// What to do with a record of this age that was looked at `passes` times before, where messages' leases last `ack_wait`: at two
/// of them, when whatever was on its way has long arrived, and then at 4, 16 and 64 times that (an hour, with 30 s).
pub fn fate(age: Duration, passes: u32, ack_wait: Duration) -> Fate {
    match age < due(passes, ack_wait) {
        true => Fate::Rest,
        false if passes + 1 >= PASSES => Fate::Forget,
        false => Fate::Keep,
    }
}
