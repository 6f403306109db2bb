//! What cannot work is found by `sluice doctor`, refused by name, and told with the remedy of its cause, which leads out.

use crate::store::{connected, id, prepared, settings};
use crate::support::Nats;
use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::stream::{Config, RetentionPolicy, Source};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use bytes::Bytes;
use sluice::collector::sink::Databases;
use sluice::doctor::{self, Finding, Verdict};
use sluice::pipeline::id::VersionName;
use sluice::settings::{MongoConnection, MongoSettings, Secret};
use sluice::store::{ConsumerSettings, Store, StoreErrorKind, StreamSettings};
use std::collections::BTreeMap;
use std::time::Duration;

fn stream() -> StreamSettings {
    StreamSettings { name: "alpha_a".into(), subjects: vec!["alpha.a".into()], replicas: 1 }
}

fn consumer(max_ack_pending: i64) -> ConsumerSettings {
    ConsumerSettings { name: "default".into(), ack_wait: Duration::from_secs(30), max_ack_pending }
}

/// A server whose only account has these limits.
async fn limited(limits: &str) -> Nats {
    Nats::start_with(&format!("accounts {{ A {{ jetstream: {{ {limits} }}, users: [{{user: any, password: p}}] }} }}\nno_auth_user: any\n"))
        .await
}

/// What is not as it should be, without what concerns MongoDB.
async fn doctor(nats: &Nats, store: &Store) -> Vec<Finding> {
    let mut settings = settings(nats);
    settings.mongodb.connections.clear();
    let findings = doctor::examine(&settings, store).await;
    findings.into_iter().filter(|finding| finding.verdict != Verdict::Good && finding.about != "lease").collect()
}

fn says(findings: &[Finding], about: &str, message: &str, remedy: &str) {
    let found = findings.iter().any(|one| {
        one.verdict == Verdict::Wrong && one.about.contains(about) && one.message.contains(message) && one.remedy.contains(remedy)
    });
    assert!(found, "{about}: {message} ({remedy})\nin {findings:#?}");
}

async fn put_entry(store: &Store, entry: &'static str) {
    let bucket = async_nats::jetstream::new(store.client.clone()).get_key_value("alpha").await.unwrap();
    bucket.put("a", Bytes::from_static(entry.as_bytes())).await.unwrap();
}

const PUBLISHED: &str = r#"{"status":"published","version":"1"}"#;

#[tokio::test]
async fn an_account_that_requires_max_bytes_is_found_told_and_served_by_streams_that_were_made_by_hand() {
    require!("nats-server", "nats");
    let nats = limited("max_bytes_required: true").await;
    let store = connected(&nats).await;
    let error = store.prepare().await.unwrap_err().to_string();
    assert!(error.contains("(error 10113)") && error.contains("create this one by hand"), "{error}");
    says(&doctor(&nats, &store).await, "KV_alpha", "cannot be created (error 10113)", "by hand");
    for args in [
        &["kv", "add", "alpha", "--history=64", "--max-bucket-size=1MB"][..],
        &["kv", "add", "alpha-status", "--max-bucket-size=1MB"],
        &["kv", "add", "alpha-lease", "--ttl=10s", "--max-bucket-size=1MB"],
        &["object", "add", "alpha-configs", "--max-bucket-size=1MB"],
        &["object", "add", "alpha-dlq-payloads", "--max-bucket-size=1MB"],
        &[
            "stream",
            "add",
            "alpha-dlq",
            "--subjects=alpha-dlq.>",
            "--discard=new",
            "--discard-per-subject",
            "--max-msgs-per-subject=1",
            "--max-bytes=1MB",
            "--defaults",
        ],
    ] {
        nats.nats_cli(args).await;
    }
    store.prepare().await.unwrap();
    put_entry(&store, PUBLISHED).await;
    says(&doctor(&nats, &store).await, "pipeline a", "stream alpha_a is not there and cannot be created (error 10113)", "by hand");
    let error = store.streams.ensure(&id("a"), &stream(), &consumer(1000)).await.unwrap_err().to_string();
    assert!(error.contains("(error 10113)"), "{error}");
    nats.nats_cli(&[
        "stream",
        "add",
        "alpha_a",
        "--subjects=alpha.a",
        "--retention=work",
        "--discard=new",
        "--max-bytes=1MB",
        "--defaults",
    ])
    .await;
    store.streams.ensure(&id("a"), &stream(), &consumer(1000)).await.unwrap();
    assert_eq!(doctor(&nats, &store).await, []);
}

