//! Settings as operators write them: files, environment and `--set`, and what is said when they are wrong.
//!
//! Beside each bad file lies `NAME.expected`; `SLUICE_TEST_BLESS=1` writes them anew.

use crate::lint::{assert_expected, fixtures};
use sluice::pipeline::problem::{Problem, Severity};
use sluice::settings::load::{Loaded, load};
use sluice::settings::{ExecutorKind, LogFormat, Secret, Settings};
use std::path::{Path, PathBuf};
use std::time::Duration;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn written(text: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sluice.yml");
    std::fs::write(&path, text).unwrap();
    (directory, path)
}

fn env(variables: &[(&str, &str)]) -> Vec<(String, String)> {
    variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

fn set(arguments: &[&str]) -> Vec<String> {
    arguments.iter().map(ToString::to_string).collect()
}

fn from_text(text: &str, variables: &[(&str, &str)], arguments: &[&str]) -> Result<Loaded, Vec<Problem>> {
    let (_directory, path) = written(text);
    load(Some(&path), &env(variables), &set(arguments)).map_err(|problems| problems.0)
}

#[cfg(unix)]
fn secret_file(directory: &Path, name: &str, text: &str, mode: u32) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = directory.join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    path
}

#[test]
fn the_example_file_holds_every_default() {
    let loaded = load(Some(&root().join("config/sluice.yml")), &[], &[]).unwrap();
    assert_eq!(loaded.settings, Settings::default());
    assert_eq!(loaded.warnings, []);
}

#[test]
fn every_problem_of_the_settings_is_reported_at_once_with_its_line_and_column() {
    for path in fixtures("settings/bad") {
        let problems = load(Some(&path), &[], &[]).unwrap_err().0;
        let directory = format!("{}/", path.parent().unwrap().display());
        let relative = |text: &str| text.replace(&directory, "");
        let problems: Vec<Problem> = problems
            .into_iter()
            .map(|problem| Problem {
                file: relative(&problem.file),
                message: relative(&problem.message),
                remedy: relative(&problem.remedy),
                ..problem
            })
            .collect();
        assert!(problems.iter().all(|problem| problem.line > 0 && problem.column > 0), "{problems:?}");
        assert_expected(&path, &problems);
    }
}

#[test]
fn good_settings_load() {
    for path in fixtures("settings/good") {
        load(Some(&path), &[], &[]).unwrap_or_else(|problems| panic!("{problems}"));
    }
    let settings = load(Some(&root().join("tests/fixtures/settings/good/cluster.yml")), &[], &[]).unwrap().settings;
    assert_eq!(settings.namespace.as_str(), "plant_7");
    assert!(settings.nats.tls.required);
    assert_eq!(settings.mongodb.connections["default"].hosts(), ["a.example:27017", "b.example:27017"]);
    assert_eq!(settings.mongodb.connections["default"].database.as_deref(), Some("readings"));
    assert_eq!(settings.mongodb.connections["archive"].database.as_deref(), Some("old"));
    assert_eq!(settings.executor.kind, ExecutorKind::InProcess);
    assert_eq!(settings.http.listen, None);
    assert_eq!(settings.names.dead_letters, "{ns}-dead");
}

#[test]
fn the_first_parents_values_load_unchanged_whatever_the_file_is_called() {
    let values = root().join("tests/fixtures/settings/good/values.yml");
    let loaded = load(Some(&values), &[], &[]).unwrap();
    let settings = &loaded.settings;
    assert_eq!(settings.namespace.as_str(), "alpha");
    assert_eq!(settings.nats.urls, ["nats://127.0.0.1:4222"]);
    assert_eq!(settings.nats.token, Some(Secret::new("your-token")));
    let connection = &settings.mongodb.connections["default"];
    assert_eq!((&*connection.url.expose(), connection.database.as_deref()), ("mongodb://localhost:27017", Some("example")));
    assert_eq!((settings.pipelines.batch_count, settings.pipelines.batch_period), (1000, Duration::from_secs(5)));
    assert_eq!((settings.log.level.as_str(), settings.log.format), ("debug", LogFormat::Text));
    let (_directory, path) = written(&std::fs::read_to_string(&values).unwrap());
    assert_eq!(load(Some(&path), &[], &[]).unwrap().settings, *settings);
}

