//! Sluice runs pipelines from NATS JetStream into MongoDB: one KV edit publishes, pauses or withdraws one; nothing is
//! lost and nothing is stored twice.
//!
//! | module | what it is |
//! |---|---|
//! | [`pipeline`] | pure data and functions: names, entry, config, spec, status, plan |
//! | [`telemetry`] | logs and metrics |
//! | [`settings`] | the process's own configuration |
//! | [`store`] | what lies on NATS: entries, configs, status, lease, streams |
//! | [`collector`] | one execution's work: stream → batch → MongoDB → ack |
//! | [`executor`] | starts, stops and destroys executions |
//! | [`controller`] | reconciles entries with executions |
//! | [`http`] | metrics, health, JSON status |
//! | [`cli`] | the commands |
//! | [`app`] | puts the concrete parts together |
//!
//! Imports point one way: `pipeline, telemetry` ← `settings` ← `store, collector` ← `executor` ← `controller, http` ←
//! `app, cli, main`.

pub mod app;
pub mod cli;
pub mod collector;
pub mod controller;
pub mod executor;
pub mod http;
pub mod pipeline;
pub mod settings;
pub mod store;
pub mod telemetry;
