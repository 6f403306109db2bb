//! What a pipeline is, as plain data and pure functions: names, entry, config, execution spec, status, plan.
//!
//! Nothing in here does I/O, reads a clock or knows an async runtime; everything else in the crate is built on it.
//! A test holds that (`tests/it/layout.rs`). The names, and what says why something failed, are in a producer's build too (feature `transfer`).

pub mod causes;
pub mod created;
pub mod id;
pub mod jetstream;
pub mod names;
pub mod subject;

#[cfg(feature = "server")]
pub mod backoff;
#[cfg(feature = "server")]
pub mod config;
#[cfg(feature = "server")]
pub mod document;
#[cfg(feature = "server")]
pub mod encoding;
#[cfg(feature = "server")]
pub mod entry;
#[cfg(feature = "server")]
pub mod fields;
#[cfg(feature = "server")]
pub mod first_parent;
#[cfg(feature = "server")]
pub mod health;
#[cfg(feature = "server")]
pub mod history;
#[cfg(feature = "server")]
pub mod instance;
#[cfg(feature = "server")]
pub mod json;
#[cfg(feature = "server")]
pub mod logs;
#[cfg(feature = "server")]
pub mod moves;
#[cfg(feature = "server")]
pub mod object;
#[cfg(feature = "server")]
pub mod plan;
#[cfg(feature = "server")]
pub mod problem;
#[cfg(feature = "server")]
pub mod reason;
#[cfg(feature = "server")]
pub mod report;
#[cfg(feature = "server")]
pub mod reserved;
#[cfg(feature = "server")]
pub mod spec;
#[cfg(feature = "server")]
pub mod status;
#[cfg(feature = "server")]
pub mod text;
