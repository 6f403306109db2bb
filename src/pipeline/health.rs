//! What a process shows of itself: health as checks that name what is wrong and which pipeline it is about, statuses,
//! executions. The controller implements [`View`], the HTTP API serves it, and neither knows the other.

use super::report::{ExecutionPhase, ExecutionReport, StreamRole};
use super::{id::PipelineId, status::PipelineStatus};
use serde::Serialize;
use std::time::Duration;

/// So long an execution that runs may hear nothing of its pulls, whose heartbeats come twice in half a minute at least, or
/// hold something and write nothing.
const STUCK: Duration = Duration::from_secs(50);
/// What a write may take beyond the half of a lease that a batch may wait for it.
const WRITE: Duration = Duration::from_secs(20);

/// Whether the process lives and is ready.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Health {
    /// `false`: only a restart helps.
    pub live: bool,
    /// Whether it does what it is for: connected, watches alive. Of pipelines: whether all are as they should be.
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
    /// Whether the pipelines are as they should be, and which are not: their own business, not the process's.
    fn pipelines(&self) -> Health;
    /// The pipelines that have a status, in any order: their documents together may be large, and are asked for one by one.
    fn ids(&self) -> Vec<PipelineId>;
    /// The status document of one pipeline.
    fn status(&self, id: &PipelineId) -> Option<PipelineStatus>;
    /// The executions of this process, as of the last look at them, at most a second ago.
    fn executions(&self) -> Vec<ExecutionReport>;
}

/// A check for an execution that says it runs and does not move. `age`: since when it has been there; `now_ms`: now, in
/// milliseconds since the epoch.
pub fn execution_check(report: &ExecutionReport, age: Duration, now_ms: u64) -> Option<Check> {
    if report.phase != ExecutionPhase::Running {
        return None;
    }
    // 0 stands for never: then it is as old as the execution.
    let old = |at_ms: u64| age.min(Duration::from_millis(now_ms.saturating_sub(at_ms)));
    let (pulled, wrote) = (old(report.last_pull_ms), old(report.last_write_ms));
    let held = report.counters.buffered;
    // Who stands by pulls nothing.
    let pulls = report.role != Some(StreamRole::Standby);
    let slowest = STUCK.max(Duration::from_millis(report.limits.ack_wait_ms / 2) + WRITE);
    let message = if pulls && pulled > STUCK {
        format!("nothing was heard of its pull requests for {} s, and they have heartbeats", pulled.as_secs())
    } else if held > 0 && wrote > slowest {
        format!("{held} messages are held and nothing was written for {} s", wrote.as_secs())
    } else {
        return None;
    };
    Some(Check { name: "execution".into(), ok: false, message, pipeline: Some(report.id.clone()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::report::{Counters, EffectiveLimits};
    use crate::pipeline::spec::Fingerprint;

    const NOW: u64 = 1_000_000_000;

    fn report(last_pull_ms: u64, last_write_ms: u64, buffered: u64) -> ExecutionReport {
        ExecutionReport {
            id: PipelineId::parse("a").unwrap(),
            version: "1".into(),
            fingerprint: Fingerprint("f".into()),
            phase: ExecutionPhase::Running,
            troubles: Vec::new(),
            advice: Vec::new(),
            counters: Counters { buffered, ..Counters::default() },
            role: None,
            limits: EffectiveLimits::default(),
            proven: true,
            last_pull_ms,
            last_write_ms,
        }
    }

    fn red(last_pull_ms: u64, last_write_ms: u64, buffered: u64, age_s: u64) -> bool {
        execution_check(&report(last_pull_ms, last_write_ms, buffered), Duration::from_secs(age_s), NOW).is_some()
    }

    #[test]
    fn an_execution_that_says_it_runs_and_does_not_move_is_red() {
        assert!(!red(NOW - 40_000, 0, 0, 9_000), "two heartbeats may be late");
        assert!(!red(0, 0, 0, 40), "its first heartbeat is not there yet");
        assert!(red(0, 0, 0, 55) && red(NOW - 55_000, NOW, 0, 9_000));
        assert!(red(NOW, NOW - 55_000, 5, 9_000), "what it holds is never written");
        assert!(!red(NOW, NOW - 55_000, 0, 9_000) && !red(NOW, 0, 5, 10));
    }

    #[test]
    fn who_stands_by_need_not_pull_and_a_long_lease_makes_a_long_batch() {
        let check = |report: &ExecutionReport| execution_check(report, Duration::from_secs(9_000), NOW).is_some();
        let silent = report(0, 0, 0);
        assert!(check(&silent) && !check(&ExecutionReport { role: Some(StreamRole::Standby), ..silent }));
        let slow = ExecutionReport {
            limits: EffectiveLimits { ack_wait_ms: 300_000, ..EffectiveLimits::default() },
            ..report(NOW, NOW - 160_000, 5)
        };
        assert!(!check(&slow) && check(&ExecutionReport { last_write_ms: NOW - 180_000, ..slow }));
    }
}
