//! The process's own settings: types and defaults here, reading in `load`, checking in `validate`.
//!
//! Every default stands in this file and nowhere else. Secrets are [`Secret`]s, which show themselves to nobody.

mod address;
mod container;
mod digest;
mod docker;
mod execution;
mod kubernetes;
pub mod load;
mod overrides;
mod reload;
mod secret;
mod secrets;
mod templates;
#[cfg(test)]
mod tests;
mod validate;
mod values;

pub use container::{ContainerUser, ExecutionAddresses, PullPolicy};
pub use docker::{DockerSettings, RegistrySettings};
pub use execution::{ExecutionFiles, FileContent, HEALTH_PORT, HTTP_PORT, SecretFile};
pub(crate) use kubernetes::is_label_value;
pub use kubernetes::{KubernetesSettings, ResourceRequests, SecretKey, Toleration, TopologySpread};
pub use reload::{Reloaded, SecretFiles};
pub use secret::Secret;

use crate::pipeline::config::OnDelete;
use crate::pipeline::id::Namespace;
use crate::pipeline::names::{NameTemplates, Names};
use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

/// All settings of a process.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The namespace; default `sluice`.
    pub namespace: Namespace,
    /// How to reach NATS.
    pub nats: NatsSettings,
    /// How to reach MongoDB.
    pub mongodb: MongoSettings,
    /// Who runs the executions.
    pub executor: ExecutorSettings,
    /// Bounds of this process.
    pub limits: LimitSettings,
    /// Streams and buckets that we create.
    pub jetstream: JetStreamSettings,
    /// What a pipeline's config does not say.
    pub pipelines: PipelineDefaults,
    /// The HTTP listener.
    pub http: HttpSettings,
    /// Logs.
    pub log: LogSettings,
    /// Names on the wire.
    pub names: NameTemplates,
}

/// `nats`.
#[derive(Debug, Clone, PartialEq)]
pub struct NatsSettings {
    /// Server addresses; default `nats://127.0.0.1:4222`.
    pub urls: Vec<String>,
    /// Token.
    pub token: Option<Secret>,
    /// User name.
    pub user: Option<String>,
    /// Password.
    pub password: Option<Secret>,
    /// A `.creds` file (user JWT and its nkey).
    pub credentials_file: Option<PathBuf>,
    /// An nkey seed, read from `nkey_file`.
    pub nkey: Option<Secret>,
    /// The prefix of this process's own inboxes; default `_INBOX`. One of its own for each user keeps the users of an
    /// account from reading each other's answers.
    pub inbox_prefix: String,
    /// The prefixes of the inboxes of those who ask this process for states and log lines; default `_INBOX`. It answers to
    /// these, to its own, and to whatever begins with `_INBOX`, and nowhere else.
    pub answer_inboxes: Vec<String>,
    /// TLS.
    pub tls: TlsSettings,
}

/// `tls` of a connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsSettings {
    /// Whether a connection without TLS is refused.
    pub required: bool,
    /// Certificates of the authorities to trust, PEM; default: the system's.
    pub ca_file: Option<PathBuf>,
    /// Our certificate, PEM.
    pub cert_file: Option<PathBuf>,
    /// Its key, PEM.
    pub key_file: Option<PathBuf>,
}

/// `mongodb`.
#[derive(Debug, Clone, PartialEq)]
pub struct MongoSettings {
    /// Named connections; `default` is the one that configs use unless they name another.
    pub connections: BTreeMap<String, MongoConnection>,
}

/// One of `mongodb.connections`.
#[derive(Debug, Clone, PartialEq)]
pub struct MongoConnection {
    /// The connection string, which may hold a password.
    pub url: Secret,
    /// User name, instead of one in the URL.
    pub username: Option<String>,
    /// Its password.
    pub password: Option<Secret>,
    /// The database that `username` is defined in; default `admin`.
    pub auth_source: Option<String>,
    /// The database of pipelines whose config names none.
    pub database: Option<String>,
    /// Other hosts that are the same servers, `host` or `host:port`, in lower case: what earlier targets of a pipeline may
    /// call them. Written for containers, which reach the servers by other addresses than their controller.
    pub known_as: Vec<String>,
    /// TLS.
    pub tls: TlsSettings,
}

/// `executor`.
#[derive(Debug, Clone, PartialEq)]
pub struct ExecutorSettings {
    /// Which backend; default in-process.
    pub kind: ExecutorKind,
    /// The most replicas a pipeline may have; default 8.
    pub max_replicas: u32,
    /// How long an execution may take to write what it holds when it is stopped; default 25 s.
    pub shutdown_grace: Duration,
    /// Backends that are emptied once what they ran is started by this one.
    pub retire: Vec<ExecutorKind>,
    /// The Docker backend's own.
    pub docker: DockerSettings,
    /// The Kubernetes backend's own.
    pub kubernetes: KubernetesSettings,
}

