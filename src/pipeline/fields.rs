//! Takes typed fields out of a document, and collects everything that is wrong with it on the way.
//!
//! A field that is missing or wrong yields nothing and, if wrong, a problem; the walk goes on, so that all problems are
//! reported at once. Fields that nobody took are unknown, and refused naming the nearest known one.

use super::document::{Key, Node, Place, Style, Value, shown};
use super::problem::{Problem, Severity, has_errors};
use std::{ops::RangeInclusive, time::Duration};

/// Ten years: more than anything here can mean, less than any server refuses to count in nanoseconds.
const MAX_DURATION: Duration = Duration::from_secs(10 * 365 * 86_400);

/// A check that every scalar passes before it is typed: what is wrong and the remedy, if anything is.
pub type ScalarCheck = fn(&str) -> Option<(String, String)>;

/// What has been found wrong so far.
#[derive(Debug, Default)]
pub struct Report {
    /// The problems, in the order in which they were found.
    pub problems: Vec<Problem>,
    /// Applied to every scalar first.
    pub scalar_check: Option<ScalarCheck>,
    /// Fields that are unknown for a reason worth telling: name, message, remedy.
    pub known_mistakes: &'static [(&'static str, &'static str, &'static str)],
}

impl Report {
    /// Adds an error.
    pub fn error(&mut self, place: &Place, path: &str, message: impl Into<String>, remedy: impl Into<String>) {
        self.problems.push(place.problem(Severity::Error, path, message, remedy));
    }

    /// Adds a warning.
    pub fn warning(&mut self, place: &Place, path: &str, message: impl Into<String>, remedy: impl Into<String>) {
        self.problems.push(place.problem(Severity::Warning, path, message, remedy));
    }

    /// Whether any problem so far is an error.
    pub fn failed(&self) -> bool {
        has_errors(&self.problems)
    }

    /// The problems in the order of the places they stand at: files by line, then the rest.
    pub fn sorted(mut self) -> Vec<Problem> {
        self.problems.sort_by_key(|problem| (problem.line == 0, problem.line, problem.column));
        self.problems
    }
}

/// A value that was taken, with the place and path that messages about it need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub place: Place,
    /// Its dotted path.
    pub path: String,
}

impl<T> Taken<T> {
    /// An error about this value.
    pub fn error(&self, report: &mut Report, message: impl Into<String>, remedy: impl Into<String>) {
        report.error(&self.place, &self.path, message, remedy);
    }

    /// A warning about this value.
    pub fn warning(&self, report: &mut Report, message: impl Into<String>, remedy: impl Into<String>) {
        report.warning(&self.place, &self.path, message, remedy);
    }

    /// The same place with another value.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Taken<U> {
        Taken { value: change(self.value), place: self.place, path: self.path }
    }
}

/// The fields of one map. [`Fields::finish`] must be called, or unknown ones go unnoticed.
#[derive(Debug)]
#[must_use]
pub struct Fields<'a> {
    entries: Vec<(&'a Key, &'a Node)>,
    known: Vec<&'static str>,
    place: Place,
    path: String,
}

impl<'a> Fields<'a> {
    /// The fields of `node`, which must be a map; anything else is reported, and has no fields.
    pub fn of(node: &'a Node, path: &str, report: &mut Report) -> Self {
        let entries = match &node.value {
            Value::Map(entries) => entries.iter().map(|(key, node)| (key, node)).collect(),
            Value::Null => Vec::new(),
            other => {
                report.error(&node.place, path, format!("expected a map, found {}", kind(other)), "write its fields as 'name: value'");
                Vec::new()
            }
        };
        Self { entries, known: Vec::new(), place: node.place.clone(), path: path.to_owned() }
    }

    /// Where the map begins.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The dotted path of a field.
    pub fn path_of(&self, name: &str) -> String {
        join(&self.path, name)
    }

    /// Whether `name` is written and not yet taken, even if with nothing after it.
    pub fn has(&self, name: &str) -> bool {
        self.entries.iter().any(|(key, _)| key.name == name)
    }

    /// Whether `name` has a value and is not yet taken.
    pub fn given(&self, name: &str) -> bool {
        self.entries.iter().any(|(key, node)| key.name == name && node.value != Value::Null)
    }

