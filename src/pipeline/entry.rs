//! A pipeline's entry: the JSON value under its key. Anyone may write it with any NATS client, so it is hostile input.
//!
//! `status` is read first: a paused or draft entry needs nothing else to be valid. One with a `key` and no version is the
//! first parent's (see [`super::first_parent`]): published unless it says otherwise, in a version that is derived. Fields
//! that nobody reads are kept by our own edits and reported. Called by the controller for every change and by the CLI for
//! every edit.

use super::encoding::foreign;
use super::first_parent::{self, ProducerEntry};
use super::id::VersionName;
use super::json::{Node, Position};
use super::status::Reason;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The largest entry that is read, in bytes: 64 KiB.
pub const MAX_ENTRY_BYTES: usize = 64 << 10;

/// The newest entry format this release knows.
pub const ENTRY_SCHEMA: u64 = 1;

/// The fields that are read. Others are kept, and reported.
pub const KNOWN_FIELDS: &[&str] =
    &["schema", "name", "description", "status", "version", "digest", "labels", "replicas", "author", "give_up"];

/// What an entry asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryStatus {
    /// Not to be run; no trace of an execution.
    Draft,
    /// To be run in exactly the version named.
    Published,
    /// Stopped and kept.
    Paused,
}

impl EntryStatus {
    /// The word in the entry.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::Published => "published",
            Self::Paused => "paused",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        [Self::Draft, Self::Published, Self::Paused].into_iter().find(|status| status.as_str() == word)
    }
}

/// An entry that can be acted on.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// What it asks for.
    pub status: EntryStatus,
    /// A name for people.
    pub name: Option<String>,
    /// A description for people.
    pub description: Option<String>,
    /// Which config; always there when published, unless it is derived.
    pub version: Option<VersionName>,
    /// What the config is derived from, where the entry is the first parent's and names no version.
    pub producer: Option<ProducerEntry>,
    /// The digest that the config must have, `SHA-256=…`.
    pub digest: Option<String>,
    /// Labels for people and tools.
    pub labels: BTreeMap<String, String>,
    /// How many executions, where the executor has replicas; at least 1.
    pub replicas: u32,
    /// Previous targets, `host:port/database.collection`, that are given up: what may lie there is not looked up any more
    /// before it is written into the current one.
    pub give_up: Vec<String>,
    /// Fields that are there and have no effect, each with what is odd about it.
    pub ignored: Vec<String>,
}

