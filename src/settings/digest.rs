//! What of the settings an execution depends on, as a hash without any secret, and the hosts of a connection.
//!
//! The hash is part of every fingerprint: a changed address restarts executions, a changed password does not.

use super::{ExecutorKind, MongoConnection, Settings, TlsSettings, address, docker, kubernetes};
use crate::pipeline::spec::hex;
use sha2::{Digest, Sha256};
use std::path::PathBuf;

impl MongoConnection {
    /// The hosts of the connection string, `host:port`, sorted; none where it is not one.
    pub fn hosts(&self) -> Vec<String> {
        address::mongodb(&self.url.expose()).map(|address| address.hosts).unwrap_or_default()
    }
}

impl Settings {
    /// 16 hex digits of SHA-256 over what matters to executions: servers, users, databases, options, TLS files and the
    /// dead letters' name; never a secret. Frozen by a golden vector, like the fingerprint that it goes into.
    pub fn execution_digest(&self) -> String {
        let mut hash = Fields(Sha256::new());
        hash.add("sluice-settings-1");
        hash.list(&self.nats.urls);
        hash.optional(self.nats.user.as_deref());
        hash.tls(&self.nats.tls);
        for (name, connection) in &self.mongodb.connections {
            hash.add(name);
            let address = address::mongodb(&connection.url.expose()).ok();
            hash.list(address.as_ref().map_or(&[], |address| &address.hosts));
            hash.optional(address.as_ref().and_then(|address| address.user.as_deref()));
            hash.list(address.as_ref().map_or(&[], |address| &address.options));
            hash.optional(connection.username.as_deref());
            hash.optional(connection.auth_source.as_deref());
            hash.optional(connection.database.as_deref());
            hash.tls(&connection.tls);
        }
        hash.add(&self.names.dead_letters);
        // A container gets all of its settings when it is made; a task shares those of its process.
        let profile = match self.executor.kind {
            ExecutorKind::InProcess => None,
            ExecutorKind::Docker => Some(docker::profile(&self.executor.docker)),
            ExecutorKind::Kubernetes => Some(kubernetes::profile(&self.executor.kubernetes)),
        };
        if let Some(profile) = profile {
            hash.add(self.executor.kind.as_str());
            hash.add(&self.limits.memory.to_string());
            hash.add(&self.executor.shutdown_grace.as_millis().to_string());
            hash.add(&self.log.level);
            hash.list(&profile);
        }
        hex(&hash.0.finalize()[..8])
    }
}

/// Length-prefixed fields, so that no two settings run into the same bytes.
struct Fields(Sha256);

impl Fields {
    fn add(&mut self, field: &str) {
        self.0.update((field.len() as u64).to_be_bytes());
        self.0.update(field.as_bytes());
    }

    fn optional(&mut self, field: Option<&str>) {
        self.add(if field.is_some() { "+" } else { "-" });
        self.add(field.unwrap_or_default());
    }

    fn list(&mut self, fields: &[String]) {
        self.add(&fields.len().to_string());
        fields.iter().for_each(|field| self.add(field));
    }

    fn tls(&mut self, tls: &TlsSettings) {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.to_string_lossy().into_owned());
        self.add(if tls.required { "tls" } else { "" });
        for path in [path(&tls.ca_file), path(&tls.cert_file), path(&tls.key_file)] {
            self.optional(path.as_deref());
        }
    }
}
