//! One fact at a time, and what the conditions make of it.

use super::*;
use crate::pipeline::id::PipelineId;
use crate::pipeline::report::{Counters, EffectiveLimits, StreamRole, Trouble};
use crate::pipeline::spec::{ExecutionSpec, Fingerprint};
use crate::pipeline::status::DesiredSummary;
use std::time::Duration;

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn desire(wish: Wish, trouble: Option<Finding>) -> Desire {
    Desire {
        wish,
        summary: DesiredSummary::default(),
        trouble,
        advice: Vec::new(),
        entry: None,
        given_up: Vec::new(),
        discards: false,
        overwritten: None,
        bucket_created: None,
        create: None,
        config: None,
        derived: None,
    }
}

fn spec() -> ExecutionSpec {
    serde_json::from_value(serde_json::json!({
        "schema": 1, "installation": uuid::Uuid::nil(), "namespace": "alpha", "id": "metrics", "version": "1", "digest": "SHA-256=abc",
        "stream": "s", "consumer": "default", "target": {"hosts": ["db:27017"], "database": "example", "collection": "metrics"},
        "replicas": 1, "proven": false, "settings_digest": "s", "fingerprint": "right"
    }))
    .unwrap()
}

fn report(phase: ExecutionPhase, trouble: Option<Reason>) -> ExecutionReport {
    ExecutionReport {
        id: PipelineId::parse("metrics").unwrap(),
        version: "1".into(),
        fingerprint: Fingerprint("f".into()),
        phase,
        troubles: trouble.into_iter().map(|reason| Trouble { reason, message: "m".into() }).collect(),
        advice: Vec::new(),
        counters: Counters::default(),
        role: None,
        limits: EffectiveLimits::default(),
        proven: false,
        last_pull_ms: 0,
        last_write_ms: 0,
    }
}

struct Case {
    desire: Desire,
    phase: Phase,
    kept: Kept,
    left: Option<Finding>,
    failure: Option<Finding>,
    reports: Vec<ExecutionReport>,
    troubles: Vec<Finding>,
    now: Timestamp,
}

impl Case {
    fn new(wish: Wish, phase: Phase, reports: Vec<ExecutionReport>) -> Self {
        Self {
            desire: desire(wish, None),
            phase,
            kept: Kept::default(),
            left: None,
            failure: None,
            reports,
            troubles: Vec::new(),
            now: NOW,
        }
    }

    fn conditions(&self, old: &[Condition]) -> Vec<Condition> {
        let facts = Facts {
            desire: &self.desire,
            failure: self.failure.as_ref(),
            advice: &[],
            phase: self.phase,
            kept: &self.kept,
            switching: None,
            left: self.left.as_ref(),
            reports: &self.reports,
            troubles: &self.troubles,
            now: self.now,
        };
        conditions(&facts, old)
    }

    /// Whether the condition of `kind` is `status` for `reason`.
    fn says(&self, kind: ConditionType, status: bool, reason: Reason) {
        let all = self.conditions(&[]);
        let found = all.iter().any(|condition| (condition.kind, condition.status, condition.reason) == (kind, status, reason));
        assert!(found, "{kind:?}={status} {reason:?} is not in {all:#?}");
    }
}

use ConditionType::{Advisory, Progressing, Ready, Valid};

#[test]
fn a_paused_or_draft_pipeline_is_as_desired_once_nothing_runs() {
    for (wish, phase, reason) in [(Wish::Paused, Phase::Stopped, Reason::Paused), (Wish::Draft, Phase::Absent, Reason::Draft)] {
        let case = Case::new(wish.clone(), phase, vec![]);
        case.says(Valid, true, Reason::AsDesired);
        case.says(Ready, true, reason);
        case.says(Progressing, true, Reason::AsDesired);
        Case::new(wish, phase, vec![report(ExecutionPhase::Stopping, None)]).says(Ready, false, reason);
    }
}

#[test]
fn an_entry_that_cannot_be_followed_says_why_and_what_goes_on() {
    for wish in [Wish::Unfit, Wish::Unknown] {
        let mut case = Case::new(wish, Phase::Run, vec![report(ExecutionPhase::Running, None)]);
        case.desire.trouble = Some(Finding::new(Reason::ConfigInvalid, "line 3"));
        case.says(Valid, false, Reason::ConfigInvalid);
        case.says(Ready, false, Reason::ConfigInvalid);
        case.says(Progressing, true, Reason::AsDesired);
        assert!(case.conditions(&[])[1].message.contains("version 1 goes on running"));
        case.phase = Phase::Absent;
        case.reports.clear();
        case.says(Progressing, false, Reason::ConfigInvalid);
    }
}

