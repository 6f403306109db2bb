//! The part of the crate's `pipeline` that the hot path names.

#[path = "../../../src/pipeline/backoff.rs"]
pub mod backoff;

/// Stands in for the config's types.
pub mod config {
    /// As in the crate.
    pub struct WriteConcern {
        pub w: String,
        pub j: bool,
    }
}
