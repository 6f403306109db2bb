//! The `names` section: templates of the names on the wire, which must stay apart from each other.
//!
//! Two things under one name would mix entries with status documents or producers' messages with our own; NATS itself
//! would refuse some of these only when the second pipeline is made.

use crate::pipeline::document::shown;
use crate::pipeline::fields::{Fields, Report, Taken};
use crate::pipeline::names::NameTemplates;
use crate::pipeline::subject::overlap;

/// What a template is for, which decides how it may look.
#[derive(Clone, Copy, PartialEq)]
enum Use {
    /// A bucket or stream of the installation.
    Store,
    /// A stream of each pipeline.
    Stream,
    /// A subject of the installation.
    Subject,
    /// A subject of each pipeline.
    PipelineSubject,
    /// A durable within a pipeline's stream.
    Durable,
}

/// Takes all templates out of `fields`.
pub(super) fn read(fields: &mut Fields<'_>, names: &mut NameTemplates, report: &mut Report) {
    let mut written = Vec::new();
    let mut faulty = false;
    let slots: [(&'static str, &mut String, Use); 12] = [
        ("entries", &mut names.entries, Use::Store),
        ("configs", &mut names.configs, Use::Store),
        ("status", &mut names.status, Use::Store),
        ("lease", &mut names.lease, Use::Store),
        ("reports", &mut names.reports, Use::Subject),
        ("dead_letters", &mut names.dead_letters, Use::Store),
        ("stream", &mut names.stream, Use::Stream),
        ("subject", &mut names.subject, Use::PipelineSubject),
        ("closed", &mut names.closed, Use::PipelineSubject),
        ("consumer", &mut names.consumer, Use::Durable),
        ("states", &mut names.states, Use::Subject),
        ("logs", &mut names.logs, Use::Subject),
    ];
    for (name, slot, usage) in slots {
        let Some(taken) = fields.string(name, report) else { continue };
        match fault(&taken.value, usage) {
            Some((message, remedy)) => {
                faulty = true;
                taken.error(report, format!("'{}' {message}", shown(&taken.value)), remedy);
            }
            None => slot.clone_from(&taken.value),
        }
        written.push((name, taken));
    }
    if !faulty {
        collisions(names, &written, report);
    }
}

fn fault(template: &str, usage: Use) -> Option<(&'static str, &'static str)> {
    let per_pipeline = matches!(usage, Use::Stream | Use::PipelineSubject);
    if usage != Use::Durable && !template.contains("{ns}") {
        return Some(("does not hold {ns}, so two installations would share it", "add {ns}"));
    }
    if per_pipeline != template.contains("{id}") {
        return Some(match per_pipeline {
            true => ("does not hold {id}, so all pipelines would share it", "add {id}"),
            false => ("holds {id}, but there is only one of it", "remove {id}"),
        });
    }
    let dots = matches!(usage, Use::Subject | Use::PipelineSubject);
    let literal = template.replace("{ns}", "n").replace("{id}", "i");
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-') || (dots && c == '.');
    if literal.is_empty() || literal.len() > 64 || !literal.chars().all(valid) || literal.split('.').any(str::is_empty) {
        let rule = match dots {
            true => "use A-Z a-z 0-9 _ - and '.' between parts, {ns} and {id}",
            false => "use A-Z a-z 0-9 _ -, {ns} and {id}",
        };
        return Some(("is no name that NATS allows here", rule));
    }
    None
}

/// Reports every pair of templates that can make the same name, at whichever of them was written.
fn collisions(names: &NameTemplates, written: &[(&str, Taken<String>)], report: &mut Report) {
    let subjects = [
        ("subject", any_id(&names.subject)),
        ("closed", any_id(&names.closed)),
        ("reports", format!("{}.>", names.reports)),
        ("dead_letters", format!("{}.>", names.dead_letters)),
        ("states", names.states.clone()),
        ("logs", format!("{}.>", names.logs)),
    ];
    let buckets = [("entries", &names.entries), ("status", &names.status), ("lease", &names.lease)];
    let mut pairs = Vec::new();
    for (at, (a, first)) in subjects.iter().enumerate() {
        for (b, second) in subjects.iter().skip(at + 1) {
            // `{ns}.states` is the subject of a pipeline that cannot exist: `states` is reserved.
            let reserved = *a == "subject" && *b == "states" && names.states == names.subject.replace("{id}", "states");
            if overlap(first, second) && !reserved {
                pairs.push((*a, *b));
            }
        }
    }
    for (at, (a, first)) in buckets.iter().enumerate() {
        pairs.extend(buckets.iter().skip(at + 1).filter(|(_, second)| first == second).map(|(b, _)| (*a, *b)));
    }
    if let Some((before, after)) = names.stream.split_once("{id}")
        && names.dead_letters.len() > before.len() + after.len()
        && names.dead_letters.starts_with(before)
        && names.dead_letters.ends_with(after)
    {
        pairs.push(("stream", "dead_letters"));
    }
    for (a, b) in pairs {
        let at = written.iter().find(|(name, _)| *name == b).or_else(|| written.iter().find(|(name, _)| *name == a));
        if let Some((name, taken)) = at {
            let other = if *name == b { a } else { b };
            taken.error(report, format!("this can make the same name as names.{other}"), "make them differ");
        }
    }
}

/// A subject template as a pattern: the part that holds the id may be anything.
fn any_id(template: &str) -> String {
    template.split('.').map(|part| if part.contains("{id}") { "*" } else { part }).collect::<Vec<_>>().join(".")
}
