//! Bad input by the operator: it touches its own pipeline alone, the status says why, and what ran goes on.

use super::*;
use async_nats::jetstream::object_store::ObjectMetadata;

/// Every way in which an entry or its config can be wrong, with the reason that the status gives.
#[tokio::test(flavor = "multi_thread")]
async fn bad_entries_and_configs_touch_their_own_pipeline_alone() {
    require!("nats-server", "database");
    let stage = Stage::set().await;
    let jetstream = stage.nats.jetstream().await;
    let entries = jetstream.get_key_value("alpha").await.unwrap();
    let configs = jetstream.get_object_store("alpha-configs").await.unwrap();
    for id in ["healthy", "victim"] {
        stage.publish_plain(id).await;
    }
    let good = plain("victim");
    let put = async |version: &str, content: Vec<u8>| {
        let metadata = ObjectMetadata { name: format!("victim/{version}"), ..ObjectMetadata::default() };
        configs.put(metadata, &mut content.as_slice()).await.unwrap()
    };
    put("huge", vec![b'#'; 2 << 20]).await;
    put("invalid", b"schema: 1\noutput:\n  mongodb:\n    batchng: {}\n".to_vec()).await;
    put("binary", vec![0xff; 100]).await;
    let damaged = put("damaged", good.clone().into_bytes()).await;
    let chunk = format!("$O.alpha-configs.C.{}", damaged.nuid);
    let stream = jetstream.get_stream("OBJ_alpha-configs").await.unwrap();
    stream.purge().filter(&chunk).await.unwrap();
    jetstream.publish(chunk, good.replace("1000", "9999").into()).await.unwrap().await.unwrap();
    let target = put("target", good.clone().into_bytes()).await;
    configs.add_link("victim/link", &configs.get("victim/target").await.map(|object| object.info).unwrap()).await.unwrap();
    drop(target);
    let huge_entry = format!(r#"{{"status":"published","version":"target","x":"{}"}}"#, "x".repeat(100_000));
    let cases: &[(&str, &str)] = &[
        ("{not json", "EntryUnreadable"),
        ("[1,2]", "EntryUnreadable"),
        (r#"{"status":"running"}"#, "EntryUnreadable"),
        (&huge_entry, "EntryUnreadable"),
        (r#"{"status":"published","version":"target","version":"invalid"}"#, "EntryUnreadable"),
        (r#"{"status":"published","version":"target","labels":{"a":"1","a":"2"}}"#, "EntryUnreadable"),
        (r#"{"status":"published","version":"target","schema":2}"#, "SchemaTooNew"),
        (r#"{"status":"published","version":"missing"}"#, "VersionMissing"),
        (r#"{"status":"published","version":"huge"}"#, "ConfigTooLarge"),
        (r#"{"status":"published","version":"invalid"}"#, "ConfigInvalid"),
        (r#"{"status":"published","version":"binary"}"#, "ConfigInvalid"),
        (r#"{"status":"published","version":"damaged"}"#, "DigestMismatch"),
        (r#"{"status":"published","version":"link"}"#, "ConfigIsLink"),
        (r#"{"status":"published","version":"target","digest":"SHA-256=AAAA"}"#, "DigestDiffers"),
    ];
    let mut sent = 0;
    for (entry, reason) in cases {
        entries.put("victim", entry.to_string().into()).await.unwrap();
        stage.says("victim", "Valid", false, reason).await;
        for id in ["healthy", "victim"] {
            stage.send(&format!("alpha.{id}"), sent..sent + 50).await;
        }
        sent += 50;
        assert!(!has(&stage.status("healthy").await, "Valid", false, reason));
    }
    for id in ["healthy", "victim"] {
        stage.exactly(id, 0..sent).await;
    }
    let (code, body) = stage.sluice.get("/health/pipelines").await;
    assert!(code == 503 && body.contains("victim") && !body.contains("healthy"), "{body}");
    assert_eq!(stage.sluice.get("/health/ready").await.0, 200, "the controller itself is well");
    let shown = stage.sluice.cli_ok(&["status", "victim"]).await;
    assert!(shown.contains("DigestDiffers") && shown.contains("publish a new version"), "{shown}");
    entries.put("victim", r#"{"status":"published","version":"target"}"#.into()).await.unwrap();
    stage.says("victim", "Valid", true, "AsDesired").await;
    eventually("it is ready again", SOON, || async { stage.sluice.get("/health/pipelines").await.0 == 200 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_given_twice_in_an_entry_is_said_with_both_places_and_what_ran_goes_on() {
    require!("nats-server", "database");
    let stage = Stage::set().await;
    let entries = stage.nats.jetstream().await.get_key_value("alpha").await.unwrap();
    stage.publish_plain("metrics").await;
    let version = stage.status("metrics").await["admitted"]["spec"]["version"].as_str().unwrap().to_owned();
    let entry = format!(r#"{{"status":"published","version":"{version}","version":"other"}}"#);
    entries.put("metrics", entry.into()).await.unwrap();
    stage.says("metrics", "Valid", false, "EntryUnreadable").await;
    let shown = stage.sluice.cli_ok(&["status", "metrics"]).await;
    let second = 36 + version.len();
    assert!(shown.contains(&format!("`version` is given twice, at line 1 column 23 and at line 1 column {second}")), "{shown}");
    assert!(shown.contains("remove one of them"), "{shown}");
    stage.send("alpha.metrics", 0..10).await;
    stage.exactly("metrics", 0..10).await;
    // A pause needs nothing else to be right.
    entries.put("metrics", format!(r#"{{"status":"paused","version":"{version}","version":"other"}}"#).into()).await.unwrap();
    stage.phase_is("metrics", "stopped").await;
    entries.put("metrics", format!(r#"{{"status":"published","version":"{version}"}}"#).into()).await.unwrap();
    stage.says("metrics", "Valid", true, "AsDesired").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_garbage_entry_can_still_be_paused_and_deleted() {
    require!("nats-server", "database");
    let stage = Stage::set().await;
    let entries = stage.nats.jetstream().await.get_key_value("alpha").await.unwrap();
    stage.publish_plain("metrics").await;
    entries.put("metrics", "garbage".into()).await.unwrap();
    stage.says("metrics", "Valid", false, "EntryUnreadable").await;
    entries.put("metrics", r#"{"status":"paused","version":[],"replicas":-1}"#.into()).await.unwrap();
    stage.phase_is("metrics", "stopped").await;
    entries.put("metrics", "garbage".into()).await.unwrap();
    entries.delete("metrics").await.unwrap();
    eventually("nothing is left", SOON, || async { stage.status("metrics").await.is_null() && stage.waiting("metrics").await.is_none() })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_deleted_and_created_again_stops_nothing() {
    require!("nats-server", "database");
    let stage = Stage::set().await;
    stage.publish_plain("metrics").await;
    let jetstream = stage.nats.jetstream().await;
    let load = stage.send("alpha.metrics", 0..20_000);
    let recreate = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        jetstream.delete_key_value("alpha").await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        let config = jetstream::kv::Config { bucket: "alpha".into(), history: 64, ..Default::default() };
        jetstream.create_key_value(config).await.unwrap();
    };
    tokio::join!(load, recreate);
    stage.says("metrics", "Valid", false, "EntryMissing").await;
    stage.exactly("metrics", 0..20_000).await;
    assert_eq!(stage.running().await, 1);
    assert_eq!(stage.sluice.get("/health/pipelines").await.0, 503);
    stage.publish_plain("metrics").await;
    eventually("it is ready again", SOON, || async { stage.sluice.get("/health/pipelines").await.0 == 200 }).await;
    stage.send("alpha.metrics", 20_000..20_100).await;
    stage.exactly("metrics", 0..20_100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_that_name_that_is_not_ours_is_refused() {
    require!("nats-server", "database");
    let stage = Stage::set().await;
    let jetstream = stage.nats.jetstream().await;
    let config = jetstream::stream::Config { name: "alpha_metrics".into(), subjects: vec!["other.>".into()], ..Default::default() };
    jetstream.create_stream(config).await.unwrap();
    let file = stage.config_file("metrics", &plain("metrics"));
    stage.sluice.cli_ok(&["publish", "metrics", "-f", &file]).await;
    stage.says("metrics", "Valid", false, "StreamForeign").await;
    stage.sluice.cli_ok(&["delete", "metrics", "--yes"]).await;
    eventually("nothing is left of the pipeline", SOON, || async { stage.status("metrics").await.is_null() }).await;
    assert!(jetstream.get_stream("alpha_metrics").await.is_ok(), "a foreign stream is never deleted");
}
