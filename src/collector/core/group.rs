//! A group of messages and its leases.
//!
//! What always holds: `lease_ends` is no later than the lease of any of its entries; an entry is renewed only by a reply
//! that came before its old lease ended. Used by the rest of the core only.

use super::refusal::Puzzle;
use super::types::{Entry, Nanos};
use crate::collector::classify::Class;

/// Where a group stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Waits for an insert.
    Ready,
    /// The insert is under way.
    Inserting,
    /// Single documents that the server could not take just now, while it took others; tried again at `due`.
    Busy(Class),
    /// The look-up in previous targets is under way.
    Checking,
    /// That look-up failed and is tried again at `due`.
    CheckAgain,
    /// Suspects are being recorded and looked up.
    Resolving,
    /// The look-up is under way.
    LookingUp,
    /// The look-up failed and is tried again at `due`.
    LookUpAgain,
    /// Acknowledged (or terminated), not yet confirmed.
    Acking,
    /// As before, to be sent again at `due`.
    AckAgain,
    /// Refused documents beside which none were stored, so that it may be the collection that refuses them: tried again at
    /// `due`, and one by one once others were stored.
    Held,
    /// Payloads that cannot be sent, while the config is not proven.
    Unreadable,
    /// Refused with a doubt whether it is about them, or for an unknown reason; tried again at `due`.
    Puzzling,
    /// To be put into the dead letters.
    Doomed,
    /// One message on its way into the dead letters.
    Burying,
}

impl Stage {
    /// Whether a reply that names entries by index is awaited.
    pub(super) fn indexed(self) -> bool {
        matches!(self, Self::Inserting | Self::Checking | Self::Resolving | Self::LookingUp | Self::Burying)
    }

    /// Whether it waits because it was refused.
    pub(super) fn refused(self) -> bool {
        self.aside() && self != Self::CheckAgain
    }

    /// Whether it waits outside the stream of batches.
    pub(super) fn aside(self) -> bool {
        matches!(self, Self::CheckAgain | Self::Held | Self::Unreadable | Self::Puzzling | Self::Doomed)
    }
}

/// Why a group's acknowledgement means what it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    /// Its documents are stored.
    Stored,
    /// Its dead letters are stored.
    Buried,
}

/// A group of messages that share their fate for now.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) stage: Stage,
    pub(super) entries: Vec<Entry>,
    /// Sum of the entries' bytes.
    pub(super) bytes: u64,
    /// The earliest end of a lease.
    pub(super) lease_ends: Nanos,
    /// When to renew next.
    pub(super) renew_at: Nanos,
    /// How many entries, from the front, the renewal under way covers, and when it was asked for.
    pub(super) renewing: Option<(usize, Nanos)>,
    /// When its stage has something to do.
    pub(super) due: Nanos,
    /// Failures of the whole group in a row.
    pub(super) failures: u32,
    /// Whether any of it was ever sent to the database.
    pub(super) sent: bool,
    /// Whether some of it may lie in a previous target, as far as is known.
    pub(super) unchecked: bool,
    /// Whether some of it may have been in an insert before, as far as is known; only of time-series collections with a ledger.
    pub(super) suspect: bool,
    /// Whether what is inserted of it needs an `_id` of its own.
    pub(super) again: bool,
    /// The highest sequence; 0 for what was in an insert of this term.
    pub(super) upto: u64,
    /// When the last insert began.
    pub(super) begun_at: Nanos,
    pub(super) settled: Settled,
    pub(super) puzzle: Puzzle,
    /// How many documents the pipeline had stored when it could not be taken for the first time.
    pub(super) busy_at: Option<u64>,
    /// How many documents its last insert held.
    pub(super) of: usize,
    /// Whether it is tried again after it waited aside.
    pub(super) retry: bool,
    /// When the oldest was published.
    pub(super) oldest_ns: u64,
    /// When the first and the last of them arrived.
    pub(super) first_at: Nanos,
    pub(super) last_at: Nanos,
}

impl Group {
    pub(super) fn new(stage: Stage, entries: Vec<Entry>) -> Self {
        let mut group = Self {
            stage,
            entries,
            bytes: 0,
            lease_ends: Nanos::MAX,
            renew_at: Nanos::MAX,
            renewing: None,
            due: 0,
            failures: 0,
            sent: false,
            unchecked: false,
            suspect: false,
            again: false,
            upto: 0,
            begun_at: 0,
            settled: Settled::Stored,
            puzzle: Puzzle::default(),
            busy_at: None,
            of: 0,
            retry: false,
            oldest_ns: u64::MAX,
            first_at: 0,
            last_at: 0,
        };
        group.bytes = group.entries.iter().map(|e| u64::from(e.bytes)).sum();
        group
    }

    /// Whether the pipeline, which has stored so many documents, stored none since it was refused.
    pub(super) fn stored_nothing_since(&self, stored: u64) -> bool {
        self.puzzle.stored.is_some_and(|then| stored <= then)
    }

    /// Adds one, whose lease is already counted.
    pub(super) fn push(&mut self, entry: Entry, lease: Nanos) {
        self.bytes += u64::from(entry.bytes);
        if entry.lease_ends < self.lease_ends {
            self.lease_ends = entry.lease_ends;
            self.renew_at = renew_at(entry.lease_ends, lease);
        }
        self.entries.push(entry);
    }

    /// Shortens the leases: the consumer's became shorter.
    pub(super) fn shorten(&mut self, by: Nanos, lease: Nanos) {
        for entry in &mut self.entries {
            entry.lease_ends = entry.lease_ends.saturating_sub(by);
        }
        self.recount(lease);
    }

    /// Counts anew after entries came or went: a renewal under way no longer says which entries it covers.
    pub(super) fn recount(&mut self, lease: Nanos) {
        self.bytes = self.entries.iter().map(|e| u64::from(e.bytes)).sum();
        self.lease_ends = self.entries.iter().map(|e| e.lease_ends).min().unwrap_or(Nanos::MAX);
        self.renew_at = renew_at(self.lease_ends, lease);
        self.renewing = None;
    }

    /// Takes out the entries whose leases have ended.
    pub(super) fn take_expired(&mut self, now: Nanos, lease: Nanos) -> Vec<Entry> {
        if self.lease_ends > now {
            return Vec::new();
        }
        let expired = self.entries.extract_if(.., |entry| entry.lease_ends <= now).collect();
        self.recount(lease);
        expired
    }

    /// Notes that the renewal sent at `sent` was confirmed at `now`.
    pub(super) fn renewed(&mut self, sent: Nanos, now: Nanos, lease: Nanos) {
        let Some((covered, _)) = self.renewing.take() else { return };
        for entry in self.entries.iter_mut().take(covered).filter(|entry| entry.lease_ends > now) {
            entry.lease_ends = entry.lease_ends.max(sent + lease);
        }
        self.recount(lease);
    }
}

/// Leases are renewed before half of them is gone.
fn renew_at(lease_ends: Nanos, lease: Nanos) -> Nanos {
    lease_ends.saturating_sub(lease / 5 * 3)
}
