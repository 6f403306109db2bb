//! Pipelines whose producers send odd bytes: every document is stored or a dead letter, and nobody else notices.

use super::{SOON, Scene};
use crate::pipelines::{acknowledged, has};
use crate::support::{RawProducer, eventually, raw};
use base64::Engine as _;
use bson::doc;
use serde_json::Value;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn documents_with_odd_headers_and_subjects_are_stored_among_their_neighbours_and_the_connection_stays() {
    require!("nats-server", "database");
    let scene = Scene::set().await;
    scene.publish("metrics").await;
    scene.publish("other").await;
    let mut producer = RawProducer::connect(scene.nats.port()).await;
    let mut n = 0;
    let mut last = 0;
    for (_, block) in raw::odd_headers() {
        scene.send("metrics", n..n + 5).await;
        last = producer.publish(b"alpha.metrics", Some(block), &doc! {"n": n + 5}.to_vec().unwrap()).await;
        n += 6;
    }
    for subject in raw::odd_subjects("alpha.metrics") {
        producer.publish(&subject, None, &doc! {"n": n}.to_vec().unwrap()).await;
        last = producer.publish(&subject, Some(b"NATS/1.0\r\nPlace: caf\xe9\r\n\r\n"), &doc! {"n": n + 1}.to_vec().unwrap()).await;
        n += 2;
    }
    // The other pipeline of the process goes on meanwhile.
    scene.send("other", 0..200).await;
    scene.stored("other", 200).await;
    scene.stored("metrics", n).await;
    scene.still_connected().await;
    eventually("the status names it", SOON, || async { has(&scene.status("metrics").await, "Advisory", true, "HeadersUnreadable") }).await;
    assert!(!has(&scene.status("other").await, "Advisory", true, "HeadersUnreadable"));
    let shown = scene.sluice.cli_ok(&["status", "metrics"]).await;
    let place = format!("sequence {last} of alpha_metrics");
    assert!(shown.contains(&place) && shown.contains("correct the producer"), "{place}: {shown}");
    let (_, metrics) = scene.sluice.get("/metrics").await;
    let line = metrics.lines().find_map(|line| line.strip_prefix("sluice_unreadable_header_messages_total{pipeline=\"metrics\"} "));
    let counted: usize = line.unwrap().parse().unwrap();
    let blocks = || raw::odd_headers().into_iter().map(|(_, block)| block);
    let (all, without) = (blocks().count() + 8, blocks().filter(|block| !raw::has_status(block)).count() + 8);
    assert!((without..=all).contains(&counted), "{counted}: {metrics}");
    let warned = scene.sluice.log().matches("messages have headers or subjects that cannot be read").count();
    assert!((1..=4).contains(&warned), "{warned} lines of the log");
    let dead = scene.sluice.cli_ok(&["dlq", "list", "-o", "json"]).await;
    assert_eq!(dead.trim(), "[]");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_document_either_is_a_dead_letter_with_all_its_bytes_and_can_be_replayed() {
    require!("nats-server", "database");
    let scene = Scene::set().await;
    scene.publish("metrics").await;
    let mut producer = RawProducer::connect(scene.nats.port()).await;
    scene.send("metrics", 0..5).await;
    let odd = raw::odd_headers();
    for (what, block) in &odd {
        producer.publish(b"alpha.metrics", Some(block), what.as_bytes()).await;
    }
    producer.publish(b"alpha.metrics.\xff", None, b"no BSON").await;
    scene.send("metrics", 5..10).await;
    scene.stored("metrics", 10).await;
    let letters = || async {
        let list = scene.sluice.cli_ok(&["dlq", "list", "metrics", "-o", "json"]).await;
        serde_json::from_str::<Vec<Value>>(&list).unwrap()
    };
    eventually("every one is a dead letter", SOON, || async { letters().await.len() == odd.len() + 1 }).await;
    for letter in letters().await {
        let sequence = letter["sequence"].to_string();
        let shown: Value = serde_json::from_str(&scene.sluice.cli_ok(&["dlq", "show", "metrics", &sequence, "-o", "json"]).await).unwrap();
        let decode = |text: &Value| base64::engine::general_purpose::STANDARD.decode(text.as_str().unwrap()).unwrap();
        let payload = decode(&shown["payload_base64"]);
        let found = odd.iter().find(|(what, _)| what.as_bytes() == payload);
        let unreadable = &shown["headers"]["Sluice-Unreadable-Headers"];
        if unreadable.is_null() && found.is_some_and(|(_, block)| raw::has_status(block)) {
            continue;
        }
        let raw = decode(unreadable);
        match found {
            Some((what, block)) => {
                let line = raw.split(|byte| *byte == b'\n').next().unwrap();
                assert!(block.windows(line.len().max(1)).any(|part| part == line) || line.is_empty(), "{what}: {}", raw.escape_ascii());
            }
            None => assert!(raw.starts_with(b"alpha.metrics.\xff "), "{shown}"),
        }
    }
    scene.sluice.cli_ok(&["dlq", "replay", "metrics"]).await;
    eventually("all of them are refused again", SOON, || async { letters().await.len() == odd.len() + 1 }).await;
    scene.still_connected().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_ids_that_are_no_text_are_two_documents_and_an_id_that_is_sent_again_is_one() {
    require!("nats-server", "database");
    let scene = Scene::set().await;
    scene.publish("metrics").await;
    let mut producer = RawProducer::connect(scene.nats.port()).await;
    let payload = doc! {"n": 0_i64}.to_vec().unwrap();
    for id in [&b"\xe9"[..], b"\xe8", b"\xef\xbf\xbde9", b"\xe9\xe8"] {
        let block = [b"NATS/1.0\r\nNats-Msg-Id: ", id, b"\r\n\r\n"].concat();
        producer.publish(b"alpha.metrics", Some(&block), &payload).await;
    }
    eventually("each is a document", SOON, || async { scene.mongo.count("metrics").await == 4 }).await;
    // The stream forgets what it has seen: only the identity is left.
    let jetstream = scene.nats.jetstream().await;
    let mut config = jetstream.get_stream("alpha_metrics").await.unwrap().cached_info().config.clone();
    config.duplicate_window = Duration::from_millis(100);
    jetstream.update_stream(config).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    producer.publish(b"alpha.metrics", Some(b"NATS/1.0\r\nNats-Msg-Id: \xe9\r\n\r\n"), &payload).await;
    acknowledged(&jetstream, "alpha.metrics", doc! {"n": 1_i64}.to_vec().unwrap()).await;
    eventually("what came after it is stored", SOON, || async { scene.mongo.count("metrics").await >= 5 }).await;
    eventually("all is acknowledged", SOON, || async {
        jetstream.get_stream("alpha_metrics").await.unwrap().cached_info().state.messages == 0
    })
    .await;
    assert_eq!(scene.mongo.count("metrics").await, 5);
}
