//! YAML as a tree of nodes that know where they were written and what was written there.
//!
//! Scalars keep their source text and are typed only by whoever asks for them, so `0123`, `1e5` and `no` stay what
//! they are. Anything clever is refused with its position: anchors, tags, merges, a second document, a key twice.
//! Config lint and settings build on it, by way of [`super::fields`].

use super::problem::{Problem, Severity};
use serde_yaml::granit_parser::{self, Event, Marker, Parser, ScalarStyle, ScanError, Span};
use std::{collections::HashMap, sync::Arc};

/// Lists and maps may be nested this deep; the deepest of ours is six.
const MAX_DEPTH: usize = 32;

/// Where something was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file, or `environment SLUICE_X`, or `--set a.b`.
    pub origin: Arc<str>,
    /// Line, counted from 1; 0 where there are none.
    pub line: u32,
    /// Column in characters, counted from 1; 0 where there are none.
    pub column: u32,
}

impl Place {
    /// A place without lines, such as a variable of the environment.
    pub fn whole(origin: &str) -> Self {
        Self { origin: origin.into(), line: 0, column: 0 }
    }

    /// A problem here.
    pub fn problem(&self, severity: Severity, path: &str, message: impl Into<String>, remedy: impl Into<String>) -> Problem {
        Problem {
            severity,
            file: self.origin.to_string(),
            path: path.to_owned(),
            line: self.line,
            column: self.column,
            message: message.into(),
            remedy: remedy.into(),
        }
    }
}

/// How a scalar was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Without quotes.
    Plain,
    /// In quotes or as a block: a text, whatever it looks like.
    Quoted,
    /// Given outside of any file: a list may be written with commas.
    Override,
}

/// A value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Nothing, `~` or `null`: as if the field were not there.
    Null,
    /// A scalar's source text.
    Scalar(String, Style),
    /// A list.
    List(Vec<Node>),
    /// A map, in the order in which it was written; no key occurs twice.
    Map(Vec<(Key, Node)>),
}

/// A key of a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Its text.
    pub name: String,
    /// Where it stands.
    pub place: Place,
}

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Where it begins.
    pub place: Place,
    /// What it is.
    pub value: Value,
}

impl Node {
    /// An empty map, for a file that is not there.
    pub fn empty(origin: &str) -> Self {
        Self { place: Place::whole(origin), value: Value::Map(Vec::new()) }
    }

    /// The value of `name`, if this is a map that has it.
    pub fn get(&self, name: &str) -> Option<&Node> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|(key, _)| key.name == name).map(|(_, node)| node),
            _ => None,
        }
    }
}

/// Reads one YAML document of at most `max_bytes`. An empty one is [`Value::Null`]. Errors with the first thing that
/// is not plain YAML.
pub fn parse(origin: &str, bytes: &[u8], max_bytes: usize) -> Result<Node, Box<Problem>> {
    let origin: Arc<str> = origin.into();
    let text = readable(&origin, bytes, max_bytes)?;
    let mut options = granit_parser::Options::default();
    options.set_emit_comments(false);
    let mut composer = Composer { origin, open: Vec::new(), root: None, documents: 0 };
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = event.map_err(|error| composer.syntax(&error))?;
        composer.accept(event, span)?;
    }
    let empty = Node { place: composer.place(&Marker::new(0, 1, 0)), value: Value::Null };
    Ok(composer.root.unwrap_or(empty))
}

/// Checks size, encoding and control characters, which no YAML may hold.
fn readable<'a>(origin: &Arc<str>, bytes: &'a [u8], max_bytes: usize) -> Result<&'a str, Box<Problem>> {
    let refuse = |before: &[u8], message: String, remedy: &str| {
        let before = String::from_utf8_lossy(before);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        let place = Place { origin: origin.clone(), line: small(line), column: small(column) };
        Box::new(place.problem(Severity::Error, "", message, remedy))
    };
    if bytes.len() > max_bytes {
        let remedy = format!("at most {max_bytes} bytes are read");
        let message = format!("the file is too large: {} bytes", bytes.len());
        return Err(Box::new(Place::whole(origin).problem(Severity::Error, "", message, remedy)));
    }
    if let Some(foreign) = super::encoding::foreign(bytes) {
        return Err(refuse(b"", format!("the file is no text, it looks like {}", foreign.what), foreign.remedy));
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|error| refuse(&bytes[..error.valid_up_to()], "the file is not UTF-8".into(), "save it as UTF-8"))?;
    match text.char_indices().find(|(_, c)| c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\u{85}')) {
        Some((at, c)) => {
            let message = format!("a control character (U+{:04X}) is not allowed", u32::from(c));
            Err(refuse(&bytes[..at], message, "remove it, or escape it inside double quotes"))
        }
        None => Ok(text),
    }
}

fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// A list or map whose end has not been seen.
enum Open {
    List(Place, Vec<Node>),
    Map { place: Place, entries: Vec<(Key, Node)>, seen: HashMap<String, u32>, key: Option<Key> },
}

/// Builds the tree from the parser's events, with a stack of its own: depth costs no recursion.
struct Composer {
    origin: Arc<str>,
    open: Vec<Open>,
    root: Option<Node>,
    documents: usize,
}

