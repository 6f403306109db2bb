//! What commands work with: settings, output, and a connection to NATS that gives up after a while.

use super::failure::{Exit, Failure};
use super::output::Output;
use crate::pipeline::id::PipelineId;
use crate::pipeline::problem::Problem;
use crate::pipeline::status::PipelineStatus;
use crate::settings::Settings;
use crate::settings::load::{self, Written};
use crate::store::{EntryRecord, Link, Operation, Store, StoreErrorKind, VersionInfo};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How long a command waits for NATS before it says that nobody answers.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a command may still take that was not permitted something.
const GRACE: Duration = Duration::from_millis(700);

/// Settings and output of one command.
pub struct Context {
    /// The effective settings.
    pub settings: Settings,
    /// The settings file, where there is one.
    pub file: Option<PathBuf>,
    /// What is doubtful in the settings.
    pub warnings: Vec<Problem>,
    /// Where results go.
    pub out: Output,
    /// Where the settings came from, to read them again.
    pub sources: Sources,
    /// What was written there.
    pub written: Written,
    /// The connection, once there is one.
    link: watch::Sender<Option<Arc<Link>>>,
}

/// What settings are made of.
pub struct Sources {
    /// The file that was named.
    pub file: Option<PathBuf>,
    /// The environment.
    pub env: Vec<(String, String)>,
    /// `--set`.
    pub set: Vec<String>,
}