/// Why an entry cannot be acted on. What ran goes on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// Larger than [`MAX_ENTRY_BYTES`].
    #[error("the entry has {0} bytes, more than {MAX_ENTRY_BYTES}")]
    TooLarge(usize),
    /// No JSON.
    #[error("the entry is not JSON: {0}")]
    NotJson(String),
    /// Bytes of something else, which is named.
    #[error("the entry is not JSON, it looks like {0}")]
    Foreign(&'static str),
    /// A field that means one thing or another.
    #[error("field `{path}` is given twice, at {first} and at {second}; remove one of them")]
    Twice {
        /// The dotted path, short and without control characters.
        path: String,
        /// Where the first one stands.
        first: Position,
        /// Where the second one stands.
        second: Position,
    },
    /// JSON, but no object.
    #[error("the entry is JSON but not an object")]
    NotObject,
    /// A newer format.
    #[error("the entry's schema is {0}, and this release knows {ENTRY_SCHEMA}")]
    SchemaTooNew(u64),
    /// A field is missing or wrong.
    #[error("field `{field}` {problem}")]
    Field {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

impl EntryError {
    /// The reason that the status gives.
    pub fn reason(&self) -> Reason {
        match self {
            Self::SchemaTooNew(_) => Reason::SchemaTooNew,
            _ => Reason::EntryUnreadable,
        }
    }
}

impl Entry {
    /// Reads an entry. Where `status` says draft or paused, wrong fields beside it are ignored and reported in
    /// [`Entry::ignored`]; where it says published, they are errors.
    pub fn parse(bytes: &[u8]) -> Result<Self, EntryError> {
        let mut fields = object(bytes)?;
        let twice = twice(bytes);
        if let Some((error, names)) = &twice {
            let rests = matches!(fields.get("status").and_then(Value::as_str), Some("paused" | "draft"));
            if !rests || names.iter().any(|name| name == "status") {
                return Err(error.clone());
            }
            for name in names {
                fields.remove(name);
            }
        }
        let producers = first_parent::is_producers(&fields);
        let status = match fields.get("status") {
            None | Some(Value::Null) if producers => EntryStatus::Published,
            Some(Value::String(word)) => EntryStatus::parse(word)
                .ok_or_else(|| field("status", format!("is '{}'; it must be draft, published or paused", shown(word))))?,
            Some(_) => return Err(field("status", "must be a string: draft, published or paused")),
            None => return Err(field("status", "is missing; it must be draft, published or paused")),
        };
        let mut ignored = Vec::new();
        let strict = status == EntryStatus::Published;
        let mut check = |error: EntryError| {
            if strict {
                return Err(error);
            }
            ignored.push(error.to_string());
            Ok(())
        };
        if let Some((error, _)) = twice {
            check(error)?;
        }

        if let Some(schema) = fields.get("schema") {
            match schema.as_u64() {
                Some(0) | None => check(field("schema", "must be 1"))?,
                Some(newer) if newer > ENTRY_SCHEMA => check(EntryError::SchemaTooNew(newer))?,
                Some(_) => {}
            }
        }
        let mut text = |name: &'static str| match fields.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => check(field(name, "must be a string")).map(|()| None),
        };
        let (name, description, version, digest) = (text("name")?, text("description")?, text("version")?, text("digest")?);
        let version = match version.as_deref().map(VersionName::parse) {
            Some(Ok(version)) => Some(version),
            Some(Err(error)) => {
                check(field("version", format!("is not allowed: {}", error.rule())))?;
                None
            }
            None if strict && !producers => return Err(field("version", "is missing; a published entry names the version to run")),
            None => None,
        };
        if digest.as_ref().is_some_and(|digest| !digest.starts_with("SHA-256=")) {
            check(field("digest", "must begin with SHA-256="))?;
        }
        let producer = match producers.then(|| first_parent::producer(&fields)).transpose() {
            Ok(producer) => producer,
            Err((name, problem)) => check(field(name, problem)).map(|()| None)?,
        };
        let labels = match fields.get("labels") {
            None | Some(Value::Null) => BTreeMap::new(),
            Some(labels) => serde_json::from_value(labels.clone())
                .or_else(|_| check(field("labels", "must be an object of strings")).map(|()| BTreeMap::new()))?,
        };
        let replicas = match fields.get("replicas").map(Value::as_u64) {
            None => 1,
            Some(Some(replicas @ 1..=1000)) => replicas as u32,
            Some(_) => check(field("replicas", "must be a number from 1 to 1000")).map(|()| 1)?,
        };
        let give_up = match fields.get("give_up") {
            None | Some(Value::Null) => Vec::new(),
            Some(targets) => serde_json::from_value(targets.clone())
                .or_else(|_| check(field("give_up", "must be an array of strings")).map(|()| Vec::new()))?,
        };
        let theirs = fields.contains_key("key");
        let known = |key: &str| KNOWN_FIELDS.contains(&key) || (theirs && first_parent::FIELDS.contains(&key));
        let unknown = fields.keys().filter(|key| !known(key.as_str()));
        ignored.extend(unknown.map(|key| format!("field `{}` is not known", shown(key))));
        Ok(Self { status, name, description, version, producer, digest, labels, replicas, give_up, ignored })
    }
}

/// Changes to an entry; what is `None` stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edit {
    /// Set `status`.
    pub status: Option<EntryStatus>,
    /// Set `version` and `digest` together, so that they never disagree.
    pub version: Option<(VersionName, String)>,
    /// Set `name`.
    pub name: Option<String>,
    /// Set `description`.
    pub description: Option<String>,
    /// Set `replicas`.
    pub replicas: Option<u32>,
    /// Set `give_up`: previous targets that are not asked any more.
    pub give_up: Option<Vec<String>>,
    /// Set `author`: who edits, for the history.
    pub author: Option<String>,
}

