//! The edits of an entry: `pause`, `draft`, `delete`, `rollback`, each by compare-and-set on the entry's revision.

use super::context::Context;
use super::facts::Facts;
use super::failure::{Exit, Failure};
use super::publish::{Edited, entry_of};
use super::wait::{DEFAULT_WAIT, Goal, parse_duration, wait, wait_gone};
use crate::pipeline::config::OnDelete;
use crate::pipeline::entry::{Edit, Entry, EntryStatus, edited, same_but_author};
use crate::pipeline::first_parent::{is_derived, is_partial};
use crate::pipeline::id::{PipelineId, VersionName};
use crate::pipeline::status::{Phase, PipelineStatus};
use crate::store::{Deletion, EntryRecord, Operation, Store, StoreErrorKind, VersionInfo};
use bytes::Bytes;
use clap::Args;
use std::io::IsTerminal;
use std::time::Duration;

#[derive(Debug, Args)]
pub struct EditArgs {
    /// The pipeline
    id: PipelineId,
    /// Wait until it has taken effect; `--wait=5m` sets how long
    #[arg(long, value_name = "DURATION", num_args = 0..=1, require_equals = true, default_missing_value = DEFAULT_WAIT, value_parser = parse_duration)]
    wait: Option<Duration>,
}

#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// The pipeline
    id: PipelineId,
    /// Destroy what waits in the stream instead of writing it; also where a deletion is under way and its rest cannot be written
    #[arg(long)]
    discard: bool,
    /// Do not ask; without a terminal nobody is asked anyway
    #[arg(long, short)]
    yes: bool,
    /// Wait until nothing is left of it, or what is left is to be kept; `--wait=5m` sets how long
    #[arg(long, value_name = "DURATION", num_args = 0..=1, require_equals = true, default_missing_value = DEFAULT_WAIT, value_parser = parse_duration)]
    wait: Option<Duration>,
}

#[derive(Debug, Args)]
pub struct RollbackArgs {
    /// The pipeline
    id: PipelineId,
    /// The version to go back to; without it, the last good one, or the one that was published before the current one
    version: Option<VersionName>,
    /// Wait until exactly this version runs; `--wait=5m` sets how long
    #[arg(long, value_name = "DURATION", num_args = 0..=1, require_equals = true, default_missing_value = DEFAULT_WAIT, value_parser = parse_duration)]
    wait: Option<Duration>,
}

pub async fn pause(context: &Context, args: EditArgs) -> Result<(), Failure> {
    set_status(context, args, EntryStatus::Paused, &Goal::Stopped).await
}

pub async fn draft(context: &Context, args: EditArgs) -> Result<(), Failure> {
    set_status(context, args, EntryStatus::Draft, &Goal::Absent).await
}

async fn set_status(context: &Context, args: EditArgs, status: EntryStatus, goal: &Goal) -> Result<(), Failure> {
    let store = context.connect().await?;
    let record = context.existing(&store, &args.id).await?;
    let edit = Edit { status: Some(status), author: Some(author()), ..Edit::default() };
    let revision = write(context, &store, &args.id, Some(&record), &edit).await?;
    if let Some(limit) = args.wait {
        wait(&store, &args.id, revision, goal, limit).await?;
    }
    let version = Entry::parse(&counting(&store, &args.id, &record).await?).ok().and_then(|entry| entry.version);
    done(context, &args.id, status.as_str(), version.as_ref(), Some(revision))
}

/// `sluice delete`: a delete marker. It also confirms the deletion of an entry that went missing without one.
pub async fn delete(context: &Context, args: DeleteArgs) -> Result<(), Failure> {
    let id = &args.id;
    let store = context.connect().await?;
    let record = context.record(&store, id).await?;
    let status = match store.status.get(id).await {
        Err(error) if error.kind() == StoreErrorKind::Missing => None,
        // A document that cannot be read is no reason not to delete what it speaks of.
        Err(error) if !error.retry() => None,
        result => result?.map(|record| record.status),
    };
    let there = record.as_ref().is_some_and(|record| record.operation == Operation::Put);
    if !there && status.is_none() {
        context.must_be_installed(&store).await?;
        return Err(context.no_pipeline(id));
    }
    // A marker that is there already counts only where no bucket was made anew since; a second one does no harm.
    let fate = fate(context, &store, &args, status.as_ref()).await?;
    if !args.yes && context.out.is_terminal() && std::io::stdin().is_terminal() {
        if !context.out.confirm(&format!("Delete pipeline '{id}'? {fate}."))? {
            return Err(Failure::new(Exit::Failed, "nothing was deleted"));
        }
    } else {
        context.out.note(&fate);
    }
    let expected = record.map_or(0, |record| record.revision);
    if let Err(error) = store.entries.bucket_created().await {
        if error.kind() != StoreErrorKind::Missing {
            return Err(error.into());
        }
        let bucket = store.names.entries();
        let message = format!(
            "the bucket '{bucket}' is gone, and with it the place for the deletion of '{id}' (a running `sluice run` makes it anew within 30 s; then delete again)"
        );
        return Err(Failure::new(Exit::Failed, message));
    }
    // Where the bucket was made anew, a marker counts only because it names the bucket that is meant.
    let deletion = Deletion { confirms: status.as_ref().and_then(|status| status.kept.bucket_created), discards: args.discard };
    store.entries.delete(id, &deletion, expected).await?;
    if let Some(limit) = args.wait {
        context.out.note(&format!("waiting until '{id}' is gone …"));
        wait_gone(context, &store, id, status.as_ref(), limit).await?;
    }
    done(context, id, "deleted", None, None)
}

