//! The first parent's `config/values.yml`, read as settings: recognised by its fields, whatever the file is called.
//!
//! The files of all its releases load unchanged: the flat one (`nats_hosts`, `mongo_url`, `batch_size`, …) and the nested one
//! before it (`nats.hosts`, `database.url`, `batch`, `duration`, `description`). Numbers that cannot work are clamped with a
//! warning, where a file of our own would be refused. The result is a tree of the shape of our own settings, whose nodes keep
//! their places.

use super::overrides::put;
use crate::pipeline::config::{DEFAULT_ACK_WAIT, longest_period};
use crate::pipeline::document::{Node, Place, Style, Value, shown};
use crate::pipeline::fields::{Fields, Report, Taken};
use humantime::format_duration as show;
use std::time::Duration;

/// Fields that only the first parent's file has, in one release or another; `namespace` is in both, and so is `nats`.
const FIELDS: &[&str] = &[
    "mode",
    "description",
    "batch",
    "batch_size",
    "duration",
    "flush_interval",
    "nats_hosts",
    "nats_token",
    "database",
    "mongo_url",
    "mongo_database",
];

/// The fields of its nested form, and the settings that they are.
const NESTED: &[(&str, &[(&str, &str)])] = &[
    ("nats", &[("hosts", "nats.urls"), ("token", "nats.token")]),
    ("database", &[("url", "mongodb.connections.default.url"), ("name", "mongodb.connections.default.database")]),
];

/// Whether `root` is a file of the first parent's: it has one of its fields, and nothing of ours but what is in both.
pub(super) fn is_values(root: &Node) -> bool {
    let Value::Map(entries) = &root.value else { return false };
    let its_nats = |node: &Node| {
        let Value::Map(fields) = &node.value else { return false };
        fields.iter().all(|(key, _)| matches!(key.name.as_str(), "hosts" | "token"))
    };
    let ours = |name: &str| super::overrides::PATHS.iter().any(|path| path.split('.').next() == Some(name));
    let shared = |name: &str, node: &Node| name == "namespace" || (name == "nats" && its_nats(node));
    let hosts = |node: &Node| matches!(&node.value, Value::Map(fields) if fields.iter().any(|(key, _)| key.name == "hosts"));
    entries.iter().any(|(key, node)| FIELDS.contains(&key.name.as_str()) || (key.name == "nats" && hosts(node)))
        && entries.iter().all(|(key, node)| shared(&key.name, node) || !ours(&key.name))
}

/// Makes settings of it.
pub(super) fn convert(root: &Node, report: &mut Report) -> Node {
    let mut fields = Fields::of(root, "", report);
    let mut result = Node { place: root.place.clone(), value: Value::Map(Vec::new()) };
    let direct = [
        ("namespace", "namespace"),
        ("nats_hosts", "nats.urls"),
        ("nats_token", "nats.token"),
        ("mongo_url", "mongodb.connections.default.url"),
        ("mongo_database", "mongodb.connections.default.database"),
    ];
    for (theirs, ours) in direct {
        take(&mut fields, theirs, ours, &mut result);
    }
    for (section, direct) in NESTED {
        let mut section = fields.map(section, report);
        for (theirs, ours) in *direct {
            take(&mut section, theirs, ours, &mut result);
        }
        section.finish(report);
    }
    // It described the bucket, which keeps the description that it has.
    fields.string("description", report);
    let modes = [("debug", ("debug", "text")), ("release", ("info", "json"))];
    if let Some(taken) = fields.word("mode", &modes, report) {
        place(&mut result, "log.level", scalar(&taken.place, taken.value.0.to_owned()));
        place(&mut result, "log.format", scalar(&taken.place, taken.value.1.to_owned()));
    }
    for name in ["batch", "batch_size"] {
        let Some(taken) = fields.integer(name, i64::MIN..=i64::MAX, report) else { continue };
        let count = taken.value.clamp(1, 100_000);
        if count != taken.value {
            let remedy = "MongoDB takes 1 to 100000 documents in one command";
            taken.warning(report, format!("{name} {} is not possible; {count} is used", taken.value), remedy);
        }
        place(&mut result, "pipelines.batch_count", scalar(&taken.place, count.to_string()));
    }
    for name in ["duration", "flush_interval"] {
        if let Some(taken) = fields.string(name, report) {
            interval(name, taken, &mut result, report);
        }
    }
    fields.finish(report);
    result
}

/// Moves a field that says the same in both files.
fn take(fields: &mut Fields<'_>, theirs: &'static str, ours: &str, result: &mut Node) {
    // An empty text is how that file says "none".
    let given = fields.node(theirs).filter(|taken| !matches!(&taken.value.value, Value::Scalar(text, _) if text.is_empty()));
    if let Some(taken) = given {
        place(result, ours, taken.value.clone());
    }
}

fn interval(name: &str, taken: Taken<String>, result: &mut Node, report: &mut Report) {
    let Some(given) = go_duration(&taken.value) else {
        taken.error(report, format!("'{}' is not a duration", shown(&taken.value)), "write it as 5s or 500ms");
        return;
    };
    let longest = longest_period(DEFAULT_ACK_WAIT);
    let period = given.clamp(Duration::from_millis(1), longest);
    if period != given {
        let message = format!("{name} {} is not possible; {} is used", show(given), show(period));
        let remedy = format!("a message must be written within half of the {} that its durable waits", show(DEFAULT_ACK_WAIT));
        taken.warning(report, message, remedy);
    }
    place(result, "pipelines.batch_period", scalar(&taken.place, show(period).to_string()));
}

/// A duration as Go's parser takes it: `5s`, `1m30s`, `1.5s`; or a bare number of nanoseconds. Negative ones are 0.
fn go_duration(text: &str) -> Option<Duration> {
    if let Ok(nanoseconds) = text.parse::<i64>() {
        return Some(Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0)));
    }
    if let Some(rest) = text.strip_prefix('-') {
        return go_duration(rest).map(|_| Duration::ZERO);
    }
    let mut seconds = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let (number, tail) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit() && c != '.')?);
        let (unit, tail) = tail.split_at(tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len()));
        let factor = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" | "μs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * factor;
        rest = tail;
    }
    (!text.is_empty()).then(|| Duration::try_from_secs_f64(seconds).ok()).flatten()
}

fn scalar(place: &Place, text: String) -> Node {
    Node { place: place.clone(), value: Value::Scalar(text, Style::Plain) }
}

fn place(result: &mut Node, path: &str, node: Node) {
    put(result, &path.split('.').map(str::to_owned).collect::<Vec<_>>(), node);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        let millis = |text| go_duration(text).map(|duration| duration.as_millis());
        assert_eq!(millis("5s"), Some(5000));
        assert_eq!(millis("1m30s"), Some(90_000));
        assert_eq!(millis("1.5s"), Some(1500));
        assert_eq!(millis("5000000000"), Some(5000));
        assert_eq!(millis("-5s"), Some(0));
        for wrong in ["", "5", "s", "5 s", "1.2.3s", "5x", "é", "--1s"] {
            assert!(wrong == "5" || go_duration(wrong).is_none_or(|d| d.is_zero()), "{wrong}");
        }
    }
}
