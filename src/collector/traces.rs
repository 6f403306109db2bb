//! How a measurement is found again: by its time, its source and an `_id` that begins with its identity. Pure.
//!
//! What always holds: no copy of a message that has a [`Trace`] is outside the [`Window`]s made of it; a copy is surplus only beside a
//! smaller one of the same identity, time and source. Used by `repair` and by the look-up in previous targets.

use super::compare;
use super::identity::Identity;
use bson::{DateTime, RawBson, RawBsonRef, RawDocument};
use std::collections::HashMap;

/// The bytes of an `_id` that all copies of a measurement share: seconds and hash.
pub const PREFIX: usize = 9;
/// A source that is longer is not looked for, nor kept in records.
const LONGEST_META: usize = 256;
/// How far apart messages of one window were published, in seconds, and measured, in milliseconds.
const PUBLISHED: u32 = 5;
const MEASURED: i64 = 600_000;
/// The most sources that a window names.
const MOST_METAS: usize = 200;

/// What all copies of a measurement have in common.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    /// What their `_id`s begin with.
    pub prefix: [u8; PREFIX],
    /// The time field.
    pub time: DateTime,
    /// The meta field, where it is short and of a kind that a server compares by value alone; documents are stored with their
    /// fields sorted, and are not looked for.
    pub meta: Option<RawBson>,
}

/// A measurement as it was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Copy {
    /// Its `_id`.
    pub id: Identity,
    /// Its time.
    pub time: DateTime,
    /// Its source as bytes.
    pub meta: Vec<u8>,
}

/// A part of a time-series collection.
#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    /// The first and the last time.
    pub times: (DateTime, DateTime),
    /// The sources; `None`: any.
    pub metas: Option<Vec<RawBson>>,
    /// The smallest and the largest `_id`.
    pub ids: (Identity, Identity),
}

/// The time of a measurement; `None` where it has none and so was never stored.
pub fn time_of(payload: &[u8], time_field: &str) -> Option<DateTime> {
    RawDocument::from_bytes(payload).ok()?.get_datetime(time_field).ok()
}

/// The source of a measurement, where it can be looked for.
pub fn meta_of(payload: &[u8], meta_field: Option<&str>) -> Option<RawBson> {
    let value = RawDocument::from_bytes(payload).ok()?.get(meta_field?).ok()??;
    let short = match value {
        RawBsonRef::String(text) => text.len() <= LONGEST_META,
        RawBsonRef::Int32(_) | RawBsonRef::Int64(_) | RawBsonRef::Boolean(_) | RawBsonRef::ObjectId(_) => true,
        _ => false,
    };
    short.then(|| value.into())
}

impl Trace {
    /// Of a payload that gets an `_id` of ours.
    pub fn of(payload: &[u8], identity: &Identity, time_field: &str, meta_field: Option<&str>) -> Option<Self> {
        let mut prefix = [0; PREFIX];
        prefix.copy_from_slice(&identity[..PREFIX]);
        Some(Self { prefix, time: time_of(payload, time_field)?, meta: meta_of(payload, meta_field) })
    }

    fn published(&self) -> u32 {
        let [a, b, c, d, ..] = self.prefix;
        u32::from_be_bytes([a, b, c, d])
    }
}

impl Copy {
    /// The key that all copies of a measurement share.
    pub fn key(&self) -> ([u8; PREFIX], DateTime) {
        let mut prefix = [0; PREFIX];
        prefix.copy_from_slice(&self.id[..PREFIX]);
        (prefix, self.time)
    }
}

/// Few windows that hold all copies of `traces`, and little else.
pub fn windows(traces: &[Trace]) -> Vec<Window> {
    let mut sorted: Vec<&Trace> = traces.iter().collect();
    sorted.sort_by_key(|trace| (trace.published(), trace.time));
    let mut groups: Vec<Vec<&Trace>> = Vec::new();
    for trace in sorted {
        let near = |group: &&mut Vec<&Trace>| {
            let first = group[0];
            let ms = trace.time.timestamp_millis().saturating_sub(first.time.timestamp_millis());
            trace.published() - first.published() <= PUBLISHED && (-MEASURED..=MEASURED).contains(&ms)
        };
        // What was published together was mostly measured together; else there are a few rows of times.
        match groups.iter_mut().rev().take(4).find(near) {
            Some(group) => group.push(trace),
            None => groups.push(vec![trace]),
        }
    }
    groups.into_iter().filter_map(|group| window(&group)).collect()
}

fn window(group: &[&Trace]) -> Option<Window> {
    let times = (group.iter().map(|trace| trace.time).min()?, group.iter().map(|trace| trace.time).max()?);
    let (mut low, mut high) = ([0; 12], [0xff; 12]);
    low[..PREFIX].copy_from_slice(&group.iter().map(|trace| trace.prefix).min()?);
    high[..PREFIX].copy_from_slice(&group.iter().map(|trace| trace.prefix).max()?);
    let mut metas: HashMap<Vec<u8>, RawBson> = HashMap::new();
    let all = group.iter().all(|trace| {
        let meta = trace.meta.as_ref().map(|meta| (compare::id_key(meta), meta.clone()));
        meta.map(|(key, meta)| metas.insert(key, meta)).is_some() && metas.len() <= MOST_METAS
    });
    Some(Window { times, metas: all.then(|| metas.into_values().collect()), ids: (low, high) })
}

