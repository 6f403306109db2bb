//! `send`: each document once, in order, and none after a bad one.

use super::{Cli, stream_of_metrics};
use crate::support::Nats;
use bson::doc;
use std::fmt::Write as _;
use std::process::Stdio;
use tokio::io::AsyncWriteExt;

#[tokio::test]
async fn ten_thousand_json_lines_are_published_once_each_and_in_order() {
    require!("nats-server");
    let nats = Nats::start().await;
    let cli = Cli::new(&nats.url());
    let jetstream = nats.jetstream().await;
    let mut stream = stream_of_metrics(&jetstream).await;
    let mut lines = String::new();
    for number in 0..10_000 {
        writeln!(lines, r#"{{"n":{number},"ts":{{"$date":"2026-01-02T03:04:05Z"}}}}"#).unwrap();
    }
    let summary = cli.json(&["send", "metrics", &cli.file("data.jsonl", lines)]).await;
    assert_eq!((summary["sent"].as_u64(), summary["duplicates"].as_u64()), (Some(10_000), Some(0)));
    assert_eq!(stream.info().await.unwrap().state.messages, 10_000);
    for sequence in [1, 5_000, 10_000] {
        let message = stream.get_raw_message(sequence).await.unwrap();
        let document = bson::Document::from_reader(message.payload.as_ref()).unwrap();
        assert_eq!(document.get_i32("n").unwrap(), sequence as i32 - 1);
        assert!(document.get_datetime("ts").is_ok());
    }
}

#[tokio::test]
async fn a_bad_line_ends_it_there_and_skip_goes_on_from_it() {
    require!("nats-server");
    let nats = Nats::start().await;
    let cli = Cli::new(&nats.url());
    let mut stream = stream_of_metrics(&nats.jetstream().await).await;
    let file = cli.file("data.jsonl", "{\"n\":1}\n{\"n\":2}\n{\"n\":}\n{\"n\":4}\n");
    let error = cli.fails(3, &["send", "metrics", &file]).await;
    assert!(error.contains("data.jsonl:3:") && error.contains("--skip 2") && error.contains("2 documents"), "{error}");
    assert_eq!(stream.info().await.unwrap().state.messages, 2);
    cli.file("data.jsonl", "{\"n\":1}\n{\"n\":2}\n{\"n\":3}\n{\"n\":4}\n");
    assert_eq!(cli.json(&["send", "metrics", &file, "--skip", "2"]).await["sent"], 2);
    assert_eq!(stream.info().await.unwrap().state.messages, 4);
}

#[tokio::test]
async fn bson_documents_arrive_byte_for_byte_and_standard_input_works() {
    require!("nats-server");
    let nats = Nats::start().await;
    let cli = Cli::new(&nats.url());
    let stream = stream_of_metrics(&nats.jetstream().await).await;
    let (one, two) = (bson::serialize_to_vec(&doc! {"a": 1}).unwrap(), bson::serialize_to_vec(&doc! {"b": "x"}).unwrap());
    let file = cli.file("dump.bson", [one, two.clone()].concat());
    assert!(cli.ok(&["send", "metrics", &file]).await.starts_with("2 documents"));
    assert_eq!(stream.get_raw_message(2).await.unwrap().payload, two);
    let mut child = cli.command(&["send", "metrics", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"{\"c\":true}").await.unwrap();
    assert!(child.wait_with_output().await.unwrap().status.success());
    let third = stream.get_raw_message(3).await.unwrap();
    assert_eq!(bson::Document::from_reader(third.payload.as_ref()).unwrap(), doc! {"c": true});
}

#[tokio::test]
async fn a_message_id_field_makes_sending_twice_harmless() {
    require!("nats-server");
    let nats = Nats::start().await;
    let cli = Cli::new(&nats.url());
    let mut stream = stream_of_metrics(&nats.jetstream().await).await;
    let file = cli.file("data.jsonl", "{\"k\":\"a\"}\n{\"k\":\"b\"}\n");
    for duplicates in [0, 2] {
        assert_eq!(cli.json(&["send", "metrics", &file, "--msg-id", "k"]).await["duplicates"], duplicates);
    }
    assert_eq!(stream.info().await.unwrap().state.messages, 2);
}

#[tokio::test]
async fn without_a_stream_nothing_is_sent_and_the_message_says_what_to_do() {
    require!("nats-server");
    let nats = Nats::start().await;
    let cli = Cli::new(&nats.url());
    let error = cli.fails(4, &["send", "metrics", &cli.file("data.jsonl", "{}\n")]).await;
    assert!(error.contains("'alpha.metrics'") && error.contains("sluice publish metrics"), "{error}");
    cli.ok(&["publish", "metrics", "-f", &cli.file("metrics.yml", super::CONFIG)]).await;
    let error = cli.fails(4, &["send", "metrics", &cli.file("data.jsonl", "{}\n")]).await;
    assert!(error.contains("no controller has read its entry") && !error.contains("publish the pipeline"), "{error}");
    super::status::put_status(&nats, "metrics", 1, "drain").await;
    let error = cli.fails(4, &["send", "metrics", &cli.file("data.jsonl", "{}\n")]).await;
    assert!(error.contains("is being deleted") && error.contains("is closed"), "{error}");
}

#[tokio::test]
async fn a_document_that_the_server_does_not_take_is_named() {
    require!("nats-server");
    let nats = Nats::start().await;
    let cli = Cli::new(&nats.url());
    let mut stream = stream_of_metrics(&nats.jetstream().await).await;
    let large = format!("{{\"n\":1}}\n{{\"x\":\"{}\"}}\n", "y".repeat(2 << 20));
    let error = cli.fails(3, &["send", "metrics", &cli.file("data.jsonl", large)]).await;
    assert!(error.contains("document 2") && error.contains("max_payload"), "{error}");
    assert_eq!(stream.info().await.unwrap().state.messages, 1);
}