impl Composer {
    fn place(&self, mark: &Marker) -> Place {
        Place { origin: self.origin.clone(), line: small(mark.line()).max(1), column: small(mark.col()) + 1 }
    }

    fn refuse(&self, mark: &Marker, message: impl Into<String>, remedy: &str) -> Box<Problem> {
        Box::new(self.place(mark).problem(Severity::Error, "", message, remedy))
    }

    fn syntax(&self, error: &ScanError) -> Box<Problem> {
        use granit_parser::ErrorKind as Kind;
        let remedy = match error.kind() {
            Kind::TabNotAllowed | Kind::TabInBlockIndentation | Kind::TabInIndentation | Kind::TabInPlainScalar => "indent with spaces",
            Kind::UnknownAnchor => ALIAS,
            Kind::RecursionLimitExceeded => "nest less deeply",
            Kind::MappingValueNotAllowed => "put a text that holds ': ' in quotes, and align the keys of a map",
            Kind::ExpectedFlowMappingSeparator => "put a comma between fields, and a text that holds ': ' in quotes",
            Kind::UnclosedQuotedScalar => "close the quote",
            Kind::UnclosedFlowCollection { .. } | Kind::MismatchedFlowCollectionEnd { .. } => "close every bracket",
            _ => "",
        };
        self.refuse(error.marker(), format!("this is not YAML: {}", error.info()), remedy)
    }

    fn accept(&mut self, event: Event<'_>, span: Span) -> Result<(), Box<Problem>> {
        let mark = span.start;
        match &event {
            Event::Scalar(_, _, anchor, tag) | Event::SequenceStart(_, anchor, tag) | Event::MappingStart(_, anchor, tag) => {
                if tag.is_some() {
                    let mark = span.tag_start().unwrap_or(mark);
                    return Err(self.refuse(&mark, "tags are not supported", "quote a text that begins with '!'"));
                }
                if *anchor != 0 {
                    return Err(self.refuse(&mark, "anchors are not supported", "write the value out where it is used"));
                }
            }
            _ => {}
        }
        if matches!(event, Event::SequenceStart(..) | Event::MappingStart(..)) {
            if self.open.len() == MAX_DEPTH {
                return Err(self.refuse(&mark, "lists and maps are nested too deeply", "nest less deeply"));
            }
            self.key_is_scalar(&mark)?;
        }
        match event {
            Event::Alias(_) | Event::UnresolvedAlias(_) => return Err(self.refuse(&mark, "aliases are not supported", ALIAS)),
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(self.refuse(&mark, "a second document begins here", "put each document into a file of its own"));
                }
            }
            Event::SequenceStart(..) => self.open.push(Open::List(self.place(&mark), Vec::new())),
            Event::MappingStart(..) => {
                self.open.push(Open::Map { place: self.place(&mark), entries: Vec::new(), seen: HashMap::new(), key: None });
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open::List(place, items)) => self.add(Node { place, value: Value::List(items) }),
                Some(Open::Map { place, entries, .. }) => self.add(Node { place, value: Value::Map(entries) }),
                None => {}
            },
            Event::Scalar(text, style, ..) => self.scalar(&text, style, &mark)?,
            _ => {}
        }
        Ok(())
    }

    /// Whether a list or map may begin here, which it may not as a key.
    fn key_is_scalar(&self, mark: &Marker) -> Result<(), Box<Problem>> {
        match self.open.last() {
            Some(Open::Map { key: None, .. }) => {
                Err(self.refuse(mark, "a list or map cannot be a key", "quote a key that begins with [ or {"))
            }
            _ => Ok(()),
        }
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, mark: &Marker) -> Result<(), Box<Problem>> {
        let place = self.place(mark);
        if let Some(Open::Map { seen, key: key @ None, .. }) = self.open.last_mut() {
            if text == "<<" && style == ScalarStyle::Plain {
                return Err(self.refuse(mark, "merge keys are not supported", "write the fields out"));
            }
            if let Some(first) = seen.insert(text.to_owned(), place.line) {
                let message = format!("'{}' is given twice, first in line {first}", shown(text));
                return Err(self.refuse(mark, message, "remove one of them"));
            }
            *key = Some(Key { name: text.to_owned(), place });
            return Ok(());
        }
        let value = match style {
            ScalarStyle::Plain if matches!(text, "" | "~" | "null" | "Null" | "NULL") => Value::Null,
            ScalarStyle::Plain => Value::Scalar(text.to_owned(), Style::Plain),
            _ => Value::Scalar(text.to_owned(), Style::Quoted),
        };
        self.add(Node { place, value });
        Ok(())
    }

    fn add(&mut self, node: Node) {
        match self.open.last_mut() {
            Some(Open::List(_, items)) => items.push(node),
            Some(Open::Map { entries, key, .. }) => {
                if let Some(key) = key.take() {
                    entries.push((key, node));
                }
            }
            None => self.root = Some(node),
        }
    }
}

const ALIAS: &str = "quote a text that begins with '*'; write a shared value out where it is used";

/// A text of somebody else's as messages show it: short, and without control characters.
pub fn shown(text: &str) -> String {
    let mut short: String = text.chars().take(80).flat_map(char::escape_debug).collect();
    if text.chars().nth(80).is_some() {
        short.push('…');
    }
    short
}
