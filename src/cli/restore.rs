//! `sluice restore ID`: the way out where an entry was broken or deleted by mistake.
//!
//! Puts back the newest entry that can be read, as it stands in the bucket's history, also after a delete: name, labels,
//! replicas, status and version as they were. Where the history holds none (a purge, a bucket made anew), the entry that the
//! status keeps. An edit like any other, by compare-and-set, so it undoes nothing that somebody else did meanwhile. With
//! `--revision N` exactly that revision is put back, which also undoes a good edit.

use super::context::Context;
use super::edit::{author, done, put};
use super::failure::{Exit, Failure};
use super::publish::entry_of;
use super::wait::{DEFAULT_WAIT, Goal, parse_duration, wait};
use crate::pipeline::entry::{Edit, Entry, EntryStatus, edited};
use crate::pipeline::id::PipelineId;
use crate::store::EntryRecord;
use bytes::Bytes;
use clap::Args;
use std::time::Duration;

#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The pipeline
    id: PipelineId,
    /// The revision to put back, as `sluice history ID` shows them; without it, the newest one that can be read
    #[arg(long, value_name = "N")]
    revision: Option<u64>,
    /// Wait until it has taken effect; `--wait=5m` sets how long
    #[arg(long, value_name = "DURATION", num_args = 0..=1, require_equals = true, default_missing_value = DEFAULT_WAIT, value_parser = parse_duration)]
    wait: Option<Duration>,
}

/// `sluice restore`.
pub async fn restore(context: &Context, args: RestoreArgs) -> Result<(), Failure> {
    let id = &args.id;
    let store = context.connect().await?;
    let history = context.history(&store, id).await?;
    let status = context.status(&store, id).await?;
    let newest = history.last();
    if newest.is_none() && status.is_none() {
        return Err(context.no_pipeline(id));
    }
    let restored = match args.revision {
        Some(revision) => Some(chosen(id, &history, revision)?),
        None => match newest.filter(|record| entry_of(record).is_some()) {
            Some(record) => {
                let message = format!(
                    "the entry of '{id}' can be read (revision {}): nothing to restore (`sluice history {id}` shows earlier ones, --revision N puts one back)",
                    record.revision
                );
                return nothing(context, &message);
            }
            None => history.iter().rev().find(|record| entry_of(record).is_some()).map(|record| record.value.clone()),
        },
    };
    let kept = || status.as_ref().and_then(|status| status.kept.entry.clone()).map(Bytes::from);
    let Some(value) = restored.or_else(kept) else {
        let message = format!(
            "neither the bucket's history nor the status holds an entry of '{id}' that can be read (`sluice config versions {id}` shows the stored configs, `sluice publish {id} -f FILE` makes a new entry)"
        );
        return Err(Failure::new(Exit::NotFound, message));
    };
    let entry = Entry::parse(&value).map_err(|error| Failure::new(Exit::Invalid, format!("the entry that was kept of '{id}': {error}")))?;
    let value = Bytes::from(edited(Some(&value), &Edit { author: Some(author()), ..Edit::default() }));
    let revision = put(context, &store, id, value, newest.map_or(0, |record| record.revision)).await?;
    if let Some(version) = &entry.version
        && !context.versions(&store, id).await?.iter().any(|stored| stored.version == *version)
    {
        let place = format!("version '{version}' of '{id}' is not stored any more");
        context.out.note(&format!("{place}: the entry names it and cannot run (`sluice publish {id} -f FILE` stores a config)"));
    }
    if let Some(limit) = args.wait {
        let goal = match entry.status {
            EntryStatus::Published => Goal::Running(entry.version.clone()),
            EntryStatus::Paused => Goal::Stopped,
            EntryStatus::Draft => Goal::Absent,
        };
        wait(&store, id, revision, &goal, limit).await?;
    }
    done(context, id, entry.status.as_str(), entry.version.as_ref(), Some(revision))
}

fn nothing(context: &Context, message: &str) -> Result<(), Failure> {
    context.out.note(message);
    Ok(())
}

/// The value of the revision that was asked for, which must be one that can be read.
fn chosen(id: &PipelineId, history: &[EntryRecord], revision: u64) -> Result<Bytes, Failure> {
    let record = history.iter().find(|record| record.revision == revision).ok_or_else(|| {
        let kept = history.iter().map(|record| record.revision.to_string()).collect::<Vec<_>>().join(", ");
        Failure::new(Exit::NotFound, format!("the history of '{id}' has no revision {revision} (kept: {kept})"))
    })?;
    if entry_of(record).is_none() {
        let message = format!("revision {revision} of '{id}' is no entry that can be read (`sluice history {id}` says why)");
        return Err(Failure::new(Exit::Invalid, message));
    }
    Ok(record.value.clone())
}
