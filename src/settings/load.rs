//! Finds the settings file, lays environment and command line over it, and checks the whole at once.
//!
//! Precedence: defaults < file < environment `SLUICE_…` < `--set a.b=c`. Called once, by every command that needs
//! settings, with the environment handed in so that tests own it.

use super::secrets::Files;
use super::{Settings, docker, overrides, validate, values};
use crate::pipeline::document::{self, Node, Place, Value};
use crate::pipeline::fields::Report;
use crate::pipeline::problem::{Problem, Problems, Severity};
use std::path::{Path, PathBuf};
use std::{fs, io};

/// Where a settings file is looked for when none is named.
const SEARCHED: [&str; 2] = ["config/sluice.yml", "config/values.yml"];

/// The largest settings file that is read: 1 MiB.
const MAX_BYTES: usize = 1 << 20;

/// Settings and what was noticed on the way.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// Doubtful things, to be logged.
    pub warnings: Vec<Problem>,
    /// The file that was read, if there was one.
    pub file: Option<PathBuf>,
}

/// Loads the settings from `file`, else from the file that `SLUICE_SETTINGS` names, else from the first of
/// `config/sluice.yml` and `config/values.yml` that exists, else from nothing. `env` is the process's environment, `set`
/// the values of `--set`. Reads the files that the settings name, and no others.
///
/// Errors with every problem at once, warnings among them, or with the file's first syntax error alone.
pub fn load(file: Option<&Path>, env: &[(String, String)], set: &[String]) -> Result<Loaded, Problems> {
    let file = find(file, env);
    let mut report = Report::default();
    let mut root = match &file {
        Some(path) => read(path).map_err(|problem| Problems(vec![*problem]))?,
        None => Node::empty("settings"),
    };
    if root.value == Value::Null {
        root.value = Value::Map(Vec::new());
    }
    if values::is_values(&root) {
        root = values::convert(&root, &mut report);
    }
    overrides::environment(&mut root, env, &mut report);
    overrides::arguments(&mut root, set, &mut report);
    docker::conventions(&mut root, env);
    let base = file.as_deref().and_then(Path::parent).map(Path::to_path_buf).unwrap_or_default();
    let settings = validate::settings(&root, &Files { base }, &mut report);
    if report.failed() {
        return Err(Problems(report.sorted()));
    }
    Ok(Loaded { settings, warnings: report.sorted(), file })
}

fn find(file: Option<&Path>, env: &[(String, String)]) -> Option<PathBuf> {
    let named = env.iter().find(|(name, value)| name == "SLUICE_SETTINGS" && !value.is_empty()).map(|(_, value)| PathBuf::from(value));
    let named = file.map(Path::to_path_buf).or(named);
    named.or_else(|| SEARCHED.iter().map(PathBuf::from).find(|path| path.exists()))
}

fn read(path: &Path) -> Result<Node, Box<Problem>> {
    let origin = path.display().to_string();
    let bytes = fs::metadata(path)
        .and_then(|data| if data.is_dir() { Err(io::Error::other("it is a directory")) } else { Ok(()) })
        .and_then(|()| fs::read(path))
        .map_err(|error| {
            let remedy = "name another file with --settings or SLUICE_SETTINGS";
            Box::new(Place::whole(&origin).problem(Severity::Error, "", format!("cannot read the settings: {error}"), remedy))
        })?;
    document::parse(&origin, &bytes, MAX_BYTES)
}
