//! What a soak did and what came of it, as one JSON file for machines.

use super::Account;
use serde::Serialize;
use std::path::PathBuf;

/// The whole; `D`: what was done.
#[derive(Debug, Serialize)]
pub struct Report<D> {
    /// Repeats the plan: `SLUICE_SOAK_SEED`.
    pub seed: u64,
    pub seconds: u64,
    /// How long it took afterwards until nothing waited any more; `null` where that never came.
    pub settled_after_seconds: Option<f64>,
    /// Messages that wait in the streams nevertheless; the account calls them lost.
    pub waiting: u64,
    pub done: D,
    pub account: Account,
}

impl<D: Serialize> Report<D> {
    /// Writes it to `target/torture/{name}.json`; where that is.
    pub fn write(&self, name: &str) -> PathBuf {
        let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/torture");
        std::fs::create_dir_all(&directory).expect("target can be written to");
        let file = directory.join(format!("{name}.json"));
        let text = serde_json::to_string_pretty(self).expect("a report is JSON");
        std::fs::write(&file, text + "\n").expect("the report is written");
        file
    }
}
