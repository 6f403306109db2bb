//! The conditions of a pipeline, from what is wished, what was found and what the executions report. Pure.
//!
//! Four types: `Valid` (fit to run), `Ready` (what is asked for is what is), `Progressing` (documents are stored, or
//! nothing waits), and any number of `Advisory`. `since` is carried over while status and reason stay the same.

use super::desire::{Desire, Finding};
use crate::pipeline::plan::Wish;
use crate::pipeline::report::{ExecutionPhase, ExecutionReport, StreamRole};
use crate::pipeline::status::{Condition, ConditionType, Kept, Phase, Reason};
use crate::pipeline::text::{MESSAGE, bounded};
use jiff::Timestamp;

/// What the conditions are made of.
pub(super) struct Facts<'a> {
    pub desire: &'a Desire,
    /// Why the last step failed, where it did.
    pub failure: Option<&'a Finding>,
    /// What was found in the stream and its durable.
    pub advice: &'a [Finding],
    pub phase: Phase,
    pub kept: &'a Kept,
    /// What a target change waits for, where one is under way.
    pub switching: Option<&'a str>,
    /// Whether a stream was left because it is not empty, or is another one.
    pub left: Option<&'a Finding>,
    /// All live executions.
    pub reports: &'a [ExecutionReport],
    /// What the backend itself sees in the way.
    pub troubles: &'a [Finding],
    pub now: Timestamp,
}

/// The conditions, with `since` carried over from `old`.
pub(super) fn conditions(facts: &Facts<'_>, old: &[Condition]) -> Vec<Condition> {
    let mut new = vec![valid(facts), ready(facts), progressing(facts)];
    let mut advice: Vec<Finding> = facts.desire.advice.iter().chain(facts.advice).chain(facts.left).cloned().collect();
    // What is no reason for any of the three is said all the same: a replica that fails, an engine that is away.
    let told = |finding: &&Finding| !new.iter().any(|(_, status, told)| !status && told.reason == finding.reason);
    advice.extend(facts.troubles.iter().filter(told).cloned());
    for report in facts.reports {
        if report.limits.limited {
            let message = format!("batches of {} because max_ack_pending is {}", report.limits.batch_count, report.limits.max_ack_pending);
            advice.push(Finding::new(Reason::BatchLimited, message));
        }
        advice.extend(report.advice.iter().map(|advice| Finding::new(advice.reason, advice.message.clone())));
        if report.role == Some(StreamRole::AtLeastOnce) {
            let message = "the server cannot delete single measurements of a time-series collection";
            advice.push(Finding::new(Reason::AtLeastOnce, message));
        }
        if report.counters.lost_tails > 0 {
            let message = "the newest messages of the stream are lost: it ended before a sequence that it had delivered, or gave one to another message";
            advice.push(Finding::new(Reason::StreamLostMessages, message));
        }
        if report.counters.dead_lettered > 0 {
            advice.push(Finding::new(Reason::DocumentsRefused, "single documents were refused and lie in the dead letters"));
        }
    }
    advice.sort_by(|a, b| (a.reason, &a.message).cmp(&(b.reason, &b.message)));
    advice.dedup();
    new.extend(few(advice).into_iter().map(|finding| (ConditionType::Advisory, true, finding)));
    new.into_iter()
        .map(|(kind, status, Finding { reason, message })| {
            let same = |old: &&Condition| old.kind == kind && old.status == status && old.reason == reason;
            let since = old.iter().find(same).map_or(facts.now, |old| old.since);
            Condition { kind, status, reason, message: bounded(&message, MESSAGE), since }
        })
        .collect()
}

/// So many advisories have one reason, and so many there are in all; of more only their number is said.
const ALIKE: usize = 8;
const ADVISORIES: usize = 40;

/// `advice`, in order of its reasons, without what is too much of it.
fn few(advice: Vec<Finding>) -> Vec<Finding> {
    let mut few: Vec<Finding> = Vec::new();
    let mut begins = 0;
    for all in advice.chunk_by(|a, b| a.reason == b.reason) {
        let shown = all.len().min(if all.len() > ALIKE { ALIKE - 1 } else { ALIKE });
        few.extend_from_slice(&all[..shown]);
        if all.len() > shown {
            few.push(Finding::new(all[0].reason, format!("{} more of the kind are not listed", all.len() - shown)));
        }
        begins += all.len();
        if few.len() >= ADVISORIES && begins < advice.len() {
            few.truncate(ADVISORIES - 1);
            few.push(Finding::new(all[0].reason, "there is more to be said than a status holds; correct this first"));
            break;
        }
    }
    few
}

type New = (ConditionType, bool, Finding);

