//! What of the settings may change while the process runs: secrets and what TLS and credentials files hold. Everything else
//! needs a restart, and is named where it differs.
//!
//! [`SecretFiles`] looks at the files, for as long as the process runs: by content, so that files that are swapped by a link
//! (Kubernetes), replaced, or written over with the same size and time are all found. `cli::reload` calls both.

use super::load::Written;
use super::secret::Offered;
use super::{MongoConnection, Secret, Settings, TlsSettings, address};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The most of a file that is looked at; none of ours is longer.
const MOST: u64 = 1 << 20;
/// Fields that a reload takes by what they lead to, under whatever section.
const SECRETS: [&str; 7] = ["token", "token_file", "password", "password_file", "nkey_file", "url", "url_file"];
/// The one other field that takes effect at once.
pub(super) const LOG_LEVEL: &str = "log.level";

impl MongoConnection {
    /// The files that the driver reads when it makes a client.
    pub fn tls_files(&self) -> Vec<PathBuf> {
        let mut files: Vec<_> = self.tls.files().cloned().collect();
        if let Ok(address) = address::mongodb(&self.url.expose()) {
            let named = |option: &String| {
                let (name, value) = option.split_once('=')?;
                let is_file = ["tlscafile", "tlscertificatekeyfile"].contains(&name.to_lowercase().as_str());
                is_file.then(|| PathBuf::from(value))
            };
            files.extend(address.options.iter().filter_map(named));
        }
        files
    }
}

impl TlsSettings {
    fn files(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.ca_file, &self.cert_file, &self.key_file].into_iter().flatten()
    }
}

/// Whether one connection string may take another's place while the process runs: it leads to the same servers with the same
/// options. Where documents go is part of what pipelines are, and who writes them is not.
pub(super) fn same_servers(old: &str, new: &str) -> bool {
    let same = |(old, new): (address::MongoAddress, address::MongoAddress)| {
        (old.hosts, old.database, old.options) == (new.hosts, new.database, new.options)
    };
    address::mongodb(old).ok().zip(address::mongodb(new).ok()).is_some_and(same)
}

impl Settings {
    /// Every secret, with its path in the settings.
    fn secrets(&self) -> BTreeMap<String, &Secret> {
        let Self { nats, http, executor, .. } = self;
        let named = [
            ("nats.token", &nats.token),
            ("nats.password", &nats.password),
            ("nats.nkey_file", &nats.nkey),
            ("http.token", &http.token),
            ("executor.docker.registry.password", &executor.docker.registry.password),
        ];
        let mut secrets: BTreeMap<_, _> =
            named.into_iter().filter_map(|(path, secret)| Some((path.to_owned(), secret.as_ref()?))).collect();
        for (name, connection) in &self.mongodb.connections {
            secrets.insert(format!("mongodb.connections.{name}.url"), &connection.url);
            if let Some(password) = &connection.password {
                secrets.insert(format!("mongodb.connections.{name}.password"), password);
            }
        }
        secrets
    }

    /// Every other file whose content counts.
    fn other_files(&self) -> BTreeSet<PathBuf> {
        let own = self.nats.credentials_file.iter().chain(self.nats.tls.files()).chain(self.executor.docker.tls.files()).cloned();
        own.chain(self.mongodb.connections.values().flat_map(MongoConnection::tls_files)).collect()
    }

    /// Takes from `new`, which was loaded after this, what may change while the process runs.
    pub fn take_secrets(&self, old: &Written, new: &Self, written: &Written) -> Reloaded {
        let mut reloaded = Reloaded::default();
        let (own, others) = (self.secrets(), new.secrets());
        let names: BTreeSet<_> = own.keys().chain(others.keys()).collect();
        for name in names {
            match (own.get(name), others.get(name)) {
                (Some(own), Some(other)) => match own.adopt(other) {
                    Offered::Same => {}
                    Offered::Taken => reloaded.taken.push(name.clone()),
                    Offered::NotTaken => reloaded.needs_restart.push(name.clone()),
                },
                _ => reloaded.needs_restart.push(name.clone()),
            }
        }
        let secret = |path: &String| SECRETS.contains(&path.rsplit('.').next().unwrap_or_default());
        for path in old.differences(written).into_iter().filter(|path| !secret(path) && path != LOG_LEVEL) {
            reloaded.needs_restart.push(path);
        }
        reloaded
    }
}

/// What became of settings that were loaded again: paths in them, never a value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// What holds from now on.
    pub taken: Vec<String>,
    /// What differs from the settings of the start and holds only after a restart.
    pub needs_restart: Vec<String>,
}

/// The files of the settings as they were last seen.
pub struct SecretFiles {
    settings: Settings,
    known: BTreeMap<PathBuf, Option<[u8; 32]>>,
}

/// What has become of the files since the last look.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Those that hold something else now.
    pub changed: Vec<PathBuf>,
    /// Those that cannot be read any more, and why; what they held goes on being used.
    pub unreadable: Vec<(PathBuf, String)>,
    /// Those whose content was not taken: it leads to other servers than before.
    pub not_taken: Vec<PathBuf>,
}

