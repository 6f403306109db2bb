//! `list` and `status`: what people and programs see, with status documents as a controller writes them.

use super::{CONFIG, Cli, stream_of_metrics};
use crate::support::Nats;
use async_nats::jetstream::kv;
use serde_json::json;
use sha2::{Digest, Sha256};

/// Writes the status of a pipeline whose entry has `revision`: running version `1-…` of [`CONFIG`], or (phase `absent`)
/// held up by a missing connection.
pub async fn put_status(nats: &Nats, id: &str, revision: u64, phase: &str) {
    let version = format!("1-{}", sluice::pipeline::spec::hex(&Sha256::digest(CONFIG)[..4]));
    let running = phase == "run";
    let spec = json!({
        "schema": 1, "installation": uuid::Uuid::nil(), "namespace": "alpha", "id": id, "version": version,
        "digest": "SHA-256=x", "stream": format!("alpha_{id}"), "consumer": "default",
        "target": {"hosts": ["h:1"], "database": "d", "collection": "c"}, "replicas": 1, "proven": true,
        "settings_digest": "", "fingerprint": "f"
    });
    let valid = json!({"type": "Valid", "status": running, "reason": if running { "AsDesired" } else { "UnknownConnection" },
        "message": if running { "" } else { "no connection 'x'" }, "since": "2026-01-02T03:04:05Z"});
    let ready = json!({"type": "Ready", "status": running, "reason": if running { "AsDesired" } else { "InProgress" },
        "message": "", "since": "2026-01-02T03:04:05Z"});
    let status = json!({
        "schema": 1, "id": id, "epoch": 3, "updated": "2026-01-02T03:04:05Z",
        "desired": {"status": "published", "version": version, "revision": revision, "name": "Metrics", "description": null},
        "admitted": {"phase": phase, "spec": running.then_some(spec), "live_executions": u8::from(running)},
        "observed": {"version": running.then_some(&version), "fingerprint": running.then_some("f"), "executions": u8::from(running),
            "limits": {"batch_count": 1000, "ack_wait_ms": 30000, "max_ack_pending": 10000, "limited": false},
            "counters": {"received": 12, "written": 11, "duplicates": 1, "dead_lettered": 0, "redelivered": 1, "buffered": 0}},
        "conditions": [valid, ready],
        "kept": {"bucket_created": null, "stream_created": null, "stream": format!("alpha_{id}"), "subjects": [],
            "on_delete": "drain", "drain_timeout_s": 600, "entry": null, "last_good": null, "proven": [], "drain_started": null}
    });
    let jetstream = nats.jetstream().await;
    let config = kv::Config { bucket: "alpha-status".into(), ..kv::Config::default() };
    let bucket = match jetstream.get_key_value("alpha-status").await {
        Ok(bucket) => bucket,
        Err(_) => jetstream.create_key_value(config).await.unwrap(),
    };
    bucket.put(id, status.to_string().into()).await.unwrap();
}

#[tokio::test]
async fn an_empty_namespace_lists_nothing_and_is_no_error() {
    require!("nats-server");
    let nats = Nats::start().await;
    let cli = Cli::installed(&nats).await;
    assert_eq!(cli.json(&["list"]).await, json!([]));
    assert_eq!(cli.json(&["status"]).await, json!([]));
    assert_eq!(cli.ok(&["list"]).await, "");
    assert!(cli.fails(4, &["status", "metrics"]).await.contains("'metrics'"));
}

#[tokio::test]
async fn list_shows_entries_and_statuses_garbage_included() {
    require!("nats-server");
    let nats = Nats::start().await;
    let cli = Cli::installed(&nats).await;
    cli.ok(&["publish", "metrics", "-f", &cli.file("metrics.yml", CONFIG)]).await;
    super::entries(&nats).await.put("garbage", "\u{1b}[31mnot json".into()).await.unwrap();
    put_status(&nats, "metrics", 1, "run").await;
    put_status(&nats, "lost", 9, "run").await;
    let list = cli.json(&["list"]).await;
    let shown: Vec<_> = list.as_array().unwrap().iter().map(|row| (&row["id"], &row["entry"]["status"], &row["state"])).collect();
    let expected = [("garbage", "unreadable", "pending"), ("lost", "missing", "running"), ("metrics", "published", "running")];
    assert_eq!(
        shown,
        expected.map(|(id, entry, state)| (id.into(), entry.into(), state.into())).iter().map(|(a, b, c)| (a, b, c)).collect::<Vec<_>>()
    );
    let table = cli.ok(&["list"]).await;
    assert!(table.starts_with(" ID") || table.starts_with("ID"), "{table}");
    assert!(!table.contains('\u{1b}') && table.lines().count() == 4, "{table}");
}

#[tokio::test]
async fn status_tells_what_waits_how_old_it_is_and_what_to_do() {
    require!("nats-server");
    let nats = Nats::start().await;
    let cli = Cli::installed(&nats).await;
    cli.ok(&["publish", "metrics", "-f", &cli.file("metrics.yml", CONFIG)]).await;
    let jetstream = nats.jetstream().await;
    stream_of_metrics(&jetstream).await;
    for _ in 0..3 {
        jetstream.publish("alpha.metrics", "x".into()).await.unwrap().await.unwrap();
    }
    put_status(&nats, "metrics", 1, "absent").await;
    let view = cli.json(&["status", "metrics"]).await;
    assert_eq!((view["lag"].as_u64(), view["rate"].as_f64(), view["dead_letters"].as_u64()), (Some(3), Some(0.0), Some(0)));
    assert!(view["oldest_unacknowledged_seconds"].as_f64().unwrap() > 0.0);
    assert_eq!((view["state"].as_str(), view["counters"]["written"].as_u64()), (Some("absent"), Some(11)));
    assert_eq!(view["conditions"][0]["reason"], "UnknownConnection");
    assert!(view["conditions"][0]["remedy"].as_str().unwrap().contains("mongodb.connections"));
    let text = cli.ok(&["status", "metrics"]).await;
    assert!(text.contains("3 messages") && text.contains("-> add the connection") && !text.contains('\u{1b}'), "{text}");
    assert_eq!(cli.json(&["status"]).await.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn watching_prints_one_line_of_json_a_second() {
    use tokio::io::{AsyncBufReadExt, BufReader};
    require!("nats-server");
    let nats = Nats::start().await;
    let cli = Cli::installed(&nats).await;
    cli.ok(&["publish", "metrics", "-f", &cli.file("metrics.yml", CONFIG)]).await;
    let mut child =
        cli.command(&["status", "metrics", "--watch", "--output", "json"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..2 {
        let line = tokio::time::timeout(std::time::Duration::from_secs(20), lines.next_line()).await.unwrap().unwrap().unwrap();
        let view: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!((view["id"].as_str(), view["state"].as_str()), (Some("metrics"), Some("pending")));
    }
}