fn valid(facts: &Facts<'_>) -> New {
    match facts.desire.trouble.as_ref().or(facts.failure) {
        Some(finding) => (ConditionType::Valid, false, finding.clone()),
        None => (ConditionType::Valid, true, Finding::new(Reason::AsDesired, "")),
    }
}

fn ready(facts: &Facts<'_>) -> New {
    let (status, reason, message) = match &facts.desire.wish {
        Wish::Run(spec) => running(facts, spec.version.as_str(), |report| report.fingerprint == spec.fingerprint),
        Wish::Paused => (facts.reports.is_empty(), Reason::Paused, String::new()),
        Wish::Draft => (facts.reports.is_empty(), Reason::Draft, String::new()),
        Wish::Deleted => match facts.left {
            Some(left) => (true, left.reason, left.message.clone()),
            None => draining(facts),
        },
        Wish::Unfit | Wish::Unknown => match &facts.desire.trouble {
            Some(finding) => (false, finding.reason, goes_on(facts)),
            None => (false, Reason::InProgress, String::new()),
        },
    };
    (ConditionType::Ready, status, Finding::new(reason, message))
}

/// What is said of a pipeline whose wish cannot be known.
fn goes_on(facts: &Facts<'_>) -> String {
    let fails = |report: &&ExecutionReport| report.troubles.iter().any(|trouble| trouble.reason == Reason::ExecutionFailed);
    match (facts.reports.iter().find(|report| !fails(report)), facts.reports.first()) {
        (Some(report), _) => format!("version {} goes on running", report.version),
        (None, Some(report)) => format!("version {} cannot run", report.version),
        (None, None) => "nothing runs".to_owned(),
    }
}

fn running(facts: &Facts<'_>, version: &str, right: impl Fn(&ExecutionReport) -> bool) -> (bool, Reason, String) {
    if let Some(failure) = facts.failure {
        return (false, failure.reason, goes_on(facts));
    }
    let right: Vec<_> = facts.reports.iter().filter(|report| right(report)).collect();
    let best = right.iter().find(|report| report.phase == ExecutionPhase::Running).or(right.first());
    let Some(best) = best else {
        return match facts.troubles.first() {
            Some(Finding { reason, message }) => (false, *reason, message.clone()),
            None => (false, Reason::InProgress, format!("version {version} is about to start")),
        };
    };
    match (best.phase, best.troubles.first(), facts.troubles.first()) {
        (ExecutionPhase::Running, ..) => (true, Reason::AsDesired, String::new()),
        (_, Some(trouble), _) => (false, trouble.reason, trouble.message.clone()),
        (_, None, Some(Finding { reason, message })) => (false, *reason, message.clone()),
        (_, None, None) => (false, Reason::InProgress, format!("version {version} is starting")),
    }
}

fn draining(facts: &Facts<'_>) -> (bool, Reason, String) {
    let Some(started) = facts.kept.drain_started else {
        return (false, Reason::InProgress, "the pipeline is being removed".to_owned());
    };
    let seconds = facts.now.duration_since(started).as_secs().max(0).unsigned_abs();
    if seconds > facts.kept.drain_timeout_s {
        (false, Reason::DrainSlow, format!("draining for longer than {} s", facts.kept.drain_timeout_s))
    } else {
        (false, Reason::Draining, "what waits in the stream is written before the stream goes".to_owned())
    }
}

fn progressing(facts: &Facts<'_>) -> New {
    let new = |status: bool, reason: Reason, message: &str| (ConditionType::Progressing, status, Finding::new(reason, message));
    let trouble = || facts.reports.iter().flat_map(|report| &report.troubles).next();
    match facts.phase {
        Phase::Run | Phase::Drain => match trouble() {
            Some(trouble) => new(false, trouble.reason, &trouble.message),
            None if facts.reports.iter().any(|report| report.phase == ExecutionPhase::Running) => new(true, Reason::AsDesired, ""),
            None => match facts.troubles.first() {
                Some(Finding { reason, message }) => new(false, *reason, message),
                None => new(false, Reason::InProgress, "no execution runs yet"),
            },
        },
        Phase::Switch => new(false, Reason::InProgress, facts.switching.unwrap_or("the old target is finished before the new one begins")),
        Phase::Stopped | Phase::Absent => match (&facts.desire.wish, facts.desire.trouble.as_ref().or(facts.failure)) {
            (Wish::Paused | Wish::Draft | Wish::Deleted, _) => new(true, Reason::AsDesired, ""),
            (_, Some(finding)) => new(false, finding.reason, &finding.message),
            (_, None) => new(false, Reason::InProgress, ""),
        },
    }
}

#[cfg(test)]
mod tests;