/// `executor.kind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecutorKind {
    /// Tasks in the controller's own process.
    InProcess,
    /// Containers on a Docker engine.
    Docker,
    /// Deployments in a Kubernetes cluster.
    Kubernetes,
}

impl ExecutorKind {
    /// The word in settings, lease and labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InProcess => "in_process",
            Self::Docker => "docker",
            Self::Kubernetes => "kubernetes",
        }
    }

    /// Whether each controller has executions of its own; else all controllers see the same, and the holder alone acts.
    pub fn per_process(self) -> bool {
        match self {
            Self::InProcess => true,
            Self::Docker | Self::Kubernetes => false,
        }
    }
}

/// `limits`.
#[derive(Debug, Clone, PartialEq)]
pub struct LimitSettings {
    /// Bytes of messages that all pipelines of this process may hold together; default 256 MiB.
    pub memory: u64,
}

/// `jetstream`.
#[derive(Debug, Clone, PartialEq)]
pub struct JetStreamSettings {
    /// Replicas of streams and buckets that we create; default 1.
    pub replicas: usize,
}

/// `pipelines`: what a config does not say.
#[derive(Debug, Clone, PartialEq)]
pub struct PipelineDefaults {
    /// Default `drain`.
    pub on_delete: OnDelete,
    /// Default 10 m.
    pub drain_timeout: Duration,
    /// `batching.count` of derived configs; default 1000.
    pub batch_count: u32,
    /// `batching.period` of derived configs; default 5 s.
    pub batch_period: Duration,
}

/// `http`.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpSettings {
    /// Where to listen; default `127.0.0.1:8080`; `off` turns it off.
    pub listen: Option<SocketAddr>,
    /// The bearer token that everything but health needs.
    pub token: Option<Secret>,
    /// A second address that answers health alone, which needs no token; default off.
    pub health_listen: Option<SocketAddr>,
}

/// `log`.
#[derive(Debug, Clone, PartialEq)]
pub struct LogSettings {
    /// `text`, `json`, or `auto`: text on a terminal, JSON elsewhere.
    pub format: LogFormat,
    /// A `tracing` filter, `info` or `sluice=debug,warn`; default `info`.
    pub level: String,
}

/// `log.format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// Text.
    Text,
    /// JSON, one object a line.
    Json,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            // A literal that `Namespace::parse` is tested to accept.
            #[allow(clippy::expect_used)]
            namespace: Namespace::parse("sluice").expect("a valid literal"),
            nats: NatsSettings {
                urls: vec!["nats://127.0.0.1:4222".into()],
                token: None,
                user: None,
                password: None,
                credentials_file: None,
                nkey: None,
                inbox_prefix: "_INBOX".into(),
                answer_inboxes: vec!["_INBOX".into()],
                tls: TlsSettings::default(),
            },
            mongodb: MongoSettings { connections: BTreeMap::from([("default".to_owned(), MongoConnection::default())]) },
            executor: ExecutorSettings {
                kind: ExecutorKind::InProcess,
                max_replicas: 8,
                shutdown_grace: Duration::from_secs(25),
                retire: Vec::new(),
                docker: DockerSettings::default(),
                kubernetes: KubernetesSettings::default(),
            },
            limits: LimitSettings { memory: 256 << 20 },
            jetstream: JetStreamSettings { replicas: 1 },
            pipelines: PipelineDefaults {
                on_delete: OnDelete::Drain,
                drain_timeout: Duration::from_secs(600),
                batch_count: 1000,
                batch_period: Duration::from_secs(5),
            },
            http: HttpSettings { listen: Some(SocketAddr::from(([127, 0, 0, 1], 8080))), token: None, health_listen: None },
            log: LogSettings { format: LogFormat::Auto, level: "info".into() },
            names: NameTemplates::default(),
        }
    }
}

impl Default for MongoConnection {
    fn default() -> Self {
        Self {
            url: Secret::new("mongodb://127.0.0.1:27017").guarded(reload::same_servers),
            username: None,
            password: None,
            auth_source: None,
            database: None,
            known_as: Vec::new(),
            tls: TlsSettings::default(),
        }
    }
}

impl Settings {
    /// The names on the wire.
    pub fn names(&self) -> Names {
        let mut inboxes = self.nats.answer_inboxes.clone();
        inboxes.push(self.nats.inbox_prefix.clone());
        inboxes.sort();
        inboxes.dedup();
        Names::new(self.namespace.clone(), self.names.clone()).with_inboxes(inboxes)
    }
}
