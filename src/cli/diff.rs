//! `sluice diff ID [A] [B]`: what differs between two versions of a pipeline, as unified diffs of the config and of the
//! entry.
//!
//! A and B are versions, or revisions of the entry (`@12`, as `sluice history` shows them). Without B it is what the
//! entry says now. Without A it is what is admitted, where that is another version, else what was published before: so
//! that plain `sluice diff ID` says either what would change or what has changed last.
//!
//! `--output json` prints `{id, from: {version, revision}, to: {…}, same, config, entry}`, the last two as unified diffs,
//! empty where nothing differs. Differences are no failure: the exit code is 0.

use super::config::{admitted, read};
use super::context::Context;
use super::failure::{Exit, Failure};
use super::publish::entry_of;
use crate::pipeline::id::{PipelineId, VersionName};
use crate::pipeline::status::PipelineStatus;
use crate::store::{EntryRecord, Operation, Store};
use clap::Args;
use imara_diff::{Algorithm, BasicLineDiffPrinter, Diff, InternedInput, UnifiedDiffConfig};
use serde::Serialize;
use serde_json::Value;
use std::str::FromStr;

/// Lines around a difference.
const CONTEXT: u32 = 3;

#[derive(Debug, Args)]
pub struct DiffArgs {
    /// The pipeline
    id: PipelineId,
    /// A version, or a revision of the entry as @N; without it, what is admitted, or what was published before
    #[arg(value_name = "A")]
    from: Option<Point>,
    /// The same; without it, what the entry says now
    #[arg(value_name = "B")]
    to: Option<Point>,
}

/// What to compare.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Point {
    Version(VersionName),
    Revision(u64),
}

impl FromStr for Point {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix('@') {
            Some(number) => number.parse().map(Self::Revision).map_err(|_| "write @ and the revision's number, @12".to_owned()),
            None => VersionName::parse(text).map(Self::Version).map_err(|error| error.to_string()),
        }
    }
}

/// One side of the comparison.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
struct Side {
    version: Option<VersionName>,
    /// The revision of the entry; the newest that names the version.
    revision: Option<u64>,
    /// The entry, as JSON with a field a line; what is no JSON, as it is.
    #[serde(skip)]
    entry: String,
}

#[derive(Debug, Serialize)]
struct Difference<'a> {
    id: &'a PipelineId,
    from: &'a Side,
    to: &'a Side,
    same: bool,
    config: String,
    entry: String,
}

/// `sluice diff`.
pub async fn diff(context: &Context, args: DiffArgs) -> Result<(), Failure> {
    let id = &args.id;
    let store = context.connect().await?;
    let history = context.history(&store, id).await?;
    let status = context.status(&store, id).await?;
    if history.is_empty() && status.is_none() {
        return Err(context.no_pipeline(id));
    }
    let past = Past { id, history: &history, status: status.as_ref() };
    let to = match &args.to {
        Some(point) => past.side(point)?,
        None => past.now()?,
    };
    let from = match &args.from {
        Some(point) => past.side(point)?,
        None => past.before(&to)?,
    };
    let config = if from.version == to.version {
        String::new()
    } else {
        let (old, new) = (text(&store, id, &from).await?, text(&store, id, &to).await?);
        unified(&old, &new, &config_name(id, &from), &config_name(id, &to))
    };
    let entry = unified(&from.entry, &to.entry, &entry_name(id, &from), &entry_name(id, &to));
    let difference = Difference { id, from: &from, to: &to, same: config.is_empty() && entry.is_empty(), config, entry };
    if context.out.is_json() {
        return context.out.json(&difference);
    }
    if difference.same {
        context.out.note(&format!("no difference between {} and {}", entry_name(id, &from), entry_name(id, &to)));
    }
    context.out.diff(&difference.config)?;
    context.out.diff(&difference.entry)
}

