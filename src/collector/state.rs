//! What one execution shows of itself while it runs: phase, counters, troubles, the times of its last pull and write.
//! Written by the driver, read by reports, health, metrics and state requests.

use crate::pipeline::report::{Counters, EffectiveLimits, ExecutionPhase, Trouble};

/// The live state of one execution; shared and cheap to read.
#[derive(Debug, Default)]
pub struct ExecutionState {}

impl ExecutionState {
    /// What it is doing.
    pub fn phase(&self) -> ExecutionPhase {
        todo!()
    }

    /// Counters since it started.
    pub fn counters(&self) -> Counters {
        todo!()
    }

    /// Why it does not make progress; empty where it does.
    pub fn troubles(&self) -> Vec<Trouble> {
        todo!()
    }

    /// Limits in force.
    pub fn limits(&self) -> EffectiveLimits {
        todo!()
    }

    /// Whether its config has ever stored a document.
    pub fn proven(&self) -> bool {
        todo!()
    }

    /// Milliseconds since the epoch of the last answered pull and the last confirmed write; 0 for never.
    pub fn last_activity(&self) -> (u64, u64) {
        todo!()
    }
}
