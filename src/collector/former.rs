//! Previous targets: which of a batch's messages lie in one of them, or among the dead letters, already.
//!
//! A message is looked up as its target of then stored it: by our own identity where the payload has no `_id` (whatever the
//! application made of the document since), else by its `_id`, and it is there only if the fields are the same: another
//! document under that `_id` is another document. A measurement is looked up as suspects are: by its time, its source
//! and what the `_id`s of all its copies begin with. Called by the driver, beside its loop.

use super::classify::Class;
use super::compare;
use super::dead_letters::DeadLetters;
use super::identity::{self, Identity};
use super::sink::{CommandFailure, Database, Former};
use super::traces::{self, Trace};
use crate::pipeline::moves::{Delivered, Previous, Series};
use bson::{RawBson, RawDocument, RawDocumentBuf, oid::ObjectId};
use bytes::Bytes;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use tokio::sync::OnceCell;

/// Why it is not known what lies in the previous targets.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(super) struct Unasked {
    /// Whether the settings have no way to one of them.
    pub unknown: bool,
    pub message: String,
}

/// A message that may lie in a previous target.
#[derive(Debug)]
pub(super) struct Doubtful {
    /// Its place in the batch.
    pub index: u32,
    pub payload: Bytes,
    pub told: Delivered,
    /// Its identity as a document, which also names its dead letter, and as a measurement.
    pub identity: Identity,
    pub measurement: Identity,
    /// Whether the payload has no `_id` of its own.
    pub adds_id: bool,
}

impl Doubtful {
    /// The `_id` that it has in a normal collection; its own in any.
    fn id(&self) -> Option<RawBson> {
        if !self.adds_id {
            return compare::id_of(RawDocument::from_bytes(&self.payload).ok()?);
        }
        Some(RawBson::ObjectId(ObjectId::from_bytes(self.identity)))
    }

    /// What its copies in a time-series collection have in common; `None` where they have an `_id` of their own, or no time.
    fn trace(&self, series: &Series) -> Option<Trace> {
        if !self.adds_id {
            return None;
        }
        Trace::of(&self.payload, &self.measurement, &series.time_field, series.meta_field.as_deref())
    }
}

/// One previous target, and the way to it.
#[derive(Debug, Clone)]
pub struct Way {
    /// What it is.
    pub previous: Previous,
    /// A client of its hosts, or why there is none.
    pub database: Result<Arc<Database>, String>,
}

/// All previous targets of a collector.
#[derive(Debug, Clone, Default)]
pub(super) struct Formers {
    ways: Arc<[Way]>,
    /// The identities that have dead letters, as of the first look-up: executions of before bury nothing any more.
    buried: Arc<OnceCell<HashSet<String>>>,
}

impl Formers {
    pub fn new(ways: Vec<Way>) -> Self {
        Self { ways: ways.into(), buried: Arc::default() }
    }

    /// Whether there are any.
    pub fn any(&self) -> bool {
        !self.ways.is_empty()
    }

    /// Whether any of them concerns a message.
    pub fn concern(&self, told: Delivered) -> bool {
        self.ways.iter().any(|way| way.previous.concerns(told))
    }

    /// Which of `doubtful` lie in a previous target (`Done`), or among the dead letters (`Document`), by index, ascending.
    pub async fn check(&self, letters: &DeadLetters, doubtful: &[Doubtful]) -> Result<Vec<(u32, Class)>, Unasked> {
        let mut found: HashMap<u32, Class> = HashMap::new();
        for way in self.ways.iter() {
            let concerned: Vec<&Doubtful> = doubtful.iter().filter(|message| way.previous.concerns(message.told)).collect();
            if !concerned.is_empty() {
                found.extend(way.lie_there(&concerned).await?.into_iter().map(|index| (index, Class::Done)));
            }
        }
        // What was merely sent again under its id is sent on purpose: a dead letter that is replayed is another try.
        let before = |message: &&Doubtful| message.told.again || self.ways.iter().any(|way| message.told.sequence <= way.previous.up_to);
        let buried = self.buried.get_or_try_init(|| async {
            let read = letters.identities().await;
            read.map_err(|error| Unasked { unknown: false, message: format!("the dead letters cannot be read: {error}") })
        });
        let buried = buried.await?;
        if !buried.is_empty() {
            for message in doubtful.iter().filter(before).filter(|message| buried.contains(&identity::hex(&message.identity))) {
                found.entry(message.index).or_insert(Class::Document);
            }
        }
        let mut found: Vec<_> = found.into_iter().collect();
        found.sort_unstable_by_key(|(index, _)| *index);
        Ok(found)
    }
}

