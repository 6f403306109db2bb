//! What lies on NATS: entries, configs, status, lease, reports, and the pipelines' streams, over async-nats.
//!
//! Buckets and streams are created where they are missing and never changed where they are not ours. Watches are
//! supervised and only hint; what counts is read by [`Entries::list`] and [`StatusStore::list`].

mod api;
mod barrier;
mod bucket;
mod collect;
pub mod configs;
mod connect;
mod credentials;
pub mod entries;
pub mod error;
mod installations;
pub mod lease;
pub mod letters;
mod link;
pub mod logs;
mod one_by_one;
mod pause;
pub mod payloads;
mod places;
mod prepare;
pub mod reports;
mod safety;
pub mod states;
pub mod status;
pub mod streams;
pub mod watch;

pub use api::Guard;
pub use configs::{Configs, StoredConfig, VersionInfo};
pub use entries::{Deletion, Entries, EntryRecord, Operation};
pub use error::{StoreError, StoreErrorKind};
pub use lease::{Lease, LeaseHolder, LeaseStore};
pub use letters::LetterStream;
pub use link::{Link, Violation};
pub use payloads::Payloads;
pub use places::{Glimpse, UnsafePlace};
pub use reports::Reports;
pub use states::{State, StateRequest, States};
pub use status::{StatusRecord, StatusStore};
pub use streams::{ConsumerSettings, PipelineConsumer, PipelineStream, StreamSettings, Streams};
pub use watch::{WatchEvent, WatchHealth};

use crate::pipeline::names::Names;
use crate::settings::Settings;
use std::sync::Arc;

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
    /// Requests for a pipeline's state.
    pub states: States,
    /// Requests for log lines, and their answers.
    pub logs: logs::Logs,
    /// Payloads too large for their dead letters.
    pub payloads: Payloads,
    /// The stream of the dead letters.
    pub letters: LetterStream,
    /// The pipelines' streams and durables.
    pub streams: Streams,
    /// What the connection says of itself.
    pub link: Arc<Link>,
    replicas: usize,
}

impl Store {
    /// Connects to NATS with the settings' addresses and credentials (retrying while no server answers, for as long as
    /// the caller waits) and binds the namespace's names. Creates nothing.
    ///
    /// Errors, all of kind `Refused`: a credentials or TLS file that cannot be read; an address that does not parse;
    /// authorization refused; a TLS handshake that fails.
    pub async fn connect(settings: &Settings) -> Result<Self, StoreError> {
        let link = Arc::new(Link::default());
        let client = connect::connect(&settings.nats, &link).await?;
        let names = settings.names();
        Ok(Self {
            entries: Entries::new(client.clone(), &names.entries()),
            configs: Configs::new(client.clone(), &names.configs()),
            status: StatusStore::new(client.clone(), &names.status()),
            lease: LeaseStore::new(client.clone(), &names.lease()),
            reports: Reports::new(client.clone(), names.clone()),
            states: States::new(client.clone(), &names),
            logs: logs::Logs::new(client.clone(), names.clone()),
            payloads: Payloads::new(client.clone(), &names.dead_letter_objects()),
            letters: LetterStream::new(client.clone(), &names.dead_letters()),
            streams: Streams::new(client.clone(), names.clone()),
            replicas: settings.jetstream.replicas,
            client,
            names,
            link,
        })
    }

    /// The same for a person or CI, who may not make consumers: listings ask for each message by itself.
    pub fn without_consumers(mut self) -> Self {
        self.entries = self.entries.without_consumers();
        self.configs = self.configs.without_consumers();
        self.status = self.status.without_consumers();
        self
    }

    /// Creates the buckets, the Object Stores and the stream of the dead letters where they are missing, with
    /// `settings.jetstream.replicas`. Leaves what exists as it is.
    pub async fn prepare(&self) -> Result<(), StoreError> {
        prepare::prepare(&self.client, &self.names, self.replicas).await
    }

    /// Of each bucket, Object Store and stream that [`Self::prepare`] sees to, by its stream's name: whether it is there, or why
    /// it cannot serve. Changes nothing.
    pub async fn look_at_buckets(&self) -> Result<Vec<(String, Result<bool, StoreError>)>, StoreError> {
        prepare::look(&self.client, &self.names).await
    }

    /// Whether NATS is connected now.
    pub fn connected(&self) -> bool {
        self.client.connection_state() == async_nats::connection::State::Connected
    }

    /// Whether NATS is connected now, and for people how it is.
    pub fn connection(&self) -> (bool, String) {
        match self.connected() {
            // Said and not red: what does not work for the lack of it is red itself.
            true => (
                true,
                std::iter::once("connected".to_owned())
                    .chain(self.link.violations().iter().take(10).map(ToString::to_string))
                    .collect::<Vec<_>>()
                    .join("; "),
            ),
            false => (false, self.link.trouble()),
        }
    }

    /// How often the connection was made, the first time included: a change means that everything core NATS delivered in
    /// between may be missing.
    pub fn connects(&self) -> u64 {
        self.client.statistics().connects.load(std::sync::atomic::Ordering::Relaxed)
    }
}
