//! Turns the bytes of a config into a [`PipelineConfig`], or into everything that is wrong with them.
//!
//! Pure and offline: what can only be told from the settings (names, id, connections) is checked where the context
//! has it. Used by `sluice lint`, by `sluice publish`, and by the controller before it admits a version.

use super::target;
use super::{Batching, DEFAULT_ACK_WAIT, DEFAULT_MAX_ACK_PENDING, InputConfig, MAX_CONFIG_BYTES, OnDelete, OutputConfig, PipelineConfig};
use super::{WRITE_TIMEOUT, WriteConcern};
use crate::pipeline::document::{self, Place, Value, shown};
use crate::pipeline::fields::{Fields, Report, Taken};
use crate::pipeline::id::PipelineId;
use crate::pipeline::names::Names;
use crate::pipeline::problem::{Problem, Severity};
use crate::pipeline::reserved;
use crate::pipeline::subject;
use humantime::format_duration as show;
use std::time::Duration;

/// What is known beside the config itself. `None` means that it is not checked.
#[derive(Debug, Clone, Default)]
pub struct LintContext {
    /// The names on the wire.
    pub names: Option<Names>,
    /// The pipeline that the config is for.
    pub id: Option<PipelineId>,
    /// The names in the settings' `mongodb.connections`.
    pub connections: Option<Vec<String>>,
}

/// Problems beyond these are only counted.
const MAX_PROBLEMS: usize = 100;
/// Subjects that one stream may list, which are compared with each other.
pub const MAX_SUBJECTS: usize = 100;

const ONE_MILLISECOND: Duration = Duration::from_millis(1);
const ONE_SECOND: Duration = Duration::from_secs(1);

const NO_ADDRESS: &str = "a config holds no URL and no credential";
const USE_CONNECTION: &str = "put it into the settings under mongodb.connections, and name it here as output.mongodb.connection";
const USE_SETTINGS: &str = "it belongs into the settings, under nats";

/// Fields that Benthos has and that a config must not: addresses and secrets live in the settings.
const MISTAKES: &[(&str, &str, &str)] = &[
    ("url", NO_ADDRESS, USE_CONNECTION),
    ("uri", NO_ADDRESS, USE_CONNECTION),
    ("urls", NO_ADDRESS, USE_SETTINGS),
    ("username", NO_ADDRESS, USE_CONNECTION),
    ("user", NO_ADDRESS, USE_CONNECTION),
    ("password", NO_ADDRESS, USE_CONNECTION),
    ("token", NO_ADDRESS, USE_SETTINGS),
    ("credentials", NO_ADDRESS, USE_SETTINGS),
    ("auth", NO_ADDRESS, USE_SETTINGS),
    ("tls", NO_ADDRESS, "TLS is configured in the settings"),
];

/// The values of `on_delete`.
pub const ON_DELETE: &[(&str, OnDelete)] = &[("drain", OnDelete::Drain), ("delete", OnDelete::Delete), ("keep", OnDelete::Keep)];

/// Reads the config in `bytes`; `file` is what problems call it. The config is there unless one of the problems is an
/// error: the first syntax error alone, or all semantic ones at once.
pub fn lint(file: &str, bytes: &[u8], context: &LintContext) -> (Option<PipelineConfig>, Vec<Problem>) {
    let root = match document::parse(file, bytes, MAX_CONFIG_BYTES) {
        Ok(root) => root,
        Err(problem) => return (None, vec![*problem]),
    };
    let mut report = Report { scalar_check: Some(no_address), known_mistakes: MISTAKES, ..Report::default() };
    if root.value == Value::Null {
        report.error(&root.place, "", "the config is empty", "it needs at least 'output: {mongodb: {}}'");
        return (None, report.problems);
    }
    if !matches!(root.value, Value::Map(_)) {
        report.error(&root.place, "", "the config is not a map", "it needs at least 'output: {mongodb: {}}'");
        return (None, report.problems);
    }
    let config = walk(Fields::of(&root, "", &mut report), context, &mut report);
    let config = if report.failed() { None } else { config };
    (config, first_ones(report.sorted()))
}

/// A config is anybody's, and its problems go into a status: of a thousand, the first ones will do.
fn first_ones(mut problems: Vec<Problem>) -> Vec<Problem> {
    let more = problems.len().saturating_sub(MAX_PROBLEMS);
    if more > 0 {
        let severity = problems.iter().map(|problem| problem.severity).max().unwrap_or(Severity::Warning);
        problems.truncate(MAX_PROBLEMS);
        let last = problems.last().map(|last| Place { origin: last.file.as_str().into(), line: last.line, column: last.column });
        problems.extend(last.map(|place| place.problem(severity, "", format!("and {more} more problems"), "correct the first ones")));
    }
    problems
}

