//! What the HTTP API sees of a controller: health that tells the truth, statuses, executions.
//!
//! Read from memory only: a request never makes a call. Ready turns red where a watch is silent, the resync is late, or
//! a pipeline is not what it should be; the check names the pipeline.

use super::{Controller, resync::RESYNC};
use crate::pipeline::health::{Check, Health, View};
use crate::pipeline::id::PipelineId;
use crate::pipeline::report::ExecutionReport;
use crate::pipeline::status::{ConditionType, PipelineStatus};
use std::sync::{PoisonError, atomic::Ordering};
use std::time::Duration;

/// A resync that is this late turns readiness red.
const LATE: Duration = RESYNC.saturating_mul(3);

impl View for Controller {
    fn health(&self) -> Health {
        let mut checks = vec![
            self.connection(),
            watch_check("entries' watch", self.watches.entries.alive()),
            watch_check("configs' watch", self.watches.configs.alive()),
            watch_check("status' watch", self.watches.status.alive()),
            self.resync_check(),
        ];
        checks.extend(self.statuses().iter().filter_map(pipeline_check));
        let ready = checks.iter().all(|check| check.ok);
        Health { live: !self.dead.load(Ordering::Relaxed), ready, holder: Some(self.holding.epoch().is_some()), checks }
    }

    fn statuses(&self) -> Vec<PipelineStatus> {
        let memory = self.memory();
        let mut statuses: Vec<_> = memory.values().filter_map(|memory| Some(memory.status.as_ref()?.status.clone())).collect();
        drop(memory);
        statuses.sort_by(|a, b| a.id.cmp(&b.id));
        statuses
    }

    fn status(&self, id: &PipelineId) -> Option<PipelineStatus> {
        Some(self.memory().get(id)?.status.as_ref()?.status.clone())
    }

    fn executions(&self) -> Vec<ExecutionReport> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Controller {
    fn connection(&self) -> Check {
        let connected = self.deps.store.client.connection_state() == async_nats::connection::State::Connected;
        let message = if connected { "connected" } else { "not connected; reconnecting by itself" };
        Check { name: "nats".into(), ok: connected, message: message.into(), pipeline: None }
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

/// A check for a pipeline that is not as it should be.
fn pipeline_check(status: &PipelineStatus) -> Option<Check> {
    let wrong = |kind: ConditionType| status.conditions.iter().find(|condition| condition.kind == kind && !condition.status);
    let condition = wrong(ConditionType::Valid).or(wrong(ConditionType::Ready))?;
    let starting = condition.reason.remedy().is_empty() && condition.kind == ConditionType::Ready;
    let message = format!("{}: {}", condition.reason.as_str(), condition.message);
    (!starting).then(|| Check { name: "pipeline".into(), ok: false, message, pipeline: Some(status.id.clone()) })
}
