//! `sluice list`, and the join of entries and status documents that `list` and `status` share.
//!
//! What is shown is keys ∪ status documents: an entry that no controller has read yet is there, and so is a pipeline
//! whose entry is gone. `--output json` prints an array of
//! `{id, name, entry: {status, version, revision}, state, version, trouble, notes}`.

use super::context::Context;
use super::failure::Failure;
use super::output::Tone;
use super::wait::is_ready;
use crate::pipeline::entry::Entry;
use crate::pipeline::first_parent::is_partial;
use crate::pipeline::status::{Condition, ConditionType, Phase, PipelineStatus, Reason};
use crate::store::{EntryRecord, Operation, Store, StoreErrorKind};
use serde::Serialize;
use std::collections::BTreeMap;

/// One pipeline as its entry and its status say.
#[derive(Debug, Default)]
pub struct Overview {
    /// The newest record under the key.
    pub record: Option<EntryRecord>,
    /// The status document.
    pub status: Option<PipelineStatus>,
}

/// The entry in `--output json`.
#[derive(Debug, Serialize)]
pub struct EntryView {
    /// `draft`, `published`, `paused`, `deleted`, `missing` or `unreadable`.
    pub status: String,
    /// The version that it names.
    pub version: Option<String>,
    /// Its revision; 0 where it is missing.
    pub revision: u64,
}

impl Overview {
    /// What the entry asks for.
    pub fn entry(&self) -> EntryView {
        let Some(record) = &self.record else {
            return EntryView { status: "missing".into(), version: None, revision: 0 };
        };
        let entry = |status: &str, version| EntryView { status: status.into(), version, revision: record.revision };
        match record.operation {
            Operation::Delete | Operation::Purge => entry("deleted", None),
            // It went by itself, and what ran goes on.
            Operation::Lapse => entry("missing", None),
            Operation::Put => match Entry::parse(&record.value) {
                // What counts of an entry of the first parent's, and what is derived from it, the status document knows.
                Ok(read) => match self.status.as_ref().filter(|status| status.desired.revision == record.revision) {
                    Some(status) if is_partial(&record.value) => entry(&status.desired.status, status.desired.version.clone()),
                    _ => entry(read.status.as_str(), read.version.map(Into::into)),
                },
                Err(_) => entry("unreadable", None),
            },
        }
    }

    /// A name for people.
    pub fn name(&self) -> Option<String> {
        let entry = self.record.as_ref().and_then(|record| Entry::parse(&record.value).ok()).and_then(|entry| entry.name);
        entry.or_else(|| self.status.as_ref()?.desired.name.clone())
    }

    /// One word for how it is, and how that is meant.
    pub fn state(&self) -> (&'static str, Tone) {
        let Some(status) = &self.status else { return ("pending", Tone::Doubtful) };
        let (admitted, observed) = (&status.admitted, &status.observed);
        match admitted.phase {
            Phase::Run => {
                let exactly = admitted.spec.as_ref().is_some_and(|spec| observed.fingerprint.as_ref() == Some(&spec.fingerprint));
                match (observed.executions > 0 && exactly, is_ready(status) || goes_on(status)) {
                    (true, true) => ("running", Tone::Good),
                    _ if self.trouble().is_some() => ("blocked", Tone::Bad),
                    _ => ("starting", Tone::Doubtful),
                }
            }
            Phase::Switch => ("switching", Tone::Doubtful),
            Phase::Drain => ("draining", Tone::Doubtful),
            _ if observed.executions > 0 => ("stopping", Tone::Doubtful),
            Phase::Stopped => ("stopped", Tone::Faint),
            Phase::Absent => ("absent", Tone::Faint),
        }
    }

    /// The first thing that is wrong, if any.
    pub fn trouble(&self) -> Option<&Condition> {
        self.status.as_ref()?.conditions.iter().filter(|condition| is_trouble(condition)).min_by_key(|condition| condition.kind)
    }

    /// What is doubtful and works.
    pub fn notes(&self) -> Vec<&'static str> {
        notes(self.status.iter().flat_map(|status| &status.conditions))
    }
}

/// Whether a version goes on running although the entry asks for something that cannot be had.
fn goes_on(status: &PipelineStatus) -> bool {
    let is = |kind, holds| status.conditions.iter().any(|condition| condition.kind == kind && condition.status == holds);
    is(ConditionType::Valid, false) && is(ConditionType::Progressing, true)
}

/// Whether something is wrong: a condition that does not hold, for a reason that somebody can remove.
pub fn is_trouble(condition: &Condition) -> bool {
    let asked_for = matches!(condition.reason, Reason::Paused | Reason::Draft);
    condition.kind != ConditionType::Advisory && !condition.status && !asked_for && !condition.reason.remedy().is_empty()
}

/// Whether a condition is advice: something doubtful that works.
pub fn is_note(condition: &Condition) -> bool {
    condition.kind == ConditionType::Advisory && condition.status
}

/// The reasons of the advice, each once.
pub fn notes<'a>(conditions: impl Iterator<Item = &'a Condition>) -> Vec<&'static str> {
    let mut reasons: Vec<_> = conditions.filter(|condition| is_note(condition)).map(|condition| condition.reason.as_str()).collect();
    reasons.dedup();
    reasons
}

