//! The source keeps to its layout: imports point one way, `pipeline` is pure, each crate has its place, files are short
//! and open with what they are, and nothing is left undone.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Modules by layer, lowest first: a module may name those below it, and never one beside it.
const LAYERS: &[&[&str]] = &[
    &["pipeline"],
    &["telemetry"],
    &["settings"],
    &["store", "collector", "transfer"],
    &["executor"],
    &["controller", "doctor", "http"],
    &["app", "cli", "main"],
];

/// What the pure `pipeline` must not name.
const IMPURE: &[&str] = &["tokio", "async_nats", "mongodb", "std::fs", "std::net", "std::process", "SystemTime::now", "Instant::now"];

/// Crates that have one place: crate, and the path prefixes that may name it.
const PLACES: &[(&str, &[&str])] = &[
    ("mongodb", &["collector/sink", "doctor"]),
    ("bollard", &["executor/docker"]),
    ("kube", &["executor/kubernetes"]),
    ("k8s_openapi", &["executor/kubernetes"]),
];

/// The most lines of a file.
const LONGEST: usize = 400;

struct Source {
    /// Relative to the folder that was searched.
    path: String,
    text: String,
}

impl Source {
    /// `collector` for `collector/core/mod.rs`, `app` for `app.rs`.
    fn module(&self) -> &str {
        self.path.split('/').next().unwrap_or_default().trim_end_matches(".rs")
    }

    /// The module path of this file below the crate, without `mod`: `[collector, core]`.
    fn module_path(&self) -> Vec<&str> {
        let mut parts: Vec<_> = self.path.trim_end_matches(".rs").split('/').collect();
        if parts.last() == Some(&"mod") {
            parts.pop();
        }
        parts
    }

    /// The code without comments: what a sentence names is not imported.
    fn code(&self) -> String {
        self.text.lines().map(without_comment).collect::<Vec<_>>().join("\n")
    }
}

fn without_comment(line: &str) -> &str {
    // A `//` in a URL stands behind a colon.
    let mut from = 0;
    while let Some(at) = line[from..].find("//").map(|at| from + at) {
        if at == 0 || !line[..at].ends_with(':') {
            return &line[..at];
        }
        from = at + 2;
    }
    line
}

fn sources(folder: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut found = Vec::new();
    collect(&root, &mut found);
    found.sort();
    let read = |path: PathBuf| Source {
        text: fs::read_to_string(&path).unwrap(),
        path: path.strip_prefix(&root).unwrap().to_string_lossy().into_owned(),
    };
    found.into_iter().map(read).collect()
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            // What the compiler makes is nobody's to read.
            if !path.ends_with("target") {
                collect(&path, found);
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Whether `word` stands in `code` as a word of its own, followed by `::` or nothing that continues it.
fn names(code: &str, word: &str) -> bool {
    let continues = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        // `sink::mongodb` or `output.mongodb` is somebody's own name, not the crate's.
        let crate_name = before.is_none_or(|c| !continues(c) && !":.\"'-/".contains(c));
        crate_name && after.is_none_or(|c| !continues(c)) && code[at + word.len()..].trim_start().starts_with("::")
            || (word.contains("::") && before.is_none_or(|c| !continues(c)) && after.is_none_or(|c| !continues(c)))
    })
}

/// The top-level modules of this crate that a file names, through `crate::`, `sluice::` or a chain of `super`s.
fn imports(source: &Source) -> BTreeSet<String> {
    let code = source.code();
    let known: BTreeSet<&str> = LAYERS.iter().flat_map(|layer| layer.iter().copied()).collect();
    let mut found = BTreeSet::new();
    let roots: &[&str] = if source.module() == "main" { &["crate::", "sluice::"] } else { &["crate::"] };
    for root in roots {
        for (at, _) in code.match_indices(root) {
            found.extend(first_segments(&code[at + root.len()..]));
        }
    }
    // Inline `mod tests` adds a level: then one `super` fewer leads upwards, which only finds more.
    let depth = source.module_path().len();
    let climb = "super::".repeat(depth);
    for (at, _) in code.match_indices(&climb) {
        found.extend(first_segments(&code[at + climb.len()..]));
    }
    found.retain(|module| known.contains(module.as_str()));
    found
}

