//! Dead letters on a real server: once, whole, and never larger than the connection bears.

use crate::support::Nats;
use async_nats::jetstream::stream::{Config, DiscardPolicy};
use async_nats::{HeaderMap, Message, jetstream};
use sluice::collector::dead_letters::{DeadLetterErrorKind, DeadLetters, Poison, Reason, Stored};
use tokio::io::AsyncReadExt;

async fn stream(nats: &Nats, change: impl FnOnce(&mut Config)) -> (jetstream::Context, DeadLetters) {
    let jetstream = nats.jetstream().await;
    let mut config = Config {
        name: "x-dlq".into(),
        subjects: vec!["x-dlq.>".into()],
        max_messages_per_subject: 1,
        discard: DiscardPolicy::New,
        discard_new_per_subject: true,
        allow_direct: true,
        ..Config::default()
    };
    change(&mut config);
    jetstream.create_stream(config).await.unwrap();
    let payloads = jetstream::object_store::Config { bucket: "x-dlq-payloads".into(), ..Default::default() };
    jetstream.create_object_store(payloads).await.unwrap();
    (jetstream, DeadLetters::new(nats.client().await, "x-dlq", "x-dlq.p", "x-dlq-payloads"))
}

fn message(payload: Vec<u8>) -> Message {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", "m1");
    headers.append("Trace", "a");
    headers.append("Trace", "b");
    Message {
        subject: "x.p".into(),
        reply: None,
        length: payload.len(),
        payload: payload.into(),
        headers: Some(headers),
        status: None,
        description: None,
    }
}