/// What becomes of what waits, for the question and for whoever is not asked.
async fn fate(context: &Context, store: &Store, args: &DeleteArgs, status: Option<&PipelineStatus>) -> Result<String, Failure> {
    let Some(messages) = Facts::of(context, store, &args.id, status).await?.lag else { return Ok("There is no stream".to_owned()) };
    let stream = if messages == 1 { "1 message".to_owned() } else { format!("{messages} messages") };
    let wait = if messages == 1 { "waits" } else { "wait" };
    let on_delete = status.map_or(context.settings.pipelines.on_delete, |status| status.kept.on_delete);
    let runs = status.is_some_and(|status| matches!(status.admitted.phase, Phase::Run | Phase::Switch | Phase::Drain));
    Ok(match (args.discard, on_delete) {
        (true, _) => format!("{stream} {wait} in its stream and will be destroyed with it (--discard)"),
        (false, OnDelete::Delete) => format!("{stream} {wait} in its stream and will be destroyed with it (`on_delete: delete`)"),
        (false, OnDelete::Keep) => format!("{stream} {wait} in its stream, which stays (`on_delete: keep`)"),
        (false, OnDelete::Drain) if messages == 0 => "Nothing waits in its stream, which goes".to_owned(),
        (false, OnDelete::Drain) if runs => format!("{stream} {wait} in its stream: they are written first, then the stream goes"),
        (false, OnDelete::Drain) => {
            format!("{stream} {wait} in its stream and nothing runs: the stream stays (`sluice publish {}` first writes them)", args.id)
        }
    })
}

/// `sluice rollback`: the entry names an earlier version again; its status stays as it is.
pub async fn rollback(context: &Context, args: RollbackArgs) -> Result<(), Failure> {
    let id = &args.id;
    let store = context.connect().await?;
    let record = context.existing(&store, id).await?;
    let versions = match store.configs.versions(id).await {
        Err(error) if error.kind() == StoreErrorKind::Missing => Vec::new(),
        result => result?,
    };
    let entry = Entry::parse(&counting(&store, id, &record).await?).ok();
    let status = match store.status.get(id).await {
        // Only a hint: the history alone decides then.
        Err(_) => None,
        Ok(record) => record.map(|record| record.status),
    };
    let derived = || Some(status.as_ref()?.kept.derived.as_ref()?.version.clone());
    let current = entry.as_ref().and_then(|entry| entry.version.clone().or_else(derived));
    let target = match &args.version {
        Some(version) => versions.iter().find(|info| info.version == *version).ok_or_else(|| {
            let stored: Vec<&str> = versions.iter().map(|info| info.version.as_str()).collect();
            let message = format!("version '{version}' of pipeline '{id}' is not stored (stored: {})", or_none(&stored.join(", ")));
            Failure::new(Exit::NotFound, message)
        })?,
        None => {
            let history = store.entries.history(id).await?;
            let mut published: Vec<VersionName> = history.iter().filter_map(entry_of).filter_map(|entry| entry.version).collect();
            // What was derived from an entry was published by it.
            if history.iter().any(|record| is_partial(&record.value)) {
                published.extend(versions.iter().map(|info| info.version.clone()).filter(is_derived));
            }
            let good = status.as_ref().and_then(|status| status.kept.last_good.clone()).map(|(version, _)| version);
            earlier(&versions, &published, current.as_ref(), good.as_ref()).ok_or_else(|| {
                let message =
                    format!("pipeline '{id}' has no earlier version to go back to (`sluice publish {id} -f FILE` stores a new one)");
                Failure::new(Exit::NotFound, message)
            })?
        }
    };
    let version = target.version.clone();
    // An entry that cannot be read has no status to keep: going back means running again.
    let status = entry.is_none().then_some(EntryStatus::Published);
    let edit = Edit { status, version: Some((version.clone(), target.digest.clone())), author: Some(author()), ..Edit::default() };
    let revision = write(context, &store, id, Some(&record), &edit).await?;
    let status = entry.map_or(EntryStatus::Published, |entry| entry.status);
    if let (Some(limit), EntryStatus::Published) = (args.wait, status) {
        wait(&store, id, revision, &Goal::Running(Some(version.clone())), limit).await?;
    }
    done(context, id, status.as_str(), Some(&version), Some(revision))
}

/// The version to go back to: the last good one where the current one is newer than it, else the newest that was ever
/// published and was stored before the current one. Doing it twice goes back twice.
fn earlier<'a>(
    versions: &'a [VersionInfo],
    published: &[VersionName],
    current: Option<&VersionName>,
    good: Option<&VersionName>,
) -> Option<&'a VersionInfo> {
    let position = current.and_then(|current| versions.iter().position(|info| info.version == *current));
    let before = &versions[..position.unwrap_or(versions.len())];
    let good = before.iter().find(|info| Some(&info.version) == good);
    good.or_else(|| before.iter().rev().find(|info| published.contains(&info.version)))
}

