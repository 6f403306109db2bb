//! `dlq replay` and `dlq drop` against a nats-server alone: which letters, in which order of steps, and what stays.

use super::{Cli, stream_of_metrics};
use crate::support::Nats;
use async_nats::HeaderMap;
use async_nats::jetstream::{self, stream};
use serde_json::{Value, json};

fn identity(number: u64) -> String {
    format!("{number:024x}")
}

/// The stream of the dead letters as a controller makes it, and in it letters of `metrics` with these reasons and codes,
/// and one of another pipeline.
async fn letters(nats: &Nats, letters: &[(&str, &str)]) -> stream::Stream {
    let jetstream = nats.jetstream().await;
    let config = stream::Config {
        name: "alpha-dlq".into(),
        subjects: vec!["alpha-dlq.>".into()],
        discard: stream::DiscardPolicy::New,
        discard_new_per_subject: true,
        max_messages_per_subject: 1,
        allow_direct: true,
        ..stream::Config::default()
    };
    let stream = jetstream.create_stream(config).await.unwrap();
    for (number, (reason, code)) in (1..).zip(letters) {
        letter(&jetstream, &format!("alpha-dlq.metrics.{}", identity(number)), reason, code, format!("payload {number}").into()).await;
    }
    letter(&jetstream, &format!("alpha-dlq.other.{}", identity(9)), "refused", "121", "theirs".into()).await;
    stream
}

async fn letter(jetstream: &jetstream::Context, subject: &str, reason: &str, code: &str, payload: Vec<u8>) {
    let mut headers = HeaderMap::new();
    headers.insert("Sluice-Reason", reason);
    headers.insert("Sluice-Code", code);
    headers.insert("Sluice-Original-Trace", "t-1");
    headers.insert("Sluice-Original-Nats-Msg-Id", "m-1");
    jetstream.publish_with_headers(subject.to_owned(), headers, payload.into()).await.unwrap().await.unwrap();
}

const FOUR: [(&str, &str); 4] = [("refused", "121"), ("not_bson", ""), ("refused", "2"), ("duplicate_id", "11000")];

async fn sequences(cli: &Cli) -> Vec<u64> {
    let list = cli.json(&["dlq", "list", "metrics"]).await;
    list.as_array().unwrap().iter().map(|letter| letter["sequence"].as_u64().unwrap()).collect()
}

fn numbers(report: &Value) -> [u64; 4] {
    ["matched", "done", "repeated", "gone"].map(|name| report[name].as_u64().unwrap())
}

#[tokio::test]
async fn a_replay_sends_the_original_bytes_and_headers_and_removes_the_letter() {
    require!("nats-server");
    let nats = Nats::start().await;
    let cli = Cli::new(&nats.url());
    letters(&nats, &FOUR).await;
    let stream = stream_of_metrics(&nats.jetstream().await).await;
    let report = cli.json(&["dlq", "replay", "metrics", "--sequence", "1"]).await;
    assert_eq!((numbers(&report), report["failed"].as_array().unwrap().len()), ([1, 1, 0, 0], 0));
    let message = stream.get_raw_message(1).await.unwrap();
    assert_eq!((message.subject.as_str(), message.payload.as_ref()), ("alpha.metrics", b"payload 1".as_slice()));
    assert_eq!(message.headers.get("Trace").unwrap().as_str(), "t-1");
    assert_eq!(message.headers.get("Sluice-Replay-Of").unwrap().as_str(), identity(1));
    assert!(message.headers.get("Nats-Msg-Id").unwrap().as_str().starts_with("sluice-replay-"), "never the original's own");
    assert_eq!(sequences(&cli).await, [2, 3, 4]);
    let text = cli.ok(&["dlq", "replay", "metrics"]).await;
    assert_eq!(text, "replayed 3 of 3 dead letters of pipeline 'metrics'\n");
    assert_eq!(stream.get_info().await.unwrap().state.messages, 4);
    assert_eq!(cli.json(&["dlq", "list"]).await, json!([{"id": "other", "dead_letters": 1}]), "that is another pipeline's");
    assert_eq!(numbers(&cli.json(&["dlq", "replay", "metrics"]).await), [0; 4]);
}