#[test]
fn values_of_the_first_parents_earlier_releases_load_unchanged_too() {
    let nested = "mode: debug\nnamespace: alpha\ndescription: 轻量队列流收集器\nduration: 2s\nbatch: 500\n\
                  nats:\n  hosts:\n    - nats://127.0.0.1:1222\n    - nats://127.0.0.1:1223\n  token: s3cr3t\n\
                  database:\n  url: mongodb://localhost:27017\n  name: example\n";
    let loaded = from_text(nested, &[], &[]).unwrap();
    let settings = &loaded.settings;
    assert_eq!((settings.namespace.as_str(), settings.nats.urls.len()), ("alpha", 2));
    assert_eq!(settings.nats.token, Some(Secret::new("s3cr3t")));
    let connection = &settings.mongodb.connections["default"];
    assert_eq!((&*connection.url.expose(), connection.database.as_deref()), ("mongodb://localhost:27017", Some("example")));
    assert_eq!((settings.pipelines.batch_count, settings.pipelines.batch_period), (500, Duration::from_secs(2)));
    let warned: Vec<_> = loaded.warnings.iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!(warned, ["nats.token"], "a secret in the file, as in ours");

    // Each of its fields alone, and no field of ours is taken for one of its.
    for field in ["description: x", "batch: 7", "duration: 1s", "nats: {hosts: [nats://h:1]}", "database: {name: n}", "nats_token: t"] {
        from_text(field, &[], &[]).unwrap_or_else(|problems| panic!("{field}: {problems:?}"));
    }
    let ours = from_text("nats: {urls: [nats://h:1], hosts: [nats://h:1]}\n", &[], &[]).unwrap_err();
    assert!(ours.iter().any(|problem| problem.path == "nats.hosts"), "{ours:?}");
    let typo = from_text("mode: debug\ndatabase: {nam: x}\n", &[], &[]).unwrap_err();
    assert!(typo.iter().any(|problem| problem.path == "database.nam"), "{typo:?}");
}

#[test]
fn impossible_values_of_the_first_parent_are_clamped_with_a_warning() {
    let loaded = from_text("mode: release\nbatch_size: 500000\nflush_interval: 1m30s\nnats_token: ''\n", &[], &[]).unwrap();
    let pipelines = &loaded.settings.pipelines;
    assert_eq!((pipelines.batch_count, pipelines.batch_period), (100_000, Duration::from_secs(5)));
    assert_eq!((loaded.settings.nats.token, loaded.settings.log.format), (None, LogFormat::Json));
    let places: Vec<_> = loaded.warnings.iter().map(|problem| (problem.severity, problem.line, problem.path.as_str())).collect();
    assert_eq!(places, [(Severity::Warning, 2, "batch_size"), (Severity::Warning, 3, "flush_interval")]);
}

#[test]
fn arguments_win_over_the_environment_which_wins_over_the_file() {
    let text = "namespace: a\nlimits: {memory: 1MiB}\nexecutor: {max_replicas: 1}\n";
    let variables = [("SLUICE_LIMITS_MEMORY", "2MiB"), ("SLUICE_EXECUTOR_MAX_REPLICAS", "2")];
    let settings = from_text(text, &variables, &["executor.max_replicas=3"]).unwrap().settings;
    assert_eq!(settings.namespace.as_str(), "a");
    assert_eq!((settings.limits.memory, settings.executor.max_replicas), (2 << 20, 3));
}

#[test]
fn lists_and_named_connections_can_be_set_from_outside() {
    let text = "mongodb: {connections: {Eu-West: {url: mongodb://h}}}\n";
    let variables = [
        ("SLUICE_NATS_URLS", "nats://a:1, nats://b:2"),
        ("SLUICE_MONGODB_CONNECTIONS_EU_WEST_DATABASE", "readings"),
        ("SLUICE_MONGODB_CONNECTIONS_DEFAULT_URL", "mongodb://x"),
    ];
    let settings = from_text(text, &variables, &["mongodb.connections.other={url: 'mongodb://o', database: d}"]).unwrap().settings;
    assert_eq!(settings.nats.urls, ["nats://a:1", "nats://b:2"]);
    assert_eq!(settings.mongodb.connections["Eu-West"].database.as_deref(), Some("readings"));
    assert_eq!(&*settings.mongodb.connections["default"].url.expose(), "mongodb://x");
    assert_eq!(settings.mongodb.connections["other"].database.as_deref(), Some("d"));
    let settings = from_text("", &[], &["nats.urls=[nats://c:3, nats://d:4]"]).unwrap().settings;
    assert_eq!(settings.nats.urls, ["nats://c:3", "nats://d:4"]);
}

#[test]
fn a_variable_that_matches_nothing_is_an_error_naming_the_nearest() {
    let problems = from_text("", &[("SLUICE_NATS_URL", "nats://a")], &["limits.memroy=1GiB", "nonsense"]).unwrap_err();
    let text: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        text,
        [
            "environment SLUICE_NATS_URL: error: no setting has this name (did you mean SLUICE_NATS_URLS?)",
            "--set: error: expected a path, '=' and a value (write --set nats.urls=nats://host:4222)",
            "--set limits.memroy: error: limits.memroy: unknown field (did you mean 'memory'?)",
        ]
    );
}

