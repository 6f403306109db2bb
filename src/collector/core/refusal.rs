//! What a refusal says about a document. Part of the core.
//!
//! What always holds:
//! - A document is blamed only where others are stored while it is refused: by the same command, or between two refusals of it
//!   alone. A code that hits every document of a command blames none, however certain it would be of one of them: a validator
//!   that was changed refuses all, and so does a server that takes no writes.
//! - What is refused in company is tried alone first, unless there is no doubt that it is meant ([`Class::Document`]). A
//!   measurement needs that twice: the document of another client that went into the same bucket may be the one that is meant.
//! - Where a whole command is refused, as long as it may be because of one document, it is halved until that one is left.

use super::Core;
use super::group::{Group, Stage};
use super::types::{Effect, Entry, GroupId, Nanos, SECOND};
use crate::collector::classify::Class;

/// Failures of a whole command after which a batch is halved, where what failed is not known to pass.
const HALVE_AFTER: u32 = 3;
/// Tries after which, and time over which, a document refused for an unknown reason counts as refused.
const PUZZLE_TRIES: u32 = 5;
const PUZZLE_TIME: Nanos = 120 * SECOND;
/// How often what is refused is tried again while no others are stored: somebody may have corrected the validator.
const HELD_AGAIN: Nanos = 30 * SECOND;

/// How documents were refused.
#[derive(Debug, Clone, Copy)]
pub(super) struct Refused {
    /// What was known of them.
    pub(super) before: Puzzle,
    /// How many documents the command held.
    pub(super) of: usize,
    /// How many the pipeline had stored before it.
    pub(super) stored_before: u64,
    /// Whether others of the same command were stored, or the refusal is proven otherwise.
    pub(super) certain: bool,
}

/// What is known of documents that were refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Puzzle {
    /// How it was refused last: other refusals say nothing about this one.
    pub(super) class: Option<Class>,
    /// Refusals of it alone, with others stored between them.
    pub(super) tries: u32,
    /// When it was refused first.
    pub(super) since: Nanos,
    /// How many documents the pipeline had stored when it was refused last, or before the command in which others were;
    /// `None`: it never was.
    pub(super) stored: Option<u64>,
    /// Whether it was ever refused alone.
    pub(super) alone: bool,
    /// Whether a whole command was refused, rather than documents.
    pub(super) of_command: bool,
}

impl Puzzle {
    /// What it says about a refusal of this class: one of another class is forgotten.
    fn of(self, class: Class) -> Self {
        if self.class == Some(class) { self } else { Self { class: Some(class), of_command: self.of_command, ..Self::default() } }
    }

    /// Whether it was tried alone often and long enough, others being stored all the while.
    fn hopeless(&self, class: Class, measurement: bool, now: Nanos) -> bool {
        match class {
            Class::Doubtful => self.tries > u32::from(measurement),
            _ => self.tries >= PUZZLE_TRIES && now >= self.since + PUZZLE_TIME,
        }
    }

    fn delay(&self) -> Nanos {
        match self.tries {
            0 | 1 => 2 * SECOND,
            2 => 10 * SECOND,
            3 => 30 * SECOND,
            _ => 60 * SECOND,
        }
    }
}

impl Core {
    /// Documents that were found to be stored, one way or the other.
    pub(super) fn stored(&self) -> u64 {
        self.totals.written + self.totals.duplicates
    }

    /// Whether others were stored since the last refusal of what this is known of.
    pub(super) fn stored_since(&self, puzzle: Puzzle) -> bool {
        puzzle.stored.is_some_and(|stored| self.stored() > stored)
    }

    /// Documents that the server refuses for what they are.
    pub(super) fn refused(&mut self, entries: Vec<Entry>, refused: Refused, now: Nanos) {
        let Refused { before, of, certain, .. } = refused;
        let before = before.of(Class::Document);
        let certain = certain || of == 1 && self.stored_since(before);
        let puzzle = Puzzle { stored: Some(self.stored()), alone: before.alone || of == 1, ..before };
        for entry in entries {
            if certain && self.proven {
                self.join(entry, Stage::Doomed, Puzzle::default(), 0);
            } else {
                self.join(entry, Stage::Held, puzzle, now + HELD_AGAIN);
            }
        }
    }

