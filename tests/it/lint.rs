//! Lint over the files in `tests/fixtures/configs`: what is good, what is not, and exactly what is said about it.
//!
//! Beside each bad file lies `NAME.expected`, one problem a line; `SLUICE_TEST_BLESS=1` writes them anew.

use sluice::pipeline::config::{Granularity, LintContext, MAX_CONFIG_BYTES, OnDelete, PipelineConfig, lint};
use sluice::pipeline::id::{Namespace, PipelineId};
use sluice::pipeline::names::{NameTemplates, Names};
use sluice::pipeline::problem::Problem;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The files of a directory of fixtures, in order.
pub fn fixtures(directory: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(directory);
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yml"));
    files.sort();
    assert!(!files.is_empty());
    files
}

/// Compares `problems` with the file beside `path`.
pub fn assert_expected(path: &Path, problems: &[Problem]) {
    let text: String = problems.iter().map(|problem| format!("{problem}\n")).collect();
    let expected = path.with_extension("expected");
    if std::env::var_os("SLUICE_TEST_BLESS").is_some() {
        std::fs::write(&expected, &text).unwrap();
    }
    let expected = std::fs::read_to_string(&expected).unwrap_or_else(|error| panic!("{}: {error}", expected.display()));
    assert_eq!(text, expected, "{}", path.display());
}

fn context() -> LintContext {
    LintContext {
        names: Some(Names::new(Namespace::parse("alpha").unwrap(), NameTemplates::default())),
        id: Some(PipelineId::parse("metrics").unwrap()),
        connections: Some(vec!["default".into(), "archive".into()]),
    }
}

fn check(path: &Path) -> (Option<PipelineConfig>, Vec<Problem>) {
    let name = path.file_name().unwrap().to_string_lossy();
    lint(&name, &std::fs::read(path).unwrap(), &context())
}

fn good(name: &str) -> PipelineConfig {
    let (config, problems) = check(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/configs/good").join(name));
    assert_eq!(problems, [], "{name}");
    config.unwrap()
}

#[test]
fn every_problem_is_reported_at_once_with_its_line_and_column() {
    for path in fixtures("configs/bad") {
        let (config, problems) = check(&path);
        assert!(!problems.is_empty(), "{}", path.display());
        assert_eq!(config.is_none(), sluice::pipeline::problem::has_errors(&problems), "{}", path.display());
        for problem in &problems {
            assert!(problem.line > 0 && problem.column > 0, "{problem}");
            assert!(!problem.message.ends_with('.'), "{problem}");
        }
        assert_expected(&path, &problems);
    }
}

#[test]
fn a_syntax_error_stands_alone() {
    for name in ["tab", "key_twice", "anchor", "merge", "two_documents", "latin1", "tag", "unclosed", "deep", "control", "colon"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/configs/bad/{name}.yml"));
        assert_eq!(check(&path).1.len(), 1, "{name}");
    }
}

#[test]
fn good_configs_and_the_example_have_no_problem() {
    for path in fixtures("configs/good") {
        let (config, problems) = check(&path);
        assert!(config.is_some() && problems.is_empty(), "{}: {problems:?}", path.display());
    }
    for path in fixtures("../../config/examples") {
        let (config, problems) = check(&path);
        assert!(config.is_some() && problems.is_empty(), "{}: {problems:?}", path.display());
    }
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/pipelines/metrics.yml");
    let (config, problems) = check(&example);
    assert!(config.is_some() && problems.is_empty(), "{problems:?}");
}

#[test]
fn a_text_stays_what_was_written() {
    let output = good("source_text.yml").output;
    assert_eq!((output.database.as_deref(), output.collection.as_deref()), (Some("0123"), Some("1e5")));
    let series = output.time_series.unwrap();
    assert_eq!((series.time_field.as_str(), series.meta_field.as_deref()), ("no", Some("0x10")));
}

#[test]
fn every_field_of_a_config_is_read() {
    let config = good("everything.yml");
    assert_eq!(config.input.stream.as_deref(), Some("alpha_metrics"));
    assert_eq!(config.input.subjects, ["alpha.metrics", "plant.*.readings"]);
    assert_eq!(config.input.consumer.as_deref(), Some("default"));
    assert_eq!((config.input.ack_wait, config.input.max_ack_pending), (Some(Duration::from_secs(60)), Some(-1)));
    let output = config.output;
    assert_eq!((output.batching.count, output.batching.byte_size), (100_000, 1 << 20));
    assert_eq!((output.batching.period, output.batching.linger), (Duration::from_secs(20), Duration::from_millis(250)));
    assert_eq!(output.max_in_flight, 16);
    let series = output.time_series.unwrap();
    assert_eq!((series.granularity, series.expire_after), (Some(Granularity::Minutes), Some(Duration::from_secs(30 * 86_400))));
    assert_eq!((config.on_delete, config.drain_timeout), (Some(OnDelete::Keep), Some(Duration::from_secs(3600))));
}

#[test]
fn a_config_beyond_one_mebibyte_is_refused_unread() {
    let (config, problems) = lint("big.yml", &vec![b'#'; 2 << 20], &LintContext::default());
    assert!(config.is_none());
    assert_eq!(problems.len(), 1);
    assert!(problems[0].to_string().contains("too large"), "{}", problems[0]);
}

#[test]
fn lint_works_offline_without_knowing_the_settings() {
    let text = "input: {nats_jetstream: {subjects: [alpha.>]}}\noutput: {mongodb: {connection: whatever}}\n";
    let (config, problems) = lint("x.yml", text.as_bytes(), &LintContext::default());
    assert!(config.is_some() && problems.is_empty(), "{problems:?}");
}

#[test]
fn no_credential_of_a_config_is_repeated_in_a_problem() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/configs/bad/addresses.yml");
    for problem in check(&path).1 {
        assert!(!problem.to_string().contains("secret"), "{problem}");
    }
}

#[test]
fn a_hostile_mebibyte_is_answered_quickly_and_briefly() {
    let fill = |piece: &dyn Fn(usize) -> String| {
        (0..)
            .map(piece)
            .scan(0, |size, piece| {
                *size += piece.len();
                (*size < MAX_CONFIG_BYTES - 100).then_some(piece)
            })
            .collect::<String>()
    };
    let unknown = fill(&|n| format!("f{n}: 1\n"));
    let subjects = format!("input: {{nats_jetstream: {{subjects: [{}]}}}}\noutput: {{mongodb: {{}}}}\n", fill(&|n| format!("s{n},")));
    let long = format!("output: {{mongodb: {{collection: {}}}}}\n", fill(&|_| "x".repeat(1000)));
    let keys = format!("? {}\n: 1\n", fill(&|_| "x y ".repeat(100)));
    let flow = format!("[{}]", fill(&|_| "[[[]]],".into()));
    for text in [unknown, subjects, long, keys, flow, "[".repeat(1 << 20), "- ".repeat(1 << 19), "a:\n".repeat(1 << 18)] {
        let began = std::time::Instant::now();
        let (config, problems) = lint("x", text.as_bytes(), &context());
        assert!(config.is_none() && problems.len() <= 101, "{}", problems.len());
        let said: usize = problems.iter().map(|problem| problem.to_string().len()).sum();
        assert!(said < 64 << 10, "{said}");
        // A debug build on a busy machine: quadratic work would take minutes.
        assert!(began.elapsed().as_secs() < 20, "{:?} for {:?}", began.elapsed(), &text[..20]);
    }
}