    /// Takes the node of `name`; `null` counts as missing.
    pub fn node(&mut self, name: &'static str) -> Option<Taken<&'a Node>> {
        self.any(name).filter(|taken| taken.value.value != Value::Null)
    }

    fn any(&mut self, name: &'static str) -> Option<Taken<&'a Node>> {
        self.known.push(name);
        let at = self.entries.iter().position(|(key, _)| key.name == name)?;
        let (_, node) = self.entries.swap_remove(at);
        Some(Taken { value: node, place: node.place.clone(), path: self.path_of(name) })
    }

    /// Takes a map that may be missing or empty; a missing one has no fields.
    pub fn map(&mut self, name: &'static str, report: &mut Report) -> Fields<'a> {
        match self.any(name) {
            Some(taken) => Fields::of(taken.value, &taken.path, report),
            None => Self { entries: Vec::new(), known: Vec::new(), place: self.place.clone(), path: self.path_of(name) },
        }
    }

    /// Takes a map whose keys are names that somebody chose.
    pub fn named(&mut self, name: &'static str, report: &mut Report) -> Option<Vec<(Taken<String>, &'a Node)>> {
        let taken = self.node(name)?;
        let fields = Fields::of(taken.value, &taken.path, report);
        let path = fields.path.clone();
        let named = |(key, node): (&'a Key, &'a Node)| {
            (Taken { value: key.name.clone(), place: key.place.clone(), path: join(&path, &key.name) }, node)
        };
        Some(fields.entries.into_iter().map(named).collect())
    }

    /// Takes a string: the scalar's source text.
    pub fn string(&mut self, name: &'static str, report: &mut Report) -> Option<Taken<String>> {
        let taken = self.node(name)?;
        scalar(taken, report, "a text").map(|taken| taken.map(|(text, _)| text.to_owned()))
    }

    /// Takes a boolean, strictly `true` or `false`.
    pub fn boolean(&mut self, name: &'static str, report: &mut Report) -> Option<Taken<bool>> {
        let taken = plain(self.node(name)?, report, "true or false")?;
        self.typed(taken, report, "true or false", |text| match text {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        })
    }

    /// Takes a whole number within `range`.
    pub fn integer(&mut self, name: &'static str, range: RangeInclusive<i64>, report: &mut Report) -> Option<Taken<i64>> {
        let taken = plain(self.node(name)?, report, "a whole number")?;
        let taken = self.typed(taken, report, "a whole number", decimal)?;
        if range.contains(&taken.value) {
            return Some(taken);
        }
        let remedy = match *range.end() {
            i64::MAX => format!("at least {}", range.start()),
            end => format!("{} to {end}", range.start()),
        };
        taken.error(report, format!("{} is out of range", taken.value), remedy);
        None
    }

    /// Takes a duration such as `30s`, `5m` or `1h 30m`, of at least `least`.
    pub fn duration(&mut self, name: &'static str, least: Duration, report: &mut Report) -> Option<Taken<Duration>> {
        let taken = scalar(self.node(name)?, report, DURATION)?.map(|(text, _)| text);
        let taken = self.typed(taken, report, DURATION, |text| humantime::parse_duration(text).ok())?;
        if taken.value < least {
            taken.error(
                report,
                format!("{} is too short", humantime::format_duration(taken.value)),
                format!("at least {}", humantime::format_duration(least)),
            );
            return None;
        }
        if taken.value > MAX_DURATION {
            taken.error(report, "the duration is too long", "at most ten years");
            return None;
        }
        Some(taken)
    }

    /// Takes a number of bytes such as `16MiB`, within `range`.
    pub fn bytes(&mut self, name: &'static str, range: RangeInclusive<u64>, report: &mut Report) -> Option<Taken<u64>> {
        let taken = scalar(self.node(name)?, report, BYTES)?.map(|(text, _)| text);
        let taken = self.typed(taken, report, BYTES, byte_size)?;
        if range.contains(&taken.value) {
            return Some(taken);
        }
        let remedy = match *range.end() {
            u64::MAX => format!("at least {}", show_bytes(*range.start())),
            end => format!("{} to {}", show_bytes(*range.start()), show_bytes(end)),
        };
        taken.error(report, format!("{} is out of range", show_bytes(taken.value)), remedy);
        None
    }

    /// Takes one of `words`.
    pub fn word<T: Copy>(&mut self, name: &'static str, words: &[(&str, T)], report: &mut Report) -> Option<Taken<T>> {
        let taken = self.string(name, report)?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == taken.value) {
            let value = *value;
            return Some(taken.map(|_| value));
        }
        let all: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let remedy = match nearest(&taken.value, all.iter().copied()) {
            Some(word) => format!("did you mean '{word}'? It is one of {}", all.join(", ")),
            None => format!("one of {}", all.join(", ")),
        };
        taken.error(report, format!("'{}' is not known", shown(&taken.value)), remedy);
        None
    }

    /// Takes a list of strings. A value from outside of any file may hold them with commas between.
    pub fn strings(&mut self, name: &'static str, report: &mut Report) -> Option<Taken<Vec<Taken<String>>>> {
        let taken = self.node(name)?;
        let items = match &taken.value.value {
            Value::List(items) => items,
            Value::Scalar(text, Style::Override) => {
                let item = |text: &str| Taken { value: text.trim().to_owned(), place: taken.place.clone(), path: taken.path.clone() };
                let items = text.split(',').filter(|text| !text.trim().is_empty()).map(item).collect();
                return Some(taken.map(|_| items));
            }
            other => {
                taken.error(report, format!("expected a list, found {}", kind(other)), "write it as [first, second]");
                return None;
            }
        };
        let mut strings = Vec::with_capacity(items.len());
        for (at, node) in items.iter().enumerate() {
            let item = Taken { value: node, place: node.place.clone(), path: format!("{}[{at}]", taken.path) };
            strings.extend(scalar(item, report, "a text").map(|taken| taken.map(|(text, _)| text.to_owned())));
        }
        Some(taken.map(|_| strings))
    }

    fn typed<T>(
        &self,
        taken: Taken<&'a str>,
        report: &mut Report,
        expected: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Option<Taken<T>> {
        match read(taken.value) {
            Some(value) => Some(taken.map(|_| value)),
            None => {
                taken.error(report, format!("'{}' is not {expected}", shown(taken.value)), format!("write {expected}"));
                None
            }
        }
    }

    /// Reports every field that nobody took.
    pub fn finish(self, report: &mut Report) {
        for (key, _) in &self.entries {
            let path = self.path_of(&key.name);
            if let Some((_, message, remedy)) = report.known_mistakes.iter().find(|(name, ..)| *name == key.name) {
                report.error(&key.place, &path, *message, *remedy);
                continue;
            }
            let remedy = match nearest(&key.name, self.known.iter().copied()) {
                Some(name) => format!("did you mean '{name}'?"),
                None if self.known.is_empty() => "remove it".to_owned(),
                None => format!("known here: {}", self.known.join(", ")),
            };
            report.error(&key.place, &path, "unknown field", remedy);
        }
    }
}

const DURATION: &str = "a duration like 500ms, 30s, 5m or 30d";
const BYTES: &str = "a number of bytes like 65536, 512KiB or 16MiB";

fn join(path: &str, name: &str) -> String {
    let name = shown(name);
    if path.is_empty() { name } else { format!("{path}.{name}") }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Scalar(..) => "a single value",
        Value::List(_) => "a list",
        Value::Map(_) => "a map",
    }
}

fn scalar<'a>(taken: Taken<&'a Node>, report: &mut Report, expected: &str) -> Option<Taken<(&'a str, Style)>> {
    match &taken.value.value {
        Value::Scalar(text, style) => {
            if let Some((message, remedy)) = report.scalar_check.and_then(|check| check(text)) {
                taken.error(report, message, remedy);
                return None;
            }
            let style = *style;
            Some(taken.map(|_| (text.as_str(), style)))
        }
        other => {
            taken.error(report, format!("expected {expected}, found {}", kind(other)), format!("write {expected}"));
            None
        }
    }
}

/// A scalar that is no text: `"5"` in quotes is not a number.
fn plain<'a>(taken: Taken<&'a Node>, report: &mut Report, expected: &str) -> Option<Taken<&'a str>> {
    let taken = scalar(taken, report, expected)?;
    if taken.value.1 == Style::Quoted {
        taken.error(report, format!("expected {expected}, found a text in quotes"), "remove the quotes");
        return None;
    }
    Some(taken.map(|(text, _)| text))
}

