//! `--wait`: until the pipeline's status says that an edit has taken effect, or the time is up.
//!
//! The status document is the only witness: it names the entry's revision that it speaks of, what is admitted and what
//! runs. Polled rather than watched, since a poll cannot go silent.

use super::failure::{Exit, Failure};
use super::status::condition_lines;
use crate::pipeline::id::{PipelineId, VersionName};
use crate::pipeline::status::{Phase, PipelineStatus};
use crate::store::{Store, StoreErrorKind};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long `--wait` waits where no time is given.
pub const DEFAULT_WAIT: &str = "60s";

const POLL: Duration = Duration::from_millis(100);

/// What is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Goal {
    /// Exactly this version runs (`None`: whichever is admitted).
    Running(Option<VersionName>),
    /// Stopped and kept, nothing runs.
    Stopped,
    /// No trace of an execution.
    Absent,
}

/// Parses `30s`, `2m` …
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error} (write 30s, 2m …)"))
}

/// Waits until the status of `id` speaks of entry revision `revision` and `goal` is reached.
pub async fn wait(store: &Store, id: &PipelineId, revision: u64, goal: &Goal, limit: Duration) -> Result<(), Failure> {
    let deadline = Instant::now() + limit;
    let mut last = None;
    loop {
        match store.status.get(id).await {
            Ok(record) => last = record.map(|record| record.status),
            // Away for a moment, or no controller has made the bucket yet: the deadline decides.
            Err(error) if error.retry() || error.kind() == StoreErrorKind::Missing => {}
            Err(error) => return Err(error.into()),
        }
        if reached(last.as_ref(), revision, goal) {
            return Ok(());
        }
        if let Some(status) = last.as_ref().filter(|status| status.desired.revision > revision) {
            let message = format!(
                "pipeline '{id}' was edited again while waiting (revision {} after ours, {revision}); `sluice status {id}` shows how it is",
                status.desired.revision
            );
            return Err(Failure::new(Exit::Conflict, message));
        }
        if Instant::now() >= deadline {
            return Err(timed_out(id, revision, last.as_ref(), limit));
        }
        sleep(POLL).await;
    }
}

/// Whether `status` speaks of `revision` and says that `goal` is reached.
fn reached(status: Option<&PipelineStatus>, revision: u64, goal: &Goal) -> bool {
    let Some(status) = status else { return false };
    let (admitted, observed) = (&status.admitted, &status.observed);
    status.desired.revision == revision
        && match goal {
            Goal::Running(version) => admitted.spec.as_ref().is_some_and(|spec| {
                admitted.phase == Phase::Run
                    && version.as_ref().is_none_or(|version| spec.version == *version)
                    && observed.executions > 0
                    && observed.version.as_deref() == Some(spec.version.as_str())
                    && observed.fingerprint.as_ref() == Some(&spec.fingerprint)
            }),
            Goal::Stopped => matches!(admitted.phase, Phase::Stopped | Phase::Absent) && observed.executions == 0,
            Goal::Absent => admitted.phase == Phase::Absent && observed.executions == 0,
        }
}

fn timed_out(id: &PipelineId, revision: u64, status: Option<&PipelineStatus>, limit: Duration) -> Failure {
    let limit = humantime::format_duration(limit);
    let mut message = format!("after {limit}, pipeline '{id}' is not yet as its entry (revision {revision}) says");
    match status {
        Some(status) if status.desired.revision >= revision => {
            for (line, _) in condition_lines(&status.conditions, false) {
                message.push_str("\n  ");
                message.push_str(&line);
            }
        }
        _ => message.push_str("\n  no controller has read the entry yet (is `sluice run` running, with the same namespace and NATS?)"),
    }
    Failure::new(Exit::TimedOut, message)
}

#[cfg(test)]
mod tests {
    use super::super::status::tests::running;
    use super::*;

    #[test]
    fn a_version_runs_once_the_status_of_that_revision_says_so() {
        let status = running("metrics", "1-0a0b0c0d", 7);
        let goal = Goal::Running(Some(VersionName::parse("1-0a0b0c0d").unwrap()));
        assert!(reached(Some(&status), 7, &goal));
        assert!(!reached(Some(&status), 8, &goal), "the status speaks of an earlier edit");
        assert!(!reached(None, 7, &goal));
        let mut starting = status.clone();
        starting.observed.fingerprint = None;
        assert!(!reached(Some(&starting), 7, &goal), "admitted and not running");
        assert!(!reached(Some(&status), 7, &Goal::Stopped));
    }
}
