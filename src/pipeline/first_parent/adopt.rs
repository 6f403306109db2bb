//! Which entry counts where a producer of the first parent has put its own over one of ours.
//!
//! What always holds: its put says nothing about status and version, so it changes neither; only a delete or purge marker
//! takes them back. So a pause survives every start of a producer. Pure.

use super::{given, is_producers};
use crate::pipeline::entry::{Entry, MAX_ENTRY_BYTES, twice};
use serde_json::{Map, Value};

/// One revision of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Past<'a> {
    /// The bucket's revision.
    pub revision: u64,
    /// What was put; `None` for a marker.
    pub value: Option<&'a [u8]>,
}

/// Whether what counts cannot be told from `value` alone: an entry with a `key` that names no version.
pub fn is_partial(value: &[u8]) -> bool {
    fields_of(value).is_some_and(|fields| is_producers(&fields)) && twice(value).is_none()
}

/// The entry that counts, as JSON: everything since the last marker laid over each other. An entry of ours says it all;
/// one of the first parent's leaves the fields that it does not have as they were.
///
/// `kept` is what counted at a revision before, and which one that was: a bucket of the first parent's keeps three
/// revisions, so ours may be gone from the history. `history` is oldest first and ends with the entry in question; what
/// could not be acted on before that says nothing. `None` where nothing can be read.
pub fn effective(kept: Option<(&str, u64)>, history: &[Past<'_>]) -> Option<Vec<u8>> {
    let (mut fields, seen) = match kept {
        Some((entry, revision)) => (fields_of(entry.as_bytes()), revision),
        None => (None, 0),
    };
    for past in history.iter().filter(|past| past.revision > seen) {
        let Some(value) = past.value else {
            fields = None;
            continue;
        };
        let newest = history.last() == Some(past);
        let Some(next) = fields_of(value).filter(|_| newest || Entry::parse(value).is_ok()) else { continue };
        fields = Some(match fields {
            Some(before) if is_producers(&next) => laid_over(before, next),
            _ => next,
        });
    }
    fields.map(|fields| Value::Object(fields).to_string().into_bytes())
}

/// The fields of a producer's entry over those before; what it leaves empty stays.
fn laid_over(mut before: Map<String, Value>, next: Map<String, Value>) -> Map<String, Value> {
    // What a producer puts is complete as far as it goes: without a list there are no further subjects any more.
    for name in ["subs", "collection"] {
        before.remove(name);
    }
    let says = |name: &str| given(&next, name).is_some_and(|value| value.as_str() != Some(""));
    let said: Vec<_> = next.keys().filter(|name| says(name)).cloned().collect();
    let mut next = next;
    for name in said {
        if let Some(value) = next.remove(&name) {
            before.insert(name, value);
        }
    }
    before
}

fn fields_of(value: &[u8]) -> Option<Map<String, Value>> {
    if value.len() > MAX_ENTRY_BYTES {
        return None;
    }
    let mut fields: Map<String, Value> = serde_json::from_slice(value).ok()?;
    // Nobody knows which of two is meant.
    for name in twice(value).map(|(_, names)| names).unwrap_or_default() {
        fields.remove(&name);
    }
    Some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::entry::EntryStatus;
    use proptest::prelude::*;

    const ADD: &str = r#"{"key":"metrics","subs":null,"description":"","collection":"m"}"#;
    const PAUSED: &str = r#"{"status":"paused","version":"3-9f2c41aa","description":"ours","x":1}"#;

    /// What counts after `history`, from revision 1 on; an empty text is a marker.
    fn counts(kept: Option<(&str, u64)>, history: &[&str]) -> Option<Value> {
        let past = (1..).zip(history).map(|(revision, text)| Past { revision, value: (!text.is_empty()).then_some(text.as_bytes()) });
        let past: Vec<_> = past.collect();
        effective(kept, &past).map(|bytes| serde_json::from_slice(&bytes).unwrap())
    }

    fn status_and_version(value: &Value) -> (Option<&str>, Option<&str>) {
        (value["status"].as_str(), value["version"].as_str())
    }

    #[test]
    fn a_put_of_the_first_parents_keeps_our_status_and_version() {
        let value = counts(None, &[PAUSED, ADD, ADD]).unwrap();
        assert_eq!(status_and_version(&value), (Some("paused"), Some("3-9f2c41aa")));
        assert_eq!((value["collection"].as_str(), value["description"].as_str(), value["x"].as_i64()), (Some("m"), Some("ours"), Some(1)));
    }

    #[test]
    fn a_marker_takes_our_status_and_version_back() {
        let value = counts(None, &[PAUSED, "", ADD]).unwrap();
        assert_eq!(status_and_version(&value), (None, None));
        let value = counts(Some((PAUSED, 1)), &[ADD, "", ADD]).unwrap();
        assert_eq!(status_and_version(&value), (None, None));
        assert_eq!(counts(None, &[PAUSED, ""]), None);
    }

    #[test]
    fn what_was_kept_counts_once_the_history_has_lost_it_and_never_over_something_newer() {
        assert_eq!(status_and_version(&counts(Some((PAUSED, 0)), &[ADD, ADD, ADD]).unwrap()).0, Some("paused"));
        let published = r#"{"status":"published","version":"4-00000000"}"#;
        let value = counts(Some((PAUSED, 1)), &[PAUSED, published, ADD]).unwrap();
        assert_eq!(status_and_version(&value), (Some("published"), Some("4-00000000")));
        // Of the time before what was kept, the history says nothing new.
        let value = counts(Some((PAUSED, 2)), &[published, PAUSED, ADD]).unwrap();
        assert_eq!(status_and_version(&value), (Some("paused"), Some("3-9f2c41aa")));
    }

    #[test]
    fn a_status_without_a_version_over_a_version_changes_the_status_alone() {
        let published = r#"{"status":"published","version":"4-00000000"}"#;
        let by_hand = r#"{"key":"metrics","status":"paused"}"#;
        let value = counts(None, &[published, ADD, by_hand, ADD]).unwrap();
        assert_eq!(status_and_version(&value), (Some("paused"), Some("4-00000000")));
    }

    #[test]
    fn further_subjects_that_a_producer_no_longer_names_are_gone() {
        let with = r#"{"key":"metrics","subs":["a.b"],"description":"","collection":"m"}"#;
        assert_eq!(counts(None, &[PAUSED, with]).unwrap()["subs"][0], "a.b");
        assert!(counts(None, &[PAUSED, with, ADD]).unwrap().get("subs").is_none());
    }

    #[test]
    fn garbage_in_the_history_says_nothing() {
        let misspelt = r#"{"key":"metrics","status":"Published"}"#;
        let value = counts(None, &[PAUSED, "garbage", "[]", misspelt, r#"{"status":"publish","version":"9"}"#, ADD]).unwrap();
        assert_eq!(status_and_version(&value), (Some("paused"), Some("3-9f2c41aa")));
        assert_eq!(counts(None, &[PAUSED, misspelt]).unwrap()["status"], "Published", "the newest one is what is asked about");
    }

    #[test]
    fn an_entry_with_a_version_or_without_a_key_counts_alone() {
        assert!(is_partial(ADD.as_bytes()));
        assert!(is_partial(br#"{"key":"m","version":null,"status":"paused"}"#));
        for whole in [PAUSED, r#"{"key":"m","version":"1","status":"paused"}"#, r#"{"status":"draft"}"#, "garbage", "[]", ""] {
            assert!(!is_partial(whole.as_bytes()), "{whole}");
        }
    }

    proptest! {
        #[test]
        fn however_often_producers_start_a_pause_stays_a_pause(adds in 1usize..70, lost in 0usize..70) {
            let mut history = vec![PAUSED];
            history.extend(std::iter::repeat_n(ADD, adds));
            let lost = lost.min(adds);
            let past: Vec<_> = history.iter().enumerate().skip(lost)
                .map(|(at, value)| Past { revision: at as u64 + 1, value: Some(value.as_bytes()) }).collect();
            // The controller has seen some of it, or none where the history is whole.
            let kept = (lost > 0).then_some((PAUSED, 1));
            let entry = Entry::parse(&effective(kept, &past).unwrap()).unwrap();
            prop_assert_eq!(entry.status, EntryStatus::Paused);
            prop_assert_eq!(entry.version.as_ref().map(|version| version.as_str()), Some("3-9f2c41aa"));
        }

        #[test]
        fn no_bytes_make_it_panic(values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..5)) {
            let past: Vec<_> = values.iter().enumerate().map(|(at, value)| Past { revision: at as u64, value: Some(value) }).collect();
            let _ = effective(Some(("{}", 1)), &past);
            values.iter().for_each(|value| { is_partial(value); });
        }
    }
}
