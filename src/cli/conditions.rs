//! Conditions as lines for people, each that needs it with its remedy: what `status` and every `--wait` show.

use super::list::{is_note, is_trouble};
use super::output::Tone;
use super::status::age;
use crate::pipeline::status::{Condition, ConditionType};
use crate::pipeline::text::printable;
use std::time::Duration;

/// The conditions of the pipeline `id` whose entry names `version` as lines, each that needs it with its remedy below; `all`
/// or only what is wrong.
pub fn condition_lines(id: &str, version: Option<&str>, conditions: &[Condition], all: bool) -> Vec<(String, Tone)> {
    let mut lines = Vec::new();
    for (index, condition) in conditions.iter().enumerate() {
        let (trouble, note) = (is_trouble(condition), is_note(condition));
        // An edit in progress is no trouble, and still the answer to "why not yet?".
        let unmet = !condition.status && condition.kind != ConditionType::Advisory;
        if !(all || trouble || unmet) {
            continue;
        }
        let message = if condition.message.is_empty() { String::new() } else { format!(": {}", printable(&condition.message)) };
        // The second of two that have the same cause only refers to it.
        let told = conditions[..index].iter().any(|other| other.reason == condition.reason && other.message == condition.message);
        let told = told && !condition.message.is_empty();
        let remedied = conditions[..index].iter().any(|other| other.reason == condition.reason && is_trouble(other));
        let message = if told { ", as above".to_owned() } else { message };
        let (kind, mark) = match (condition.kind, condition.status) {
            (ConditionType::Advisory, _) => ("Note".to_owned(), ""),
            (kind, true) => (format!("{kind:?}"), "yes"),
            (kind, false) => (format!("{kind:?}"), "no"),
        };
        let since = age(condition.since).as_secs();
        let since = humantime::format_duration(Duration::from_secs(since));
        let tone = match (trouble, note) {
            (true, _) => Tone::Bad,
            (_, true) => Tone::Doubtful,
            (false, false) => Tone::Plain,
        };
        lines.push((format!("{kind:<13} {mark:<3} {}{message} (for {since})", condition.reason.as_str()), tone));
        if (trouble || note) && !remedied {
            lines.push((format!("{:13}     -> {}", "", condition.reason.remedy_for(id, version)), Tone::Plain));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::super::status::tests::condition;
    use super::*;
    use crate::pipeline::status::Reason;

    #[test]
    fn what_is_wrong_comes_with_its_remedy() {
        let lines = condition_lines("metrics", Some("7"), &[condition(ConditionType::Valid, false, Reason::VersionMissing)], false);
        assert!(lines[0].0.contains("VersionMissing: the particulars"), "{lines:?}");
        assert!(lines[1].0.contains("`metrics/7`") && lines[1].0.contains("sluice rollback metrics"), "{lines:?}");
    }

    #[test]
    fn advice_is_a_note_and_no_trouble() {
        let advice = condition(ConditionType::Advisory, true, Reason::AtLeastOnce);
        assert!(is_note(&advice) && !is_trouble(&advice));
        let lines = condition_lines("metrics", None, &[advice], true);
        assert!(lines[0].0.starts_with("Note") && lines[0].1 == Tone::Doubtful, "{lines:?}");
        assert!(lines[1].0.contains("-> a crash"), "{lines:?}");
    }

    #[test]
    fn one_cause_is_told_once() {
        let kinds = [ConditionType::Ready, ConditionType::Progressing];
        let both = kinds.map(|kind| condition(kind, false, Reason::DatabaseUnavailable));
        let lines = condition_lines("metrics", None, &both, true);
        assert_eq!(lines.iter().filter(|(line, _)| line.contains("the particulars")).count(), 1, "{lines:?}");
        assert!(lines.len() == 3 && lines[2].0.contains("as above"), "{lines:?}");
    }
}
