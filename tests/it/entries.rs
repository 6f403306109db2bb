//! Entries as anybody may put them into the bucket, in `tests/fixtures/entries`: the good ones parse, and beside each bad
//! one lies `NAME.expected`, exactly what is said about it; `SLUICE_TEST_BLESS=1` writes them anew.

use sluice::pipeline::entry::Entry;
use std::path::{Path, PathBuf};

fn fixtures(directory: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/entries").join(directory);
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    assert!(!files.is_empty());
    files
}

#[test]
fn every_good_entry_parses_and_says_what_it_ignores() {
    let mut ignored = 0;
    for path in fixtures("good") {
        let entry = Entry::parse(&std::fs::read(&path).unwrap()).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        ignored += entry.ignored.len();
    }
    assert_eq!(ignored, 2 + 4 + 1, "two unknown fields, four wrong ones beside a pause, and one that is given twice beside one");
}

#[test]
fn every_bad_entry_is_refused_with_the_field_and_the_rule() {
    for path in fixtures("bad") {
        let error = Entry::parse(&std::fs::read(&path).unwrap()).expect_err(&path.display().to_string());
        let text = format!("{error} [{}]\n", error.reason().as_str());
        assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
        let expected = path.with_extension("expected");
        if std::env::var_os("SLUICE_TEST_BLESS").is_some() {
            std::fs::write(&expected, &text).unwrap();
        }
        let expected = std::fs::read_to_string(&expected).unwrap_or_else(|error| panic!("{}: {error}", expected.display()));
        assert_eq!(text, expected, "{}", path.display());
    }
}
