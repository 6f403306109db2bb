//! The schemas and the parsers say the same: which fields there are, which values they take, and what the defaults are.

use super::super::status::tests::{condition, running};
use super::*;
use crate::pipeline::config::{LintContext, lint};
use crate::pipeline::entry::{Entry, KNOWN_FIELDS};
use crate::pipeline::history::Transition;
use crate::pipeline::json::Node;
use crate::pipeline::problem::{Problem, Severity};
use crate::pipeline::status::{ConditionType, Kept, Reason};
use crate::settings::Settings;
use crate::settings::load::load;
use jiff::Timestamp;
use jsonschema::Validator;
use serde_json::{Map, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// No field has such a name, nor one like it.
const NOWHERE: &str = "qqqqqqqqqqqqqqqq";

fn validator(of: Of) -> Validator {
    jsonschema::draft202012::new(&of.schema().unwrap()).unwrap()
}

/// Follows `$ref`.
fn resolved<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    match schema.get("$ref").and_then(Value::as_str) {
        Some(pointer) => root.pointer(pointer.strip_prefix('#').unwrap()).unwrap(),
        None => schema,
    }
}

/// Every object that the schema describes, by its path; a name that somebody chooses is `default`.
fn objects(root: &Value, schema: &Value, path: &[String], found: &mut Vec<(Vec<String>, BTreeSet<String>)>) {
    let schema = resolved(root, schema);
    let below = |name: &str| [path, &[name.to_owned()]].concat();
    if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        assert_eq!(schema["additionalProperties"], false, "{path:?} takes unknown fields");
        found.push((path.to_vec(), properties.keys().cloned().collect()));
        properties.iter().for_each(|(name, property)| objects(root, property, &below(name), found));
    }
    if let Some(values) = schema.get("additionalProperties").filter(|values| values.is_object()) {
        objects(root, values, &below("default"), found);
    }
}

/// Every value that is no object, with its path.
fn leaves(root: &Value, schema: &Value, path: &[String], found: &mut Vec<(Vec<String>, Value)>) {
    let target = resolved(root, schema);
    let below = |name: &str| [path, &[name.to_owned()]].concat();
    match (target.get("properties"), target.get("additionalProperties").filter(|values| values.is_object())) {
        (Some(properties), _) => {
            properties.as_object().unwrap().iter().for_each(|(name, property)| leaves(root, property, &below(name), found))
        }
        (None, Some(values)) => leaves(root, values, &below("default"), found),
        (None, None) => {
            // What stands beside a `$ref` counts too.
            let mut leaf = target.as_object().unwrap().clone();
            leaf.extend(schema.as_object().unwrap().clone());
            found.push((path.to_vec(), leaf.into()));
        }
    }
}

/// A document that holds `value` at `path` and nothing else.
fn nested(path: &[String], value: Value) -> Value {
    path.iter().rev().fold(value, |value, name| Value::Object(Map::from_iter([(name.clone(), value)])))
}

fn config_problems(document: &Value) -> Vec<Problem> {
    lint("c", document.to_string().as_bytes(), &LintContext::default()).1
}

fn load_settings(document: &Value) -> Result<Settings, Vec<Problem>> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, document.to_string()).unwrap();
    load(Some(file.path()), &[], &[]).map(|loaded| loaded.settings).map_err(|problems| problems.0)
}

fn settings_problems(document: &Value) -> Vec<Problem> {
    load_settings(document).err().unwrap_or_default()
}

/// The fields that the parser says it knows where `problems` report [`NOWHERE`].
fn known(problems: &[Problem], path: &[String]) -> BTreeSet<String> {
    let at = [path, &[NOWHERE.to_owned()]].concat().join(".");
    let problem = problems.iter().find(|problem| problem.path == at).unwrap_or_else(|| panic!("{at} is taken by the parser: {problems:?}"));
    assert_eq!(problem.message, "unknown field", "{at}");
    let names = problem.remedy.strip_prefix("known here: ").unwrap_or_else(|| panic!("{at}: {}", problem.remedy));
    names.split(", ").map(str::to_owned).collect()
}

