//! What a torture did, and what came of it in one line for people.

use crate::soak::Report;
use serde::Serialize;
use std::{fmt, time::Duration};

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

impl fmt::Display for Report<Done> {
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