#[test]
fn troubles_of_an_execution_are_no_progress_and_starting_is_none_yet() {
    let blocked = vec![report(ExecutionPhase::Blocked, Some(Reason::DatabaseUnavailable))];
    Case::new(Wish::Unfit, Phase::Run, blocked).says(Progressing, false, Reason::DatabaseUnavailable);
    Case::new(Wish::Unfit, Phase::Run, vec![report(ExecutionPhase::Starting, None)]).says(Progressing, false, Reason::InProgress);
    Case::new(Wish::Unfit, Phase::Switch, vec![]).says(Progressing, false, Reason::InProgress);
}

#[test]
fn a_failed_step_makes_the_pipeline_invalid() {
    let mut case = Case::new(Wish::Unfit, Phase::Run, vec![]);
    case.failure = Some(Finding::new(Reason::StreamForeign, "m"));
    case.says(Valid, false, Reason::StreamForeign);
}

#[test]
fn a_drain_is_slow_after_its_timeout_and_its_words_do_not_change_every_second() {
    let mut case = Case::new(Wish::Deleted, Phase::Drain, vec![report(ExecutionPhase::Running, None)]);
    case.kept = Kept { drain_started: Some(NOW), drain_timeout_s: 600, ..Kept::default() };
    case.says(Ready, false, Reason::Draining);
    let first = case.conditions(&[]);
    case.now = NOW + Duration::from_secs(30);
    assert_eq!(case.conditions(&first), first);
    case.now = NOW + Duration::from_secs(601);
    case.says(Ready, false, Reason::DrainSlow);
    let slow = case.conditions(&first);
    case.now = NOW + Duration::from_secs(700);
    assert_eq!(case.conditions(&slow), slow);
}

#[test]
fn a_stream_that_was_left_shows_its_remedy() {
    for reason in [Reason::StreamKept, Reason::StreamReplaced] {
        let mut case = Case::new(Wish::Deleted, Phase::Absent, vec![]);
        case.left = Some(Finding::new(reason, "m"));
        case.says(Ready, true, reason);
        case.says(Advisory, true, reason);
    }
}

#[test]
fn an_engine_that_is_away_is_said_and_what_runs_is_called_running() {
    let away = Finding::new(Reason::EngineUnavailable, "no answer since noon");
    let mut case = Case::new(Wish::Run(Box::new(spec())), Phase::Run, vec![]);
    case.troubles = vec![away.clone()];
    case.says(Ready, false, Reason::EngineUnavailable);
    case.says(Progressing, false, Reason::EngineUnavailable);
    let running = ExecutionReport { fingerprint: spec().fingerprint, ..report(ExecutionPhase::Running, None) };
    let mut case = Case::new(Wish::Run(Box::new(spec())), Phase::Run, vec![running]);
    case.troubles = vec![away];
    case.says(Ready, true, Reason::AsDesired);
    case.says(Progressing, true, Reason::AsDesired);
    case.says(Advisory, true, Reason::EngineUnavailable);
}

#[test]
fn limits_and_dead_letters_are_advice_said_once_for_all_executions() {
    let mut one = report(ExecutionPhase::Running, None);
    one.limits.limited = true;
    one.counters.dead_lettered = 3;
    let case = Case::new(Wish::Unfit, Phase::Run, vec![one.clone(), one]);
    case.says(Advisory, true, Reason::BatchLimited);
    case.says(Advisory, true, Reason::DocumentsRefused);
    assert_eq!(case.conditions(&[]).iter().filter(|condition| condition.kind == Advisory).count(), 2);
}

#[test]
fn measurements_that_are_stored_at_least_once_are_said_to_be_and_others_are_not() {
    for (role, said) in [(StreamRole::AtLeastOnce, 1), (StreamRole::Active, 0), (StreamRole::Standby, 0)] {
        let one = ExecutionReport { role: Some(role), ..report(ExecutionPhase::Running, None) };
        let case = Case::new(Wish::Unfit, Phase::Run, vec![one.clone(), one]);
        let advice = case.conditions(&[]).into_iter().filter(|condition| condition.reason == Reason::AtLeastOnce);
        assert_eq!(advice.count(), said, "{role:?}");
    }
}

#[test]
fn since_is_kept_while_status_and_reason_stay() {
    let mut case = Case::new(Wish::Paused, Phase::Stopped, vec![]);
    let old = case.conditions(&[]);
    case.now = NOW + Duration::from_secs(5);
    assert!(case.conditions(&old).iter().all(|condition| condition.since == NOW));
    case.desire.wish = Wish::Draft;
    let new = case.conditions(&old);
    assert_eq!(new.iter().find(|condition| condition.kind == Ready).unwrap().since, case.now);
}
