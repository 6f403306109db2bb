//! `sluice lint FILE…`: every problem of every file as `file:line:column`, without any server.
//!
//! Needs no settings, so a CI job needs none either. Where `--settings`, `--set` or `SLUICE_SETTINGS` names them, what only
//! they can tell is checked too: the connections, and the names on NATS.
//!
//! Errors make it fail, warnings do not. `--output json` prints `{files, errors, warnings, problems: […]}` with a
//! problem's `severity, file, path, line, column, message, remedy`.

use super::failure::{Exit, Failure};
use super::output::{Output, Tone};
use crate::pipeline::config::{self, LintContext, MAX_CONFIG_BYTES};
use crate::pipeline::problem::{Problem, Severity};
use crate::settings::Settings;
use clap::Args;
use serde::Serialize;
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
pub struct LintArgs {
    /// Pipeline configs
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Report {
    files: usize,
    errors: usize,
    warnings: usize,
    problems: Vec<Problem>,
}

/// `sluice lint`; `settings` only where they were named.
pub fn lint(args: &LintArgs, settings: Option<&Settings>, out: &Output) -> Result<(), Failure> {
    let context = LintContext {
        names: settings.map(Settings::names),
        id: None,
        connections: settings.map(|settings| settings.mongodb.connections.keys().cloned().collect()),
    };
    let problems: Vec<Problem> = args.files.iter().flat_map(|file| check(file, &context)).collect();
    let errors = problems.iter().filter(|problem| problem.severity == Severity::Error).count();
    let warnings = problems.len() - errors;
    if out.is_json() {
        out.json(&Report { files: args.files.len(), errors, warnings, problems })?;
    } else {
        for problem in &problems {
            let tone = if problem.severity == Severity::Error { Tone::Bad } else { Tone::Doubtful };
            out.toned(&problem.to_string(), tone)?;
        }
        if errors == 0 {
            out.note(&format!(
                "{}: no errors{}",
                count(args.files.len(), "file"),
                match warnings {
                    0 => String::new(),
                    many => format!(", {}", count(many, "warning")),
                }
            ));
        }
    }
    if errors == 0 {
        Ok(())
    } else {
        Err(Failure::new(Exit::Invalid, format!("{} in {}", count(errors, "error"), count(args.files.len(), "file"))))
    }
}

fn check(file: &Path, context: &LintContext) -> Vec<Problem> {
    let shown = file.display().to_string();
    let whole = |message: String, remedy: &str| {
        let (path, remedy) = (String::new(), remedy.to_owned());
        vec![Problem { severity: Severity::Error, file: shown.clone(), path, line: 0, column: 0, message, remedy }]
    };
    match std::fs::read(file) {
        Err(error) => whole(format!("cannot be read: {error}"), "check the path and its permissions"),
        Ok(bytes) if bytes.len() > MAX_CONFIG_BYTES => whole(format!("has {} bytes", bytes.len()), "a config may have 1 MiB"),
        Ok(bytes) => config::lint(&shown, &bytes, context).1,
    }
}

fn count(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}