/// Both know the same fields everywhere, and both refuse any other.
fn same_fields(of: Of, file: &str, base: &Value, problems: impl Fn(&Value) -> Vec<Problem>) {
    let (schema, validator) = (of.schema().unwrap(), validator(of));
    let mut found = Vec::new();
    objects(&schema, &schema, &[], &mut found);
    assert!(found.len() > 5);
    for (path, properties) in found {
        let unknown = [path.as_slice(), &[NOWHERE.to_owned()]].concat();
        let mut document = base.clone();
        merge(&mut document, nested(&unknown, json!(1)));
        let parsed = known(&problems(&document), &path);
        assert_eq!(properties, parsed, "`{}` of src/cli/schema/{file} and its parser differ: correct the schema", path.join("."));
        let refused = validator.iter_errors(&document).any(|error| error.to_string().contains(NOWHERE));
        assert!(refused, "{document}");
    }
}

#[test]
fn the_schema_of_the_config_names_exactly_the_fields_that_lint_knows() {
    same_fields(Of::Config, "config.json", &json!({"output": {"mongodb": {}}}), config_problems);
}

#[test]
fn the_schema_of_the_settings_names_exactly_the_fields_that_are_loaded() {
    same_fields(Of::Settings, "settings.json", &json!({}), settings_problems);
}

#[test]
fn the_schema_of_the_entry_names_exactly_the_fields_that_are_read() {
    let schema = Of::Entry.schema().unwrap();
    let named: BTreeSet<&str> = schema["properties"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(named, KNOWN_FIELDS.iter().copied().collect());
    assert_eq!(schema["additionalProperties"], false);
}

/// What the schema offers is taken by both, and what has another shape by neither.
fn same_values(of: Of, base: &Value, problems: impl Fn(&Value) -> Vec<Problem>) {
    let (schema, validator) = (of.schema().unwrap(), validator(of));
    let mut found = Vec::new();
    leaves(&schema, &schema, &[], &mut found);
    for (path, leaf) in found {
        let at = path.join(".");
        let document = |value: Value| {
            let mut document = base.clone();
            merge(&mut document, nested(&path, value));
            document
        };
        let about = |document: &Value| -> Vec<String> {
            let errors = problems(document).into_iter().filter(|problem| problem.severity == Severity::Error);
            errors
                .filter(|problem| problem.path == at || problem.path.starts_with(&format!("{at}[")))
                .map(|problem| problem.message)
                .collect()
        };
        let offered = leaf.get("default").into_iter().chain(leaf.get("examples").and_then(Value::as_array).into_iter().flatten());
        let offered = offered.chain(leaf.get("enum").and_then(Value::as_array).into_iter().flatten()).chain(leaf.get("const"));
        for value in offered {
            let good = document(value.clone());
            assert_eq!(about(&good), Vec::<String>::new(), "{good}");
            assert!(validator.is_valid(&good), "{good}: {:?}", validator.iter_errors(&good).map(|e| e.to_string()).collect::<Vec<_>>());
        }
        let bad = document(json!({"a": {"b": 1}}));
        assert!(!about(&bad).is_empty() && !validator.is_valid(&bad), "{bad}");
    }
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            from.into_iter().for_each(|(name, value)| merge(into.entry(name).or_insert(Value::Null), value))
        }
        (into, from) => *into = from,
    }
}

#[test]
fn the_values_that_the_schemas_offer_are_those_that_the_parsers_take() {
    same_values(Of::Config, &json!({"output": {"mongodb": {"time_series": {"time_field": "at"}}}}), config_problems);
    same_values(Of::Settings, &json!({}), settings_problems);
}