/// Everything in the namespace, by key.
pub async fn overviews(store: &Store) -> Result<BTreeMap<String, Overview>, Failure> {
    let mut all: BTreeMap<String, Overview> = BTreeMap::new();
    let records = match store.entries.list().await {
        Err(error) if error.kind() == StoreErrorKind::Missing => Vec::new(),
        result => result?,
    };
    for record in records {
        let key = record.key.clone();
        all.entry(key).or_default().record = Some(record);
    }
    let statuses = match store.status.list().await {
        Err(error) if error.kind() == StoreErrorKind::Missing => Vec::new(),
        result => result?,
    };
    for record in statuses {
        let key = record.status.id.to_string();
        all.entry(key).or_default().status = Some(record.status);
    }
    // A deleted pipeline is of interest while the controller is still cleaning up after it.
    all.retain(|_, overview| {
        overview.status.is_some() || overview.record.as_ref().is_some_and(|record| record.operation == Operation::Put)
    });
    Ok(all)
}

#[derive(Debug, Serialize)]
struct Row {
    id: String,
    name: Option<String>,
    entry: EntryView,
    state: &'static str,
    version: Option<String>,
    trouble: Option<&'static str>,
    notes: Vec<&'static str>,
}

/// `sluice list`.
pub async fn list(context: &Context) -> Result<(), Failure> {
    let store = context.connect().await?;
    let all = overviews(&store).await?;
    if context.out.is_json() {
        let row = |(id, overview): (&String, &Overview)| Row {
            id: id.clone(),
            name: overview.name(),
            entry: overview.entry(),
            state: overview.state().0,
            version: overview.status.as_ref().and_then(|status| status.observed.version.clone()),
            trouble: overview.trouble().map(|condition| condition.reason.as_str()),
            notes: overview.notes(),
        };
        return context.out.json(&all.iter().map(row).collect::<Vec<_>>());
    }
    if all.is_empty() {
        context.must_be_installed(&store).await?;
        context.out.note(&format!("no pipelines in namespace '{}' (`sluice publish ID -f FILE` makes one)", context.settings.namespace));
        return Ok(());
    }
    let rows = all.iter().map(|(id, overview)| {
        let entry = overview.entry();
        let (state, tone) = overview.state();
        let trouble = overview.trouble().map_or(String::new(), |condition| condition.reason.as_str().to_owned());
        vec![
            (id.clone(), Tone::Plain),
            (entry.status, Tone::Plain),
            (state.to_owned(), tone),
            (entry.version.unwrap_or_default(), Tone::Plain),
            (trouble, Tone::Bad),
            (overview.notes().join(" "), Tone::Doubtful),
            (overview.name().unwrap_or_default(), Tone::Faint),
        ]
    });
    context.out.table(&["id", "entry", "state", "version", "trouble", "notes", "name"], rows.collect())
}

#[cfg(test)]
mod tests {
    use super::super::status::tests::{condition, running};
    use super::*;

    fn record(value: &str, operation: Operation) -> EntryRecord {
        let created = jiff::Timestamp::UNIX_EPOCH;
        EntryRecord {
            key: "metrics".into(),
            value: value.to_owned().into(),
            revision: 3,
            operation,
            created,
            confirms: None,
            discards: false,
        }
    }

    #[test]
    fn an_entry_that_no_controller_has_read_is_pending() {
        let overview = Overview { record: Some(record(r#"{"status":"published","version":"1"}"#, Operation::Put)), status: None };
        assert_eq!(overview.state().0, "pending");
        assert_eq!((overview.entry().status.as_str(), overview.entry().version.as_deref()), ("published", Some("1")));
    }

    #[test]
    fn what_is_there_and_cannot_begin_is_blocked_and_what_goes_on_is_running() {
        let state = |conditions| {
            let status = PipelineStatus { conditions, ..running("metrics", "1-0a0b0c0d", 3) };
            Overview { record: None, status: Some(status) }.state().0
        };
        let (valid, ready, progressing) = (ConditionType::Valid, ConditionType::Ready, ConditionType::Progressing);
        assert_eq!(state(vec![condition(ready, true, Reason::AsDesired)]), "running");
        assert_eq!(state(vec![condition(ready, false, Reason::InProgress)]), "starting");
        assert_eq!(state(vec![condition(ready, false, Reason::DatabaseUnavailable)]), "blocked");
        let (old, bad) = (condition(progressing, true, Reason::AsDesired), condition(valid, false, Reason::EntryUnreadable));
        assert_eq!(state(vec![bad.clone(), condition(ready, false, Reason::EntryUnreadable), old]), "running");
        let stuck = condition(progressing, false, Reason::DatabaseUnavailable);
        assert_eq!(state(vec![bad, condition(ready, false, Reason::EntryUnreadable), stuck]), "blocked");
    }

    #[test]
    fn garbage_markers_and_missing_entries_are_told_apart() {
        let status = || Some(running("metrics", "1-0a0b0c0d", 3));
        let entry = |record| Overview { record, status: status() }.entry().status;
        assert_eq!(entry(None), "missing");
        assert_eq!(entry(Some(record("not json", Operation::Put))), "unreadable");
        assert_eq!(entry(Some(record("", Operation::Delete))), "deleted");
        assert_eq!(entry(Some(record("", Operation::Lapse))), "missing");
        assert_eq!(entry(Some(record(r#"{"key":"metrics","subs":[]}"#, Operation::Put))), "published");
        assert_eq!(Overview { record: None, status: status() }.state().0, "running");
    }
}
