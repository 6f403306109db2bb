//! Finds the settings file, lays environment and command line over it, and checks the whole at once.
//!
//! Precedence: defaults < file < environment `SLUICE_…` < `--set a.b=c`. Called once, by every command that needs
//! settings, with the environment handed in so that tests own it.

use super::secrets::Files;
use super::{Settings, docker, overrides, validate, values};
use crate::pipeline::document::{self, Node, Place, Value};
use crate::pipeline::fields::Report;
use crate::pipeline::problem::{Problem, Problems, Severity};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
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
    /// What was written, to be compared with what is written later.
    pub written: Written,
}

/// Every field that file, environment or command line give, and a digest of what it is. Shows neither.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Written(BTreeMap<String, [u8; 32]>);

impl Written {
    fn of(root: &Node) -> Self {
        let mut written = Self::default();
        written.add("", root);
        written
    }

    fn add(&mut self, path: &str, node: &Node) {
        match &node.value {
            Value::Map(entries) => {
                for (key, node) in entries {
                    let path = if path.is_empty() { key.name.clone() } else { format!("{path}.{}", key.name) };
                    self.add(&path, node);
                }
            }
            Value::List(items) => {
                // Where it stands in its file is not what it is.
                let mut inner = Self::default();
                items.iter().enumerate().for_each(|(at, item)| inner.add(&at.to_string(), item));
                self.put(path, &format!("{:?}", inner.0));
            }
            Value::Scalar(text, _) => self.put(path, text),
            Value::Null => {}
        }
    }

    fn put(&mut self, path: &str, text: &str) {
        self.0.insert(path.to_owned(), Sha256::digest(text.as_bytes()).into());
    }

    /// The fields that are not the same in `other`, or are in one of the two only.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let all: BTreeSet<_> = self.0.keys().chain(other.0.keys()).collect();
        all.into_iter().filter(|path| self.0.get(*path) != other.0.get(*path)).cloned().collect()
    }
}

impl fmt::Debug for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
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
    Ok(Loaded { settings, warnings: report.sorted(), file, written: Written::of(&root) })
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
