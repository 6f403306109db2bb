//! JSON that somebody wrote, as a tree of nodes that know where they stand and what was written there.
//!
//! A parser that builds maps takes the last of two fields of one name and rounds what no double holds, and says nothing.
//! This tree keeps every field and every number's text, so that entries and documents can be refused with the place.
//! Read by the entries and by `sluice send`, after serde_json has found the text to be JSON. Pure.

use super::document::shown;
use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

/// A value and where it begins.
#[derive(Debug, Clone, PartialEq)]
pub struct Node<'a> {
    /// The byte of the text at which it begins.
    pub at: usize,
    /// What it is.
    pub value: Value<'a>,
}

/// What was written.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    /// A number's text.
    Number(&'a str),
    /// A text without its quotes and escapes.
    Text(Cow<'a, str>),
    /// `true`, `false` or `null`.
    Word,
    /// A list.
    List(Vec<Node<'a>>),
    /// An object: where each name begins, the name, the value. Names may occur twice.
    Object(Vec<(usize, Cow<'a, str>, Node<'a>)>),
}

/// A line and a column of a text, in characters, both counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

impl Position {
    /// Where the byte `at` of `text` stands.
    pub fn of(text: &[u8], at: usize) -> Self {
        let before = String::from_utf8_lossy(&text[..at.min(text.len())]);
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Self { line: before.matches('\n').count() + 1, column }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} column {}", self.line, self.column)
    }
}

/// A name that stands in one object twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Twice {
    /// The dotted path, shortened and without control characters.
    pub path: String,
    /// Whether it is a field of the outermost object.
    pub top: bool,
    /// The byte at which the first one begins.
    pub first: usize,
    /// The byte at which the second one begins.
    pub second: usize,
}

impl<'a> Node<'a> {
    /// The tree of `text`, which has been found to be JSON; `None` where it is none after all.
    pub fn read(text: &'a str) -> Option<Self> {
        let mut reader = Reader { text, at: 0 };
        let node = reader.value(0)?;
        reader.space();
        (reader.at == text.len()).then_some(node)
    }

    /// The first name that stands in one object twice, in the order of the text, at any depth.
    pub fn twice(&self) -> Option<Twice> {
        let mut found = None;
        self.find_twice(&mut Vec::new(), &mut found);
        found
    }

    /// The fields of an object that mean one thing or another: given twice, or with such a field inside.
    pub fn ambiguous(&self) -> Vec<&str> {
        let Value::Object(fields) = &self.value else { return Vec::new() };
        let doubled = |name: &str| fields.iter().filter(|(_, other, _)| other == name).count() > 1;
        let names = fields.iter().filter(|(_, name, value)| doubled(name) || value.twice().is_some());
        names.map(|(_, name, _)| name.as_ref()).collect()
    }

    fn find_twice<'s>(&'s self, path: &mut Vec<Step<'s>>, found: &mut Option<Twice>) {
        match &self.value {
            Value::Object(fields) => {
                let mut seen = HashMap::with_capacity(fields.len());
                for (at, name, value) in fields {
                    if let Some(first) = seen.insert(name.as_ref(), *at)
                        && found.as_ref().is_none_or(|found| *at < found.second)
                    {
                        *found = Some(Twice { path: joined(path, name), top: path.is_empty(), first, second: *at });
                    }
                    path.push(Step::Field(name));
                    value.find_twice(path, found);
                    path.pop();
                }
            }
            Value::List(items) => {
                for (at, item) in items.iter().enumerate() {
                    path.push(Step::Item(at));
                    item.find_twice(path, found);
                    path.pop();
                }
            }
            Value::Number(_) | Value::Text(_) | Value::Word => {}
        }
    }
}

/// A step from an object or list to what lies in it.
#[derive(Clone, Copy)]
enum Step<'s> {
    Field(&'s str),
    Item(usize),
}

