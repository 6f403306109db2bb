//! `sluice config show ID[/VERSION]` and `sluice config versions ID`: what lies in the Object Store. Only reads.
//!
//! `show` prints the very bytes, so that `sluice config show metrics > metrics.yml` gives the file that was published;
//! JSON: `{id, version, digest, config}`. JSON of `versions`: `[{version, digest, bytes, stored, uses: […]}]`, oldest
//! first, with `uses` out of `entry`, `admitted`, `running`, `last_good` and `proven`.

use super::context::Context;
use super::failure::{Exit, Failure};
use super::output::Tone;
use super::publish::entry_of;
use crate::pipeline::id::{PipelineId, VersionName};
use crate::pipeline::status::PipelineStatus;
use crate::store::{Store, StoreErrorKind, StoredConfig, VersionInfo};
use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde::Serialize;
use std::str::FromStr;

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print a config as it was published
    Show(ShowArgs),
    /// List the stored versions of a pipeline's config, and what each is in use for
    Versions(VersionsArgs),
}

#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The pipeline, and perhaps a version; without it, the one that the entry names
    #[arg(value_name = "ID[/VERSION]")]
    config: ConfigName,
}

#[derive(Debug, Args)]
pub struct VersionsArgs {
    /// The pipeline
    id: PipelineId,
}

/// `ID` or `ID/VERSION`.
#[derive(Debug, Clone)]
struct ConfigName {
    id: PipelineId,
    version: Option<VersionName>,
}

impl FromStr for ConfigName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (id, version) = text.split_once('/').map_or((text, None), |(id, version)| (id, Some(version)));
        let id = PipelineId::parse(id).map_err(|error| error.to_string())?;
        let version = version.map(VersionName::parse).transpose().map_err(|error| error.to_string())?;
        Ok(Self { id, version })
    }
}

#[derive(Debug, Serialize)]
struct Shown<'a> {
    id: &'a PipelineId,
    version: &'a VersionName,
    digest: &'a str,
    config: &'a str,
}

#[derive(Debug, Serialize)]
struct Row {
    version: VersionName,
    digest: String,
    bytes: u64,
    stored: Timestamp,
    uses: Vec<&'static str>,
}

/// `sluice config`.
pub async fn config(context: &Context, command: ConfigCommand) -> Result<(), Failure> {
    let store = context.connect().await?;
    match command {
        ConfigCommand::Show(args) => show(context, &store, &args.config).await,
        ConfigCommand::Versions(args) => versions(context, &store, &args.id).await,
    }
}

async fn show(context: &Context, store: &Store, name: &ConfigName) -> Result<(), Failure> {
    let id = &name.id;
    let version = match &name.version {
        Some(version) => version.clone(),
        None => current(context, store, id).await?,
    };
    let stored = read(store, id, &version).await?;
    if !context.out.is_json() {
        return context.out.content(&stored.bytes);
    }
    let config = String::from_utf8_lossy(&stored.bytes);
    context.out.json(&Shown { id, version: &version, digest: &stored.digest, config: &config })
}

/// The version that the entry names; where it names none, the admitted one.
async fn current(context: &Context, store: &Store, id: &PipelineId) -> Result<VersionName, Failure> {
    let record = context.record(store, id).await?;
    let status = context.status(store, id).await?;
    if record.is_none() && status.is_none() {
        return Err(context.no_pipeline(id));
    }
    let named = record.as_ref().and_then(entry_of).and_then(|entry| entry.version);
    let admitted = || status.as_ref().and_then(admitted).cloned();
    named.or_else(admitted).ok_or_else(|| {
        let message = format!("the entry of pipeline '{id}' names no version (`sluice config versions {id}` shows what is stored)");
        Failure::new(Exit::NotFound, message)
    })
}

/// The version that the holder admitted.
pub fn admitted(status: &PipelineStatus) -> Option<&VersionName> {
    status.admitted.spec.as_ref().map(|spec| &spec.version)
}

/// The config `{id}/{version}`.
pub async fn read(store: &Store, id: &PipelineId, version: &VersionName) -> Result<StoredConfig, Failure> {
    store.configs.get(id, version).await.map_err(|error| match error.kind() {
        StoreErrorKind::Missing => {
            let message = format!("version '{version}' of pipeline '{id}' is not stored (`sluice config versions {id}` shows which are)");
            Failure::new(Exit::NotFound, message)
        }
        _ => error.into(),
    })
}

async fn versions(context: &Context, store: &Store, id: &PipelineId) -> Result<(), Failure> {
    let infos = context.versions(store, id).await?;
    let record = context.record(store, id).await?;
    let status = context.status(store, id).await?;
    if infos.is_empty() && record.is_none() && status.is_none() {
        return Err(context.no_pipeline(id));
    }
    let named = record.as_ref().and_then(entry_of).and_then(|entry| entry.version);
    let rows: Vec<Row> = infos.into_iter().map(|info| row(info, named.as_ref(), status.as_ref())).collect();
    if context.out.is_json() {
        return context.out.json(&rows);
    }
    if rows.is_empty() {
        context.out.note(&format!("no config of pipeline '{id}' is stored (`sluice publish {id} -f FILE` stores one)"));
        return Ok(());
    }
    let cells = |row: &Row| {
        let tone = if row.uses.contains(&"running") { Tone::Good } else { Tone::Plain };
        vec![
            (row.version.to_string(), tone),
            (row.stored.strftime("%F %TZ").to_string(), Tone::Plain),
            (row.bytes.to_string(), Tone::Plain),
            (row.uses.join(" "), Tone::Plain),
            (row.digest.clone(), Tone::Faint),
        ]
    };
    context.out.table(&["version", "stored", "bytes", "uses", "digest"], rows.iter().map(cells).collect())
}

fn row(info: VersionInfo, named: Option<&VersionName>, status: Option<&PipelineStatus>) -> Row {
    let is = |test: fn(&PipelineStatus, &VersionInfo) -> bool| status.is_some_and(|status| test(status, &info));
    let uses = [
        ("entry", named == Some(&info.version)),
        ("admitted", is(|status, info| admitted(status) == Some(&info.version))),
        ("running", is(|status, info| status.observed.version.as_deref() == Some(info.version.as_str()))),
        ("last_good", is(|status, info| status.kept.last_good.as_ref().is_some_and(|(good, _)| *good == info.version))),
        ("proven", is(|status, info| status.kept.proven.contains(&info.digest))),
    ];
    let uses = uses.into_iter().filter(|(_, is)| *is).map(|(name, _)| name).collect();
    Row { version: info.version, digest: info.digest, bytes: info.size, stored: info.stored, uses }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_is_named_with_or_without_its_version() {
        let parse = |text: &str| ConfigName::from_str(text).map(|name| (name.id.to_string(), name.version.map(|v| v.to_string())));
        assert_eq!(parse("metrics"), Ok(("metrics".into(), None)));
        assert_eq!(parse("metrics/3-9f2c41aa"), Ok(("metrics".into(), Some("3-9f2c41aa".into()))));
        for bad in ["", "/1", "metrics/", "metrics/../x", "a/b/c"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
