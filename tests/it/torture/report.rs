//! What a torture did and what came of it: one line for people, one JSON file under `target/torture` for machines.

use crate::soak::Account;
use serde::Serialize;
use std::{fmt, path::PathBuf, time::Duration};

/// What was done; what met somebody who was dead or asleep already does not count.
#[derive(Debug, Default, Serialize)]
pub struct Done {
    pub kills_of_sluice: usize,
    pub kills_of_nats: usize,
    pub kills_of_the_database: usize,
    pub stops_of_sluice: usize,
    pub stops_of_nats: usize,
    pub stops_of_the_database: usize,
    pub cuts: usize,
    pub stalls: usize,
    pub broken_off: usize,
    pub failures_of_the_database: usize,
    pub resets_of_durables: usize,
    pub deletions_of_durables: usize,
}

impl Done {
    pub fn kills(&self) -> usize {
        self.kills_of_sluice + self.kills_of_nats + self.kills_of_the_database
    }
}

/// The whole.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Repeats the plan: `SLUICE_SOAK_SEED`.
    pub seed: u64,
    pub seconds: u64,
    /// How long it took afterwards until nothing waited any more; `null` where that never came.
    pub settled_after_seconds: Option<f64>,
    /// Messages that wait in the streams nevertheless; the account calls them lost.
    pub waiting: u64,
    pub done: Done,
    pub account: Account,
}

impl Report {
    /// Writes it to `target/torture/{seed}.json`; where that is.
    pub fn write(&self) -> PathBuf {
        let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/torture");
        std::fs::create_dir_all(&directory).expect("target can be written to");
        let file = directory.join(format!("{}.json", self.seed));
        let text = serde_json::to_string_pretty(self).expect("a report is JSON");
        std::fs::write(&file, text + "\n").expect("the report is written");
        file
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, seconds, settled_after_seconds, waiting, done, account } = self;
        let stops = done.stops_of_sluice + done.stops_of_nats + done.stops_of_the_database;
        write!(
            f,
            "TORTURE seed {seed}, {seconds} s: {} kills ({} of sluice, {} of nats-server, {} of the database), {stops} stops, {} cuts, \
             {} stalls, {} connections broken off, {} failures of the database, {} resets and {} deletions of durables; {account}; settled ",
            done.kills(),
            done.kills_of_sluice,
            done.kills_of_nats,
            done.kills_of_the_database,
            done.cuts,
            done.stalls,
            done.broken_off,
            done.failures_of_the_database,
            done.resets_of_durables,
            done.deletions_of_durables,
        )?;
        match settled_after_seconds {
            Some(seconds) => write!(f, "after {:.1?}", Duration::from_secs_f64(*seconds)),
            None => write!(f, "never: {waiting} still wait"),
        }
    }
}