impl SecretFiles {
    /// The files that `settings`, whose secrets have just been read, name.
    pub fn new(settings: &Settings) -> Self {
        let mut files = Self { settings: settings.clone(), known: BTreeMap::new() };
        files.known = files.names().into_iter().map(|name| (name.clone(), digest(&name).ok())).collect();
        files
    }

    fn names(&self) -> BTreeSet<PathBuf> {
        let mut names = self.settings.other_files();
        names.extend(self.settings.secrets().into_values().filter_map(Secret::file));
        names
    }

    /// Looks at every file, and reads the secrets again.
    pub fn look(&mut self) -> Look {
        let mut look = Look::default();
        let names = self.names();
        self.known.retain(|name, _| names.contains(name));
        for name in names {
            let found = digest(&name);
            let now = found.as_ref().ok().copied();
            // A file that is named since a reload alone has been read by that.
            let before = self.known.insert(name.clone(), now);
            match (before, found) {
                (Some(Some(before)), Err(error)) => {
                    // Kept, so that what comes back unchanged is no news.
                    self.known.insert(name.clone(), Some(before));
                    look.unreadable.push((name, error.to_string()));
                }
                (Some(before), Ok(now)) if before != Some(now) => look.changed.push(name),
                _ => {}
            }
        }
        for secret in self.settings.secrets().into_values() {
            if let (Ok(Offered::NotTaken), Some(file)) = (secret.refresh(), secret.file())
                && look.changed.contains(&file)
            {
                look.not_taken.push(file);
            }
        }
        look.changed.retain(|file| !look.not_taken.contains(file));
        look
    }
}

fn digest(path: &Path) -> std::io::Result<[u8; 32]> {
    let data = std::fs::metadata(path)?;
    if !data.is_file() || data.len() > MOST {
        return Err(std::io::Error::other("it is not a file, or too large"));
    }
    let content = std::fs::read(path)?;
    if content.is_empty() {
        return Err(std::io::Error::other("it is empty"));
    }
    Ok(Sha256::digest(&content).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::load::load;
    use std::fs;

    #[test]
    fn a_reload_takes_secrets_and_names_what_needs_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("sluice.yml");
        let read = |text: &str| {
            fs::write(&file, text).unwrap();
            load(Some(&file), &[], &[]).unwrap()
        };
        let old = read(
            "nats: {user: a, password: one}\nhttp: {token: t1}\nlimits: {memory: 64MiB}\nlog: {level: info}\n\
             mongodb: {connections: {default: {url: 'mongodb://u:one@h/db'}, other: {url: 'mongodb://h'}}}\n",
        );
        let new = read(
            "nats: {user: b, password: two}\nhttp: {token: t2}\nlimits: {memory: 65MiB}\nlog: {level: debug}\n\
             mongodb: {connections: {default: {url: 'mongodb://u:two@h/db'}, other: {url: 'mongodb://elsewhere'}}}\n",
        );
        let reloaded = old.settings.take_secrets(&old.written, &new.settings, &new.written);
        assert_eq!(reloaded.taken, ["http.token", "mongodb.connections.default.url", "nats.password"]);
        assert_eq!(reloaded.needs_restart, ["mongodb.connections.other.url", "limits.memory", "nats.user"]);
        assert_eq!(&*old.settings.mongodb.connections["default"].url.expose(), "mongodb://u:two@h/db");
        assert_eq!(&*old.settings.mongodb.connections["other"].url.expose(), "mongodb://h");
        assert!(!format!("{old:?}").contains("u:t"));
    }

    #[test]
    fn files_are_told_by_what_they_hold() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        for name in ["password", "ca.pem", "url"] {
            fs::write(path(name), if name == "url" { "mongodb://u:1@h" } else { "one" }).unwrap();
        }
        let text = format!(
            "nats: {{user: a, password_file: {0}/password, tls: {{ca_file: {0}/ca.pem}}}}\n\
             mongodb: {{connections: {{default: {{url_file: {0}/url}}}}}}\n",
            directory.path().display()
        );
        fs::write(path("sluice.yml"), text).unwrap();
        let settings = load(Some(&path("sluice.yml")), &[], &[]).unwrap().settings;
        let mut files = SecretFiles::new(&settings);
        assert_eq!(files.look(), Look::default());
        fs::write(path("password"), "two").unwrap();
        fs::write(path("ca.pem"), "two").unwrap();
        assert_eq!(files.look().changed, [path("ca.pem"), path("password")]);
        assert_eq!(&*settings.nats.password.clone().unwrap().expose(), "two");
        fs::remove_file(path("password")).unwrap();
        assert_eq!(files.look().unreadable[0].0, path("password"));
        fs::write(path("password"), "two").unwrap();
        fs::write(path("url"), "mongodb://u:2@other").unwrap();
        assert_eq!(files.look(), Look { not_taken: vec![path("url")], ..Look::default() });
        fs::write(path("url"), "mongodb://u:2@h").unwrap();
        assert_eq!(files.look().changed, [path("url")]);
        assert_eq!(&*settings.mongodb.connections["default"].url.expose(), "mongodb://u:2@h");
    }
}