/// What is known of a pipeline's past.
struct Past<'a> {
    id: &'a PipelineId,
    /// Oldest first.
    history: &'a [EntryRecord],
    status: Option<&'a PipelineStatus>,
}

impl Past<'_> {
    fn side(&self, point: &Point) -> Result<Side, Failure> {
        match point {
            Point::Version(version) => Ok(self.of_version(version)),
            Point::Revision(revision) => {
                let found = self.history.iter().find(|record| record.revision == *revision);
                found.map(|record| self.of_record(record)).ok_or_else(|| {
                    let id = self.id;
                    let message = format!(
                        "the entry of pipeline '{id}' has no revision {revision} (any more; `sluice history {id}` shows what is kept)"
                    );
                    Failure::new(Exit::NotFound, message)
                })
            }
        }
    }

    fn of_version(&self, version: &VersionName) -> Side {
        let named = self.history.iter().rev().find(|record| self.version_of(record).as_ref() == Some(version));
        let side = named.map(|record| self.of_record(record)).unwrap_or_default();
        Side { version: Some(version.clone()), ..side }
    }

    fn of_record(&self, record: &EntryRecord) -> Side {
        Side { version: self.version_of(record), revision: Some(record.revision), entry: pretty(record) }
    }

    /// The version that an entry names; one of the first parent stands for the config derived from it.
    fn version_of(&self, record: &EntryRecord) -> Option<VersionName> {
        if let Some(entry) = entry_of(record) {
            return entry.version;
        }
        let fields: Value = serde_json::from_slice(&record.value).unwrap_or_default();
        let derived = fields.get("key").is_some() && fields.get("version").is_none();
        let status = self.status.filter(|status| derived && status.desired.revision == record.revision)?;
        status.desired.version.as_deref().and_then(|version| VersionName::parse(version).ok())
    }

    /// What the entry says now; where there is none, what is admitted.
    fn now(&self) -> Result<Side, Failure> {
        if let Some(newest) = self.history.last().filter(|record| record.operation == Operation::Put) {
            return Ok(self.of_record(newest));
        }
        let admitted = self.status.and_then(admitted).map(|version| self.of_version(version));
        admitted.ok_or_else(|| {
            let id = self.id;
            let message = format!("pipeline '{id}' has no entry now; name what to compare (`sluice history {id}` and `sluice config versions {id}` show what there is)");
            Failure::new(Exit::NotFound, message)
        })
    }

    /// What `to` is compared with by default.
    fn before(&self, to: &Side) -> Result<Side, Failure> {
        if let Some(version) = self.status.and_then(admitted).filter(|version| to.version.as_ref() != Some(*version)) {
            return Ok(self.of_version(version));
        }
        let earlier = self.history.iter().rev().filter(|record| record.operation == Operation::Put);
        let earlier: Vec<Side> =
            earlier.filter(|record| to.revision.is_none_or(|to| record.revision < to)).map(|record| self.of_record(record)).collect();
        let other_version = earlier.iter().find(|side| side.version.is_some() && side.version != to.version);
        let other = other_version.or_else(|| earlier.iter().find(|side| side.entry != to.entry));
        other.cloned().ok_or_else(|| {
            let id = self.id;
            let message = format!("pipeline '{id}' has nothing earlier to compare with (`sluice history {id}` shows what is kept)");
            Failure::new(Exit::NotFound, message)
        })
    }
}

/// The config of a side; empty where its entry names none.
async fn text(store: &Store, id: &PipelineId, side: &Side) -> Result<String, Failure> {
    match &side.version {
        Some(version) => Ok(String::from_utf8_lossy(&read(store, id, version).await?.bytes).into_owned()),
        None => Ok(String::new()),
    }
}

fn pretty(record: &EntryRecord) -> String {
    let mut json: Option<Value> = serde_json::from_slice(&record.value).ok();
    // Another order of the fields is no difference.
    json.iter_mut().for_each(Value::sort_all_objects);
    let pretty = json.and_then(|json| serde_json::to_string_pretty(&json).ok());
    let text = pretty.unwrap_or_else(|| String::from_utf8_lossy(&record.value).into_owned());
    if text.is_empty() { text } else { text + "\n" }
}