#[tokio::test]
async fn a_limit_on_unacknowledged_messages_is_found_and_the_config_is_what_has_to_be_lowered() {
    require!("nats-server");
    let nats = limited("max_ack_pending: 500").await;
    let store = prepared(&nats).await;
    put_entry(&store, PUBLISHED).await;
    says(
        &doctor(&nats, &store).await,
        "pipeline a",
        "is to be 10000, and the account allows 500 (error 10121)",
        "input.nats_jetstream.max_ack_pending",
    );
    let error = store.streams.ensure(&id("a"), &stream(), &consumer(10_000)).await.unwrap_err();
    assert!(
        error.kind() == StoreErrorKind::Refused && error.to_string().contains("lower `input.nats_jetstream.max_ack_pending`"),
        "{error}"
    );
    let config = Bytes::from_static(b"input: {nats_jetstream: {max_ack_pending: 500}}\noutput: {mongodb: {batching: {count: 100}}}\n");
    store.configs.put(&id("a"), &VersionName::parse("1").unwrap(), config).await.unwrap();
    assert_eq!(doctor(&nats, &store).await, []);
    store.streams.ensure(&id("a"), &stream(), &consumer(500)).await.unwrap();
}

#[tokio::test]
async fn another_durable_on_the_work_queue_is_named_and_removing_it_helps() {
    require!("nats-server");
    let nats = Nats::start().await;
    let store = prepared(&nats).await;
    put_entry(&store, PUBLISHED).await;
    let config = Config {
        name: "alpha_a".into(),
        subjects: vec!["alpha.a".into()],
        retention: RetentionPolicy::WorkQueue,
        discard: async_nats::jetstream::stream::DiscardPolicy::New,
        ..Config::default()
    };
    let theirs = nats.jetstream().await.create_stream(config).await.unwrap();
    theirs.create_consumer(pull::Config { durable_name: Some("elder".into()), ..pull::Config::default() }).await.unwrap();
    says(&doctor(&nats, &store).await, "pipeline a", "is read by elder", "nats consumer rm");
    let error = store.streams.ensure(&id("a"), &stream(), &consumer(1000)).await.unwrap_err().to_string();
    assert!(error.contains("it has elder") && error.contains("(error 10099)") && error.contains("a work queue has one reader"), "{error}");
    theirs.delete_consumer("elder").await.unwrap();
    store.streams.ensure(&id("a"), &stream(), &consumer(1000)).await.unwrap();
    assert_eq!(doctor(&nats, &store).await, []);
}

#[tokio::test]
async fn a_durable_that_cannot_be_read_says_for_which_of_its_fields_and_what_ends_that() {
    require!("nats-server", "nats");
    let nats = Nats::start().await;
    let store = prepared(&nats).await;
    put_entry(&store, PUBLISHED).await;
    store.streams.ensure(&id("a"), &stream(), &consumer(1000)).await.unwrap();
    for (break_it, said, mend_it) in [
        ("--max-deliver=5", "its max_deliver is 5", "--max-deliver=-1"),
        ("--headers-only", "it delivers headers only", "--no-headers-only"),
    ] {
        nats.nats_cli(&["consumer", "edit", "alpha_a", "default", break_it, "--force"]).await;
        let findings = doctor(&nats, &store).await;
        says(&findings, "pipeline a", said, "");
        assert!(findings.iter().all(|finding| !finding.message.contains("pull consumer")), "{findings:#?}");
        let error = store.streams.ensure(&id("a"), &stream(), &consumer(1000)).await.unwrap_err().to_string();
        assert!(error.contains(said) && error.contains(mend_it), "{error}");
        nats.nats_cli(&["consumer", "edit", "alpha_a", "default", mend_it, "--force"]).await;
        assert_eq!(doctor(&nats, &store).await, [], "{mend_it}");
    }
}

#[tokio::test]
async fn dead_letters_whose_stream_takes_no_message_so_large_are_found_and_not_called_full() {
    require!("nats-server", "nats");
    let nats = Nats::start().await;
    let store = prepared(&nats).await;
    nats.nats_cli(&["stream", "edit", "alpha-dlq", "--max-msg-size=500", "--force"]).await;
    says(&doctor(&nats, &store).await, "dead letters", "takes messages of 500 bytes", "max_msg_size");
    nats.nats_cli(&["stream", "edit", "alpha-dlq", "--max-msg-size=-1", "--force"]).await;
    assert_eq!(doctor(&nats, &store).await, []);
}