/// The entry that counts where `record` is the newest: a producer of the first parent may have put its own over one of ours.
pub async fn counting(store: &Store, id: &PipelineId, record: &EntryRecord) -> Result<Bytes, Failure> {
    if !is_partial(&record.value) {
        return Ok(record.value.clone());
    }
    let status = match store.status.get(id).await {
        Err(error) if error.retry() => return Err(error.into()),
        // Missing or unreadable: the history alone tells.
        result => result.ok().flatten().map(|record| record.status),
    };
    let created = store.entries.bucket_created().await?;
    let kept = status.as_ref().and_then(|status| status.kept.counted(created));
    Ok(store.entries.effective(id, record, kept).await?)
}

/// Writes the edited entry where nobody else has written since `record` was read, and returns the new revision. Where the
/// edit changes nothing, nothing is written, and the revision is the one that is there: a bucket keeps 64 of a key.
pub async fn write(context: &Context, store: &Store, id: &PipelineId, record: Option<&EntryRecord>, edit: &Edit) -> Result<u64, Failure> {
    let old = match record.filter(|record| record.operation == Operation::Put) {
        Some(record) => Some(counting(store, id, record).await?),
        None => None,
    };
    let value = Bytes::from(edited(old.as_deref(), edit));
    if let Some(record) = record.filter(|record| record.operation == Operation::Put && same_but_author(&record.value, &value)) {
        context.out.note(&format!("the entry of '{id}' says so already: nothing to do"));
        return Ok(record.revision);
    }
    put(context, store, id, value, record.map_or(0, |record| record.revision)).await
}

/// Puts an entry where its newest revision is still `expected`, and returns the new one.
pub async fn put(context: &Context, store: &Store, id: &PipelineId, value: Bytes, expected: u64) -> Result<u64, Failure> {
    store.entries.put(id, value, expected).await.map_err(|error| match error.kind() {
        StoreErrorKind::Conflict => {
            let message = format!("pipeline '{id}' was edited by somebody else meanwhile; nothing was changed (look with `sluice status {id}`, then try again)");
            Failure::new(Exit::Conflict, message)
        }
        StoreErrorKind::Missing => context.no_pipeline(id),
        _ => error.into(),
    })
}

pub fn done(context: &Context, id: &PipelineId, status: &str, version: Option<&VersionName>, revision: Option<u64>) -> Result<(), Failure> {
    if context.out.is_json() {
        return context.out.json(&Edited { id, status, version: version.map(VersionName::as_str), revision });
    }
    let version = version.map_or(String::new(), |version| format!(" version {version}"));
    let revision = revision.map_or(String::new(), |revision| format!(" (revision {revision})"));
    context.out.line(&format!("{id}{version} {status}{revision}"))
}

/// Who edits, for the entry's history: `user@host`.
pub fn author() -> String {
    let user = ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok()).filter(|user| !user.is_empty());
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| std::env::var("HOSTNAME").ok());
    let host = host.map(|host| host.trim().to_owned()).filter(|host| !host.is_empty());
    format!("{}@{}", user.as_deref().unwrap_or("unknown"), host.as_deref().unwrap_or("unknown"))
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "none" } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(version: &str) -> VersionName {
        VersionName::parse(version).unwrap()
    }

    fn infos(names: &[&str]) -> Vec<VersionInfo> {
        let info =
            |version: &&str| VersionInfo { version: name(version), digest: String::new(), size: 0, stored: jiff::Timestamp::UNIX_EPOCH };
        names.iter().map(info).collect()
    }

    #[test]
    fn rolling_back_twice_goes_back_two_versions() {
        let versions = infos(&["1", "2", "3"]);
        let published = [name("1"), name("2"), name("3"), name("2")];
        let find =
            |current: &str| earlier(&versions, &published, Some(&name(current)), Some(&name(current))).map(|info| info.version.to_string());
        assert_eq!(find("3").as_deref(), Some("2"));
        assert_eq!(find("2").as_deref(), Some("1"));
        assert_eq!(find("1"), None);
    }

    #[test]
    fn versions_that_were_never_good_or_never_published_are_passed_over() {
        let versions = infos(&["1", "2", "3", "4"]);
        let published = [name("1"), name("2"), name("3"), name("4")];
        assert_eq!(earlier(&versions, &published, Some(&name("4")), Some(&name("1"))).unwrap().version, name("1"));
        assert_eq!(earlier(&versions, &published[..1], Some(&name("4")), None).unwrap().version, name("1"));
        assert_eq!(earlier(&versions, &published, Some(&name("gone")), None).unwrap().version, name("4"));
    }

    #[test]
    fn the_author_is_a_user_at_a_host() {
        let author = author();
        assert!(author.split_once('@').is_some_and(|(user, host)| !user.is_empty() && !host.is_empty()), "{author}");
    }
}
