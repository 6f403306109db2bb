//! What a long-lived process does about its settings while it runs: secrets and certificates are read again when their files
//! change, and on SIGHUP, which reads the settings again too.
//!
//! What always holds: what cannot be read or is not valid changes nothing; one info line says what was taken, by the names of
//! files and fields, and what needs a restart. No value is ever shown.

use super::context::Sources;
use crate::settings::load::{self, Written};
use crate::settings::{SecretFiles, Settings};
use crate::telemetry::logs::Level;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;
use tokio::signal::unix::Signal;

/// How often the files are looked at: as soon as a person looks for an effect.
const LOOK: Duration = Duration::from_secs(2);

/// The settings, and all that is needed to read them again.
pub struct Reload {
    sources: Sources,
    settings: Settings,
    written: Written,
    /// The filter in force.
    level: String,
    set_level: Level,
    files: SecretFiles,
    /// Those that could not be read at the last look: said once.
    unreadable: BTreeSet<PathBuf>,
}

impl Reload {
    /// Of settings that have just been loaded from `sources`.
    pub fn new(sources: Sources, settings: &Settings, written: Written, set_level: Level) -> Self {
        let (files, level) = (SecretFiles::new(settings), settings.log.level.clone());
        Self { sources, settings: settings.clone(), written, level, set_level, files, unreadable: BTreeSet::new() }
    }

    /// Looks at the files for ever, and reads everything again at each signal; `gone` says that there is nobody any more to whom
    /// the signal came from a terminal. Returns then.
    pub async fn run(mut self, mut hangup: Signal, gone: impl Fn() -> bool) {
        loop {
            let told = tokio::select! {
                _ = hangup.recv() => true,
                () = tokio::time::sleep(LOOK) => false,
            };
            if told && gone() {
                return;
            }
            // Small files; a disk that hangs holds up this task alone.
            let looked = tokio::task::spawn_blocking(move || {
                if told {
                    self.reload();
                } else {
                    self.look();
                }
                self
            });
            match looked.await {
                Ok(reload) => self = reload,
                // It panicked, or the runtime ends.
                Err(error) => {
                    tracing::error!(%error, "settings are not read again any more");
                    return std::future::pending().await;
                }
            }
        }
    }

    /// Reads what has changed.
    fn look(&mut self) {
        let files = self.changed_files();
        if !files.is_empty() {
            tracing::info!(files = files.join(", "), "secrets have changed and are used from now on");
        }
    }

    /// The names of the files whose content is used from now on.
    fn changed_files(&mut self) -> Vec<String> {
        let look = self.files.look();
        for file in &look.not_taken {
            tracing::warn!(file = %file.display(), "leads to other servers than at the start; restart the process to use it");
        }
        for (file, error) in &look.unreadable {
            if !self.unreadable.contains(file) {
                tracing::warn!(file = %file.display(), error, "secret cannot be read any more, and what it held goes on being used");
            }
        }
        self.unreadable = look.unreadable.into_iter().map(|(file, _)| file).collect();
        look.changed.iter().map(|file| file.display().to_string()).collect()
    }

    /// Reads everything again.
    fn reload(&mut self) {
        let files = self.changed_files().join(", ");
        let loaded = match load::load(self.sources.file.as_deref(), &self.sources.env, &self.sources.set) {
            Ok(loaded) => loaded,
            Err(problems) => {
                tracing::error!(files, error = %problems, "settings are not valid any more; all but the files' secrets stays as it was");
                return;
            }
        };
        let mut reloaded = self.settings.take_secrets(&self.written, &loaded.settings, &loaded.written);
        let level = loaded.settings.log.level;
        if level != self.level {
            match self.set_level.set(&level) {
                Ok(()) => {
                    self.level = level;
                    reloaded.taken.push("log.level".into());
                }
                Err(error) => tracing::error!(%error, "log level stays as it was"),
            }
        }
        let (taken, needs_restart) = (reloaded.taken.join(", "), reloaded.needs_restart.join(", "));
        tracing::info!(files, taken, needs_restart, "settings reloaded");
    }
}
