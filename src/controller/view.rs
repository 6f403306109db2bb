//! What the HTTP API sees of a controller: health that tells the truth, statuses, executions.
//!
//! Read from memory only: a request never makes a call. Ready is the controller's own: it turns red where NATS is away, a watch is
//! silent, the resync is late, or nobody decides. A pipeline that is not what it should be, does not move, or is reconciled without
//! end is red among the pipelines, by name: one bad entry must not keep a new release from being rolled out.

use super::{Controller, ENDLESS, resync::RESYNC};
use crate::pipeline::health::{Check, Health, View, execution_check};
use crate::pipeline::id::PipelineId;
use crate::pipeline::plan::Role;
use crate::pipeline::report::ExecutionReport;
use crate::pipeline::status::{Condition, ConditionType, PipelineStatus};
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A resync that is this late turns readiness red.
const LATE: Duration = RESYNC.saturating_mul(3);
/// So long nobody may hold the lease: a dead holder's runs out after 10 s.
const UNDECIDED: Duration = Duration::from_secs(15);

impl View for Controller {
    fn health(&self) -> Health {
        let mut checks = vec![
            self.connection(),
            watch_check("entries' watch", self.watches.entries.alive()),
            watch_check("configs' watch", self.watches.configs.alive()),
            watch_check("status' watch", self.watches.status.alive()),
            self.resync_check(),
            self.lease_check(),
        ];
        checks.extend(self.dead.get().map(|died| Check { name: "tasks".into(), ok: false, message: died.to_string(), pipeline: None }));
        let ready = checks.iter().all(|check| check.ok);
        Health { live: self.dead.get().is_none(), ready, holder: Some(self.holding.epoch().is_some()), checks }
    }

    fn pipelines(&self) -> Health {
        let mut checks = Vec::new();
        checks.extend(self.own().iter().filter_map(|(report, since)| execution_check(report, since.elapsed(), now_ms())));
        checks.extend(self.queue.longer_than(ENDLESS).into_iter().map(|(id, age)| endless_check(id, age)));
        let mut wrong: Vec<_> = {
            let memory = self.memory();
            let checks = memory.iter().filter_map(|(id, known)| {
                known
                    .unwritten
                    .as_ref()
                    .map(|(since, why)| unwritten_check(id, since.elapsed(), why))
                    .or_else(|| pipeline_check(known.status()?))
            });
            checks.collect()
        };
        wrong.sort_by(|a, b| a.pipeline.cmp(&b.pipeline));
        checks.extend(wrong);
        let ready = checks.iter().all(|check| check.ok);
        Health { live: self.dead.get().is_none(), ready, holder: Some(self.holding.epoch().is_some()), checks }
    }

    fn ids(&self) -> Vec<PipelineId> {
        let memory = self.memory();
        memory.iter().filter(|(_, memory)| memory.status().is_some()).map(|(id, _)| id.clone()).collect()
    }

    fn status(&self, id: &PipelineId) -> Option<PipelineStatus> {
        self.memory().get(id)?.status().cloned()
    }

    fn executions(&self) -> Vec<ExecutionReport> {
        self.own().iter().map(|(report, _)| report.clone()).collect()
    }
}

impl Controller {
    fn own(&self) -> MutexGuard<'_, Vec<(ExecutionReport, Instant)>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lease_check(&self) -> Check {
        let (message, ago) = self.holding.decider();
        let ok = ago < UNDECIDED;
        let kind = self.deps.settings.executor.kind.as_str();
        let message = match self.role() {
            Role::StandBy => format!("{message}; this one, {kind}, stands by"),
            _ => message,
        };
        let message = if ok { message } else { format!("nobody has been known to decide for {} s; what runs goes on", ago.as_secs()) };
        Check { name: "lease".into(), ok, message, pipeline: None }
    }

    fn connection(&self) -> Check {
        let (ok, message) = self.deps.store.connection();
        Check { name: "nats".into(), ok, message, pipeline: None }
    }

    fn resync_check(&self) -> Check {
        let age = self.last_resync.lock().unwrap_or_else(PoisonError::into_inner).map(|at| at.elapsed());
        let (ok, message) = match age {
            Some(age) => (age < LATE, format!("{} s ago", age.as_secs())),
            None => (false, "not yet done".to_owned()),
        };
        Check { name: "resync".into(), ok, message, pipeline: None }
    }
}

fn watch_check(name: &str, alive: bool) -> Check {
    let message = if alive { "alive" } else { "silent; being made anew" };
    Check { name: name.into(), ok: alive, message: message.into(), pipeline: None }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// A check for a reconcile that does not end.
fn endless_check(id: PipelineId, age: Duration) -> Check {
    let message = format!("has been reconciled for {} s: what it waits for does not answer; it is cut off and tried again", age.as_secs());
    Check { name: "reconcile".into(), ok: false, message, pipeline: Some(id) }
}

/// A check for a pipeline whose status says what was, because it cannot be written.
fn unwritten_check(id: &PipelineId, age: Duration, why: &str) -> Check {
    let message = format!("the status has not been written for {} s, and what it says is old: {why}", age.as_secs());
    Check { name: "status".into(), ok: false, message, pipeline: Some(id.clone()) }
}

/// A check for a pipeline that is not as it should be.
fn pipeline_check(status: &PipelineStatus) -> Option<Check> {
    let wrong = |kind: ConditionType| status.conditions.iter().find(|condition| condition.kind == kind && !condition.status);
    let cured = |condition: &&Condition| !condition.reason.remedy().is_empty();
    // What is being brought about needs no remedy.
    let condition = wrong(ConditionType::Valid)
        .or_else(|| wrong(ConditionType::Ready).filter(cured))
        .or_else(|| wrong(ConditionType::Progressing).filter(cured))?;
    let message = format!("{}: {}", condition.reason.as_str(), condition.message);
    Some(Check { name: "pipeline".into(), ok: false, message, pipeline: Some(status.id.clone()) })
}
