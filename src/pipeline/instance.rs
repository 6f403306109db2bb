//! What a backend outside of this process has for a pipeline: one container or one pod, as the engine shows it.
//!
//! Kept in the status for people; written by the backend's `observe`, read by `sluice status`.

use super::spec::Fingerprint;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One container of a pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Instance {
    /// Its name, as the engine's own tools take it.
    pub name: String,
    /// What it was started as.
    pub fingerprint: Fingerprint,
    /// What the engine says of it.
    pub state: InstanceState,
    /// Since when, by the engine's clock.
    pub since: Option<Timestamp>,
    /// How often the engine has started it again by itself.
    pub restarts: u32,
    /// What it ended with, where it has.
    pub exit_code: Option<i64>,
}

/// What an engine says of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum InstanceState {
    /// Made, never started.
    Created,
    /// Runs, and has not said yet that it is healthy.
    Starting,
    /// Runs.
    Running,
    /// Runs, and its health check fails.
    Unhealthy,
    /// Ended by itself, and the engine is about to start it again.
    Restarting,
    /// Frozen by somebody.
    Frozen,
    /// Ended.
    Stopped,
    /// Of no use any more.
    Dead,
}

impl InstanceState {
    /// The word for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Unhealthy => "unhealthy",
            Self::Restarting => "restarting",
            Self::Frozen => "frozen",
            Self::Stopped => "stopped",
            Self::Dead => "dead",
        }
    }

    /// Whether a process of it is there.
    pub fn is_live(self) -> bool {
        matches!(self, Self::Starting | Self::Running | Self::Unhealthy | Self::Restarting | Self::Frozen)
    }
}
