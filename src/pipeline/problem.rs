//! A problem in something that a person wrote: where it is, what is wrong, and what to do about it.
//!
//! Settings, configs and entries all report through this one type, so that every message reads alike. All semantic
//! problems of a file are reported at once; the first syntax error stands alone.

use serde::{Deserialize, Serialize};
use std::fmt;

/// How much a [`Problem`] matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Doubtful, but it works: reported, never refused.
    Warning,
    /// The file is refused.
    Error,
}

/// One thing that is wrong, with its place and its remedy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Whether the file is refused because of it.
    pub severity: Severity,
    /// The file (or `entry`, `environment SLUICE_X`, `--set`) it stands in.
    pub file: String,
    /// Dotted path of the field, `output.mongodb.batching.count`; empty for the whole file.
    pub path: String,
    /// Line, counted from 1; 0 where there is none (environment, `--set`, JSON entries).
    pub line: u32,
    /// Column in characters, counted from 1; 0 where there is none.
    pub column: u32,
    /// What is wrong, lowercase and without a full stop.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        let severity = match self.severity {
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        write!(f, ": {severity}: ")?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "{}", self.message)?;
        if !self.remedy.is_empty() {
            write!(f, " ({})", self.remedy)?;
        }
        Ok(())
    }
}

/// Several problems, at least one of them an error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct Problems(pub Vec<Problem>);

/// Whether any of `problems` is an error.
pub fn has_errors(problems: &[Problem]) -> bool {
    problems.iter().any(|problem| problem.severity == Severity::Error)
}
