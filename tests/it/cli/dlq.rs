//! `dlq`: dead letters with their reasons, counted, listed and shown.

use super::Cli;
use crate::support::Nats;
use async_nats::HeaderMap;
use async_nats::jetstream::stream;
use bson::doc;
use serde_json::json;

const IDENTITY: &str = "65f0a1b2c3d4e5f601234567";

async fn dead_letters(nats: &Nats) {
    let jetstream = nats.jetstream().await;
    let config = stream::Config { name: "alpha-dlq".into(), subjects: vec!["alpha-dlq.>".into()], ..stream::Config::default() };
    jetstream.create_stream(config).await.unwrap();
    let refused = bson::serialize_to_vec(&doc! {"temperature": "warm"}).unwrap();
    for (subject, payload) in [
        (format!("alpha-dlq.metrics.{IDENTITY}"), refused),
        ("alpha-dlq.metrics.0000000000000000000000ab".into(), b"no bson".to_vec()),
        ("alpha-dlq.other.0000000000000000000000ac".into(), b"x".to_vec()),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert("Sluice-Reason", "refused");
        headers.insert("Sluice-Code", "121");
        jetstream.publish_with_headers(subject, headers, payload.into()).await.unwrap().await.unwrap();
    }
}

#[tokio::test]
async fn a_namespace_without_dead_letters_has_none() {
    require!("nats-server");
    let nats = Nats::start().await;
    let cli = Cli::new(&nats.url());
    assert_eq!(cli.json(&["dlq", "list"]).await, json!([]));
    assert_eq!(cli.json(&["dlq", "list", "metrics"]).await, json!([]));
    cli.fails(4, &["dlq", "show", "metrics", "1"]).await;
}

#[tokio::test]
async fn dead_letters_are_counted_by_pipeline_and_listed_with_their_reasons() {
    require!("nats-server");
    let nats = Nats::start().await;
    let cli = Cli::new(&nats.url());
    dead_letters(&nats).await;
    let counts = json!([{"id": "metrics", "dead_letters": 2}, {"id": "other", "dead_letters": 1}]);
    assert_eq!(cli.json(&["dlq", "list"]).await, counts);
    let letters = cli.json(&["dlq", "list", "metrics"]).await;
    assert_eq!(letters.as_array().unwrap().len(), 2);
    let first = &letters[0];
    assert_eq!((first["sequence"].as_u64(), first["identity"].as_str()), (Some(1), Some(IDENTITY)));
    assert_eq!((first["headers"]["Sluice-Reason"].as_str(), first["bytes"].as_u64()), (Some("refused"), Some(27)));
    let newest = cli.json(&["dlq", "list", "metrics", "--limit", "1"]).await;
    assert_eq!((newest.as_array().unwrap().len(), newest[0]["sequence"].as_u64()), (1, Some(2)));
    let table = cli.ok(&["dlq", "list", "metrics"]).await;
    assert!(table.contains(IDENTITY) && table.contains("refused") && table.lines().count() == 3, "{table}");
}

#[tokio::test]
async fn a_dead_letter_is_shown_by_its_sequence_or_its_identity() {
    require!("nats-server");
    let nats = Nats::start().await;
    let cli = Cli::new(&nats.url());
    dead_letters(&nats).await;
    for letter in ["1", IDENTITY] {
        let shown = cli.json(&["dlq", "show", "metrics", letter]).await;
        assert_eq!((shown["sequence"].as_u64(), &shown["document"]), (Some(1), &json!({"temperature": "warm"})));
    }
    assert_eq!(cli.json(&["dlq", "show", "metrics", "2"]).await["payload_base64"], "bm8gYnNvbg==");
    let text = cli.ok(&["dlq", "show", "metrics", "1"]).await;
    assert!(text.contains("Sluice-Code") && text.contains("\"temperature\": \"warm\""), "{text}");
    assert!(cli.fails(4, &["dlq", "show", "metrics", "3"]).await.contains("no dead letter '3'"), "that is another pipeline's");
    cli.fails(2, &["dlq", "show", "metrics", "x"]).await;
}
