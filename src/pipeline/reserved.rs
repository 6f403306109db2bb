//! What is ours, in one list: the subjects, streams and collections that a config must not take, since others need them.
//! What belongs to other pipelines is known to the holder alone, which asks when it admits a version.

use super::id::PipelineId;
use super::names::Names;
use super::subject::{INBOX, overlap};

/// The collection in which a database's measurements are accounted for.
pub const LEDGER: &str = "sluice_ledger";

const ITS_OWN: &str = "choose a subject of its own";

/// The subjects of the installation, as patterns, each with what it is.
pub fn subjects(names: &Names) -> Vec<(String, &'static str)> {
    let mut list = vec![
        (names.dead_letter_subjects(), "the dead letters"),
        (names.report(">"), "the reports"),
        (names.logs(">"), "the requests for log lines"),
        (names.closed_subjects(), "the subjects of pipelines that are being deleted"),
    ];
    list.push((format!("{INBOX}.>"), "the inboxes of those who wait for answers"));
    list.extend(names.inboxes().iter().map(|prefix| (format!("{prefix}.>"), "the inboxes of those who wait for answers")));
    list
}

/// What `text`, a subject, would catch that is not meant for the stream of `id`, if anything, and the remedy.
pub fn subject(text: &str, names: &Names, id: Option<&PipelineId>) -> Option<(String, &'static str)> {
    if overlap(text, &names.states()) {
        let what = format!("'{text}' matches '{}', on which state requests are answered", names.states());
        return Some((what, "name the subjects one by one"));
    }
    if let Some((others, of)) = subjects(names).into_iter().find(|(others, _)| overlap(text, others)) {
        return Some((format!("'{text}' overlaps '{others}', {of}"), ITS_OWN));
    }
    let own = id.map(|id| names.subject(id)).filter(|own| text != own && overlap(text, own))?;
    Some((format!("'{text}' overlaps '{own}', which the stream listens on anyway"), "narrow it, or leave it out"))
}

/// Why a pipeline's stream may not be called `name`, if so.
pub fn stream(name: &str, names: &Names) -> Option<&'static str> {
    if name.starts_with("KV_") || name.starts_with("OBJ_") {
        return Some("streams that begin with 'KV_' or 'OBJ_' are buckets");
    }
    (name == names.dead_letters()).then_some("it is the stream of the dead letters")
}

/// Why an inbox prefix cannot be used with these names, if so: answers would be taken for something else.
pub fn inbox(prefix: &str, names: &Names) -> Option<String> {
    let pattern = format!("{prefix}.>");
    let others =
        [names.subjects(), names.states(), names.dead_letter_subjects(), names.report(">"), names.logs(">"), names.closed_subjects()];
    others.into_iter().find(|taken| overlap(&pattern, taken))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::id::Namespace;
    use crate::pipeline::names::NameTemplates;

    fn names() -> Names {
        let names = Names::new(Namespace::parse("alpha").unwrap(), NameTemplates::default());
        names.with_inboxes(vec!["_INBOX".into(), "_INBOX_ctl".into(), "app.answers".into()])
    }

    #[test]
    fn what_others_need_is_no_subject_for_a_stream() {
        let id = PipelineId::parse("m").unwrap();
        for taken in [
            "alpha.states",
            "alpha-dlq.m.x",
            "alpha-reports.*",
            "alpha-logs.*",
            "alpha-logs.m",
            "alpha-closed.m",
            "alpha-closed.>",
            "_INBOX_ctl.>",
            "_INBOX.x",
            "app.answers.>",
            "app.>",
            "*.a",
            "*.*.c",
            ">",
            "alpha.*",
        ] {
            assert!(subject(taken, &names(), Some(&id)).is_some(), "{taken}");
        }
        for free in ["plant.>", "plant.*.x", "alpha.m", "alpha.m.more", "alpha-x.m", "app.questions"] {
            assert!(subject(free, &names(), Some(&id)).is_none(), "{free}");
        }
    }

    #[test]
    fn buckets_and_the_dead_letters_are_no_stream_of_a_pipeline() {
        for taken in ["KV_alpha", "OBJ_alpha-configs", "KV_other", "alpha-dlq"] {
            assert!(stream(taken, &names()).is_some(), "{taken}");
        }
        assert!(stream("alpha_m", &names()).is_none() && stream("plant", &names()).is_none());
    }

    #[test]
    fn an_inbox_prefix_lies_beside_the_names() {
        for taken in ["alpha", "alpha-logs", "alpha-dlq", "alpha-closed"] {
            assert!(inbox(taken, &names()).is_some(), "{taken}");
        }
        for free in ["_INBOX", "_INBOX_ctl", "app.answers", "sluice"] {
            assert_eq!(inbox(free, &names()), None, "{free}");
        }
    }
}
