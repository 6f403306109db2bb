//! `--wait`: until the pipeline's status says that an edit has taken effect, or the time is up.
//!
//! The status document is the only witness: it names the entry's revision that it speaks of, what is admitted, what
//! runs and whether that is ready. Polled rather than watched, since a poll cannot go silent. Where the status says that
//! this very revision cannot run, waiting ends at once.

use super::conditions::condition_lines;
use super::context::Context;
use super::facts::Facts;
use super::failure::{Exit, Failure};
use crate::pipeline::id::{PipelineId, VersionName};
use crate::pipeline::status::{Condition, ConditionType, Phase, PipelineStatus, Reason};
use crate::store::{Operation, Store, StoreErrorKind};
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
        if let (Goal::Running(_), Some(status)) = (goal, last.as_ref().filter(|status| hopeless(status, revision))) {
            let message = format!("pipeline '{id}' does not run as its entry (revision {revision}) says");
            return Err(Failure::new(Exit::Invalid, with_conditions(message, id, Some(status))));
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

/// Waits until nothing is left of the deleted `id`: no status and no stream. A stream that stays, because it is to be kept
/// or is not empty, ends the waiting too and is noted. `before` is the status from before the deletion.
pub async fn wait_gone(
    context: &Context,
    store: &Store,
    id: &PipelineId,
    before: Option<&PipelineStatus>,
    limit: Duration,
) -> Result<(), Failure> {
    let deadline = Instant::now() + limit;
    let mut last = before.cloned();
    loop {
        match store.status.get(id).await {
            Ok(None) => break,
            Ok(Some(record)) => last = Some(record.status),
            Err(error) if error.kind() == StoreErrorKind::Missing => break,
            Err(error) if error.retry() => {}
            Err(error) => return Err(error.into()),
        }
        if let Some(left) = last.as_ref().and_then(left_behind) {
            context.out.note(&format!("{} ({})", left.message, left.reason.remedy_for(id.as_str(), None)));
            return Ok(());
        }
        if context.record(store, id).await?.is_some_and(|record| record.operation == Operation::Put) {
            let message = format!("pipeline '{id}' was put again while it was being deleted; `sluice status {id}` shows how it is");
            return Err(Failure::new(Exit::Conflict, message));
        }
        if Instant::now() >= deadline {
            let message = format!("after {}, pipeline '{id}' is not gone yet; it goes on", humantime::format_duration(limit));
            return Err(Failure::new(Exit::TimedOut, with_conditions(message, id, last.as_ref())));
        }
        sleep(POLL).await;
    }
    if let Some(messages) = Facts::of(context, store, id, last.as_ref()).await?.lag {
        context.out.note(&format!("its stream is kept, with {messages} messages"));
    }
    Ok(())
}

/// What the status of a deleted pipeline says is left, once nothing more happens to it.
fn left_behind(status: &PipelineStatus) -> Option<&Condition> {
    let left = |condition: &&Condition| matches!(condition.reason, Reason::StreamKept | Reason::StreamReplaced);
    status.conditions.iter().find(|condition| condition.kind == ConditionType::Ready && condition.status).filter(left)
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
                    && is_ready(status)
            }),
            Goal::Stopped => matches!(admitted.phase, Phase::Stopped | Phase::Absent) && observed.executions == 0,
            Goal::Absent => admitted.phase == Phase::Absent && observed.executions == 0,
        }
}

/// Whether what the entry asks for is what runs. An execution that is there and cannot begin is not ready.
pub fn is_ready(status: &PipelineStatus) -> bool {
    status.conditions.iter().any(|condition| condition.kind == ConditionType::Ready && condition.status)
}

/// Whether `status` says of `revision` that it cannot run before somebody changes something.
fn hopeless(status: &PipelineStatus, revision: u64) -> bool {
    let invalid = |condition: &Condition| condition.kind == ConditionType::Valid && !condition.status && !passes(condition.reason);
    status.desired.revision == revision && status.conditions.iter().any(invalid)
}

/// Reasons that pass by themselves.
fn passes(reason: Reason) -> bool {
    matches!(reason, Reason::InProgress | Reason::NatsUnavailable | Reason::DatabaseUnavailable)
}

/// `message`, and below it what is wrong and what to do about it.
fn with_conditions(mut message: String, id: &PipelineId, status: Option<&PipelineStatus>) -> String {
    let version = status.and_then(|status| status.desired.version.as_deref());
    let conditions = status.map(|status| status.conditions.as_slice()).unwrap_or_default();
    for (line, _) in condition_lines(id.as_str(), version, conditions, false) {
        message.push_str("\n  ");
        message.push_str(&line);
    }
    message
}

fn timed_out(id: &PipelineId, revision: u64, status: Option<&PipelineStatus>, limit: Duration) -> Failure {
    let limit = humantime::format_duration(limit);
    let message = format!("after {limit}, pipeline '{id}' is not yet as its entry (revision {revision}) says");
    let message = match status {
        Some(status) if status.desired.revision >= revision => with_conditions(message, id, Some(status)),
        _ => message + "\n  no controller has read the entry yet (is `sluice run` running, with the same namespace and NATS?)",
    };
    Failure::new(Exit::TimedOut, message)
}

#[cfg(test)]
mod tests {
    use super::super::status::tests::{condition, running};
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

    #[test]
    fn an_execution_that_cannot_begin_does_not_run() {
        let mut status = running("metrics", "1-0a0b0c0d", 7);
        status.conditions = vec![condition(ConditionType::Ready, false, Reason::DatabaseUnavailable)];
        assert!(!reached(Some(&status), 7, &Goal::Running(None)));
        assert!(!hopeless(&status, 7), "the database may come back");
        status.conditions.clear();
        assert!(!reached(Some(&status), 7, &Goal::Running(None)), "nothing says that it is ready");
    }

    #[test]
    fn waiting_ends_once_the_status_of_that_revision_says_that_it_cannot_run() {
        let mut status = running("metrics", "1-0a0b0c0d", 7);
        status.conditions = vec![condition(ConditionType::Valid, false, Reason::UnknownConnection)];
        assert!(hopeless(&status, 7));
        assert!(!hopeless(&status, 8), "the status speaks of an earlier edit");
        status.conditions = vec![condition(ConditionType::Valid, false, Reason::NatsUnavailable)];
        assert!(!hopeless(&status, 7), "it passes by itself");
    }
}