/// The entry `old` (nothing, where there is none or it cannot be read) with `edit` applied. Fields that we do not know
/// are kept as they are written, to the last digit; one that is given twice is not kept, since nobody knows which is meant.
pub fn edited(old: Option<&[u8]>, edit: &Edit) -> Vec<u8> {
    let mut fields = old.map(written).unwrap_or_default();
    fields.entry("schema".into()).or_insert_with(|| raw(&ENTRY_SCHEMA.into()));
    let said = |name: &str| fields.get(name).and_then(|value| serde_json::from_str::<String>(value.get()).ok());
    let another = |version: &VersionName| said("version").as_deref() != Some(version.as_str());
    if edit.version.as_ref().is_some_and(|(version, _)| another(version)) {
        // Said of the change before.
        fields.remove("give_up");
    }
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            fields.insert(name.to_owned(), raw(&value));
        }
    };
    set("status", edit.status.map(|status| status.as_str().into()));
    set("version", edit.version.as_ref().map(|(version, _)| version.as_str().into()));
    set("digest", edit.version.as_ref().map(|(_, digest)| digest.as_str().into()));
    set("name", edit.name.as_deref().map(Value::from));
    set("description", edit.description.as_deref().map(Value::from));
    set("replicas", edit.replicas.map(Value::from));
    set("give_up", edit.give_up.clone().map(Value::from));
    set("author", edit.author.as_deref().map(Value::from));
    let fields: Vec<String> = fields.iter().map(|(name, value)| format!("{}:{}", Value::from(name.as_str()), value.get())).collect();
    format!("{{{}}}", fields.join(",")).into_bytes()
}

/// The fields of an entry, each as it is written, but for those that are given twice.
fn written(bytes: &[u8]) -> BTreeMap<String, Box<RawValue>> {
    if object(bytes).is_err() {
        return BTreeMap::new();
    }
    let mut fields: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(bytes).unwrap_or_default();
    for name in twice(bytes).map(|(_, names)| names).unwrap_or_default() {
        fields.remove(&name);
    }
    fields
}

fn raw(value: &Value) -> Box<RawValue> {
    RawValue::from_string(value.to_string()).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// Where a field is given twice: what is said about it, and the outermost fields that mean one thing or another by it.
pub(super) fn twice(bytes: &[u8]) -> Option<(EntryError, Vec<String>)> {
    let root = Node::read(std::str::from_utf8(bytes).ok()?)?;
    let found = root.twice()?;
    let (first, second) = (Position::of(bytes, found.first), Position::of(bytes, found.second));
    let names = root.ambiguous().into_iter().map(str::to_owned).collect();
    Some((EntryError::Twice { path: found.path, first, second }, names))
}

/// Whether two entries say the same, whoever wrote them.
pub fn same_but_author(one: &[u8], other: &[u8]) -> bool {
    let said = |bytes: &[u8]| {
        object(bytes).ok().map(|mut fields| {
            fields.remove("author");
            fields
        })
    };
    said(one).is_some_and(|fields| Some(fields) == said(other))
}

fn object(bytes: &[u8]) -> Result<Map<String, Value>, EntryError> {
    if bytes.len() > MAX_ENTRY_BYTES {
        return Err(EntryError::TooLarge(bytes.len()));
    }
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(EntryError::NotObject),
        Err(error) => match foreign(bytes) {
            Some(foreign) => Err(EntryError::Foreign(foreign.what)),
            None if bytes.starts_with("\u{feff}".as_bytes()) => Err(EntryError::NotJson("it begins with a byte order mark".into())),
            None => Err(EntryError::NotJson(error.to_string())),
        },
    }
}

fn field(field: &'static str, problem: impl Into<String>) -> EntryError {
    EntryError::Field { field, problem: problem.into() }
}

/// Hostile text, short and without control characters.
fn shown(text: &str) -> String {
    text.chars().take(40).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests;
