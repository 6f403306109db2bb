//! What lies on NATS: entries, configs, status, lease, reports, and the pipelines' streams, over async-nats.
//!
//! Buckets and streams are created where they are missing and never changed where they are not ours. Watches are
//! supervised and only hint; what counts is read by [`Entries::list`] and [`StatusStore::list`].

pub mod configs;
pub mod connect;
pub mod entries;
pub mod error;
pub mod lease;
pub mod reports;
pub mod status;
pub mod streams;
pub mod watch;

pub use configs::{Configs, StoredConfig, VersionInfo};
pub use entries::{Entries, EntryRecord, Operation};
pub use error::{StoreError, StoreErrorKind};
pub use lease::{Lease, LeaseHolder, LeaseStore};
pub use reports::Reports;
pub use status::{StatusRecord, StatusStore};
pub use streams::{ConsumerSettings, PipelineStream, StreamSettings, Streams};
pub use watch::{WatchEvent, WatchHealth};

use crate::pipeline::names::Names;
use crate::settings::Settings;

/// Everything on NATS that belongs to one namespace. Cheap to clone: all clones share one connection.
#[derive(Clone)]
pub struct Store {
    /// The connection.
    pub client: async_nats::Client,
    /// The names.
    pub names: Names,
    /// Pipelines' entries.
    pub entries: Entries,
    /// Pipelines' configs.
    pub configs: Configs,
    /// Pipelines' status.
    pub status: StatusStore,
    /// The lease of the namespace.
    pub lease: LeaseStore,
    /// Reports between processes.
    pub reports: Reports,
    /// The pipelines' streams and durables.
    pub streams: Streams,
}

impl Store {
    /// Connects to NATS with the settings' addresses and credentials (retrying while no server answers, for as long as
    /// the caller waits) and binds the namespace's names. Creates nothing.
    ///
    /// Errors: a credentials or TLS file that cannot be read; an address that does not parse; authorization refused.
    pub async fn connect(settings: &Settings) -> Result<Self, StoreError> {
        let _ = settings;
        todo!()
    }

    /// Creates the buckets, the Object Store and the stream of the dead letters where they are missing, with
    /// `settings.jetstream.replicas`. Leaves what exists as it is.
    pub async fn prepare(&self) -> Result<(), StoreError> {
        todo!()
    }
}