/// A decimal number as people write it: no leading zero, which elsewhere means octal; underscores between digits.
fn decimal(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let proper = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    proper.then(|| text.parse().ok()).flatten()
}

fn byte_size(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim_start() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return None,
    };
    u64::try_from(decimal(number)?).ok()?.checked_mul(factor)
}

/// Bytes as people write them, exact.
pub fn show_bytes(bytes: u64) -> String {
    match bytes {
        0 => "0".into(),
        bytes if bytes % (1 << 30) == 0 => format!("{}GiB", bytes >> 30),
        bytes if bytes % (1 << 20) == 0 => format!("{}MiB", bytes >> 20),
        bytes if bytes % (1 << 10) == 0 => format!("{}KiB", bytes >> 10),
        bytes => bytes.to_string(),
    }
}

/// The one of `known` that `name` was probably meant to be.
pub fn nearest<'k>(name: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    // Hostile names may be long, and the comparison is quadratic.
    if name.len() > 64 {
        return None;
    }
    let name = name.to_lowercase();
    let distance = |other: &str| strsim::damerau_levenshtein(&name, &other.to_lowercase());
    let (best, distance) = known.into_iter().map(|other| (other, distance(other))).min_by_key(|(_, distance)| *distance)?;
    (distance <= 2.max(name.chars().count() / 3)).then_some(best)
}
