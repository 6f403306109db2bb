//! The settings of an execution that is a process of its own: rendered from the controller's, with the addresses that
//! reach from there, and with every secret in a file of its own. Pure; docker and kubernetes carry the files to it.
//!
//! What always holds: no secret stands in the settings themselves, and none in an error.

use super::{ExecutionAddresses, ExecutorKind, MongoConnection, Secret, Settings, TlsSettings, address};
use humantime::format_duration;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// A secret, or a certificate, in a file of its own.
#[derive(Debug, Clone, PartialEq)]
pub struct SecretFile {
    /// Its name in the directory of the secrets: `nats-token`, `mongodb-default-password`.
    pub name: String,
    /// What is in it.
    pub content: FileContent,
}

/// What is in a [`SecretFile`].
#[derive(Debug, Clone, PartialEq)]
pub enum FileContent {
    /// This text.
    Secret(Secret),
    /// What this file of the controller's holds.
    CopyOf(PathBuf),
}

/// What an execution finds.
#[derive(Debug, Clone, PartialEq)]
pub struct ExecutionFiles {
    /// Its settings, YAML without any secret.
    pub settings: String,
    /// The files that they name.
    pub secrets: Vec<SecretFile>,
}

impl Settings {
    /// The image that executions run in; empty for tasks of this process.
    pub fn execution_image(&self) -> &str {
        match self.executor.kind {
            ExecutorKind::InProcess => "",
            ExecutorKind::Docker => &self.executor.docker.image,
            ExecutorKind::Kubernetes => &self.executor.kubernetes.image,
        }
    }

    /// The addresses that executions use instead of this process's.
    fn execution_addresses(&self) -> Option<&ExecutionAddresses> {
        match self.executor.kind {
            ExecutorKind::InProcess => None,
            ExecutorKind::Docker => Some(&self.executor.docker.execution),
            ExecutorKind::Kubernetes => Some(&self.executor.kubernetes.execution),
        }
    }

    /// The hosts that executions use instead of those of a MongoDB connection.
    fn other_hosts(&self, name: &str) -> Option<&Vec<String>> {
        self.execution_addresses().and_then(|addresses| addresses.mongodb_hosts.get(name))
    }

    /// The NATS servers as executions reach them.
    pub fn execution_nats_urls(&self) -> &[String] {
        let own = self.execution_addresses().map_or(&[][..], |addresses| &addresses.nats_urls);
        if own.is_empty() { &self.nats.urls } else { own }
    }

    /// The hosts of a MongoDB connection as executions reach them.
    pub fn execution_hosts(&self, name: &str, connection: &MongoConnection) -> Vec<String> {
        self.other_hosts(name).cloned().unwrap_or_else(|| connection.hosts())
    }

    /// The hosts by which everybody else knows the servers of a connection whose hosts are other ones to executions: what
    /// the targets in status and spec call them.
    fn known_as(&self, name: &str, connection: &MongoConnection) -> Vec<String> {
        let mut known = connection.known_as.clone();
        if self.other_hosts(name).is_some() {
            known.extend(connection.hosts());
        }
        known
    }

    /// The files of an execution that finds its secrets in the directory `secrets` and may use `memory` bytes.
    pub fn execution_files(&self, secrets: &Path, memory: u64) -> ExecutionFiles {
        let mut files = Files { directory: secrets, found: Vec::new() };
        let nats = &self.nats;
        let mut section = Map::new();
        section.insert("urls".into(), json!(self.execution_nats_urls()));
        insert(&mut section, "user", nats.user.clone());
        insert(&mut section, "token_file", files.secret("nats-token", nats.token.as_ref()));
        insert(&mut section, "password_file", files.secret("nats-password", nats.password.as_ref()));
        insert(&mut section, "nkey_file", files.secret("nats-nkey", nats.nkey.as_ref()));
        insert(&mut section, "credentials_file", files.copy("nats-credentials", nats.credentials_file.as_ref()));
        // Where they are left out, an execution has the defaults anyway.
        let default = Settings::default().nats;
        insert(&mut section, "inbox_prefix", Some(nats.inbox_prefix.clone()).filter(|prefix| *prefix != default.inbox_prefix));
        if nats.answer_inboxes != default.answer_inboxes {
            section.insert("answer_inboxes".into(), json!(nats.answer_inboxes));
        }
        section.insert("tls".into(), files.tls("nats", &nats.tls));
        let mut connections = Map::new();
        for (name, connection) in &self.mongodb.connections {
            let url = match self.other_hosts(name) {
                Some(hosts) => Secret::new(address::with_hosts(&connection.url.expose(), hosts)),
                None => connection.url.clone(),
            };
            let prefix = format!("mongodb-{name}");
            let mut section = Map::new();
            // A file for every one: options may hold secrets too.
            insert(&mut section, "url_file", files.secret(&format!("{prefix}-url"), Some(&url)));
            insert(&mut section, "username", connection.username.clone());
            insert(&mut section, "password_file", files.secret(&format!("{prefix}-password"), connection.password.as_ref()));
            insert(&mut section, "auth_source", connection.auth_source.clone());
            insert(&mut section, "database", connection.database.clone());
            let known_as = self.known_as(name, connection);
            if !known_as.is_empty() {
                section.insert("known_as".into(), json!(known_as));
            }
            section.insert("tls".into(), files.tls(&prefix, &connection.tls));
            connections.insert(name.clone(), section.into());
        }
        let names = &self.names;
        let settings = json!({
            "namespace": self.namespace,
            "nats": section,
            "mongodb": {"connections": connections},
            "executor": {"shutdown_grace": format_duration(self.executor.shutdown_grace).to_string()},
            "limits": {"memory": self.limits.memory.min(memory / 2).max(1 << 20)},
            "jetstream": {"replicas": self.jetstream.replicas},
            "http": self.execution_http(&mut files),
            "log": {"format": "json", "level": self.log.level},
            "names": {
                "entries": names.entries, "configs": names.configs, "status": names.status, "lease": names.lease,
                "reports": names.reports, "logs": names.logs, "dead_letters": names.dead_letters, "stream": names.stream,
                "subject": names.subject, "closed": names.closed, "consumer": names.consumer, "states": names.states,
            },
        });
        // JSON is YAML; the alternate form is the one for people.
        ExecutionFiles { settings: format!("{settings:#}\n"), secrets: files.found }
    }
}