#[tokio::test]
async fn filters_take_exactly_what_they_name_and_a_dry_run_touches_nothing() {
    require!("nats-server");
    let nats = Nats::start().await;
    let cli = Cli::new(&nats.url());
    letters(&nats, &FOUR).await;
    let (second, fourth) = (identity(2), identity(4));
    let cases: [(&[&str], &[u64]); 10] = [
        (&[], &[1, 2, 3, 4]),
        (&["--reason", "refused"], &[1, 3]),
        (&["--reason", "refused,not_bson", "--code", "121"], &[1]),
        (&["--code", "11000", "--code", "2"], &[3, 4]),
        (&["--sequence", "2..3"], &[2, 3]),
        (&["--sequence", "3.."], &[3, 4]),
        (&["--since", "1h"], &[1, 2, 3, 4]),
        (&["--until", "1h"], &[]),
        (&[&second, "4"], &[2, 4]),
        (&[&fourth, "--reason", "refused"], &[]),
    ];
    for (filters, expected) in cases {
        for action in ["replay", "drop"] {
            let report = cli.json(&[&["dlq", action, "metrics", "--dry-run"], filters].concat()).await;
            let taken = report["letters"].as_array().cloned().unwrap_or_default();
            let taken: Vec<_> = taken.iter().map(|letter| letter["sequence"].as_u64().unwrap()).collect();
            assert_eq!((taken.as_slice(), numbers(&report)[0]), (expected, expected.len() as u64), "{action} {filters:?}");
        }
        let listed = cli.json(&[&["dlq", "list", "metrics"], filters].concat()).await;
        assert_eq!(listed.as_array().unwrap().len(), expected.len(), "{filters:?}");
    }
    let output = cli.run(&["dlq", "drop", "metrics", "--dry-run", "--reason", "refused"]).await;
    assert!(String::from_utf8_lossy(&output.stderr).contains("would drop 2 dead letters"));
    assert_eq!(sequences(&cli).await, [1, 2, 3, 4]);
    for wrong in [["--reason", "bad"], ["--sequence", "3..2"], ["--since", "soon"], ["--code", "x"]] {
        cli.fails(2, &[&["dlq", "drop", "metrics"], wrong.as_slice()].concat()).await;
    }
}

#[tokio::test]
async fn a_drop_removes_what_its_filters_take_and_doing_it_again_is_nothing() {
    require!("nats-server");
    let nats = Nats::start().await;
    let cli = Cli::new(&nats.url());
    letters(&nats, &FOUR).await;
    assert_eq!(
        cli.ok(&["dlq", "drop", "metrics", "--reason", "refused", "--yes"]).await,
        "dropped 2 of 2 dead letters of pipeline 'metrics'\n"
    );
    assert_eq!(sequences(&cli).await, [2, 4]);
    assert_eq!(numbers(&cli.json(&["dlq", "drop", "metrics", "--reason", "refused"]).await), [0; 4]);
    assert_eq!(numbers(&cli.json(&["dlq", "drop", "metrics"]).await), [2, 2, 0, 0]);
    assert_eq!(cli.json(&["dlq", "list"]).await, json!([{"id": "other", "dead_letters": 1}]));
}

#[tokio::test]
async fn a_letter_leaves_only_after_its_message_was_acknowledged() {
    require!("nats-server");
    let nats = Nats::start().await;
    let cli = Cli::new(&nats.url());
    letters(&nats, &FOUR).await;
    // Nobody listens.
    let error = cli.fails(4, &["dlq", "replay", "metrics"]).await;
    assert!(error.contains("alpha.metrics") && error.contains("publish the pipeline first"), "{error}");
    assert_eq!(sequences(&cli).await, [1, 2, 3, 4]);
    // A stream that takes only two of them.
    let jetstream = nats.jetstream().await;
    let config = stream::Config {
        name: "alpha_metrics".into(),
        subjects: vec!["alpha.metrics".into()],
        retention: stream::RetentionPolicy::WorkQueue,
        discard: stream::DiscardPolicy::New,
        max_messages: 2,
        ..stream::Config::default()
    };
    jetstream.create_stream(config).await.unwrap();
    let output = cli.run(&["dlq", "replay", "metrics", "--output", "json"]).await;
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (output.status.code(), numbers(&report), report["failed"].as_array().unwrap().len()),
        (Some(1), [4, 2, 0, 0], 2),
        "{report}"
    );
    assert!(report["failed"][0]["error"].as_str().unwrap().contains("limits"), "{report}");
    let left = sequences(&cli).await;
    assert_eq!(left, report["failed"].as_array().unwrap().iter().map(|failed| failed["sequence"].as_u64().unwrap()).collect::<Vec<_>>());
}

