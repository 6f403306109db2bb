//! The part of the crate's `ledger` that the core runs through.

#[path = "../../../src/collector/ledger/blocks.rs"]
mod blocks;

pub use blocks::Blocks;
