//! `sluice publish`: lint, store an immutable object, then edit the entry by compare-and-set on its revision.
//!
//! The order matters: an entry never names a version that is not stored yet. A racing edit makes the second one fail
//! instead of undoing the first.

use super::context::Context;
use super::edit::{author, counting, write};
use super::failure::{Exit, Failure};
use super::wait::{DEFAULT_WAIT, Goal, parse_duration, wait};
use crate::pipeline::config::{self, LintContext, MAX_CONFIG_BYTES};
use crate::pipeline::entry::{Edit, Entry, EntryStatus};
use crate::pipeline::first_parent::{is_derived, is_partial};
use crate::pipeline::id::{PipelineId, VersionName};
use crate::pipeline::problem::{Problems, Severity, has_errors};
use crate::pipeline::spec::hex;
use crate::store::{EntryRecord, Operation, Store, VersionInfo};
use base64::Engine;
use bytes::Bytes;
use clap::Args;
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Args)]
pub struct PublishArgs {
    /// The pipeline
    id: PipelineId,
    /// The config to store as a new version; without it, the entry's version is published again, or the newest stored
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// A name for people
    #[arg(long)]
    name: Option<String>,
    /// A description for people
    #[arg(long)]
    description: Option<String>,
    /// How many executions, where the executor has replicas
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    replicas: Option<u32>,
    /// Wait until exactly this version runs; `--wait=5m` sets how long
    #[arg(long, value_name = "DURATION", num_args = 0..=1, require_equals = true, default_missing_value = DEFAULT_WAIT, value_parser = parse_duration)]
    wait: Option<Duration>,
}

/// What `publish` and the other edits print as JSON: `{"id","status","version","revision"}`.
#[derive(Debug, Serialize)]
pub struct Edited<'a> {
    /// The pipeline.
    pub id: &'a PipelineId,
    /// `published`, `paused`, `draft` or `deleted`.
    pub status: &'a str,
    /// The version that the entry names now.
    pub version: Option<&'a str>,
    /// The entry's revision; `null` for a deletion.
    pub revision: Option<u64>,
}

pub async fn publish(context: &Context, args: PublishArgs) -> Result<(), Failure> {
    let config = match &args.file {
        Some(file) => Some(checked_config(context, &args.id, file).await?),
        None => None,
    };
    let store = context.connect().await?;
    let record = context.installed(&store, &args.id).await?;
    let version = match config {
        Some(bytes) => Some(stored(&store, &args.id, bytes).await?),
        None => version_again(context, &store, &args.id, record.as_ref()).await?,
    };
    let edit = Edit {
        status: Some(EntryStatus::Published),
        version: version.clone(),
        name: args.name,
        description: args.description,
        replicas: args.replicas,
        give_up: None,
        author: Some(author()),
    };
    let revision = write(context, &store, &args.id, record.as_ref(), &edit).await?;
    let name = version.map(|(version, _)| version);
    if let Some(limit) = args.wait {
        context.out.note(&format!("waiting until {} runs …", name.as_ref().map_or("it", VersionName::as_str)));
        wait(&store, &args.id, revision, &Goal::Running(name.clone()), limit).await?;
    }
    if context.out.is_json() {
        let version = name.as_ref().map(VersionName::as_str);
        context.out.json(&Edited { id: &args.id, status: "published", version, revision: Some(revision) })
    } else {
        let what = name.map_or(String::new(), |version| format!(" version {version}"));
        let state = if args.wait.is_some() { "running" } else { "published" };
        context.out.line(&format!("{}{what} {state} (revision {revision})", args.id))
    }
}

/// Reads and lints the config; warnings are shown, errors end the command before anything is written.
async fn checked_config(context: &Context, id: &PipelineId, file: &PathBuf) -> Result<Bytes, Failure> {
    let shown = file.display().to_string();
    let bytes = tokio::fs::read(file)
        .await
        .map_err(|error| Failure::new(Exit::Invalid, format!("{shown}: cannot be read: {error} (check the path and its permissions)")))?;
    if bytes.len() > MAX_CONFIG_BYTES {
        let message = format!("{shown}: {} bytes, and a config may have {MAX_CONFIG_BYTES} (1 MiB)", bytes.len());
        return Err(Failure::new(Exit::Invalid, message));
    }
    // Without a settings file the names of the controller's connections are not known here; the controller checks them.
    let connections = context.file.as_ref().map(|_| context.settings.mongodb.connections.keys().cloned().collect());
    let lint = LintContext { names: Some(context.settings.names()), id: Some(id.clone()), connections };
    let (_, problems) = config::lint(&shown, &bytes, &lint);
    if has_errors(&problems) {
        return Err(Problems(problems).into());
    }
    for problem in problems.iter().filter(|problem| problem.severity == Severity::Warning) {
        context.out.warn(problem);
    }
    Ok(bytes.into())
}

