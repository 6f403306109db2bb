//! Two collections, one for each target, and the dead letters. What a write does is decided here, what it means by the
//! real `classify`. Used by the world.

use super::plan::Nature;
use crate::collector::classify::{self, Class};
use crate::collector::identity::Identity;
use crate::collector::sink::FailureKind;
use std::collections::BTreeMap;

/// Another document than any that is published.
pub const STRANGER: usize = usize::MAX;

/// An `_id`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// Our identity.
    Ours(Identity),
    /// The payload's own.
    Own(usize),
}

/// A document to be inserted.
#[derive(Debug, Clone, Copy)]
pub struct Insert {
    pub doc: usize,
    pub nature: Nature,
    pub key: Key,
    /// Whether the server cannot take it just now.
    pub busy: bool,
}

/// What came of an insert.
#[derive(Debug, Clone)]
pub enum Reply {
    Executed { failures: Vec<(u32, Class)>, uncertain: Option<Class> },
    Failed(Class),
}

/// How the server is while it does something.
#[derive(Debug, Clone, Copy)]
pub struct Mood {
    pub away: bool,
    pub refuses: bool,
    /// Replies get lost.
    pub mute: bool,
    /// Nothing is replicated; and whether that is said where none of the documents is stored.
    pub unreplicated: bool,
    pub hides: bool,
    /// Every document is refused, by a validator, or since it takes no writes.
    pub tightened: bool,
    pub blocked: bool,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    doc: usize,
    /// Not replicated yet.
    volatile: bool,
}

/// The server.
#[derive(Debug, Default)]
pub struct Database {
    collections: [BTreeMap<Key, Held>; 2],
    pub letters: BTreeMap<Identity, usize>,
}

impl Database {
    /// What was there before anything was published.
    pub fn prepare(&mut self, key: Key, doc: usize) {
        for collection in &mut self.collections {
            collection.insert(key, Held { doc, volatile: false });
        }
    }

    /// Carries out an insert command, or not.
    pub fn insert(&mut self, place: usize, documents: &[Insert], mood: Mood) -> Reply {
        let network = classify::command(FailureKind::Network, None, &[]);
        if mood.away {
            return Reply::Failed(network);
        }
        if mood.refuses {
            return Reply::Failed(classify::command(FailureKind::Server, Some(13), &[]));
        }
        if documents.iter().any(|document| document.nature == Nature::Poison) {
            return Reply::Failed(classify::command(FailureKind::Server, Some(4711), &[]));
        }
        if documents.iter().any(|document| document.nature == Nature::Spoiler) {
            return Reply::Failed(classify::command(FailureKind::Server, Some(2), &[]));
        }
        let collection = &mut self.collections[place];
        // A router hands on what a shard says of its part of the command.
        let mut meant = [false; 2];
        let shared = documents.iter().enumerate().filter(|(_, document)| document.nature == Nature::Shared);
        shared.for_each(|(index, _)| meant[index % 2] = true);
        let mut failures = Vec::new();
        for (index, document) in (0..).zip(documents) {
            let ours = matches!(document.key, Key::Ours(_));
            let meant_too = meant[index as usize % 2];
            let refusal = match document.nature {
                _ if mood.blocked => Some((371, None)),
                _ if mood.tightened => Some((121, None)),
                _ if meant_too => Some((2, None)),
                Nature::Refused => Some((121, None)),
                Nature::Unique => Some((11000, Some(false))),
                Nature::Hidden => Some((11000, None)),
                _ if collection.contains_key(&document.key) => Some((11000, Some(true))),
                _ if document.busy => Some((112, None)),
                _ => None,
            };
            match refusal {
                Some((code, on_id)) => failures.push((index, classify::document(code, on_id, ours))),
                None => {
                    collection.insert(document.key, Held { doc: document.doc, volatile: mood.unreplicated });
                }
            }
        }
        if mood.mute {
            return Reply::Failed(network);
        }
        let hidden = mood.hides && failures.len() == documents.len();
        let uncertain = (mood.unreplicated && !hidden).then(|| classify::command(FailureKind::Server, Some(64), &[]));
        Reply::Executed { failures, uncertain }
    }

    /// What is under `key`.
    pub fn find(&self, place: usize, key: &Key) -> Option<usize> {
        // Reads are of what the majority has.
        self.collections[place].get(key).filter(|held| !held.volatile).map(|held| held.doc)
    }

    /// Whether what is under `key` is not replicated yet.
    pub fn volatile(&self, place: usize, key: &Key) -> bool {
        self.collections[place].get(key).is_some_and(|held| held.volatile)
    }

    /// Writes that were not replicated are lost, or not.
    pub fn recover(&mut self, mut loses: impl FnMut() -> bool) {
        for collection in &mut self.collections {
            collection.retain(|_, held| !held.volatile || !loses());
            collection.values_mut().for_each(|held| held.volatile = false);
        }
    }

    /// How often a document is stored, durably.
    pub fn count(&self, doc: usize) -> usize {
        let held = self.collections.iter().flat_map(|collection| collection.values());
        held.filter(|held| held.doc == doc && !held.volatile).count()
    }

    /// How often each document is stored, and how often it is among the dead letters.
    pub fn counts(&self, docs: usize) -> (Vec<usize>, Vec<usize>) {
        let (mut stored, mut buried) = (vec![0; docs], vec![0; docs]);
        for held in self.collections.iter().flat_map(|collection| collection.values()).filter(|held| held.doc != STRANGER) {
            stored[held.doc] += 1;
        }
        self.letters.values().for_each(|doc| buried[*doc] += 1);
        (stored, buried)
    }
}
