//! Configs in the Object Store of a real nats-server: whoever wrote them, and however damaged they are.

use crate::store::{id, prepared};
use crate::support::Nats;
use async_nats::jetstream::object_store::{ObjectMetadata, ObjectStore};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use sluice::pipeline::id::VersionName;
use sluice::store::error::Unfit;
use sluice::store::{Store, StoreErrorKind};
use std::time::{Duration, Instant};

fn version(name: &str) -> VersionName {
    VersionName::parse(name).unwrap()
}

fn digest(bytes: &[u8]) -> String {
    format!("SHA-256={}", URL_SAFE.encode(Sha256::digest(bytes)))
}

async fn theirs(nats: &Nats) -> ObjectStore {
    nats.jetstream().await.get_object_store("alpha-configs").await.unwrap()
}

async fn unfit(store: &Store, name: &str) -> StoreErrorKind {
    store.configs.get(&id("a"), &version(name)).await.unwrap_err().kind()
}

#[tokio::test]
async fn a_config_reads_as_it_was_written_by_us_and_can_be_read_by_others() {
    require!("nats-server", "nats");
    let nats = Nats::start().await;
    let store = prepared(&nats).await;
    let bytes = Bytes::from((0..400_000_u32).map(|n| n as u8).collect::<Vec<_>>());
    let written = store.configs.put(&id("a"), &version("1-x"), bytes.clone()).await.unwrap();
    assert_eq!(written, digest(&bytes));
    let config = store.configs.get(&id("a"), &version("1-x")).await.unwrap();
    assert_eq!((&config.bytes, &config.digest), (&bytes, &written));
    assert_eq!(store.configs.peek(&id("a"), &version("1-x")).await.unwrap(), (written, config.revision));

    let file = nats.dir.join("read");
    nats.nats_cli(&["object", "get", "alpha-configs", "a/1-x", "--no-progress", "--force", "--output", file.to_str().unwrap()]).await;
    assert_eq!(std::fs::read(file).unwrap(), bytes);
}