/// The copies of `traces` beside which there is a smaller one of the same measurement.
pub fn surplus<'a>(traces: &[Trace], copies: &'a [Copy]) -> Vec<&'a Copy> {
    let recorded: std::collections::HashSet<_> = traces.iter().map(|trace| (trace.prefix, trace.time)).collect();
    let mut smallest: HashMap<_, Identity> = HashMap::new();
    for copy in copies {
        let least = smallest.entry((copy.key(), &copy.meta)).or_insert(copy.id);
        *least = copy.id.min(*least);
    }
    copies.iter().filter(|copy| recorded.contains(&copy.key()) && smallest[&(copy.key(), &copy.meta)] != copy.id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::rawdoc;
    use proptest::prelude::*;

    fn trace(published: u32, hash: u8, millis: i64, meta: Option<&str>) -> Trace {
        let mut prefix = [hash; PREFIX];
        prefix[..4].copy_from_slice(&published.to_be_bytes());
        Trace { prefix, time: DateTime::from_millis(millis), meta: meta.map(|meta| RawBson::String(meta.into())) }
    }

    fn copy(of: &Trace, attempt: u8) -> Copy {
        let mut id = [attempt; 12];
        id[..PREFIX].copy_from_slice(&of.prefix);
        Copy { id, time: of.time, meta: of.meta.as_ref().map(compare::id_key).unwrap_or_default() }
    }

    fn holds(window: &Window, copy: &Copy, meta: Option<&RawBson>) -> bool {
        let metas = window.metas.as_ref().is_none_or(|metas| meta.is_some_and(|meta| metas.contains(meta)));
        metas && (window.times.0..=window.times.1).contains(&copy.time) && (window.ids.0..=window.ids.1).contains(&copy.id)
    }

    proptest! {
        #[test]
        fn every_copy_of_every_trace_is_in_a_window(
            traces in prop::collection::vec((0u32..1000, any::<u8>(), -3_000_000i64..3_000_000, prop::option::of("[ab]")), 1..60),
            attempt in any::<u8>(),
        ) {
            let traces: Vec<Trace> = traces.into_iter().map(|(at, hash, ms, meta)| trace(at, hash, ms, meta.as_deref())).collect();
            let windows = windows(&traces);
            for trace in &traces {
                let copy = copy(trace, attempt);
                prop_assert!(windows.iter().any(|window| holds(window, &copy, trace.meta.as_ref())));
            }
            for window in &windows {
                prop_assert!(window.times.1.timestamp_millis() - window.times.0.timestamp_millis() <= 2 * MEASURED);
            }
        }
    }

    #[test]
    fn the_smallest_copy_stays_and_only_recorded_measurements_lose_any() {
        let (one, other) = (trace(5, 1, 10, Some("a")), trace(5, 2, 10, Some("a")));
        let copies = [copy(&one, 9), copy(&one, 0), copy(&one, 4), copy(&other, 1), copy(&other, 2)];
        let gone: Vec<u8> = surplus(std::slice::from_ref(&one), &copies).iter().map(|copy| copy.id[11]).collect();
        assert_eq!(gone, [9, 4]);
        assert!(surplus(std::slice::from_ref(&one), &[copy(&one, 7)]).is_empty(), "one alone stays, whichever it is");
    }

    #[test]
    fn the_same_identity_at_another_time_or_of_another_source_is_another_measurement() {
        let (one, later, of_b) = (trace(5, 1, 10, Some("a")), trace(5, 1, 11, Some("a")), trace(5, 1, 10, Some("b")));
        let copies = [copy(&one, 0), copy(&later, 1), copy(&of_b, 2)];
        assert!(surplus(&[one, later, of_b], &copies).is_empty());
    }

    #[test]
    fn whoever_repairs_and_whatever_comes_between_one_copy_is_left() {
        // Two repairers act on what each saw; a late copy came between their looks.
        let one = trace(5, 1, 10, None);
        let (early, all) = ([copy(&one, 3), copy(&one, 5)], [copy(&one, 1), copy(&one, 3), copy(&one, 5)]);
        let gone = [surplus(std::slice::from_ref(&one), &early), surplus(&[one], &all)].concat();
        assert!(all.iter().any(|copy| !gone.contains(&copy)));
    }

    #[test]
    fn only_sources_that_are_compared_by_value_are_looked_for() {
        let meta = |payload: bson::RawDocumentBuf| meta_of(payload.as_bytes(), Some("m"));
        assert_eq!(meta(rawdoc! { "m": "a" }), Some(RawBson::String("a".into())));
        assert!(meta(rawdoc! { "m": { "b": 1, "a": 2 } }).is_none(), "stored with its fields sorted");
        assert!(meta(rawdoc! { "m": "x".repeat(1000) }).is_none() && meta(rawdoc! { "x": 1 }).is_none());
    }

    #[test]
    fn what_has_no_time_was_never_a_measurement() {
        assert!(Trace::of(rawdoc! { "t": "today" }.as_bytes(), &[1; 12], "t", None).is_none());
        assert!(Trace::of(rawdoc! { "t": DateTime::from_millis(1) }.as_bytes(), &[1; 12], "t", None).is_some());
    }
}
