//! Sluice runs pipelines from NATS JetStream into MongoDB: one KV edit publishes, pauses or withdraws one; nothing is
//! lost and nothing is stored twice.
//!
//! | module | what it is |
//! |---|---|
//! | [`pipeline`] | pure data and functions: names, entry, config, spec, status, plan |
//! | [`telemetry`] | logs and metrics |
//! | [`settings`] | the process's own configuration |
//! | [`transfer`] | the producers' SDK; alone with `default-features = false, features = ["transfer"]` |
//! | [`store`] | what lies on NATS: entries, configs, status, lease, streams |
//! | [`collector`] | one execution's work: stream → batch → MongoDB → ack |
//! | [`executor`] | starts, stops and destroys executions |
//! | [`controller`] | reconciles entries with executions |
//! | [`http`] | metrics, health, JSON status |
//! | [`cli`] | the commands |
//! | [`app`] | puts the concrete parts together |
//!
//! Imports point one way: `pipeline, telemetry` ← `settings` ← `store, collector, transfer` ← `executor` ← `controller, http` ←
//! `app, cli, main`.

#[cfg(feature = "server")]
pub mod app;
#[cfg(feature = "server")]
pub mod cli;
#[cfg(feature = "server")]
pub mod collector;
#[cfg(feature = "server")]
pub mod controller;
#[cfg(feature = "server")]
pub mod executor;
#[cfg(feature = "server")]
pub mod http;
pub mod pipeline;
#[cfg(feature = "server")]
pub mod settings;
#[cfg(feature = "server")]
pub mod store;
#[cfg(feature = "server")]
pub mod telemetry;
#[cfg(feature = "transfer")]
pub mod transfer;
