//! Odd bytes where the controller and the commands read: buckets, objects, dead letters, requests. Whoever may write there may
//! write anything; it must stop nobody.

use super::{SOON, Scene};
use crate::support::{RawProducer, eventually, raw};
use async_nats::jetstream::object_store::ObjectStore;

/// Puts every kind of oddness under keys that are nobody's, wherever Sluice reads.
async fn poison(producer: &mut RawProducer) {
    for (_, block) in raw::odd_headers() {
        for subject in ["$KV.alpha.no.id", "$KV.alpha-status.foreign", "$O.alpha-configs.M.Zm9yZWlnbg==", "$O.alpha-configs.C.foreign"] {
            producer.publish(subject.as_bytes(), Some(block), b"junk").await;
        }
        for subject in ["alpha.states", "alpha-reports.foreign", "alpha-logs.metrics"] {
            producer.send(subject.as_bytes(), b"_RAW.none", Some(block), b"metrics").await;
        }
    }
    for above in ["$KV.alpha", "$KV.alpha-status", "$O.alpha-configs.M"] {
        for subject in raw::odd_subjects(above) {
            producer.publish(&subject, Some(b"NATS/1.0\r\nPlace: caf\xe9\r\n\r\n"), b"{}").await;
            producer.publish(&subject, None, b"{}").await;
        }
    }
    producer.send(b"alpha.states", b"_RAW.\xff", None, b"metrics").await;
    // What lies there at last, as in the report of the fault.
    producer.publish(b"$KV.alpha.no.id", Some(b"NATS/1.0\r\nMy Header: x\r\n\r\n"), b"junk").await;
}

/// Every command that reads the buckets, with whether it is content.
async fn commands(scene: &Scene) -> Vec<(String, Option<i32>)> {
    let all: [&[&str]; 8] = [
        &["list"],
        &["status"],
        &["status", "metrics"],
        &["history", "metrics"],
        &["doctor"],
        &["dlq", "list"],
        &["dlq", "list", "metrics"],
        &["logs", "metrics"],
    ];
    let mut answers = Vec::new();
    for command in all {
        let output = scene.sluice.cli(command).await;
        // The doctor may say what it thinks of foreign keys.
        let code = output.status.code().filter(|code| command != ["doctor"] || *code > 1);
        if command == ["doctor"] {
            println!("{}", String::from_utf8_lossy(&output.stdout));
        }
        answers.push((command.join(" "), code));
    }
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_under_foreign_keys_stops_no_command_no_controller_and_no_start_of_one() {
    require!("nats-server", "database");
    let mut scene = Scene::set().await;
    scene.publish("metrics").await;
    scene.send("metrics", 0..50).await;
    scene.stored("metrics", 50).await;
    let before = commands(&scene).await;
    assert!(before.iter().filter(|(command, _)| command != "doctor").all(|(_, code)| *code == Some(0)), "{before:?}");
    poison(&mut RawProducer::connect(scene.nats.port()).await).await;
    assert_eq!(commands(&scene).await, before);
    // New pipelines, edits of old ones, and a resync in between.
    scene.publish("second").await;
    scene.sluice.cli_ok(&["pause", "metrics", "--wait"]).await;
    scene.sluice.cli_ok(&["publish", "metrics", "--wait"]).await;
    tokio::time::sleep(std::time::Duration::from_secs(31)).await;
    scene.send("metrics", 50..100).await;
    scene.stored("metrics", 100).await;
    scene.still_connected().await;
    scene.sluice.respawn();
    scene.sluice.wait_ready().await;
    scene.connected = raw::connections(&scene.monitoring, "sluice/").await;
    scene.send("metrics", 100..150).await;
    scene.stored("metrics", 150).await;
    scene.send("second", 0..50).await;
    scene.stored("second", 50).await;
    assert_eq!(commands(&scene).await, before);
    scene.still_connected().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_and_a_config_with_odd_headers_count_like_any_other() {
    require!("nats-server", "database");
    let scene = Scene::set().await;
    scene.publish("metrics").await;
    let jetstream = scene.nats.jetstream().await;
    let entries = jetstream.get_key_value("alpha").await.unwrap();
    let published = entries.get("metrics").await.unwrap().unwrap();
    let paused = String::from_utf8(published.to_vec()).unwrap().replace("\"published\"", "\"paused\"");
    assert!(paused.contains("paused"));
    let mut producer = RawProducer::connect(scene.nats.port()).await;
    let phase = |phase: &'static str| {
        let scene = &scene;
        eventually(phase, SOON, move || async move { scene.status("metrics").await["admitted"]["phase"] == phase })
    };
    // Two puts with one id are one put.
    for (what, block) in raw::odd_headers().into_iter().filter(|(what, _)| !what.starts_with("an id")) {
        producer.publish(b"$KV.alpha.metrics", Some(block), paused.as_bytes()).await;
        phase("stopped").await;
        producer.publish(b"$KV.alpha.metrics", Some(block), &published).await;
        phase("run").await;
        println!("{what}: paused and published");
    }
    // The chunk of the config itself, anew and with odd headers.
    let configs = jetstream.get_object_store("alpha-configs").await.unwrap();
    let chunk = chunk_of(&configs).await;
    let stream = jetstream.get_stream("OBJ_alpha-configs").await.unwrap();
    let content = stream.get_last_raw_message_by_subject(&chunk).await.unwrap().payload;
    for (what, block) in raw::odd_headers() {
        stream.purge().filter(&chunk).await.unwrap();
        producer.publish(chunk.as_bytes(), Some(block), &content).await;
        let shown = scene.sluice.cli_ok(&["config", "show", "metrics"]).await;
        assert!(shown.contains("collection: metrics"), "{what}: {shown}");
    }
    scene.send("metrics", 0..50).await;
    scene.stored("metrics", 50).await;
    scene.still_connected().await;
}

/// The subject of the chunk of the only config.
async fn chunk_of(configs: &ObjectStore) -> String {
    use futures_util::StreamExt;
    let info = configs.list().await.unwrap().next().await.unwrap().unwrap();
    format!("$O.alpha-configs.C.{}", info.nuid)
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_with_odd_headers_are_listed_shown_and_dropped() {
    require!("nats-server", "database");
    let scene = Scene::set().await;
    scene.publish("metrics").await;
    let mut producer = RawProducer::connect(scene.nats.port()).await;
    scene.sluice.cli_ok(&["dlq", "list", "metrics"]).await;
    let mut sequences = Vec::new();
    // The listing reads headers alone, and nats-server 2.15 panics where it is to take the body from a block of one byte.
    let blocks = raw::odd_headers().into_iter().filter(|(_, block)| block.len() > 1);
    for (number, (_, block)) in blocks.enumerate() {
        let subject = format!("alpha-dlq.metrics.{number:024x}");
        sequences.push(producer.publish(subject.as_bytes(), Some(block), b"junk").await);
    }
    let list = scene.sluice.cli_ok(&["dlq", "list", "metrics", "-o", "json"]).await;
    let list: Vec<serde_json::Value> = serde_json::from_str(&list).unwrap();
    assert_eq!(list.len(), sequences.len());
    for sequence in &sequences {
        scene.sluice.cli_ok(&["dlq", "show", "metrics", &sequence.to_string()]).await;
    }
    scene.sluice.cli_ok(&["dlq", "drop", "metrics", "--yes"]).await;
    let left = scene.sluice.cli_ok(&["dlq", "list", "metrics", "-o", "json"]).await;
    assert_eq!(left.trim(), "[]");
    scene.still_connected().await;
}