/// Stores `bytes` as the next version, or finds that the newest version has these very bytes.
async fn stored(store: &Store, id: &PipelineId, bytes: Bytes) -> Result<(VersionName, String), Failure> {
    let versions = store.configs.versions(id).await?;
    let hash = Sha256::digest(&bytes);
    let digest = format!("SHA-256={}", base64::engine::general_purpose::URL_SAFE.encode(hash));
    if let Some(newest) = newest_published(&versions).filter(|newest| newest.digest == digest) {
        return Ok((newest.version.clone(), digest));
    }
    let number = versions.iter().filter_map(|version| number(&version.version)).max().unwrap_or(0) + 1;
    let version = VersionName::parse(&format!("{number}-{}", hex(&hash[..4])))?;
    let digest = store.configs.put(id, &version, bytes).await?;
    Ok((version, digest))
}

/// The version to publish where no config is given: the entry's own, else the newest that is stored. `None` for an
/// entry of the first parent, which has a `key` and no version.
async fn version_again(
    context: &Context,
    store: &Store,
    id: &PipelineId,
    record: Option<&EntryRecord>,
) -> Result<Option<(VersionName, String)>, Failure> {
    let value = match record.filter(|record| record.operation == Operation::Put) {
        Some(record) => Some(counting(store, id, record).await?),
        None => None,
    };
    if value.as_ref().is_some_and(|value| is_partial(value)) {
        return Ok(None);
    }
    let fields: serde_json::Value = value.as_ref().and_then(|value| serde_json::from_slice(value).ok()).unwrap_or_default();
    let versions = store.configs.versions(id).await?;
    let named = fields.get("version").and_then(|version| version.as_str());
    let found = match named {
        Some(name) => Some(versions.iter().find(|version| version.version.as_str() == name).ok_or_else(|| {
            let message = format!("version '{name}' of pipeline '{id}' is not stored (give the config with -f, or `sluice rollback {id}`)");
            Failure::new(Exit::NotFound, message)
        })?),
        None => newest_published(&versions),
    };
    match found {
        Some(found) => Ok(Some((found.version.clone(), found.digest.clone()))),
        None if value.is_none() => {
            let mut failure = context.no_pipeline(id).to_string();
            failure.push_str("; give its config with -f to make one");
            Err(Failure::new(Exit::NotFound, failure))
        }
        None => Err(Failure::new(Exit::NotFound, format!("pipeline '{id}' has no stored config (give one with -f)"))),
    }
}

/// The number that `publish` gave a version, `3` of `3-9f2c41aa`.
pub fn number(version: &VersionName) -> Option<u64> {
    let (number, digest) = version.as_str().split_once('-')?;
    (digest.len() == 8 && digest.bytes().all(|b| b.is_ascii_hexdigit())).then(|| number.parse().ok())?
}

/// The version with the highest number, else the one stored last; derived ones are nobody's publication.
fn newest_published(versions: &[VersionInfo]) -> Option<&VersionInfo> {
    let published = versions.iter().filter(|version| !is_derived(&version.version));
    published.enumerate().max_by_key(|(index, version)| (number(&version.version).unwrap_or(0), *index)).map(|(_, version)| version)
}

/// For messages about entries that cannot be read.
pub fn entry_of(record: &EntryRecord) -> Option<Entry> {
    (record.operation == Operation::Put).then(|| Entry::parse(&record.value).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(name: &str) -> VersionInfo {
        VersionInfo { version: VersionName::parse(name).unwrap(), digest: String::new(), size: 0, stored: jiff::Timestamp::UNIX_EPOCH }
    }

    #[test]
    fn numbers_are_read_from_our_own_versions_only() {
        for (name, expected) in
            [("3-9f2c41aa", Some(3)), ("12-00000000", Some(12)), ("3", None), ("3-9f", None), ("derived-9f2c41aa", None)]
        {
            assert_eq!(number(&VersionName::parse(name).unwrap()), expected, "{name}");
        }
    }

    #[test]
    fn the_newest_version_has_the_highest_number_whatever_was_stored_last() {
        let versions = [version("10-0a0b0c0d"), version("9-0a0b0c0d"), version("mine"), version("derived-0a0b0c0d")];
        assert_eq!(newest_published(&versions).unwrap().version.as_str(), "10-0a0b0c0d");
        assert_eq!(newest_published(&versions[2..]).unwrap().version.as_str(), "mine");
        assert!(newest_published(&versions[3..]).is_none());
    }
}