    /// Documents of which it is in doubt, or not known, whether the refusal is about them.
    pub(super) fn weigh(&mut self, mut entries: Vec<Entry>, class: Class, refused: Refused, now: Nanos) {
        let Refused { before, of, stored_before, .. } = refused;
        if entries.is_empty() {
            return;
        }
        let before = before.of(class);
        let first = before.stored.is_none();
        let since = if first { now } else { before.since };
        if of > 1 {
            let puzzle = Puzzle { stored: before.stored.or(Some(stored_before)), since, ..before };
            let second = entries.split_off(entries.len().div_ceil(2));
            for half in [entries, second] {
                self.puzzle(half, puzzle, now);
            }
            return;
        }
        let counts = self.stored_since(before);
        let puzzle = Puzzle {
            tries: before.tries + u32::from(counts),
            stored: if first || counts { Some(self.stored()) } else { before.stored },
            since,
            alone: true,
            ..before
        };
        if self.proven && puzzle.hopeless(class, self.series.is_some(), now) {
            entries.into_iter().for_each(|entry| self.join(entry, Stage::Doomed, Puzzle::default(), 0));
        } else if class == Class::Doubtful {
            entries.into_iter().for_each(|entry| self.join(entry, Stage::Held, puzzle, now + HELD_AGAIN));
        } else {
            self.puzzle(entries, puzzle, now + puzzle.delay());
        }
    }

    /// Sets aside what is to be tried again at `due`.
    fn puzzle(&mut self, entries: Vec<Entry>, puzzle: Puzzle, due: Nanos) {
        if entries.is_empty() {
            return;
        }
        let id = self.sent_group(Stage::Puzzling, entries);
        if let Some(group) = self.groups.get_mut(&id) {
            group.puzzle = puzzle;
            group.due = due;
        }
    }

    /// The command failed, perhaps because of one document: narrowed down, after a while. Not while the gate is shut, which is
    /// never because of a document.
    pub(super) fn halve(&mut self, id: GroupId, class: Class, now: Nanos, out: &mut Vec<Effect>) {
        let Some(mut group) = self.take(id) else { return };
        let known = group.puzzle.alone && group.puzzle.of_command && group.entries.len() == 1;
        if known {
            // It failed alone before: that says nothing about the database.
            self.breaker.answered();
        } else {
            let random = self.random();
            self.breaker.failed(class, now, random);
        }
        if !known && (group.failures + 1 < HALVE_AFTER || self.breaker.is_shut()) {
            self.requeue(id, group, now, out);
            return;
        }
        let second = group.entries.split_off(group.entries.len().div_ceil(2));
        let first = std::mem::take(&mut group.entries);
        if second.is_empty() {
            let single = self.inside_lease(first, now, out);
            let stored_before = self.stored();
            let before = Puzzle { of_command: true, ..group.puzzle };
            self.weigh(single, Class::Unknown, Refused { before, of: 1, stored_before, certain: false }, now);
            return;
        }
        let before = group.puzzle.of(Class::Unknown);
        let stored = before.stored.or(Some(self.stored()));
        let since = if before.stored.is_none() { now } else { before.since };
        for half in [second, first] {
            let half = self.inside_lease(half, now, out);
            if half.is_empty() {
                continue;
            }
            let id = self.sent_group(Stage::Ready, half);
            if let Some(new) = self.groups.get_mut(&id) {
                new.failures = HALVE_AFTER - 1;
                new.puzzle = Puzzle { stored, since, ..before };
                new.oldest_ns = group.oldest_ns;
            }
            self.ready.push_front(id);
        }
    }

    /// A message that cannot be stored as it is. Joins others of which as much is known, so that there are few groups.
    pub(super) fn join(&mut self, entry: Entry, stage: Stage, puzzle: Puzzle, due: Nanos) {
        let lease = self.lease();
        let count = self.batch_count() as usize;
        let bytes = self.batches.bytes;
        let room = |group: &&mut Group| {
            let alike = group.stage == stage && (group.puzzle.tries, group.puzzle.alone) == (puzzle.tries, puzzle.alone);
            alike && group.entries.len() < count && group.bytes + u64::from(entry.bytes) <= bytes
        };
        if let Some(group) = self.groups.values_mut().rev().find(room) {
            group.push(entry, lease);
            // Whatever is stored from now on is stored after each of them was refused.
            group.puzzle.stored = group.puzzle.stored.max(puzzle.stored);
            self.aside += 1;
            return;
        }
        let mut group = Group::new(stage, Vec::new());
        group.push(entry, lease);
        group.sent = stage != Stage::Unreadable;
        group.suspect = self.guarded();
        group.puzzle = puzzle;
        group.due = due;
        self.new_group(group);
    }
}