fn config_name(id: &PipelineId, side: &Side) -> String {
    side.version.as_ref().map_or_else(|| format!("{id} (no version)"), |version| format!("{id}/{version}"))
}

fn entry_name(id: &PipelineId, side: &Side) -> String {
    match (side.revision, &side.version) {
        (Some(revision), _) => format!("entry {id}@{revision}"),
        (None, Some(version)) => format!("entry {id} (none kept that names {version})"),
        (None, None) => format!("entry {id} (none)"),
    }
}

/// A unified diff; empty where both are the same.
fn unified(old: &str, new: &str, old_name: &str, new_name: &str) -> String {
    if old == new {
        return String::new();
    }
    let lines = InternedInput::new(old, new);
    let mut diff = Diff::compute(Algorithm::Histogram, &lines);
    diff.postprocess_lines(&lines);
    let mut config = UnifiedDiffConfig::default();
    config.context_len(CONTEXT);
    format!("--- {old_name}\n+++ {new_name}\n{}", diff.unified_diff(&BasicLineDiffPrinter(&lines.interner), config, &lines))
}

#[cfg(test)]
mod tests {
    use super::super::status::tests::running;
    use super::*;

    fn record(revision: u64, value: &str) -> EntryRecord {
        let operation = if value.is_empty() { Operation::Delete } else { Operation::Put };
        let (key, value) = ("metrics".to_owned(), value.to_owned().into());
        EntryRecord { key, value, revision, operation, created: jiff::Timestamp::UNIX_EPOCH, confirms: None, discards: false }
    }

    fn published(revision: u64, version: &str) -> EntryRecord {
        record(revision, &format!(r#"{{"status":"published","version":"{version}"}}"#))
    }

    /// From and to, as revisions of the entry, where nothing is named.
    fn compared(history: &[EntryRecord], admitted: Option<&str>) -> (Option<u64>, Option<u64>) {
        let status = admitted.map(|version| running("metrics", version, 1));
        let id = PipelineId::parse("metrics").unwrap();
        let past = Past { id: &id, history, status: status.as_ref() };
        let to = past.now().unwrap();
        (past.before(&to).unwrap().revision, to.revision)
    }

    #[test]
    fn by_default_what_is_admitted_is_compared_with_the_entry_and_else_the_last_two_versions() {
        let history = [published(1, "1"), published(2, "2"), record(3, r#"{"status":"paused","version":"2"}"#)];
        assert_eq!(compared(&history, Some("1")), (Some(1), Some(3)), "what would change");
        assert_eq!(compared(&history, Some("2")), (Some(1), Some(3)), "what has changed");
        assert_eq!(compared(&history, None), (Some(1), Some(3)));
        assert_eq!(compared(&history[1..], Some("2")), (Some(2), Some(3)), "the entry alone");
        let garbage = [published(1, "1"), record(2, "garbage")];
        assert_eq!(compared(&garbage, Some("1")), (Some(1), Some(2)));
    }

    #[test]
    fn a_point_is_a_version_or_a_revision() {
        assert_eq!("@12".parse(), Ok(Point::Revision(12)));
        assert_eq!("3-9f2c41aa".parse(), Ok(Point::Version(VersionName::parse("3-9f2c41aa").unwrap())));
        assert!("@x".parse::<Point>().is_err() && "../x".parse::<Point>().is_err());
    }

    #[test]
    fn what_is_the_same_has_no_diff_and_what_is_not_a_unified_one() {
        assert_eq!(unified("a\n", "a\n", "x", "y"), "");
        assert_eq!(unified("a\nb\n", "a\nc\n", "x", "y"), "--- x\n+++ y\n@@ -1,2 +1,2 @@\n a\n-b\n+c\n");
    }
}