/// `a` of `a::b`; `a` and `c` of `{a::b, c::{d, e}}`.
fn first_segments(path: &str) -> Vec<String> {
    let word = |text: &str| text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let Some(group) = path.strip_prefix('{') else { return vec![word(path)] };
    let (mut depth, mut found, mut start) = (0, vec![word(group)], 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => start = at + 1,
            _ => continue,
        }
        if c == ',' && depth == 0 {
            found.push(word(&group[start..]));
        }
    }
    found
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

#[test]
fn imports_point_one_way() {
    let mut wrong = Vec::new();
    for source in sources("src").iter().filter(|s| s.module() != "lib") {
        let Some(own) = layer(source.module()) else {
            wrong.push(format!("src/{}: the module `{}` has no layer in this test", source.path, source.module()));
            continue;
        };
        for module in imports(source).iter().filter(|m| m.as_str() != source.module()) {
            let theirs = layer(module).unwrap();
            // The top layer is the program itself: app, cli and main know one another.
            if theirs > own || (theirs == own && own + 1 < LAYERS.len()) {
                wrong.push(format!("src/{} names crate::{module}", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn pipeline_is_pure() {
    let mut wrong = Vec::new();
    for source in sources("src/pipeline") {
        let code = source.code();
        wrong.extend(IMPURE.iter().filter(|word| names(&code, word)).map(|word| format!("src/pipeline/{} names {word}", source.path)));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn each_backend_crate_is_named_in_its_place_only() {
    let mut wrong = Vec::new();
    for source in sources("src") {
        let code = source.code();
        for (name, places) in PLACES {
            if names(&code, name) && !places.iter().any(|place| source.path.starts_with(place)) {
                wrong.push(format!("src/{} names {name}", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn files_are_short_and_open_with_what_they_are() {
    let mut wrong = Vec::new();
    for folder in ["src", "tests", "benches", "examples"] {
        for source in sources(folder) {
            let lines = source.text.lines().count();
            if lines >= LONGEST {
                wrong.push(format!("{folder}/{} has {lines} lines", source.path));
            }
            if !source.text.starts_with("//!") {
                wrong.push(format!("{folder}/{} does not open with //!", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn nothing_is_left_undone() {
    // Put together here, so that this file does not find itself.
    let undone = [
        ["to", "do!("].concat(),
        ["unimple", "mented!("].concat(),
        ["FIX", "ME"].concat(),
        ["TO", "DO"].concat(),
        ["#[ig", "nore"].concat(),
    ];
    let elsewhere = ["../", "shared"].concat();
    let mut wrong = Vec::new();
    for folder in ["src", "tests", "benches", "examples"] {
        for source in sources(folder) {
            for word in undone.iter().chain([&elsewhere]).filter(|word| source.text.contains(word.as_str())) {
                wrong.push(format!("{folder}/{} holds {word}", source.path));
            }
        }
    }
    for file in ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "Makefile", "Cargo.toml", "deny.toml", ".ci/run"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        if fs::read_to_string(path).is_ok_and(|text| text.contains(&elsewhere)) {
            wrong.push(format!("{file} refers to {elsewhere}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn this_test_sees_what_it_looks_for() {
    let source = |path: &str, text: &str| Source { path: path.into(), text: text.into() };
    let set = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(
        imports(&source("settings/load.rs", "use crate::{http::View, store::{a, b}, pipeline};")),
        set(&["http", "store", "pipeline"])
    );
    assert_eq!(imports(&source("settings/mod.rs", "use super::cli::run; // crate::app")), set(&["cli"]));
    assert_eq!(imports(&source("pipeline/config/mod.rs", "super::super::store::Store")), set(&["store"]));
    assert!(names("use mongodb::bson;", "mongodb"));
    assert!(!names("output.mongodb::x; \"mongodb\"; mongodb_url", "mongodb"));
    assert!(names("std::fs::read", "std::fs") && !names("std::fsync", "std::fs"));
    assert_eq!(without_comment("let a = \"nats://b\"; // c"), "let a = \"nats://b\"; ");
}
