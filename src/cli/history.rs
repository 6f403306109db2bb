//! `sluice history ID`: who put what into the entry and when, and what became of the conditions, in one order.
//!
//! The entry's part is what its bucket keeps (64 revisions, unless somebody else made the bucket); the conditions' part is
//! the list in the status document. The author is what the entry says of itself: an edit by hand may carry an old one on.
//!
//! `--output json` prints `{id, entry: [{revision, time, operation, status, version, author, problem}], conditions: [{at,
//! type, status, reason, message, remedy}]}`, each oldest first.

use super::context::Context;
use super::failure::Failure;
use super::output::Tone;
use crate::pipeline::entry::Entry;
use crate::pipeline::history::Transition;
use crate::pipeline::id::PipelineId;
use crate::pipeline::status::ConditionType;
use crate::store::{EntryRecord, Operation};
use clap::Args;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// The pipeline
    id: PipelineId,
    /// Show the newest N lines; JSON has everything
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    limit: u64,
}

/// One revision of the entry.
#[derive(Debug, Serialize)]
struct Put {
    revision: u64,
    time: Timestamp,
    /// `put`, `delete` or `purge`; `lapse` where the server removed it by itself, which deletes no pipeline.
    operation: &'static str,
    /// What it asks for; `derived` for an entry of the first parent that names no status.
    status: Option<String>,
    version: Option<String>,
    author: Option<String>,
    /// Why it cannot be acted on.
    problem: Option<String>,
}

impl Put {
    fn of(record: &EntryRecord) -> Self {
        let operation = match record.operation {
            Operation::Put => "put",
            Operation::Delete => "delete",
            Operation::Purge => "purge",
            Operation::Lapse => "lapse",
        };
        let mut put =
            Self { revision: record.revision, time: record.created, operation, status: None, version: None, author: None, problem: None };
        if record.operation != Operation::Put {
            return put;
        }
        // What can be read is shown even where the entry as a whole cannot be acted on.
        let fields: Value = serde_json::from_slice(&record.value).unwrap_or_default();
        let text = |name: &str| fields.get(name).and_then(Value::as_str).map(str::to_owned);
        (put.status, put.version, put.author) = (text("status"), text("version"), text("author"));
        match Entry::parse(&record.value) {
            Err(error) => put.problem = Some(error.to_string()),
            // What a producer of the Go collector put: the config is derived from it.
            Ok(entry) if entry.producer.is_some() => put.status = put.status.or_else(|| Some("derived".into())),
            Ok(_) => {}
        }
        put
    }

    fn line(&self) -> Vec<(String, Tone)> {
        let version = self.version.as_ref().map_or(String::new(), |version| format!(" version {version}"));
        let (change, tone) = match (self.operation, &self.problem, &self.status) {
            ("delete", ..) => ("deleted".to_owned(), Tone::Doubtful),
            ("purge", ..) => ("purged".to_owned(), Tone::Doubtful),
            ("lapse", ..) => ("went by itself (a TTL or a limit)".to_owned(), Tone::Doubtful),
            (_, Some(problem), _) => (format!("unreadable: {problem}"), Tone::Bad),
            (_, None, status) => (format!("{}{version}", status.as_deref().unwrap_or("-")), Tone::Plain),
        };
        let author = self.author.as_ref().map_or(String::new(), |author| format!("by {author}"));
        line(self.time, format!("entry @{}", self.revision), (change, tone), author)
    }
}

#[derive(Debug, Serialize)]
struct Changed {
    #[serde(flatten)]
    transition: Transition,
    remedy: String,
}

impl Changed {
    fn line(&self) -> Vec<(String, Tone)> {
        let Transition { at, kind, status, reason, message } = &self.transition;
        let (word, tone) = match (kind, status) {
            (ConditionType::Advisory, true) => ("", Tone::Doubtful),
            (ConditionType::Advisory, false) => ("no more ", Tone::Plain),
            (_, true) => ("yes ", Tone::Good),
            (_, false) if self.remedy.is_empty() => ("no ", Tone::Plain),
            (_, false) => ("no ", Tone::Bad),
        };
        let kind = if *kind == ConditionType::Advisory { "Note".to_owned() } else { format!("{kind:?}") };
        line(*at, kind, (format!("{word}{}", reason.as_str()), tone), message.clone())
    }
}

fn line(time: Timestamp, what: String, change: (String, Tone), detail: String) -> Vec<(String, Tone)> {
    vec![(time.strftime("%F %TZ").to_string(), Tone::Plain), (what, Tone::Plain), change, (detail, Tone::Faint)]
}

#[derive(Debug, Serialize)]
struct History {
    id: PipelineId,
    entry: Vec<Put>,
    conditions: Vec<Changed>,
}

/// `sluice history`.
pub async fn history(context: &Context, args: HistoryArgs) -> Result<(), Failure> {
    let store = context.connect().await?;
    let records = context.history(&store, &args.id).await?;
    let status = context.status(&store, &args.id).await?;
    if records.is_empty() && status.is_none() {
        return Err(context.no_pipeline(&args.id));
    }
    let transitions = status.map(|status| status.history).unwrap_or_default();
    let changed = |transition: Transition| Changed { remedy: transition.reason.remedy_for(args.id.as_str(), None), transition };
    let history =
        History { entry: records.iter().map(Put::of).collect(), conditions: transitions.into_iter().map(changed).collect(), id: args.id };
    if context.out.is_json() {
        return context.out.json(&history);
    }
    let puts = history.entry.iter().map(|put| (put.time, put.line()));
    let changes = history.conditions.iter().map(|change| (change.transition.at, change.line()));
    let mut lines: Vec<_> = puts.chain(changes).collect();
    // Stable: what has the same time keeps its order, an edit before what came of it.
    lines.sort_by_key(|(time, _)| *time);
    let skipped = lines.len().saturating_sub(usize::try_from(args.limit).unwrap_or(usize::MAX));
    context.out.table(&["time", "what", "change", "detail"], lines.drain(skipped..).map(|(_, line)| line).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(value: &str, operation: Operation) -> Put {
        let created = Timestamp::UNIX_EPOCH;
        let value = value.to_owned().into();
        Put::of(&EntryRecord { key: "metrics".into(), value, revision: 3, operation, created, confirms: None, discards: false })
    }

    #[test]
    fn an_entry_shows_who_put_what_and_garbage_why_it_is_none() {
        let ours = put(r#"{"status":"published","version":"1-0a","author":"me@here"}"#, Operation::Put);
        assert_eq!(
            (ours.status.as_deref(), ours.version.as_deref(), ours.author.as_deref()),
            (Some("published"), Some("1-0a"), Some("me@here"))
        );
        assert!(put("garbage", Operation::Put).problem.unwrap().contains("not JSON"));
        assert_eq!(put(r#"{"key":"metrics","subs":[]}"#, Operation::Put).status.as_deref(), Some("derived"));
        let half = put(r#"{"status":"published","author":"me@here"}"#, Operation::Put);
        assert!(half.problem.is_some() && half.author.is_some());
        assert_eq!(put("", Operation::Purge).line()[2].0, "purged");
        assert_eq!(put("", Operation::Lapse).line()[2].0, "went by itself (a TTL or a limit)");
    }
}