#[test]
fn the_defaults_in_the_schema_of_the_settings_are_the_defaults() {
    let schema = Of::Settings.schema().unwrap();
    let mut found = Vec::new();
    leaves(&schema, &schema, &[], &mut found);
    let mut defaults = 0;
    for (path, leaf) in found {
        let Some(default) = leaf.get("default") else { continue };
        defaults += 1;
        assert_eq!(load_settings(&nested(&path, default.clone())), Ok(Settings::default()), "{}", path.join("."));
    }
    assert!(defaults > 25, "{defaults}");
}

fn files(folder: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension != "expected"));
    files.sort();
    assert!(!files.is_empty(), "{folder:?}");
    files.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

#[test]
fn every_example_and_every_good_config_and_settings_file_is_valid() {
    let (config, settings) = (validator(Of::Config), validator(Of::Settings));
    let check = |validator: &Validator, path: &Path, text: &[u8]| {
        let value: Value = serde_yaml::from_str(std::str::from_utf8(text).unwrap()).unwrap();
        let errors: Vec<String> = validator.iter_errors(&value).map(|error| format!("{}: {error}", error.instance_path())).collect();
        assert_eq!(errors, Vec::<String>::new(), "{path:?}");
    };
    let configs = [files("config/pipelines"), files("config/examples"), files("tests/fixtures/configs/good")].concat();
    for (path, text) in configs {
        // Texts that YAML takes for numbers: an editor asks for quotes.
        if !path.ends_with("source_text.yml") {
            check(&config, &path, &text);
        }
    }
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/sluice.yml");
    check(&settings, &example, &std::fs::read(&example).unwrap());
    for (path, text) in files("tests/fixtures/settings/good") {
        // The first parent's own settings are of another shape.
        if !path.ends_with("values.yml") {
            check(&settings, &path, &text);
        }
    }
}

#[test]
fn an_entry_is_valid_exactly_where_it_is_read_without_anything_odd() {
    let validator = validator(Of::Entry);
    for (path, text) in [files("tests/fixtures/entries/good"), files("tests/fixtures/entries/bad")].concat() {
        // A schema cannot say that a field stands there once: who reads the text sees to that.
        let once = std::str::from_utf8(&text).is_ok_and(|text| Node::read(text).is_some_and(|root| root.twice().is_none()));
        let valid = once && serde_json::from_slice(&text).is_ok_and(|value: Value| validator.is_valid(&value));
        // What producers of the Go collector put is theirs: the schema is for who writes entries of ours.
        let read = Entry::parse(&text).is_ok_and(|entry| entry.ignored.is_empty() && entry.producer.is_none());
        assert_eq!(valid, read, "{path:?}");
    }
}

#[test]
fn the_schema_of_the_status_is_what_is_written_and_nothing_else() {
    let mut status = running("metrics", "1-0a0b0c0d", 3);
    let now = Timestamp::now();
    status.conditions = Reason::ALL.iter().map(|reason| condition(ConditionType::Advisory, true, *reason)).collect();
    status.conditions.push(condition(ConditionType::Valid, false, Reason::Unknown));
    let (kind, reason) = (ConditionType::Progressing, Reason::AsDesired);
    status.history = vec![Transition { at: now, kind, status: true, reason, message: String::new() }];
    status.kept = Kept { bucket_created: Some(now), stream: Some("s".into()), subjects: vec!["a".into()], ..Kept::default() };
    let validator = validator(Of::Status);
    let written = serde_json::to_value(&status).unwrap();
    let errors: Vec<String> = validator.iter_errors(&written).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert_eq!(errors, Vec::<String>::new());
    let maps = ["", "/desired", "/admitted", "/admitted/spec", "/observed", "/observed/counters", "/conditions/0", "/history/0", "/kept"];
    for pointer in maps {
        let mut other = written.clone();
        other.pointer_mut(pointer).unwrap().as_object_mut().unwrap().insert(NOWHERE.into(), json!(1));
        assert!(!validator.is_valid(&other), "{pointer} takes an unknown field");
    }
    let mut wrong = written;
    wrong["conditions"][0]["reason"] = json!("NoSuchReason");
    assert!(!validator.is_valid(&wrong));
}