impl Context {
    /// Loads the settings.
    pub fn load(file: Option<&Path>, set: &[String], out: Output) -> Result<Self, Failure> {
        // A variable that is not Unicode cannot be one of ours.
        let env: Vec<(String, String)> =
            std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?))).collect();
        let loaded = load::load(file, &env, set)?;
        let sources = Sources { file: file.map(Path::to_path_buf), env, set: set.to_vec() };
        let load::Loaded { settings, warnings, file, written } = loaded;
        Ok(Self { settings, file, warnings, out, sources, written, link: watch::Sender::new(None) })
    }

    /// Connects to NATS, or says after [`CONNECT_TIMEOUT`] that nobody answers.
    pub async fn connect(&self) -> Result<Store, Failure> {
        match tokio::time::timeout(CONNECT_TIMEOUT, Store::connect(&self.settings)).await {
            Ok(Ok(store)) => {
                self.link.send_replace(Some(store.link.clone()));
                Ok(store.without_consumers())
            }
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(Failure::new(
                Exit::Unreachable,
                format!(
                    "NATS does not answer at {} (start it, or correct `nats.urls` in {})",
                    self.settings.nats.urls.iter().map(|url| without_secrets(url)).collect::<Vec<_>>().join(", "),
                    self.settings_place()
                ),
            )),
        }
    }

    /// Runs `command`, but only until NATS says that something it needs is not permitted, rather than until it has waited for an
    /// answer that never comes. What can do without goes on for a moment, and its own result counts.
    pub async fn unless_forbidden(&self, command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
        let forbidden = async {
            let mut link = self.link.subscribe();
            let link = link.wait_for(Option::is_some).await.ok().and_then(|link| link.clone());
            match link {
                Some(link) => link.violated().await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(command);
        let violation = tokio::select! {
            ended = &mut command => return ended,
            violation = forbidden => violation,
        };
        match tokio::time::timeout(GRACE, command).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(failure)) if failure.exit() != Exit::Unreachable => Err(failure),
            _ => Err(Failure::new(
                Exit::NotPermitted,
                format!(
                    "{violation} (grant it to the user of `nats` in {}; `sluice doctor --permissions editor` prints all that commands need)",
                    self.settings_place()
                ),
            )),
        }
    }

    /// The settings file for messages.
    pub fn settings_place(&self) -> String {
        match &self.file {
            Some(file) => file.display().to_string(),
            None => "the settings (no settings file was found; --settings FILE names one)".to_owned(),
        }
    }

    /// The newest record of `id`, value or marker; `None` where there is none, or no bucket at all.
    pub async fn record(&self, store: &Store, id: &PipelineId) -> Result<Option<EntryRecord>, Failure> {
        match store.entries.get(id).await {
            Err(error) if error.kind() == StoreErrorKind::Missing => Ok(None),
            result => Ok(result?),
        }
    }

    /// The newest record of `id`; where there is no bucket, there is no installation of this namespace, and that is said: no
    /// command of an editor creates one.
    pub async fn installed(&self, store: &Store, id: &PipelineId) -> Result<Option<EntryRecord>, Failure> {
        match store.entries.get(id).await {
            Err(error) if error.kind() == StoreErrorKind::Missing => Err(self.no_installation(store).await),
            result => Ok(result?),
        }
    }

    /// The newest record of `id`, which must be a value.
    pub async fn existing(&self, store: &Store, id: &PipelineId) -> Result<EntryRecord, Failure> {
        match self.installed(store, id).await? {
            Some(record) if record.operation == Operation::Put => Ok(record),
            _ => Err(self.no_pipeline(id)),
        }
    }

    /// Fails where there is no installation of this namespace.
    pub async fn must_be_installed(&self, store: &Store) -> Result<(), Failure> {
        match store.entries.bucket_created().await {
            Err(error) if error.kind() == StoreErrorKind::Missing => Err(self.no_installation(store).await),
            result => Ok(result.map(|_| ())?),
        }
    }

    /// There is no installation in this namespace; which there are, where this user may see them.
    pub async fn no_installation(&self, store: &Store) -> Failure {
        let (namespace, place) = (&self.settings.namespace, self.settings_place());
        let others = store.installations().await;
        let there = if others.is_empty() { String::new() } else { format!("; there is {}", others.join(", ")) };
        let bucket = store.names.entries();
        let message = format!(
            "no installation answers in namespace '{namespace}': NATS has no bucket '{bucket}'{there} (correct `namespace` in {place}, or start `sluice run` there, which makes it)"
        );
        Failure::new(Exit::NotFound, message)
    }

    /// The status of `id`; `None` where there is none, or no bucket at all.
    pub async fn status(&self, store: &Store, id: &PipelineId) -> Result<Option<PipelineStatus>, Failure> {
        match store.status.get(id).await {
            Err(error) if error.kind() == StoreErrorKind::Missing => Ok(None),
            result => Ok(result?.map(|record| record.status)),
        }
    }

    /// Every kept record of `id`, oldest first; none where there is no bucket at all.
    pub async fn history(&self, store: &Store, id: &PipelineId) -> Result<Vec<EntryRecord>, Failure> {
        match store.entries.history(id).await {
            Err(error) if error.kind() == StoreErrorKind::Missing => Ok(Vec::new()),
            result => Ok(result?),
        }
    }

    /// The stored versions of `id`, oldest first; none where there is no Object Store at all.
    pub async fn versions(&self, store: &Store, id: &PipelineId) -> Result<Vec<VersionInfo>, Failure> {
        match store.configs.versions(id).await {
            Err(error) if error.kind() == StoreErrorKind::Missing => Ok(Vec::new()),
            result => Ok(result?),
        }
    }

    /// There is no such pipeline.
    pub fn no_pipeline(&self, id: &PipelineId) -> Failure {
        let namespace = &self.settings.namespace;
        Failure::new(
            Exit::NotFound,
            format!(
                "there is no pipeline '{id}' in namespace '{namespace}' (`sluice list` shows what is there; {} names the namespace)",
                self.settings_place()
            ),
        )
    }
}

/// A server address without a user name and password in it.
fn without_secrets(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| (scheme, rest));
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    if scheme.is_empty() { host.to_owned() } else { format!("{scheme}://{host}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_its_password() {
        assert_eq!(without_secrets("nats://user:p@ss@host:4222"), "nats://host:4222");
        assert_eq!(without_secrets("host:4222"), "host:4222");
    }
}