/// Where executions that can be reached serve metrics, with the controller's token.
pub const HTTP_PORT: u16 = 8080;
/// Where they answer health.
pub const HEALTH_PORT: u16 = 8081;

impl Settings {
    /// A container's health is asked from inside, a pod's from outside. Its metrics are for whoever has the token that the
    /// controller's are for.
    fn execution_http(&self, files: &mut Files<'_>) -> Map<String, Value> {
        let mut section = Map::new();
        let token = self.http.token.as_ref().filter(|_| self.executor.kind == ExecutorKind::Kubernetes);
        let listen = if token.is_some() { "[::]" } else { "127.0.0.1" };
        section.insert("listen".into(), format!("{listen}:{HTTP_PORT}").into());
        insert(&mut section, "token_file", files.secret("http-token", token));
        if self.executor.kind == ExecutorKind::Kubernetes {
            section.insert("health_listen".into(), format!("[::]:{HEALTH_PORT}").into());
        }
        section
    }
}

fn insert(section: &mut Map<String, Value>, name: &str, value: Option<String>) {
    if let Some(value) = value {
        section.insert(name.to_owned(), value.into());
    }
}

struct Files<'a> {
    directory: &'a Path,
    found: Vec<SecretFile>,
}

impl Files<'_> {
    fn secret(&mut self, name: &str, secret: Option<&Secret>) -> Option<String> {
        secret.map(|secret| self.put(name, FileContent::Secret(secret.clone())))
    }

    fn copy(&mut self, name: &str, file: Option<&PathBuf>) -> Option<String> {
        file.map(|file| self.put(name, FileContent::CopyOf(file.clone())))
    }

    fn put(&mut self, name: &str, content: FileContent) -> String {
        self.found.push(SecretFile { name: name.to_owned(), content });
        self.directory.join(name).to_string_lossy().into_owned()
    }

    fn tls(&mut self, prefix: &str, tls: &TlsSettings) -> Value {
        let mut section = Map::new();
        section.insert("required".into(), tls.required.into());
        insert(&mut section, "ca_file", self.copy(&format!("{prefix}-ca.pem"), tls.ca_file.as_ref()));
        insert(&mut section, "cert_file", self.copy(&format!("{prefix}-cert.pem"), tls.cert_file.as_ref()));
        insert(&mut section, "key_file", self.copy(&format!("{prefix}-key.pem"), tls.key_file.as_ref()));
        section.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::load::load;
    use std::collections::BTreeMap;

    #[test]
    fn what_is_rendered_loads_to_the_same_and_holds_no_secret() {
        let directory = tempfile::tempdir().unwrap();
        let mut settings = Settings::default();
        settings.nats.urls = vec!["nats://a:4222".into(), "tls://b:1".into()];
        settings.nats.user = Some("me".into());
        settings.nats.password = Some(Secret::new("canary-1"));
        settings.nats.tls.ca_file = Some("/own/ca.pem".into());
        let url = Secret::new("mongodb://u:canary-2@localhost/db?replicaSet=r");
        let connection =
            MongoConnection { url, database: Some("no".into()), known_as: vec!["older:1".into()], ..MongoConnection::default() };
        settings.mongodb.connections.insert("default".into(), connection);
        settings.names.dead_letters = "{ns}-dead".into();
        settings.executor.kind = ExecutorKind::Docker;
        settings.executor.docker.execution.mongodb_hosts = BTreeMap::from([("default".into(), vec!["db:27017".into()])]);
        let files = settings.execution_files(directory.path(), 100 << 20);
        assert!(!files.settings.contains("canary") && !format!("{files:?}").contains("canary"));
        for file in &files.secrets {
            let content = match &file.content {
                FileContent::Secret(secret) => secret.expose(),
                FileContent::CopyOf(_) => "a certificate".into(),
            };
            std::fs::write(directory.path().join(&file.name), &*content).unwrap();
        }
        let path = directory.path().join("sluice.yml");
        std::fs::write(&path, &files.settings).unwrap();
        let loaded = load(Some(&path), &[], &[]).unwrap().settings;
        assert_eq!(loaded.nats.urls, settings.nats.urls);
        assert_eq!((loaded.nats.user.as_deref(), loaded.nats.password), (Some("me"), settings.nats.password));
        let connection = &loaded.mongodb.connections["default"];
        assert_eq!(&*connection.url.expose(), "mongodb://u:canary-2@db:27017/db?replicaSet=r");
        assert_eq!(connection.database.as_deref(), Some("no"));
        // As the controller, and with it every target, knows them.
        assert_eq!(connection.known_as, ["older:1", "localhost:27017"]);
        assert_eq!((loaded.names, loaded.limits.memory), (settings.names, 50 << 20));
        assert_eq!(loaded.executor.shutdown_grace, settings.executor.shutdown_grace);
    }
}
