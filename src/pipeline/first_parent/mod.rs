//! The entries of the first parent, the Go collector: what its producers put under a key each time they start,
//! `{"key","subs","collection","description"}`, which names neither a status nor a version.
//!
//! ```text
//! history of the key ─▶ adopt: what counts (a put of theirs keeps our status and version) ─▶ Entry
//!        Entry without a version + settings ─▶ derive: a config of its own, `derived-{digest8}`
//! ```
//!
//! All of it is pure. A value may be hostile: what cannot be followed is left out and said, or fails the lint that the
//! derived config passes like any other; it is one pipeline's trouble. Called by [`super::entry`] for every entry, and by
//! the store, the controller and the commands for those that [`is_partial`].

mod adopt;
mod derive;

pub use adopt::{Past, effective, is_partial};
pub use derive::{Defaults, Derived, derive, is_derived};

use serde_json::{Map, Value};

/// Fields that only the first parent's entries have. The last four come along where a producer puts back what it got
/// together with a pipeline's state.
pub(super) const FIELDS: &[&str] = &["key", "subs", "collection", "buffer_size", "nexts", "last", "info"];

/// What a producer of the first parent asks for. Nothing in it is checked but its types.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProducerEntry {
    /// The key that it was put under, by its own word.
    pub key: String,
    /// Subjects beside the pipeline's own.
    pub subs: Vec<String>,
    /// The collection; `None` for one of the key's name.
    pub collection: Option<String>,
}

/// Whether `fields` are an entry whose config is to be derived: with a `key` and no `version`.
pub(super) fn is_producers(fields: &Map<String, Value>) -> bool {
    given(fields, "key").is_some() && given(fields, "version").is_none()
}

/// Takes a producer's fields. Errors: the field, and what is wrong with it.
pub(super) fn producer(fields: &Map<String, Value>) -> Result<ProducerEntry, (&'static str, &'static str)> {
    let text = |name: &'static str| match given(fields, name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err((name, "must be a string")),
    };
    let subs = match given(fields, "subs") {
        None => Vec::new(),
        Some(Value::Array(subs)) => {
            let texts = subs.iter().map(|sub| sub.as_str().map(str::to_owned));
            texts.collect::<Option<_>>().ok_or(("subs", "must be a list of strings"))?
        }
        Some(_) => return Err(("subs", "must be a list of strings")),
    };
    let collection = text("collection")?.filter(|collection| !collection.is_empty());
    Ok(ProducerEntry { key: text("key")?.unwrap_or_default(), subs, collection })
}

/// A field that says something; the first parent writes `null` for nothing.
fn given<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    fields.get(name).filter(|value| !value.is_null())
}
