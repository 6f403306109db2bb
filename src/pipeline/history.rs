//! What the conditions of a pipeline were before: a bounded list of transitions in the status document itself, so that it
//! is where a user looks, fenced by the same epoch and gone with the pipeline.
//!
//! A transition is a condition that got another status or reason; a change of its message alone is none. Written by the
//! holder with the conditions, read by `sluice history` and the HTTP API.

use super::status::{Condition, ConditionType, Reason};
use super::text::{PAST_MESSAGE, bounded};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How many transitions a status document keeps, the newest.
pub const MAX_TRANSITIONS: usize = 50;

/// A condition that became what it is here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Transition {
    /// When.
    pub at: Timestamp,
    /// What it is about.
    #[serde(rename = "type")]
    pub kind: ConditionType,
    /// Whether it holds since; of an advisory, `false` means that there is no cause for it any more.
    pub status: bool,
    /// Why.
    pub reason: Reason,
    /// For people, with the particulars; cut off where it is long.
    pub message: String,
}

/// `history`, oldest first, with what is different between the conditions `old` and `new`.
pub fn remembered(history: &[Transition], old: &[Condition], new: &[Condition], now: Timestamp) -> Vec<Transition> {
    let same = |a: &Condition, b: &Condition| a.kind == b.kind && a.status == b.status && a.reason == b.reason;
    let transition = |condition: &Condition, status: bool| Transition {
        at: now,
        kind: condition.kind,
        status,
        reason: condition.reason,
        message: bounded(&condition.message, PAST_MESSAGE),
    };
    let mut changes: Vec<Transition> = Vec::new();
    // Of the other types there is always exactly one, which the new one replaces.
    let ended = old.iter().filter(|was| was.kind == ConditionType::Advisory && !new.iter().any(|is| same(was, is)));
    let begun = new.iter().filter(|is| !old.iter().any(|was| same(was, is)));
    for change in ended.map(|was| transition(was, false)).chain(begun.map(|is| transition(is, is.status))) {
        // Several advisories with one reason differ in their messages only.
        if !changes.iter().any(|other| (other.kind, other.status, other.reason) == (change.kind, change.status, change.reason)) {
            changes.push(change);
        }
    }
    let mut all: Vec<Transition> = history.iter().cloned().chain(changes).collect();
    all.drain(..all.len().saturating_sub(MAX_TRANSITIONS));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn condition(kind: ConditionType, status: bool, reason: Reason, message: &str) -> Condition {
        Condition { kind, status, reason, message: message.into(), since: NOW }
    }

    fn shown(history: &[Transition]) -> Vec<(ConditionType, bool, Reason)> {
        history.iter().map(|transition| (transition.kind, transition.status, transition.reason)).collect()
    }

    #[test]
    fn a_condition_that_changes_is_remembered_and_another_message_is_not() {
        use ConditionType::Ready;
        let starting = [condition(Ready, false, Reason::InProgress, "starting")];
        let history = remembered(&[], &[], &starting, NOW);
        let waiting = [condition(Ready, false, Reason::InProgress, "still starting")];
        let history = remembered(&history, &starting, &waiting, NOW);
        let running = [condition(Ready, true, Reason::AsDesired, "")];
        let history = remembered(&history, &waiting, &running, NOW);
        assert_eq!(shown(&history), [(Ready, false, Reason::InProgress), (Ready, true, Reason::AsDesired)]);
    }

    #[test]
    fn advice_that_comes_and_goes_is_remembered_once_each() {
        use ConditionType::Advisory;
        let two = ["a", "b"].map(|message| condition(Advisory, true, Reason::BatchLimited, message));
        let history = remembered(&[], &[], &two, NOW);
        let history = remembered(&history, &two, &[], NOW);
        assert_eq!(shown(&history), [(Advisory, true, Reason::BatchLimited), (Advisory, false, Reason::BatchLimited)]);
    }

    #[test]
    fn however_often_it_changes_the_history_is_bounded_and_keeps_the_newest() {
        let (mut history, mut old) = (Vec::new(), Vec::new());
        for turn in 0..200 {
            let new = vec![condition(ConditionType::Ready, turn % 2 == 0, Reason::AsDesired, &"x".repeat(5000))];
            history = remembered(&history, &old, &new, Timestamp::from_second(turn).unwrap());
            old = new;
        }
        assert_eq!((history.len(), history.last().unwrap().at.as_second()), (MAX_TRANSITIONS, 199));
        assert!(serde_json::to_string(&history).unwrap().len() < 20_000);
    }
}
