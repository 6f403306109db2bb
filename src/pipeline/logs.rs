//! Log lines of a pipeline as processes hand them out: what `sluice logs` asks for and gets.
//!
//! A request goes to `{ns}-logs.{id}`; every process that has something to say answers with the lines that the asker has
//! not seen, so that following is asking again. A line never holds a secret, because no log line does.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;

/// Which lines are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogsRequest {
    /// The format: 1.
    pub schema: u32,
    /// At most so many of each process, the newest; 0 for all that it has.
    #[serde(default)]
    pub last: u32,
    /// The number of the last line that the asker has of a process: only what came after it.
    #[serde(default)]
    pub after: BTreeMap<uuid::Uuid, u64>,
}

/// The answer of one process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogsReply {
    /// The format: 1.
    pub schema: u32,
    /// The process.
    pub process: uuid::Uuid,
    /// Its hostname, for people.
    pub host: String,
    /// Oldest first.
    pub lines: Vec<LogLine>,
    /// Whether this process has something more to say, and answers once more: an engine may take its time.
    #[serde(default)]
    pub more: bool,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogLine {
    /// Its number in the process; 0 where it has none.
    #[serde(default)]
    pub number: u64,
    /// When it was written.
    pub timestamp: Timestamp,
    /// `INFO`, `WARN` …
    pub level: String,
    /// What it says.
    pub message: String,
    /// Its fields, and those of the spans around it.
    #[serde(flatten)]
    pub fields: Map<String, Value>,
}

impl LogLine {
    /// Reads a line of a process that logs JSON; `None` where it is no such line.
    pub fn parse(json: &str) -> Option<Self> {
        serde_json::from_str(json).ok()
    }
}

impl fmt::Display for LogLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:>5} {}", self.timestamp, self.level, self.message)?;
        for (name, value) in &self.fields {
            match value {
                Value::String(text) => write!(f, " {name}={text}")?,
                // What the span around it was: the fields that matter stand beside it.
                Value::Object(_) => {}
                value => write!(f, " {name}={value}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_a_process_that_logs_json_is_read_and_shown() {
        let json = r#"{"timestamp":"2026-01-01T00:00:00.5Z","level":"WARN","message":"held up","pipeline":"metrics","tries":3,"span":{"name":"execution"}}"#;
        let line = LogLine::parse(json).unwrap();
        assert_eq!(line.to_string(), "2026-01-01T00:00:00.5Z  WARN held up pipeline=metrics tries=3");
        assert_eq!(LogLine::parse("thread 'main' panicked"), None);
    }
}