/// Refuses what a config may not hold in any field.
fn no_address(text: &str) -> Option<(String, String)> {
    if text.contains("${!") {
        return Some(("'${! … }' is reserved for routing, which is not built yet".into(), "write a fixed name".into()));
    }
    if text.contains("${") {
        let remedy = "write the value itself; what differs between installations belongs into the settings";
        return Some(("'${…}' is not replaced in a config, which must mean the same to everyone who reads it".into(), remedy.into()));
    }
    text.contains("://").then(|| (NO_ADDRESS.to_owned(), USE_CONNECTION.to_owned()))
}

fn walk(mut root: Fields<'_>, context: &LintContext, report: &mut Report) -> Option<PipelineConfig> {
    if let Some(schema) = root.integer("schema", 1..=i64::MAX, report)
        && schema.value > 1
    {
        let message = format!("schema {} is newer than this release understands", schema.value);
        schema.error(report, message, "upgrade sluice, or write the config for schema 1");
    }
    let mut outer = root.map("input", report);
    let mut fields = outer.map("nats_jetstream", report);
    let (input, limits) = input(&mut fields, context, report);
    fields.finish(report);
    outer.finish(report);

    let mut pipeline = root.map("pipeline", report);
    if let Some(processors) = pipeline.node("processors") {
        match &processors.value.value {
            Value::List(items) => {
                if let Some(first) = items.first() {
                    let remedy = "leave the list empty; transform documents before they are published";
                    report.error(&first.place, &processors.path, "processors are not built yet", remedy);
                }
            }
            _ => processors.error(report, "expected a list", "write 'processors: []'"),
        }
    }
    pipeline.finish(report);

    let mut outer = root.map("output", report);
    let place = outer.place().clone();
    let (given, output) = match outer.has("mongodb") {
        true => {
            let mut fields = outer.map("mongodb", report);
            let output = output(&mut fields, &limits, context, report);
            fields.finish(report);
            (true, Some(output))
        }
        false => (false, None),
    };
    outer.finish(report);
    if !given {
        report.error(&place, "output.mongodb", "the config names no output", "add 'output: {mongodb: {}}', to begin with");
    }
    let on_delete = root.word("on_delete", ON_DELETE, report).map(|taken| taken.value);
    let drain_timeout = root.duration("drain_timeout", ONE_SECOND, report).map(|taken| taken.value);
    root.finish(report);
    Some(PipelineConfig { input, output: output?, on_delete, drain_timeout })
}

/// A field as the checks across fields see it.
enum Field<T> {
    /// Not written: the default holds.
    Absent,
    /// Written, and understood.
    Given(Taken<T>),
    /// Written and already reported: nothing can be said about what it is combined with.
    Wrong,
}

impl<T: Copy> Field<T> {
    fn new(given: bool, taken: Option<Taken<T>>) -> Self {
        match taken {
            Some(taken) => Self::Given(taken),
            None if given => Self::Wrong,
            None => Self::Absent,
        }
    }

    fn value(&self) -> Option<T> {
        self.taken().map(|taken| taken.value)
    }

    fn taken(&self) -> Option<&Taken<T>> {
        match self {
            Self::Given(taken) => Some(taken),
            Self::Absent | Self::Wrong => None,
        }
    }

    fn is_wrong(&self) -> bool {
        matches!(self, Self::Wrong)
    }
}

/// What the output is checked against.
struct Limits {
    ack_wait: Field<Duration>,
    max_ack_pending: Field<i64>,
}

fn input(fields: &mut Fields<'_>, context: &LintContext, report: &mut Report) -> (InputConfig, Limits) {
    let stream = name(fields, "stream", report).filter(|stream| {
        let taken = context.names.as_ref().and_then(|names| reserved::stream(&stream.value, names));
        taken
            .inspect(|why| stream.error(report, format!("'{}' is not a pipeline's to read: {why}", shown(&stream.value)), "name another"))
            .is_none()
    });
    let subjects = fields.strings("subjects", report);
    if let Some(many) = subjects.as_ref().filter(|taken| taken.value.len() > MAX_SUBJECTS) {
        many.error(report, format!("{} subjects are too many", many.value.len()), format!("at most {MAX_SUBJECTS}; use wildcards"));
    }
    let subjects = subjects.filter(|taken| taken.value.len() <= MAX_SUBJECTS);
    let subjects = subjects.map(|taken| checked_subjects(taken.value, context, report)).unwrap_or_default();
    let (stream, consumer) = (stream.map(|taken| taken.value), name(fields, "consumer", report).map(|taken| taken.value));
    let ack_wait = Field::new(fields.given("ack_wait"), fields.duration("ack_wait", ONE_SECOND, report));
    let given = fields.given("max_ack_pending");
    let max_ack_pending = Field::new(given, fields.integer("max_ack_pending", -1..=i64::from(i32::MAX), report));
    if let Some(zero) = max_ack_pending.taken().filter(|taken| taken.value == 0) {
        zero.error(report, "0 would be read as the server's own default, 1000", "leave it out, or write -1 for no limit");
    }
    let input = InputConfig { stream, subjects, consumer, ack_wait: ack_wait.value(), max_ack_pending: max_ack_pending.value() };
    (input, Limits { ack_wait, max_ack_pending })
}

