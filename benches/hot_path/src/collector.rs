//! The part of the crate's `collector` that the hot path runs through.

#[path = "../../../src/collector/classify.rs"]
pub mod classify;
#[path = "../../../src/collector/core/mod.rs"]
pub mod core;
#[path = "../../../src/collector/identity.rs"]
pub mod identity;
#[path = "ledger.rs"]
pub mod ledger;
#[path = "../../../src/collector/payload.rs"]
pub mod payload;
#[path = "sink.rs"]
pub mod sink;