#[tokio::test]
async fn objects_of_the_nats_cli_and_of_the_client_library_can_be_read() {
    require!("nats-server", "nats");
    let nats = Nats::start().await;
    let store = prepared(&nats).await;
    let file = nats.dir.join("config.yml");
    let bytes = "schema: 1\n".repeat(40_000);
    std::fs::write(&file, &bytes).unwrap();
    nats.nats_cli(&["object", "put", "alpha-configs", file.to_str().unwrap(), "--name", "a/cli", "--force", "--no-progress"]).await;
    let config = store.configs.get(&id("a"), &version("cli")).await.unwrap();
    assert_eq!((config.bytes, config.digest), (Bytes::from(bytes.clone()), digest(bytes.as_bytes())));

    theirs(&nats).await.put("a/library", &mut bytes.as_bytes()).await.unwrap();
    assert_eq!(store.configs.get(&id("a"), &version("library")).await.unwrap().bytes, bytes);
    theirs(&nats).await.put("a/empty", &mut &b""[..]).await.unwrap();
    assert!(store.configs.get(&id("a"), &version("empty")).await.unwrap().bytes.is_empty());

    let names: Vec<_> = store.configs.versions(&id("a")).await.unwrap().into_iter().map(|info| info.version.to_string()).collect();
    assert_eq!(names, ["cli", "library", "empty"]);
    theirs(&nats).await.delete("a/cli").await.unwrap();
    assert_eq!(unfit(&store, "cli").await, StoreErrorKind::Missing);
    assert_eq!(store.configs.versions(&id("a")).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_version_is_never_overwritten_by_other_bytes() {
    require!("nats-server");
    let nats = Nats::start().await;
    let store = prepared(&nats).await;
    let configs = &store.configs;
    configs.put(&id("a"), &version("1"), "one".into()).await.unwrap();
    configs.put(&id("a"), &version("1"), "one".into()).await.unwrap();
    let error = configs.put(&id("a"), &version("1"), "two".into()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Conflict);
    assert_eq!(configs.get(&id("a"), &version("1")).await.unwrap().bytes, "one");

    let writers = (0..8).map(|n| async move { configs.put(&id("a"), &version("race"), n.to_string().into()).await });
    let won: Vec<_> = futures_util::future::join_all(writers).await.into_iter().filter_map(Result::ok).collect();
    assert_eq!(won.len(), 1);
    assert_eq!(configs.peek(&id("a"), &version("race")).await.unwrap().0, won[0]);
    // One metadata and one chunk an object: those who lost the race took theirs away.
    let info = nats.jetstream().await.get_stream("OBJ_alpha-configs").await.unwrap().cached_info().state.clone();
    assert_eq!(info.messages, 4);
}

#[tokio::test]
async fn a_missing_config_is_missing_and_one_of_two_mebibytes_is_too_large() {
    require!("nats-server");
    let nats = Nats::start().await;
    let store = prepared(&nats).await;
    assert_eq!(unfit(&store, "none").await, StoreErrorKind::Missing);
    let large = vec![b'x'; 2 << 20];
    theirs(&nats).await.put("a/large", &mut &large[..]).await.unwrap();
    assert_eq!(unfit(&store, "large").await, StoreErrorKind::Unfit(Unfit::TooLarge));
    let error = store.configs.put(&id("a"), &version("l"), large.into()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unfit(Unfit::TooLarge));
}

/// Puts metadata by hand.
async fn put_meta(store: &Store, name: &str, meta: serde_json::Value) {
    let subject = format!("$O.alpha-configs.M.{}", URL_SAFE.encode(format!("a/{name}")));
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Nats-Rollup", "sub");
    store.client.request_with_headers(subject, headers, meta.to_string().into()).await.unwrap();
}

#[tokio::test]
async fn damaged_and_hostile_objects_are_refused_each_with_its_reason() {
    require!("nats-server");
    let nats = Nats::start().await;
    let store = prepared(&nats).await;
    store.client.request("$O.alpha-configs.C.chunk", "some bytes".into()).await.unwrap();
    let meta = |size: u64, chunks: u64, digest: String| serde_json::json!({ "name": "a/x", "bucket": "alpha-configs", "nuid": "chunk", "size": size, "chunks": chunks, "digest": digest });
    let some = digest(b"some bytes");
    put_meta(&store, "good", meta(10, 1, some.trim_end_matches('=').to_owned())).await;
    assert_eq!(store.configs.get(&id("a"), &version("good")).await.unwrap().digest, some);

    put_meta(&store, "wrong", meta(10, 1, digest(b"other bytes"))).await;
    assert_eq!(unfit(&store, "wrong").await, StoreErrorKind::Unfit(Unfit::DigestMismatch));
    put_meta(&store, "none", meta(10, 1, String::new())).await;
    assert_eq!(unfit(&store, "none").await, StoreErrorKind::Unfit(Unfit::DigestMismatch));
    put_meta(&store, "gone", meta(10, 2, some.clone())).await;
    assert_eq!(unfit(&store, "gone").await, StoreErrorKind::Unfit(Unfit::DigestMismatch));
    put_meta(&store, "many", meta(10, 1 << 40, some.clone())).await;
    assert_eq!(unfit(&store, "many").await, StoreErrorKind::Unfit(Unfit::TooLarge));
    put_meta(&store, "garbage", serde_json::json!(["no object"])).await;
    assert_eq!(unfit(&store, "garbage").await, StoreErrorKind::Unfit(Unfit::Unreadable));
    let mut wild = meta(10, 1, some.clone());
    wild["nuid"] = ">".into();
    put_meta(&store, "wild", wild).await;
    assert_eq!(unfit(&store, "wild").await, StoreErrorKind::Unfit(Unfit::Unreadable));

    // Metadata that lies about the size: the chunks are counted as they come.
    for _ in 0..3 {
        store.client.request("$O.alpha-configs.C.liar", vec![b'x'; 500_000].into()).await.unwrap();
    }
    let mut liar = meta(10, 3, some);
    liar["nuid"] = "liar".into();
    put_meta(&store, "liar", liar).await;
    assert_eq!(unfit(&store, "liar").await, StoreErrorKind::Unfit(Unfit::TooLarge));
}

#[tokio::test]
async fn links_are_not_followed() {
    require!("nats-server");
    let nats = Nats::start().await;
    let store = prepared(&nats).await;
    let theirs = theirs(&nats).await;
    theirs.put("a/real", &mut &b"schema: 1"[..]).await.unwrap();
    let info = theirs.info("a/real").await.unwrap();
    theirs.add_link("a/link", &info).await.unwrap();
    assert_eq!(unfit(&store, "link").await, StoreErrorKind::Unfit(Unfit::Link));
    theirs.add_bucket_link("a/bucket", "other").await.unwrap();
    assert_eq!(unfit(&store, "bucket").await, StoreErrorKind::Unfit(Unfit::Link));
    assert_eq!(store.configs.versions(&id("a")).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_thousand_reads_leave_no_consumer_behind_and_take_about_a_millisecond_each_at_most() {
    require!("nats-server");
    let nats = Nats::start().await;
    let store = prepared(&nats).await;
    let meta = ObjectMetadata { name: "a/1".into(), ..Default::default() };
    theirs(&nats).await.put(meta, &mut "schema: 1\n".repeat(100).as_bytes()).await.unwrap();
    // The best of ten hundreds: the tests beside this one want the machine too.
    let mut best = Duration::MAX;
    for _ in 0..10 {
        let start = Instant::now();
        for _ in 0..100 {
            store.configs.get(&id("a"), &version("1")).await.unwrap();
        }
        best = best.min(start.elapsed());
    }
    println!("100 configs, one after the other, in {best:?}");
    assert!(best < Duration::from_millis(150), "{best:?}");
    let state = nats.jetstream().await.get_stream("OBJ_alpha-configs").await.unwrap().cached_info().state.clone();
    assert_eq!(state.consumer_count, 0);
}