/// The name of a stream or consumer.
fn name(fields: &mut Fields<'_>, field: &'static str, report: &mut Report) -> Option<Taken<String>> {
    let taken = fields.string(field, report)?;
    let valid = |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, '.' | '*' | '>' | '/' | '\\');
    if taken.value.is_empty() || taken.value.len() > 255 || !taken.value.chars().all(valid) {
        let message = format!("'{}' is no name that NATS allows", shown(&taken.value));
        taken.error(report, message, "1 to 255 characters, without white space and . * > / \\");
        return None;
    }
    Some(taken)
}

fn checked_subjects(subjects: Vec<Taken<String>>, context: &LintContext, report: &mut Report) -> Vec<String> {
    let mut good: Vec<String> = Vec::new();
    for taken in subjects {
        let text = &taken.value;
        if let Some(fault) = subject::fault(text) {
            taken.error(report, format!("'{}' is no subject for a stream", shown(text)), fault);
            continue;
        }
        if let Some(other) = good.iter().find(|other| subject::overlap(other, text)) {
            taken.error(report, format!("'{text}' overlaps '{other}'"), "NATS refuses a stream whose subjects overlap: remove one");
            continue;
        }
        if let Some(names) = &context.names
            && is_reserved(&taken, names, context.id.as_ref(), report)
        {
            continue;
        }
        good.push(taken.value);
    }
    good
}

/// Whether a subject catches what is not meant for the stream.
fn is_reserved(taken: &Taken<String>, names: &Names, id: Option<&PipelineId>, report: &mut Report) -> bool {
    let Some((what, remedy)) = reserved::subject(&taken.value, names, id) else { return false };
    taken.error(report, what, remedy);
    true
}

fn output(fields: &mut Fields<'_>, limits: &Limits, context: &LintContext, report: &mut Report) -> OutputConfig {
    let connection = target::connection(fields, context.connections.as_deref(), report);
    let (database, collection) = target::namespace(fields, report);
    if collection.is_none() && context.id.as_ref().is_some_and(|id| id.as_str() == reserved::LEDGER) {
        let message = format!("the collection would be '{}', which is Sluice's own", reserved::LEDGER);
        report.error(fields.place(), &fields.path_of("collection"), message, "name another collection");
    }
    let time_series = target::time_series(fields, report);
    let mut batch = fields.map("batching", report);
    let max_in_flight = fields.integer("max_in_flight", 1..=16, report).map_or(2, |taken| taken.value);
    let batching = batching(&mut batch, limits, max_in_flight, report);
    batch.finish(report);
    let mut concern = fields.map("write_concern", report);
    let write_concern = write_concern(&mut concern, report);
    concern.finish(report);
    OutputConfig {
        connection,
        database,
        collection,
        time_series,
        batching,
        max_in_flight: u32::try_from(max_in_flight).unwrap_or(2),
        write_concern,
    }
}

fn batching(fields: &mut Fields<'_>, limits: &Limits, max_in_flight: i64, report: &mut Report) -> Batching {
    let default = Batching::default();
    let count = Field::new(fields.given("count"), fields.integer("count", 1..=100_000, report));
    let byte_size = fields.bytes("byte_size", 1024..=default.byte_size, report);
    let period = Field::new(fields.given("period"), fields.duration("period", ONE_MILLISECOND, report));
    let linger = fields.duration("linger", Duration::ZERO, report);
    if !period.is_wrong() && !limits.ack_wait.is_wrong() {
        check_period(period.taken(), limits.ack_wait.taken(), default.period, report);
    }
    if !count.is_wrong() && !limits.max_ack_pending.is_wrong() {
        check_count(count.taken(), limits.max_ack_pending.taken(), max_in_flight, report);
    }
    let batching = Batching {
        count: count.value().and_then(|value| u32::try_from(value).ok()).unwrap_or(default.count),
        byte_size: byte_size.map_or(default.byte_size, |taken| taken.value),
        period: period.value().unwrap_or(default.period),
        linger: linger.as_ref().map_or(default.linger, |taken| taken.value),
    };
    if let Some(linger) = linger
        && linger.value >= batching.period
    {
        let message = format!("linger {} never ends before period {}", show(linger.value), show(batching.period));
        linger.warning(report, message, "make it shorter than period, or leave it out");
    }
    batching
}

