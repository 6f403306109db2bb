//! One execution's work: pull messages from a work-queue stream, write them to MongoDB in batches, acknowledge after
//! the write.
//!
//! What flows where:
//!
//! ```text
//! source ── Delivered ──▶ core (sans-I/O) ── Insert ──▶ sink ── reply ──▶ core ── Ack ──▶ source
//!   ▲                       │  │                                            │
//!   └───────── Pull ────────┘  └── Renew, while it waits          DeadLetter ──▶ dead letters ── stored ──▶ core ── Ack
//! ```
//!
//! While there are previous targets, what they may hold takes a way around: core ── Check ──▶ former targets and dead letters
//! ── found, or not ──▶ core ── Ack, or Insert.
//!
//! A time-series pipeline has a page in the `ledger`: one execution of it reads, and what may have been inserted before goes
//! around by `repair`: core ── Resolve ──▶ recorded, looked up ── there, or not ──▶ core ── Ack, or Insert.
//!
//! `core` decides everything and does nothing; `driver` carries its effects out and feeds the replies back as events.
//! `identity` and `classify` are pure. The promise of the crate rests on three rules that hold in here: nothing is
//! acknowledged before MongoDB (or the dead letters' stream) has confirmed it; a message past its lease is dropped
//! without a word; and a document is dead-lettered only when the refusal is about that document alone.

pub mod budget;
pub mod classify;
mod compare;
pub mod core;
pub mod dead_letters;
mod driver;
pub mod former;
mod gate;
pub mod headers;
pub mod identity;
pub mod ledger;
pub mod payload;
mod repair;
pub mod sink;
pub mod source;
mod state;
pub mod traces;

pub use budget::ByteBudget;
pub use driver::{CollectorError, run};
pub use state::ExecutionState;

use crate::pipeline::{config::OutputConfig, id::PipelineId, id::VersionName, spec::Target};
use crate::telemetry::metrics::PipelineMetrics;
use std::{sync::Arc, time::Duration};

/// What one collector is to do.
#[derive(Debug, Clone)]
pub struct Job {
    /// The pipeline.
    pub id: PipelineId,
    /// The version, for logs and dead letters.
    pub version: VersionName,
    /// The stream to read; it exists.
    pub stream: String,
    /// The durable to read it by; it exists.
    pub consumer: String,
    /// Where documents go.
    pub target: Target,
    /// How they are batched and written.
    pub output: OutputConfig,
    /// The stream of the dead letters, which exists.
    pub dead_letter_stream: String,
    /// Subject prefix of this pipeline's dead letters; the identity is appended.
    pub dead_letter_prefix: String,
    /// The Object Store that payloads too large for a dead letter go to.
    pub dead_letter_objects: String,
    /// Whether this config has stored a document before.
    pub proven: bool,
    /// How long writing what is held may take when stopped.
    pub shutdown_grace: Duration,
}

/// What a collector works with. All of it is shared by the pipelines of a process.
#[derive(Clone)]
pub struct Deps {
    /// The one NATS connection.
    pub nats: async_nats::Client,
    /// The MongoDB client of the job's connection.
    pub database: Arc<sink::Database>,
    /// Previous targets: what may lie there already is looked up before it is inserted.
    pub previous: Vec<former::Way>,
    /// Bytes that all pipelines of this process may hold together.
    pub budget: Arc<ByteBudget>,
    /// This pipeline's metrics.
    pub metrics: PipelineMetrics,
}