fn poison<'a>(message: &'a Message, identity: &'a str) -> Poison<'a> {
    Poison {
        message,
        identity,
        reason: Reason::Refused,
        code: Some(121),
        detail: "document failed\nvalidation",
        pipeline: "p",
        version: "1-abc",
        stream: "x_p",
        sequence: 42,
        published_ns: 1_794_361_635_000_000_001,
        attempts: 3,
        redelivered: true,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_holds_the_original_and_its_reason_and_a_second_copy_is_refused() {
    require!("nats-server");
    let nats = Nats::start().await;
    let (jetstream, letters) = stream(&nats, |_| {}).await;
    let message = message(b"not bson \x00\xff".to_vec());
    assert_eq!(letters.store(&poison(&message, "aa")).await.unwrap(), Stored::New);
    assert_eq!(letters.store(&poison(&message, "aa")).await.unwrap(), Stored::AlreadyThere);
    assert_eq!(letters.store(&poison(&message, "bb")).await.unwrap(), Stored::New);
    let stream = jetstream.get_stream("x-dlq").await.unwrap();
    assert_eq!(stream.get_info().await.unwrap().state.messages, 2);
    // A direct get: the other way, the client keeps only the last of several values of a header.
    let stored = stream.direct_get_last_for_subject("x-dlq.p.aa").await.unwrap();
    assert_eq!(stored.payload, message.payload);
    let header = |name: &str| stored.headers.get(name).map(|value| value.as_str().to_owned()).unwrap_or_default();
    for (name, value) in [
        ("Sluice-Reason", "refused"),
        ("Sluice-Code", "121"),
        ("Sluice-Detail", "document failed validation"),
        ("Sluice-Pipeline", "p"),
        ("Sluice-Version", "1-abc"),
        ("Sluice-Stream", "x_p"),
        ("Sluice-Subject", "x.p"),
        ("Sluice-Sequence", "42"),
        ("Sluice-Time", "2026-11-11T01:47:15.000000001Z"),
        ("Sluice-Attempts", "3"),
        ("Sluice-Redelivered", "true"),
        ("Sluice-Original-Nats-Msg-Id", "m1"),
    ] {
        assert_eq!(header(name), value, "{name}");
    }
    assert_eq!(stored.headers.get_all("Sluice-Original-Trace").count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poison_of_maximal_size_goes_by_reference_and_the_connection_stays() {
    require!("nats-server");
    let nats = Nats::start().await;
    let (jetstream, letters) = stream(&nats, |_| {}).await;
    let client = nats.client().await;
    let message = message(vec![7; client.max_payload()]);
    assert_eq!(letters.store(&poison(&message, "aa")).await.unwrap(), Stored::New);
    assert_eq!(letters.store(&poison(&message, "aa")).await.unwrap(), Stored::AlreadyThere);
    let stored = jetstream.get_stream("x-dlq").await.unwrap().get_last_raw_message_by_subject("x-dlq.p.aa").await.unwrap();
    assert!(stored.payload.is_empty());
    assert_eq!(stored.headers.get("Sluice-Object").unwrap().as_str(), "x-dlq-payloads/aa");
    let bucket = jetstream.get_object_store("x-dlq-payloads").await.unwrap();
    let mut bytes = Vec::new();
    bucket.get("aa").await.unwrap().read_to_end(&mut bytes).await.unwrap();
    assert_eq!(bytes, message.payload);
    // Two puts would leave two sets of chunks.
    let chunks = jetstream.get_stream("OBJ_x-dlq-payloads").await.unwrap().get_info().await.unwrap().state.messages;
    assert_eq!(chunks, 1 + message.payload.len().div_ceil(128 << 10) as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_larger_than_the_stream_takes_goes_by_reference() {
    require!("nats-server");
    let nats = Nats::start().await;
    let (_, letters) = stream(&nats, |config| config.max_message_size = 2000).await;
    assert_eq!(letters.store(&poison(&message(vec![7; 3000]), "aa")).await.unwrap(), Stored::New);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_stream_is_not_mistaken_for_a_second_copy() {
    require!("nats-server");
    let nats = Nats::start().await;
    let (_, letters) = stream(&nats, |config| config.max_messages = 1).await;
    let message = message(b"x".to_vec());
    assert_eq!(letters.store(&poison(&message, "aa")).await.unwrap(), Stored::New);
    let error = letters.store(&poison(&message, "bb")).await.unwrap_err();
    assert_eq!(error.kind, DeadLetterErrorKind::Full, "{error}");
    assert_eq!(letters.store(&poison(&message, "aa")).await.unwrap(), Stored::AlreadyThere);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_stream_or_the_server_a_dead_letter_waits() {
    require!("nats-server");
    let mut nats = Nats::start().await;
    let (jetstream, letters) = stream(&nats, |_| {}).await;
    jetstream.delete_stream("x-dlq").await.unwrap();
    let message = message(b"x".to_vec());
    assert_eq!(letters.store(&poison(&message, "aa")).await.unwrap_err().kind, DeadLetterErrorKind::Unavailable);
    nats.kill9();
    assert_eq!(letters.store(&poison(&message, "aa")).await.unwrap_err().kind, DeadLetterErrorKind::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_takes_only_small_messages_gets_the_letter_without_the_originals_headers_or_says_what_to_raise() {
    require!("nats-server");
    let nats = Nats::start().await;
    let (jetstream, letters) = stream(&nats, |config| config.max_message_size = 1200).await;
    let mut large = message(vec![7; 3000]);
    large.headers.as_mut().unwrap().insert("Long", "x".repeat(2000));
    assert_eq!(letters.store(&poison(&large, "aa")).await.unwrap(), Stored::New);
    let stored = jetstream.get_stream("x-dlq").await.unwrap().get_last_raw_message_by_subject("x-dlq.p.aa").await.unwrap();
    assert!(stored.headers.get("Sluice-Original-Omitted").is_some() && stored.headers.get("Sluice-Object").is_some());
    let (_, letters) = {
        jetstream.delete_stream("x-dlq").await.unwrap();
        stream(&nats, |config| config.max_message_size = 100).await
    };
    let error = letters.store(&poison(&large, "aa")).await.unwrap_err();
    assert!(
        error.kind == DeadLetterErrorKind::Refused && error.message.contains("(error 10054)") && error.message.contains("max_msg_size"),
        "{error}"
    );
    assert!(!error.message.contains("room"), "{error}");
}
