//! The producers' SDK against a real nats-server, and with a real `sluice run` at the other end.

use crate::support::{Mongo, Nats, Sluice, eventually};
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy};
use bson::{doc, oid::ObjectId};
use sluice::pipeline::id::{Namespace, PipelineId};
use sluice::pipeline::names::{NameTemplates, Names};
use sluice::transfer::{Message, Registration, Transfer, TransferErrorKind};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);

fn metrics() -> Registration {
    Registration { key: "metrics".into(), collection: "metrics".into(), description: "Metrics".into(), ..Registration::default() }
}

async fn transfer(nats: &Nats) -> Transfer {
    Transfer::new("alpha", nats.client().await).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_of_the_sdk_arrive_and_removing_drains() {
    require!("nats-server", "database");
    let (nats, mongo) = (Nats::start().await, Mongo::start().await);
    let transfer = transfer(&nats).await;
    transfer.add(&metrics()).await.unwrap();
    let before: Vec<_> = (0..500).map(|n| Message::new(&doc! { "_id": n, "before": true }).unwrap()).collect();
    assert!(transfer.send_many("metrics", before).await.unwrap().is_complete(), "the stream takes them before anybody reads");
    let _sluice = Sluice::start(&nats, &mongo).await;
    eventually("what was sent before arrives", SOON, || async { mongo.count("metrics").await == 500 }).await;
    transfer.send("metrics", &doc! { "_id": 500 }).await.unwrap();
    eventually("what is sent now arrives", SOON, || async { mongo.count("metrics").await == 501 }).await;
    let state = transfer.get("metrics").await.unwrap();
    assert_eq!((state.registration, state.buffer_size), (metrics(), Some(0)));
    transfer.remove("metrics").await.unwrap();
    let jetstream = nats.jetstream().await;
    eventually("the stream is gone", SOON, || async { jetstream.get_stream("alpha_metrics").await.is_err() }).await;
    assert_eq!(mongo.count("metrics").await, 501);
    assert_eq!(transfer.get("metrics").await.unwrap_err().kind(), TransferErrorKind::NotFound);
    transfer.remove("metrics").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn adding_again_while_it_is_being_removed_brings_it_back() {
    require!("nats-server", "database");
    let (nats, mongo) = (Nats::start().await, Mongo::start().await);
    let _sluice = Sluice::start(&nats, &mongo).await;
    let transfer = transfer(&nats).await;
    let mut sent = 0_i32;
    for _ in 0..5 {
        transfer.add(&metrics()).await.unwrap();
        let documents: Vec<_> = (sent..sent + 400).map(|n| Message::new(&doc! { "_id": n }).unwrap()).collect();
        let came = transfer.send_many("metrics", documents).await.unwrap();
        assert!(came.is_complete(), "{:?}", came.failures);
        sent += 400;
        transfer.remove("metrics").await.unwrap();
    }
    eventually("all of them are there", SOON, || async { mongo.count("metrics").await == u64::from(sent.unsigned_abs()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_to_a_stream_that_is_about_to_be_opened_again_wait_for_it() {
    require!("nats-server");
    let nats = Nats::start().await;
    let transfer = transfer(&nats).await;
    transfer.add(&metrics()).await.unwrap();
    let jetstream = nats.jetstream().await;
    let mut stream = jetstream.get_stream("alpha_metrics").await.unwrap();
    let open = stream.info().await.unwrap().config.clone();
    // As the controller does that saw the removal, and not yet that it was taken back.
    let closed = Names::new(Namespace::parse("alpha").unwrap(), NameTemplates::default()).closed(&PipelineId::parse("metrics").unwrap());
    let closed = Config { subjects: vec![closed], ..open.clone() };
    jetstream.update_stream(&closed).await.unwrap();
    let documents = || (0..300).map(|n| Message::new(&doc! { "n": n }).unwrap());
    let (sent, ()) = tokio::join!(transfer.send_many("metrics", documents()), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        jetstream.update_stream(&open).await.unwrap();
    });
    let sent = sent.unwrap();
    assert!(sent.is_complete(), "{:?}", sent.failures);
    assert_eq!((sent.acknowledged, stream.info().await.unwrap().state.messages), (300, 300), "each once");

    transfer.remove("metrics").await.unwrap();
    jetstream.update_stream(&closed).await.unwrap();
    let error = transfer.send("metrics", &doc! { "n": 300 }).await.unwrap_err();
    assert_eq!(error.kind(), TransferErrorKind::NotTaken, "what is removed is not waited for: {error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_twice_under_one_id_is_there_once() {
    require!("nats-server", "database");
    let (mut nats, mongo) = (Nats::start().await, Mongo::start().await);
    let transfer = transfer(&nats).await;
    transfer.add(&metrics()).await.unwrap();
    let documents = || (0..300).map(|n| Message::new(&doc! { "n": n }).unwrap().with_id(format!("m{n}"))).collect::<Vec<_>>();
    assert_eq!(transfer.send_many("metrics", documents()).await.unwrap().duplicates, 0);
    assert_eq!(transfer.send_many("metrics", documents()).await.unwrap().duplicates, 300);
    let _sluice = Sluice::start(&nats, &mongo).await;
    eventually("they arrive", SOON, || async { mongo.count("metrics").await == 300 }).await;
    let jetstream = nats.jetstream().await;
    eventually("all is acknowledged", SOON, || async {
        jetstream.get_stream("alpha_metrics").await.is_ok_and(|stream| stream.cached_info().state.messages == 0)
    })
    .await;
    // A restarted server has forgotten the ids of what is acknowledged; the identity has not.
    nats.restart().await;
    eventually("they are taken again", SOON, || async {
        transfer.send_many("metrics", documents()).await.is_ok_and(|sent| sent.is_complete())
    })
    .await;
    eventually("all is acknowledged again", SOON, || async {
        jetstream.get_stream("alpha_metrics").await.is_ok_and(|stream| stream.cached_info().state.messages == 0)
    })
    .await;
    assert_eq!(mongo.count("metrics").await, 300);
    assert!(mongo.documents("metrics").await[0].get_object_id("_id").is_ok_and(|id| id != ObjectId::from_bytes([0; 12])));
}

#[tokio::test(flavor = "multi_thread")]
async fn adding_again_resets_no_limit_and_writes_no_entry() {
    require!("nats-server");
    let nats = Nats::start().await;
    let jetstream = nats.jetstream().await;
    let stream = jetstream
        .create_stream(Config {
            name: "alpha_metrics".into(),
            subjects: vec!["alpha.metrics".into()],
            retention: RetentionPolicy::WorkQueue,
            discard: DiscardPolicy::New,
            max_bytes: 1 << 20,
            duplicate_window: Duration::from_secs(77),
            ..Config::default()
        })
        .await
        .unwrap();
    let durable = pull::Config {
        durable_name: Some("default".into()),
        ack_policy: AckPolicy::Explicit,
        ack_wait: Duration::from_secs(120),
        max_ack_pending: 77,
        ..pull::Config::default()
    };
    stream.create_consumer(durable).await.unwrap();
    let before = (stream.get_info().await.unwrap().config, stream.consumer_info("default").await.unwrap().config);
    let transfer = transfer(&nats).await;
    transfer.add(&metrics()).await.unwrap();
    let bucket = jetstream.get_key_value("alpha").await.unwrap();
    let revision = bucket.entry("metrics").await.unwrap().unwrap().revision;
    transfer.add(&metrics()).await.unwrap();
    assert_eq!(bucket.entry("metrics").await.unwrap().unwrap().revision, revision, "the same registration is not written again");
    let after = (stream.get_info().await.unwrap().config, stream.consumer_info("default").await.unwrap().config);
    assert_eq!(before, after);
    transfer.add(&Registration { description: "other".into(), ..metrics() }).await.unwrap();
    assert_eq!(transfer.get("metrics").await.unwrap().registration.description, "other");
}

#[tokio::test(flavor = "multi_thread")]
async fn adding_over_an_operators_entry_leaves_it() {
    require!("nats-server");
    let nats = Nats::start().await;
    let transfer = transfer(&nats).await;
    let bucket = nats.jetstream().await.get_key_value("alpha").await.unwrap();
    for entry in [r#"{"status":"paused"}"#, r#"{"status":"published","version":"3","description":"ours"}"#] {
        bucket.put("metrics", entry.into()).await.unwrap();
        transfer.add(&metrics()).await.unwrap();
        assert_eq!(bucket.get("metrics").await.unwrap().unwrap(), entry.as_bytes());
    }
    assert_eq!(transfer.get("metrics").await.unwrap().registration.description, "ours");
    bucket.put("metrics", "garbage".into()).await.unwrap();
    assert_eq!(transfer.add(&metrics()).await.unwrap_err().kind(), TransferErrorKind::Foreign);
    assert_eq!(bucket.get("metrics").await.unwrap().unwrap(), "garbage");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_cannot_be_sent_says_why() {
    require!("nats-server");
    let nats = Nats::start_with("max_payload: 4096").await;
    let transfer = transfer(&nats).await;
    let kind = |result: Result<_, sluice::transfer::TransferError>| result.map(|_: sluice::transfer::Receipt| ()).unwrap_err().kind();
    assert_eq!(kind(transfer.send("metrics", &doc! {}).await), TransferErrorKind::NotTaken);
    assert_eq!(kind(transfer.send("a.b", &doc! {}).await), TransferErrorKind::Name);
    transfer.add(&metrics()).await.unwrap();
    assert_eq!(kind(transfer.send("metrics", &7).await), TransferErrorKind::Document);
    let error = transfer.send("metrics", &doc! { "text": "x".repeat(5000) }).await.unwrap_err();
    assert_eq!(error.kind(), TransferErrorKind::TooLarge);
    assert!(error.to_string().contains("max_payload is 4096"), "{error}");
    assert_eq!(Message::of_bytes(&b"{}"[..]).unwrap_err().kind(), TransferErrorKind::Document);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_each_that_fails_is_named_and_the_others_go() {
    require!("nats-server");
    let nats = Nats::start_with("max_payload: 4096").await;
    let transfer = transfer(&nats).await.with_in_flight(16);
    transfer.add(&metrics()).await.unwrap();
    let size = |n: i32| if n % 100 == 7 { 5000 } else { 10 };
    let documents: Vec<_> = (0..1000).map(|n| Message::new(&doc! { "n": n, "text": "x".repeat(size(n)) }).unwrap()).collect();
    let sent = transfer.send_many("metrics", documents).await.unwrap();
    assert_eq!(sent.acknowledged, 990);
    let failed: Vec<_> = sent.failures.iter().map(|(position, error)| (*position, error.kind())).collect();
    assert_eq!(failed, (0..10).map(|n| (n * 100 + 7, TransferErrorKind::TooLarge)).collect::<Vec<_>>());
    // Nobody takes these: it stops once as many as may be in flight have failed.
    let documents = (0..1000).map(|n| Message::new(&doc! { "n": n }).unwrap());
    let sent = transfer.send_many("nobody", documents).await.unwrap();
    assert_eq!((sent.acknowledged, sent.is_complete()), (0, false));
    let stopped = sent.stopped_at.unwrap();
    assert!(stopped < 64 && sent.failures.len() as u64 == stopped, "{stopped} and {}", sent.failures.len());
    assert!(sent.failures.iter().all(|(_, error)| error.kind() == TransferErrorKind::NotTaken));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_server_the_error_says_that_it_may_be_tried_again() {
    require!("nats-server");
    let mut nats = Nats::start().await;
    let transfer = transfer(&nats).await;
    transfer.add(&metrics()).await.unwrap();
    nats.kill9();
    let error = transfer.send("metrics", &doc! { "n": 1 }).await.unwrap_err();
    assert!(error.kind() == TransferErrorKind::Unreachable && error.retry(), "{error}");
    assert_eq!(transfer.add(&Registration { key: "b".into(), ..metrics() }).await.unwrap_err().kind(), TransferErrorKind::Unreachable);
}

#[test]
fn the_sdk_alone_brings_no_driver_no_engine_and_no_web_server() {
    let tree = std::process::Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "--no-default-features", "--features", "transfer", "--edges", "normal", "--prefix", "none"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let tree = String::from_utf8(tree.stdout).unwrap();
    assert!(tree.contains("async-nats") && tree.contains("bson"), "{tree}");
    for heavy in ["mongodb", "bollard", "kube", "k8s-openapi", "axum", "hyper", "clap", "prometheus-client"] {
        assert!(!tree.lines().any(|line| line.split(' ').next() == Some(heavy)), "{heavy} is in the tree of the SDK");
    }
}

#[test]
fn the_readme_shows_the_example_that_compiles() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |file: &str| std::fs::read_to_string(root.join(file)).unwrap();
    let readme = read("README.md");
    let (_, shown) = readme.split_once("```rust\n").unwrap();
    let (shown, _) = shown.split_once("```").unwrap();
    assert!(read("examples/produce.rs").contains(shown.trim_end()), "the README's Rust is not in examples/produce.rs");
}
