//! What a pipeline is, as plain data and pure functions: names, entry, config, execution spec, status, plan.
//!
//! Nothing in here does I/O, reads a clock or knows an async runtime; everything else in the crate is built on it.
//! A test holds that (`tests/it/layout.rs`).

pub mod backoff;
pub mod config;
pub mod document;
pub mod entry;
pub mod fields;
pub mod first_parent;
pub mod health;
pub mod id;
pub mod names;
pub mod plan;
pub mod problem;
pub mod report;
pub mod spec;
pub mod status;
pub mod subject;
