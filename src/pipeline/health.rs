//! What a process shows of itself: health as checks that name what is wrong and which pipeline it is about, statuses,
//! executions. The controller implements [`View`], the HTTP API serves it, and neither knows the other.

use super::{id::PipelineId, report::ExecutionReport, status::PipelineStatus};
use serde::Serialize;

/// Whether the process lives and is ready.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Health {
    /// `false`: only a restart helps.
    pub live: bool,
    /// Whether it does what it is for: connected, watches alive, pipelines as admitted.
    pub ready: bool,
    /// Whether this process holds the lease; `None` while it does not know.
    pub holder: Option<bool>,
    /// What was looked at.
    pub checks: Vec<Check>,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Which thing, `nats`, `watches`, `writes` …
    pub name: String,
    /// Whether it is as it should be.
    pub ok: bool,
    /// For people; without secrets.
    pub message: String,
    /// The pipeline that it is about, where it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pipeline: Option<PipelineId>,
}

/// What there is to show. All of it is read from memory: a request never waits for NATS or MongoDB.
pub trait View: Send + Sync {
    /// Whether the process lives and is ready, and why not.
    fn health(&self) -> Health;
    /// The status documents of all pipelines.
    fn statuses(&self) -> Vec<PipelineStatus>;
    /// The status document of one pipeline.
    fn status(&self, id: &PipelineId) -> Option<PipelineStatus>;
    /// The executions of this process, as of the last look at them, at most a second ago.
    fn executions(&self) -> Vec<ExecutionReport>;
}