impl Way {
    async fn lie_there(&self, messages: &[&Doubtful]) -> Result<Vec<u32>, Unasked> {
        let place = &self.previous.place;
        let unasked = |message: String| format!("what lies in the previous target {} is not known: {message}", place.target);
        let database = self.database.clone().map_err(|message| Unasked { unknown: true, message: unasked(message) })?;
        let series = place.series.as_ref();
        let by_id = messages.iter().filter(|message| series.is_none() || !message.adds_id);
        let ids: Vec<RawBson> = by_id.filter_map(|message| message.id()).collect();
        let traces: Vec<Trace> =
            series.map(|series| messages.iter().filter_map(|message| message.trace(series)).collect()).unwrap_or_default();
        let times = series.and_then(|series| {
            let dates = || messages.iter().filter_map(|message| traces::time_of(&message.payload, &series.time_field));
            Some((dates().min()?, dates().max()?))
        });
        if series.is_some() && times.is_none() {
            // Without dates they were never measurements.
            return Ok(Vec::new());
        }
        let stored = Former::new(database, place.clone()).find(ids, times, &traces::windows(&traces)).await;
        let stored = stored.map_err(|failure: CommandFailure| Unasked { unknown: false, message: unasked(failure.to_string()) })?;
        Ok(which(messages, &stored, series))
    }
}

/// The messages that are among `stored`.
fn which(messages: &[&Doubtful], stored: &[RawDocumentBuf], series: Option<&Series>) -> Vec<u32> {
    let copy = |document: &RawDocumentBuf| {
        let id = document.get_object_id("_id").ok()?.bytes();
        Some(traces::Copy { id, time: document.get_datetime(&series?.time_field).ok()?, meta: Vec::new() }.key())
    };
    let copies: HashSet<_> = stored.iter().filter_map(copy).collect();
    let mut by_id: HashMap<Vec<u8>, Vec<&RawDocument>> = HashMap::new();
    for document in stored {
        if let Some(id) = compare::id_of(document) {
            by_id.entry(compare::id_key(&id)).or_default().push(document);
        }
    }
    let there = |message: &&&Doubtful| {
        if let Some(series) = series.filter(|_| message.adds_id) {
            return message.trace(series).is_some_and(|trace| copies.contains(&(trace.prefix, trace.time)));
        }
        let found = message.id().and_then(|id| by_id.get(&compare::id_key(&id)));
        let meta = series.and_then(|series| series.meta_field.as_deref());
        found.is_some_and(|found| {
            let same = |sent: &RawDocument| found.iter().any(|stored| compare::same_measurement(sent, stored, meta));
            message.adds_id || RawDocument::from_bytes(&message.payload).is_ok_and(same)
        })
    };
    messages.iter().filter(there).map(|message| message.index).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{DateTime, rawdoc};

    fn doubtful(index: u32, payload: RawDocumentBuf, adds_id: bool) -> Doubtful {
        let told = Delivered { sequence: 1, published_ns: 0, again: false, has_id: false };
        Doubtful { index, payload: payload.into_bytes().into(), told, identity: [7; 12], measurement: [8; 12], adds_id }
    }

    #[test]
    fn a_message_lies_where_its_identity_does_whatever_became_of_the_document() {
        let message = doubtful(3, rawdoc! { "n": 1 }, true);
        let stored = rawdoc! { "_id": ObjectId::from_bytes([7; 12]), "n": 2 };
        assert_eq!(which(&[&message], std::slice::from_ref(&stored), None), [3]);
        assert!(which(&[&message], &[stored], Some(&series())).is_empty(), "a measurement has another identity");
    }

    fn series() -> Series {
        Series { time_field: "at".into(), meta_field: Some("m".into()) }
    }

    #[test]
    fn a_measurement_lies_where_any_copy_of_it_does() {
        let at = DateTime::from_millis(5);
        let message = doubtful(2, rawdoc! { "at": at, "n": 1 }, true);
        for (attempt, time, there) in [(8, at, true), (200, at, true), (8, DateTime::from_millis(6), false)] {
            let mut id = [8; 12];
            id[11] = attempt;
            let stored = rawdoc! { "_id": ObjectId::from_bytes(id), "at": time };
            assert_eq!(!which(&[&message], &[stored], Some(&series())).is_empty(), there);
        }
    }

    #[test]
    fn a_message_with_an_id_of_its_own_lies_where_the_same_fields_do() {
        let message = doubtful(0, rawdoc! { "n": 1, "_id": 5 }, false);
        assert_eq!(which(&[&message], &[rawdoc! { "_id": 5i64, "n": 1 }], None), [] as [u32; 0], "another type is another document");
        assert_eq!(which(&[&message], &[rawdoc! { "_id": 5, "n": 1 }], None), [0]);
        assert!(which(&[&message], &[rawdoc! { "_id": 5, "n": 2 }], None).is_empty());
    }
}
