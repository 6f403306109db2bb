//! What a status says of the executions, and whether it is worth writing. Pure; called by the reconcile.

use crate::pipeline::instance::Instance;
use crate::pipeline::report::{Counters, ExecutionPhase, ExecutionReport, StreamRole};
use crate::pipeline::status::{ObservedSummary, PipelineStatus};
use crate::pipeline::text::{NAME, bounded};
use jiff::Timestamp;

/// Counters alone are written at most this often.
const COUNTERS_EVERY: i64 = 10;

/// What the live executions report, together.
pub(super) fn summary(reports: &[ExecutionReport]) -> ObservedSummary {
    let best = reports.iter().find(|report| report.phase == ExecutionPhase::Running).or(reports.first());
    let mut counters = Counters::default();
    reports.iter().for_each(|report| counters += report.counters);
    ObservedSummary {
        version: best.map(|report| report.version.clone()),
        fingerprint: best.map(|report| report.fingerprint.clone()),
        executions: reports.len().try_into().unwrap_or(u32::MAX),
        standby: reports.iter().filter(|report| report.role == Some(StreamRole::Standby)).count().try_into().unwrap_or(u32::MAX),
        instances: Vec::new(),
        limits: best.map(|report| report.limits).unwrap_or_default(),
        counters,
    }
}

/// So many containers are shown.
const MOST_INSTANCES: usize = 64;

/// The containers, as many as a status holds.
pub(super) fn shown(mut instances: Vec<Instance>) -> Vec<Instance> {
    instances.truncate(MOST_INSTANCES);
    for instance in &mut instances {
        instance.name = bounded(&instance.name, NAME);
        instance.fingerprint.0 = bounded(&instance.fingerprint.0, NAME);
    }
    instances
}

/// Whether `new` says more than `old`: counters alone count only now and then.
pub(super) fn worth_writing(old: Option<&PipelineStatus>, new: &PipelineStatus, now: Timestamp) -> bool {
    let Some(old) = old else { return true };
    if old == new {
        return false;
    }
    let mut quiet = new.clone();
    quiet.observed.counters = old.observed.counters;
    quiet != *old || now.duration_since(old.updated).as_secs() >= COUNTERS_EVERY
}
