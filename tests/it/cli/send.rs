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
    let cli = Cli::installed(&nats).await;
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
    let cli = Cli::installed(&nats).await;
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
    let cli = Cli::installed(&nats).await;
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
    let cli = Cli::installed(&nats).await;
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
    let cli = Cli::installed(&nats).await;
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
    let cli = Cli::installed(&nats).await;
    let mut stream = stream_of_metrics(&nats.jetstream().await).await;
    let large = format!("{{\"n\":1}}\n{{\"x\":\"{}\"}}\n", "y".repeat(2 << 20));
    let error = cli.fails(3, &["send", "metrics", &cli.file("data.jsonl", large)]).await;
    assert!(error.contains("document 2") && error.contains("max_payload"), "{error}");
    assert_eq!(stream.info().await.unwrap().state.messages, 1);
}

#[tokio::test]
async fn what_would_not_be_stored_as_it_is_written_is_refused_with_line_and_column_and_what_is_before_it_is_sent() {
    require!("nats-server");
    let nats = Nats::start().await;
    let cli = Cli::installed(&nats).await;
    let mut stream = stream_of_metrics(&nats.jetstream().await).await;
    let mut sent = 0;
    for (line, place, part) in [
        (r#"{"n":100000000000000000001}"#, ":2:6:", "does not fit into the 64 bits"),
        (r#"{"n":1e400}"#, ":2:6:", "larger than any double"),
        (r#"{"n":0.1234567890123456789}"#, ":2:6:", "as a double it would be 0.12345678901234568"),
        (r#"{"n":1,"n":2}"#, ":2:8:", "'n' is given twice"),
        (r#"{"a":{"b":[{"c":1,"c":1}]}}"#, ":2:19:", "'a.b[0].c' is given twice"),
        (r#"{"n":NaN}"#, ":2:6:", "$numberDouble"),
        (r#"{"at":{"$date":"2026-01-01T00:00:00.123456Z"}}"#, ":2:16:", "milliseconds"),
    ] {
        let error = cli.fails(3, &["send", "metrics", &cli.file("data.jsonl", format!("{{\"ok\":-0.1}}\n{line}\n"))]).await;
        assert!(error.contains(&format!("data.jsonl{place}")) && error.contains(part) && error.contains("--skip 1"), "{error}");
        sent += 1;
        assert_eq!(stream.info().await.unwrap().state.messages, sent, "{line}");
    }
    let deep = format!("{}1{}", "{\"a\":".repeat(101), "}".repeat(101));
    assert!(cli.fails(3, &["send", "metrics", &cli.file("deep.jsonl", deep)]).await.contains("100 levels"));
}

#[tokio::test]
async fn a_file_with_a_byte_order_mark_is_sent_and_one_in_utf_16_or_compressed_is_named_with_the_command_that_helps() {
    require!("nats-server");
    let nats = Nats::start().await;
    let cli = Cli::installed(&nats).await;
    let mut stream = stream_of_metrics(&nats.jetstream().await).await;
    let marked = cli.file("marked.jsonl", "\u{feff}{\"a\":1}\r\n{\"a\":2}\r\n");
    assert_eq!(cli.json(&["send", "metrics", &marked]).await["sent"], 2);
    let utf_16: Vec<u8> = "\u{feff}{\"a\":1}\r\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let error = cli.fails(3, &["send", "metrics", &cli.file("wide.jsonl", utf_16)]).await;
    assert!(
        error.contains("looks like UTF-16") && error.contains("iconv -f UTF-16 -t UTF-8") && error.contains("wide.jsonl:1:1"),
        "{error}"
    );
    let gzip = [&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3][..], &[0xab; 600_000]].concat();
    for name in ["packed.jsonl.gz", "packed.bson"] {
        let error = cli.fails(3, &["send", "metrics", &cli.file(name, gzip.clone())]).await;
        assert!(error.contains("compressed by gzip") && error.contains("gunzip -c"), "{error}");
    }
    let bson = bson::serialize_to_vec(&doc! {"a": 1}).unwrap();
    assert!(cli.fails(3, &["send", "metrics", &cli.file("dump.jsonl", bson)]).await.contains("--format bson"));
    assert_eq!(stream.info().await.unwrap().state.messages, 2);
}