/// The longest `period` that a message can wait and still be written and acknowledged while it is surely ours.
pub fn longest_period(ack_wait: Duration) -> Duration {
    (ack_wait / 2).saturating_sub(WRITE_TIMEOUT)
}

fn check_period(period: Option<&Taken<Duration>>, ack_wait: Option<&Taken<Duration>>, default: Duration, report: &mut Report) {
    let wait = ack_wait.map_or(DEFAULT_ACK_WAIT, |taken| taken.value);
    let value = period.map_or(default, |taken| taken.value);
    let longest = longest_period(wait);
    if value <= longest {
        return;
    }
    let message =
        format!("period {} and the {} that a write may take exceed half of ack_wait {}", show(value), show(WRITE_TIMEOUT), show(wait));
    let needed = show((value + WRITE_TIMEOUT) * 2);
    let remedy = match longest {
        Duration::ZERO => format!("raise ack_wait to at least {needed}"),
        longest => format!("lower period to at most {}, or raise ack_wait to at least {needed}", show(longest)),
    };
    // Whoever wrote only ack_wait looks for the mistake there.
    if let Some(at) = period {
        at.error(report, message, remedy);
    } else if let Some(at) = ack_wait {
        at.error(report, message, remedy);
    }
}

fn check_count(count: Option<&Taken<i64>>, pending: Option<&Taken<i64>>, max_in_flight: i64, report: &mut Report) {
    let limit = pending.map_or(DEFAULT_MAX_ACK_PENDING, |taken| taken.value);
    let value = count.map_or(i64::from(Batching::default().count), |taken| taken.value);
    if limit <= 0 {
        return;
    }
    let effective = (limit / (max_in_flight + 1)).max(1);
    let (at, given): (&Place, _) = match (count, pending) {
        (Some(count), _) => (&count.place, "output.mongodb.batching.count"),
        (None, Some(pending)) => (&pending.place, pending.path.as_str()),
        (None, None) => return,
    };
    if value > limit && pending.is_some() {
        let message = format!("a batch of {value} never fills: max_ack_pending lets only {limit} messages be under way");
        report.error(at, given, message, format!("lower count, or raise max_ack_pending to at least {}", value * (max_in_flight + 1)));
    } else if value > effective {
        let message =
            format!("batches are limited to {effective} documents: max_ack_pending {limit} is shared by {} batches", max_in_flight + 1);
        let remedy = format!("raise max_ack_pending to at least {}, times the executions, or lower count", value * (max_in_flight + 1));
        report.warning(at, given, message, remedy);
    }
}

/// Members of a replica set, at most.
const MOST_NODES: u8 = 50;

fn write_concern(fields: &mut Fields<'_>, report: &mut Report) -> WriteConcern {
    let default = WriteConcern::default();
    let weak = "what was acknowledged to NATS could be lost by MongoDB";
    let w = fields.string("w", report);
    let j = fields.boolean("j", report);
    if let Some(w) = &w {
        let text = w.value.trim();
        // What begins like a number is one; the driver takes "+0", "00" and others for 0 or for a name.
        let numeric = text.starts_with(|c: char| c.is_numeric() || matches!(c, '+' | '-' | '.'));
        let none = text.is_empty() || (numeric && !text.contains(|c: char| c.is_numeric() && c.to_digit(10) != Some(0)));
        if none || text.starts_with('-') {
            w.error(report, "MongoDB would confirm nothing, so nothing could be acknowledged", "use majority");
        } else if numeric
            && text.parse::<u8>().ok().filter(|nodes| *nodes <= MOST_NODES).map(|nodes| nodes.to_string()).as_ref() != Some(&w.value)
        {
            let message = format!("'{}' is no number of nodes", shown(&w.value));
            w.error(report, message, format!("use majority, or a number from 1 to {MOST_NODES} without sign or leading zeros"));
        } else if w.value != default.w && text.eq_ignore_ascii_case(&default.w) {
            w.error(report, format!("'{}' is not known to MongoDB", shown(&w.value)), "write it as majority");
        } else if w.value != default.w {
            w.warning(report, format!("w: {} is weaker than majority: {weak}", shown(&w.value)), "use majority");
        }
    }
    if let Some(j) = j.as_ref().filter(|taken| !taken.value) {
        j.warning(report, format!("j: false does not wait for the journal: {weak}"), "use true");
    }
    WriteConcern { w: w.map_or(default.w, |taken| taken.value), j: j.map_or(default.j, |taken| taken.value) }
}