#[tokio::test]
async fn another_stream_on_the_subject_gets_no_letters() {
    require!("nats-server");
    let nats = Nats::start().await;
    let cli = Cli::new(&nats.url());
    letters(&nats, &FOUR).await;
    let config = stream::Config { name: "theirs".into(), subjects: vec!["alpha.*".into()], ..stream::Config::default() };
    let theirs = nats.jetstream().await.create_stream(config).await.unwrap();
    cli.fails(1, &["dlq", "replay", "metrics"]).await;
    assert_eq!((theirs.get_info().await.unwrap().state.messages, sequences(&cli).await.len()), (0, 4));
}

#[tokio::test]
async fn a_replay_interrupted_before_it_removed_its_letter_is_recognized_the_next_time() {
    require!("nats-server");
    let nats = Nats::start().await;
    let cli = Cli::new(&nats.url());
    let dead = letters(&nats, &FOUR).await;
    let jetstream = nats.jetstream().await;
    let stream = stream_of_metrics(&jetstream).await;
    // What an interrupted one has done.
    let first = dead.direct_get(1).await.unwrap();
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", format!("sluice-replay-{}-1-{}", identity(1), first.time.unix_timestamp_nanos()));
    jetstream.publish_with_headers("alpha.metrics", headers, first.payload).await.unwrap().await.unwrap();
    assert_eq!(numbers(&cli.json(&["dlq", "replay", "metrics"]).await), [4, 4, 1, 0]);
    assert_eq!((stream.get_info().await.unwrap().state.messages, sequences(&cli).await.len()), (4, 0));
}

#[tokio::test]
async fn what_is_too_large_for_a_replay_stays_and_says_by_how_much_to_raise_the_limit() {
    require!("nats-server");
    let nats = Nats::start().await;
    let cli = Cli::new(&nats.url());
    letters(&nats, &FOUR).await;
    let jetstream = nats.jetstream().await;
    stream_of_metrics(&jetstream).await;
    let config = jetstream::object_store::Config { bucket: "alpha-dlq-payloads".into(), ..Default::default() };
    let bucket = jetstream.create_object_store(config).await.unwrap();
    let largest = nats.client().await.max_payload();
    for (number, size) in [(5, largest), (6, largest - 300)] {
        bucket.put(identity(number).as_str(), &mut vec![7_u8; size].as_slice()).await.unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("Sluice-Object", format!("alpha-dlq-payloads/{}", identity(number)));
        let subject = format!("alpha-dlq.metrics.{}", identity(number));
        jetstream.publish_with_headers(subject, headers, "".into()).await.unwrap().await.unwrap();
    }
    let output = cli.run(&["dlq", "replay", "metrics", "--output", "json"]).await;
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), numbers(&report)), (Some(1), [6, 5, 0, 0]), "{report}");
    let failed = &report["failed"][0];
    assert!(failed["identity"] == identity(5) && failed["error"].as_str().unwrap().contains("max_payload"), "{report}");
    assert!(bucket.info(identity(5)).await.is_ok() && bucket.info(identity(6)).await.is_err(), "the object goes with its letter");
    // Dropping takes the object along.
    cli.ok(&["dlq", "drop", "metrics"]).await;
    let left = jetstream.get_stream("OBJ_alpha-dlq-payloads").await.unwrap().get_info().await.unwrap().state.messages;
    assert_eq!(left, 0);
}

#[tokio::test]
async fn a_letter_whose_payload_is_gone_or_not_its_own_is_never_replayed_empty() {
    require!("nats-server");
    let nats = Nats::start().await;
    let cli = Cli::new(&nats.url());
    letters(&nats, &[]).await;
    let jetstream = nats.jetstream().await;
    let stream = stream_of_metrics(&jetstream).await;
    for (number, object) in [(1, identity(1)), (2, "somebody-elses".to_owned())] {
        let mut headers = HeaderMap::new();
        headers.insert("Sluice-Object", format!("alpha-dlq-payloads/{object}"));
        let subject = format!("alpha-dlq.metrics.{}", identity(number));
        jetstream.publish_with_headers(subject, headers, "".into()).await.unwrap().await.unwrap();
    }
    let output = cli.run(&["dlq", "replay", "metrics", "--output", "json"]).await;
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), numbers(&report)), (Some(1), [2, 0, 0, 0]), "{report}");
    assert!(report["failed"][0]["error"].as_str().unwrap().contains("no such object"), "{report}");
    assert!(report["failed"][1]["error"].as_str().unwrap().contains("not its own"), "{report}");
    assert_eq!((stream.get_info().await.unwrap().state.messages, sequences(&cli).await.len()), (0, 2));
}
