//! What entries are refused or taken, and what edits keep.

use super::*;

#[test]
fn a_published_entry_needs_a_version() {
    let entry = Entry::parse(br#"{"schema":1,"status":"published","version":"3-9f2c41aa","name":"M","replicas":2}"#).unwrap();
    assert_eq!((entry.status, entry.version.unwrap().as_str(), entry.replicas), (EntryStatus::Published, "3-9f2c41aa", 2));
    let error = Entry::parse(br#"{"status":"published"}"#).unwrap_err();
    assert_eq!(error.to_string(), "field `version` is missing; a published entry names the version to run");
}

#[test]
fn pausing_and_drafting_need_nothing_but_the_status() {
    for status in ["paused", "draft"] {
        let text = format!(r#"{{"status":"{status}","version":7,"schema":99,"replicas":"x","labels":[]}}"#);
        let entry = Entry::parse(text.as_bytes()).unwrap();
        assert_eq!(entry.status.as_str(), status);
        assert_eq!(entry.ignored.len(), 4, "{:?}", entry.ignored);
    }
}

#[test]
fn an_entry_of_the_first_parents_is_published_unless_it_says_otherwise() {
    let add = r#"{"key":"metrics","subs":null,"description":"Metrics stream","collection":"metrics","buffer_size":7}"#;
    let entry = Entry::parse(add.as_bytes()).unwrap();
    assert_eq!((entry.status, &entry.version, entry.ignored.len()), (EntryStatus::Published, &None, 0));
    assert_eq!(entry.producer.unwrap().collection.as_deref(), Some("metrics"));
    let paused = Entry::parse(br#"{"key":"metrics","status":"paused","subs":7}"#).unwrap();
    assert_eq!((paused.status, paused.producer, paused.ignored.len()), (EntryStatus::Paused, None, 1));
    let ours = Entry::parse(br#"{"key":"metrics","collection":"m","status":"published","version":"1"}"#).unwrap();
    assert_eq!((ours.producer, ours.ignored.len()), (None, 0));
}

#[test]
fn what_cannot_be_acted_on_says_why() {
    for (text, part) in [
        ("", "not JSON"),
        ("[]", "not an object"),
        ("{}", "`status` is missing"),
        (r#"{"status":"Published"}"#, "must be draft, published or paused"),
        (r#"{"status":7}"#, "must be a string"),
        (r#"{"status":"published","version":"../x"}"#, "`version` is not allowed"),
        (r#"{"status":"published","version":"1","schema":2}"#, "schema is 2"),
        (r#"{"status":"published","version":"1","digest":"md5"}"#, "`digest` must begin"),
        (r#"{"status":"published","version":"1","replicas":0}"#, "`replicas` must be"),
        (r#"{"key":7}"#, "`key` must be a string"),
        (r#"{"key":"m","subs":"a.b"}"#, "`subs` must be a list"),
        (r#"{"key":"m","subs":["a",1]}"#, "`subs` must be a list"),
        (r#"{"key":"m","collection":{"$gt":""}}"#, "`collection` must be a string"),
        (r#"{"key":"m","status":7}"#, "must be a string"),
    ] {
        let error = Entry::parse(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
    assert_eq!(Entry::parse(&vec![b' '; MAX_ENTRY_BYTES + 1]).unwrap_err(), EntryError::TooLarge(MAX_ENTRY_BYTES + 1));
}

#[test]
fn an_edit_keeps_the_fields_it_does_not_know() {
    let old = br#"{"status":"published","version":"1","x":{"y":[1]},"labels":{"team":"core"}}"#;
    let new = edited(Some(old), &Edit { status: Some(EntryStatus::Paused), ..Edit::default() });
    let value: Value = serde_json::from_slice(&new).unwrap();
    assert_eq!(value["x"]["y"][0], 1);
    assert_eq!((value["status"].as_str(), value["version"].as_str()), (Some("paused"), Some("1")));
    assert_eq!(value["labels"]["team"], "core");
}

#[test]
fn a_field_that_is_given_twice_is_named_with_both_places_wherever_it_lies() {
    for (text, message) in [
        (
            r#"{"status":"published","version":"1","version":"2"}"#,
            "field `version` is given twice, at line 1 column 23 and at line 1 column 37",
        ),
        (
            "{\"status\":\"published\",\n\"version\":\"1\",\"labels\":{\"a\":\"x\",\"a\":\"x\"}}",
            "field `labels.a` is given twice, at line 2 column 25 and",
        ),
        (r#"{"status":"published","version":"1","x":[{"y":1,"y":1}]}"#, "field `x[0].y` is given twice"),
        (r#"{"status":"paused","\u0073tatus":"paused"}"#, "field `status` is given twice"),
        (r#"{"key":"m","key":"m"}"#, "field `key` is given twice"),
    ] {
        let error = Entry::parse(text.as_bytes()).unwrap_err();
        assert!(error.to_string().starts_with(message) && error.reason() == Reason::EntryUnreadable, "{error}");
    }
    let paused = Entry::parse(br#"{"status":"paused","version":"1","version":"2"}"#).unwrap();
    assert_eq!((paused.status, paused.version), (EntryStatus::Paused, None));
    assert!(paused.ignored[0].contains("`version` is given twice"));
}

#[test]
fn an_edit_keeps_unknown_numbers_to_the_last_digit_and_nothing_that_is_given_twice() {
    let old = br#"{"status":"published","version":"1","version":"2","x":100000000000000000001,"y":{"z":1.10}}"#;
    let new = String::from_utf8(edited(Some(old), &Edit { status: Some(EntryStatus::Paused), ..Edit::default() })).unwrap();
    assert_eq!(new, r#"{"schema":1,"status":"paused","x":100000000000000000001,"y":{"z":1.10}}"#);
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        let _ = Entry::parse(&bytes);
    }
}