#[tokio::test]
async fn buckets_and_streams_that_are_mirrors_are_refused_by_name_at_the_start_and_found_by_doctor() {
    require!("nats-server");
    let nats = Nats::start().await;
    let jetstream = nats.jetstream().await;
    jetstream.create_stream(Config { name: "origin".into(), subjects: vec!["origin".into()], ..Config::default() }).await.unwrap();
    let mirror =
        |name: &str| Config { name: name.into(), mirror: Some(Source { name: "origin".into(), ..Source::default() }), ..Config::default() };
    let store = connected(&nats).await;
    let mut mirrors = vec!["KV_alpha", "KV_alpha-status", "KV_alpha-lease", "OBJ_alpha-configs", "alpha-dlq"];
    for name in &mirrors {
        jetstream.create_stream(mirror(name)).await.unwrap();
    }
    let findings = doctor(&nats, &store).await;
    mirrors.iter().for_each(|name| says(&findings, &format!("stream {name}"), "is a mirror of origin", ""));
    // One after the other is named and removed; what is missing then is made.
    while !mirrors.is_empty() {
        let error = store.prepare().await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Refused, "{error}");
        let named = |name: &&str| error.to_string().contains(&format!("stream {name} cannot serve: it is a mirror of origin"));
        let at = mirrors.iter().position(named).unwrap_or_else(|| panic!("{error}"));
        jetstream.delete_stream(mirrors.swap_remove(at)).await.unwrap();
    }
    store.prepare().await.unwrap();
    put_entry(&store, PUBLISHED).await;
    jetstream.create_stream(mirror("alpha_a")).await.unwrap();
    let error = store.streams.ensure(&id("a"), &stream(), &consumer(1000)).await.unwrap_err().to_string();
    assert!(error.contains("stream alpha_a is a mirror of origin") && !error.contains("listens on  and"), "{error}");
    says(&doctor(&nats, &store).await, "pipeline a", "is a mirror of origin", "rename");
    // Under another's subjects, or where what is put goes by itself, it is no bucket either.
    jetstream.delete_stream("KV_alpha-status").await.unwrap();
    jetstream
        .create_stream(Config { name: "KV_alpha-status".into(), subjects: vec!["other.>".into()], ..Config::default() })
        .await
        .unwrap();
    let error = store.prepare().await.unwrap_err().to_string();
    assert!(error.contains("KV_alpha-status cannot serve: it does not listen on $KV.alpha-status.>"), "{error}");
}

#[tokio::test]
async fn a_config_whose_name_another_client_encoded_without_padding_is_read_and_written_over() {
    require!("nats-server");
    let nats = Nats::start().await;
    let store = prepared(&nats).await;
    let version = VersionName::parse("1-x").unwrap();
    let bytes = Bytes::from_static(b"output: {mongodb: {}}\n");
    let digest = store.configs.put(&id("ab"), &version, bytes.clone()).await.unwrap();
    let jetstream = nats.jetstream().await;
    let objects = jetstream.get_stream("OBJ_alpha-configs").await.unwrap();
    let padded = format!("$O.alpha-configs.M.{}", URL_SAFE.encode("ab/1-x"));
    let name = "a/1-xy";
    let unpadded = format!("$O.alpha-configs.M.{}", URL_SAFE.encode(name).trim_end_matches('='));
    assert!(!padded.ends_with('=') && URL_SAFE.encode("a/1-x").ends_with('='));
    let meta = objects.get_last_raw_message_by_subject(&padded).await.unwrap();
    let text = String::from_utf8(meta.payload.to_vec()).unwrap().replace("\"ab/1-x\"", "\"a/1-x\"");
    let theirs = format!("$O.alpha-configs.M.{}", URL_SAFE.encode("a/1-x").trim_end_matches('='));
    assert_ne!(theirs, unpadded);
    jetstream.publish(theirs, text.into()).await.unwrap().await.unwrap();
    let read = store.configs.get(&id("a"), &version).await.unwrap();
    assert_eq!((read.bytes, &read.digest), (bytes.clone(), &digest));
    assert_eq!(store.configs.versions(&id("a")).await.unwrap().len(), 1);
    assert_eq!(store.configs.put(&id("a"), &version, bytes).await.unwrap(), digest, "the same bytes again are no error");
    let other = store.configs.put(&id("a"), &version, Bytes::from_static(b"other")).await.unwrap_err();
    assert_eq!(other.kind(), StoreErrorKind::Conflict, "the name is taken");
}

#[tokio::test]
async fn an_option_of_a_url_that_is_not_taken_is_named_and_one_that_changes_nothing_is_no_obstacle() {
    let databases = |url: &str| {
        let connection = MongoConnection { url: Secret::new(url), ..MongoConnection::default() };
        Databases::new(&MongoSettings { connections: BTreeMap::from([("default".to_owned(), connection)]) })
    };
    let error =
        databases("mongodb://u:hunter2@localhost:1/?replicaset=a&noSuchOption=hunter3").get("default").await.unwrap_err().to_string();
    assert!(error.contains("'noSuchOption' is not known") && !error.contains("percent-encoded") && !error.contains("hunter"), "{error}");
    let harmless = databases("mongodb://localhost:1/?compressors=zstd&socketTimeoutMS=1000&directConnection=true");
    harmless.get("default").await.unwrap();
    assert!(harmless.target("default", Some("d"), "c").is_ok());
    assert!(harmless.options_without_effect("default").contains(&"compressors".to_owned()));
}