#[test]
fn variables_that_are_no_settings_are_left_alone() {
    let variables = [
        ("SLUICE_CACHE", "/tmp/x"),
        ("SLUICE_TEST_BLESS", "1"),
        ("SLUICE_LOG_LEVEL", ""),
        ("SLUICE_PORT", "tcp://10.0.0.1:8080"),
        ("SLUICE_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("SLUICE_SERVICE_HOST", "10.0.0.1"),
        ("SLUICE_SERVICE_PORT_HTTP", "8080"),
        ("SLUICE_NATS_PORT_4222_TCP", "tcp://10.0.0.2:4222"),
        ("OTHER", "x"),
    ];
    assert_eq!(from_text("", &variables, &[]).unwrap().settings, Settings::default());
}

#[test]
fn the_file_is_named_by_argument_or_environment_and_must_then_exist() {
    let (_directory, path) = written("namespace: named\n");
    let variables = env(&[("SLUICE_SETTINGS", path.to_str().unwrap())]);
    let loaded = load(None, &variables, &[]).unwrap();
    assert_eq!((loaded.settings.namespace.as_str(), loaded.file.as_deref()), ("named", Some(path.as_path())));
    let missing = load(Some(Path::new("/nowhere/sluice.yml")), &variables, &[]).unwrap_err().to_string();
    assert!(missing.starts_with("/nowhere/sluice.yml: error: cannot read the settings"), "{missing}");
    // The repository's own example is found when nothing is named, since tests run in its root.
    assert_eq!(load(None, &[], &[]).unwrap().file.as_deref(), Some(Path::new("config/sluice.yml")));
}

#[cfg(unix)]
#[test]
fn secrets_come_from_files_without_their_last_newline() {
    let (directory, path) = written("nats: {token_file: token}\nmongodb: {connections: {default: {url_file: url}}}\n");
    secret_file(directory.path(), "token", "hush\n", 0o600);
    secret_file(directory.path(), "url", "mongodb://u:p@h\r\n", 0o600);
    let loaded = load(Some(&path), &[], &[]).unwrap();
    assert_eq!(loaded.settings.nats.token, Some(Secret::new("hush")));
    assert_eq!(&*loaded.settings.mongodb.connections["default"].url.expose(), "mongodb://u:p@h");
    assert_eq!(loaded.warnings, []);
}

#[cfg(unix)]
#[test]
fn a_secret_that_others_may_read_is_warned_about_and_so_is_one_in_the_settings() {
    let (directory, path) = written("nats: {token_file: token}\nhttp: {token: hush}\n");
    secret_file(directory.path(), "token", "hush", 0o644);
    let warnings = load(Some(&path), &[], &[]).unwrap().warnings;
    let seen: Vec<_> = warnings.iter().map(|problem| (problem.path.as_str(), problem.line)).collect();
    assert_eq!(seen, [("nats.token_file", 1), ("http.token", 2)]);
    assert!(warnings.iter().all(|problem| !problem.to_string().contains("hush")));
}

#[test]
fn a_secret_from_outside_replaces_the_files_whichever_way_it_is_written() {
    let text = "nats: {token_file: nowhere}\n";
    let loaded = from_text(text, &[("SLUICE_NATS_TOKEN", "a:b # c")], &[]).unwrap();
    assert_eq!(loaded.settings.nats.token, Some(Secret::new("a:b # c")));
    assert!(from_text(text, &[], &["nats.token_file=null"]).unwrap().settings.nats.token.is_none());
    let both = [("SLUICE_NATS_TOKEN", "a"), ("SLUICE_NATS_TOKEN_FILE", "b")];
    assert!(from_text("", &both, &[]).unwrap_err()[0].message.contains("both token and token_file"));
}

#[test]
fn credentials_leave_the_addresses_that_logs_show() {
    let loaded = from_text("nats: {urls: [nats://me:hush@a:1, nats://me:hush@b:2]}\n", &[], &[]).unwrap();
    let nats = &loaded.settings.nats;
    assert_eq!((nats.urls.as_slice(), nats.user.as_deref()), (["nats://a:1".to_owned(), "nats://b:2".to_owned()].as_slice(), Some("me")));
    assert_eq!(nats.password, Some(Secret::new("hush")));
    assert!(!format!("{:?}", loaded).contains("hush"));
    assert_eq!(loaded.warnings.len(), 2);
}

#[test]
fn a_listener_beyond_this_machine_needs_a_token() {
    let problems = from_text("http: {listen: '0.0.0.0:8080'}\n", &[], &[]).unwrap_err();
    assert!(problems[0].to_string().contains("no token is set"), "{}", problems[0]);
    assert!(from_text("http: {listen: '0.0.0.0:8080', token: t}\n", &[], &[]).is_ok());
    for local in ["127.0.0.1:0", "[::1]:8080", "off"] {
        assert!(from_text(&format!("http: {{listen: '{local}'}}\n"), &[], &[]).is_ok(), "{local}");
    }
}