fn joined(path: &[Step<'_>], last: &str) -> String {
    let mut text = String::new();
    for step in path.iter().copied().chain(std::iter::once(Step::Field(last))) {
        match step {
            Step::Field(name) if text.is_empty() => text.push_str(name),
            Step::Field(name) => text.extend([".", name]),
            Step::Item(at) => text.push_str(&format!("[{at}]")),
        }
    }
    shown(&text)
}

/// Lists and objects may be nested this deep; serde_json reads no more either.
const MAX_DEPTH: usize = 128;

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        self.space();
        (self.peek()? == byte).then(|| self.at += 1)
    }

    fn value(&mut self, depth: usize) -> Option<Node<'a>> {
        self.space();
        let at = self.at;
        let value = match self.peek()? {
            b'{' | b'[' if depth == MAX_DEPTH => return None,
            b'{' => self.object(depth)?,
            b'[' => self.list(depth)?,
            b'"' => Value::Text(self.string()?),
            b'-' | b'0'..=b'9' => Value::Number(self.while_(|byte| matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9'))),
            b't' | b'f' | b'n' => {
                self.while_(|byte| byte.is_ascii_lowercase());
                Value::Word
            }
            _ => return None,
        };
        Some(Node { at, value })
    }

    fn while_(&mut self, belongs: impl Fn(u8) -> bool) -> &'a str {
        let from = self.at;
        while self.peek().is_some_and(&belongs) {
            self.at += 1;
        }
        &self.text[from..self.at]
    }

    fn object(&mut self, depth: usize) -> Option<Value<'a>> {
        self.take(b'{')?;
        let mut fields = Vec::new();
        if self.take(b'}').is_some() {
            return Some(Value::Object(fields));
        }
        loop {
            self.space();
            let at = self.at;
            let name = self.string()?;
            self.take(b':')?;
            fields.push((at, name, self.value(depth + 1)?));
            if self.take(b',').is_none() {
                self.take(b'}')?;
                return Some(Value::Object(fields));
            }
        }
    }

    fn list(&mut self, depth: usize) -> Option<Value<'a>> {
        self.take(b'[')?;
        let mut items = Vec::new();
        if self.take(b']').is_some() {
            return Some(Value::List(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            if self.take(b',').is_none() {
                self.take(b']')?;
                return Some(Value::List(items));
            }
        }
    }

    fn string(&mut self) -> Option<Cow<'a, str>> {
        let from = self.at;
        self.take(b'"')?;
        loop {
            match self.peek()? {
                b'"' => break,
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
        self.at += 1;
        let quoted = self.text.get(from..self.at)?;
        if quoted.contains('\\') {
            // Two spellings of one name are one name.
            return serde_json::from_str(quoted).ok().map(Cow::Owned);
        }
        quoted.get(1..quoted.len() - 1).map(Cow::Borrowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_twice_is_found_at_any_depth_and_in_any_spelling() {
        let twice = |text: &str| Node::read(text).unwrap().twice().map(|twice| (twice.path, twice.top, twice.first, twice.second));
        assert_eq!(twice(r#"{"a":1,"b":{"a":2},"c":[{"a":3},{"a":4}]}"#), None);
        assert_eq!(twice(r#"{"a":1, "\u0061":2}"#), Some(("a".into(), true, 1, 8)));
        assert_eq!(twice(r#"{"x":[0,{"y":{"k":1,"k":1}}]}"#), Some(("x[1].y.k".into(), false, 14, 20)));
        // The first in the text, not the outermost.
        assert_eq!(twice(r#"{"a":{"b":1,"b":2},"a":3}"#).unwrap().0, "a.b");
    }

    #[test]
    fn positions_count_characters() {
        let text = "{\"é\":1,\n \"ü\":2}";
        let Value::Object(fields) = Node::read(text).unwrap().value else { panic!() };
        assert_eq!(Position::of(text.as_bytes(), fields[1].0).to_string(), "line 2 column 2");
        assert_eq!(Position::of(text.as_bytes(), fields[0].2.at).to_string(), "line 1 column 6");
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic_and_what_serde_json_reads_is_read(text in "[-{}\\[\\]\":,.0-9eE+a\\\\u tfn\u{e9}]{0,60}") {
            let read = Node::read(&text);
            if serde_json::from_str::<serde_json::Value>(&text).is_ok() {
                proptest::prop_assert!(read.is_some(), "{}", text);
            }
        }
    }
}
