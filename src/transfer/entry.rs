//! What a producer registers, as the entry under its key: the first parent's JSON, read and written without losing
//! what others put there. Pure; [`super::Transfer`] reads and writes the bucket.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What a producer registers under a key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// The pipeline's id, which is the key of its entry; documents are published to `{namespace}.{key}`.
    pub key: String,
    /// Further subjects that the pipeline's stream listens on.
    #[serde(default, deserialize_with = "null_is_none")]
    pub subs: Vec<String>,
    /// The MongoDB collection that the documents are written to. Empty: the key's name.
    #[serde(default)]
    pub collection: String,
    /// For people.
    #[serde(default)]
    pub description: String,
}

/// The first parent writes `null` where there are none.
fn null_is_none<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// What stands under a key.
#[derive(Debug, PartialEq)]
pub(super) enum Found {
    /// A producer's registration, and the fields that others added to it.
    Registered(Registration, Map<String, Value>),
    /// An entry with a version of its own: an operator's, who says what runs.
    Operated(Map<String, Value>),
    /// Nothing that can be read.
    Unreadable,
}

/// Reads an entry.
pub(super) fn read(bytes: &[u8]) -> Found {
    let Ok(fields) = serde_json::from_slice::<Map<String, Value>>(bytes) else { return Found::Unreadable };
    if fields.contains_key("version") || !fields.contains_key("key") {
        return if fields.contains_key("status") { Found::Operated(fields) } else { Found::Unreadable };
    }
    match Registration::deserialize(Value::Object(fields.clone())) {
        Ok(registration) => Found::Registered(registration, fields),
        Err(_) => Found::Unreadable,
    }
}

/// The entry that says `wanted` where `found` is there: `None` where nothing needs to be written, since it says so
/// already or an operator's entry says what runs.
pub(super) fn write(wanted: &Registration, found: Option<Found>) -> serde_json::Result<Option<Vec<u8>>> {
    match found {
        Some(Found::Operated(_)) => Ok(None),
        Some(Found::Registered(now, _)) if now == *wanted => Ok(None),
        Some(Found::Registered(_, mut fields)) => {
            if let Value::Object(ours) = serde_json::to_value(wanted)? {
                fields.extend(ours);
            }
            serde_json::to_vec(&fields).map(Some)
        }
        None | Some(Found::Unreadable) => serde_json::to_vec(wanted).map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics() -> Registration {
        Registration { key: "metrics".into(), collection: "metrics".into(), description: "Metrics".into(), ..Registration::default() }
    }

    #[test]
    fn a_registration_is_the_first_parents_json() {
        let written = write(&metrics(), None).unwrap().unwrap();
        assert_eq!(written, br#"{"key":"metrics","subs":[],"collection":"metrics","description":"Metrics"}"#);
    }

    #[test]
    fn the_first_parents_null_is_read() {
        let found = read(br#"{"key":"metrics","subs":null,"collection":"metrics","description":"Metrics"}"#);
        assert!(matches!(found, Found::Registered(registration, _) if registration == metrics()));
    }

    #[test]
    fn what_says_so_already_is_not_written_again() {
        let found = read(br#"{"key":"metrics","subs":null,"collection":"metrics","description":"Metrics","status":"paused"}"#);
        assert_eq!(write(&metrics(), Some(found)).unwrap(), None);
    }

    #[test]
    fn a_change_keeps_the_fields_of_others() {
        let found = read(br#"{"key":"metrics","collection":"old","status":"paused"}"#);
        let written: Value = serde_json::from_slice(&write(&metrics(), Some(found)).unwrap().unwrap()).unwrap();
        assert_eq!((&written["status"], &written["collection"]), (&"paused".into(), &"metrics".into()));
    }

    #[test]
    fn an_operators_entry_stays() {
        for entry in [r#"{"status":"paused"}"#, r#"{"status":"published","version":"1","key":"metrics"}"#] {
            assert_eq!(write(&metrics(), Some(read(entry.as_bytes()))).unwrap(), None, "{entry}");
        }
    }

    #[test]
    fn garbage_is_unreadable() {
        for entry in ["", "[]", "garbage", "{}", r#"{"key":1}"#] {
            assert_eq!(read(entry.as_bytes()), Found::Unreadable, "{entry}");
        }
    }
}
