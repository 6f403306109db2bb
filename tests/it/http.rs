//! The HTTP listener with a made-up view: what it answers, to whom, and how it starts and stops.

use crate::support::{eventually, http_get};
use sluice::http::{Check, Health, HttpError, View, serve};
use sluice::pipeline::{id::PipelineId, report::ExecutionReport, status::PipelineStatus};
use sluice::settings::Secret;
use sluice::telemetry::metrics::Metrics;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

const LOOPBACK: &str = "127.0.0.1:0";

#[derive(Default)]
struct Fake {
    health: Mutex<Health>,
    status: Option<PipelineStatus>,
}

impl View for Fake {
    fn health(&self) -> Health {
        self.health.lock().unwrap().clone()
    }
    fn pipelines(&self) -> Health {
        self.health()
    }
    fn ids(&self) -> Vec<PipelineId> {
        self.status.iter().map(|status| status.id.clone()).collect()
    }
    fn status(&self, id: &PipelineId) -> Option<PipelineStatus> {
        self.status.clone().filter(|status| status.id == *id)
    }
    fn executions(&self) -> Vec<ExecutionReport> {
        Vec::new()
    }
}

fn status() -> PipelineStatus {
    serde_json::from_value(serde_json::json!({
        "schema": 1, "id": "metrics", "epoch": 3, "updated": "2026-01-02T03:04:05Z",
        "desired": {"status": "published", "version": "1-0a0b0c0d", "revision": 7, "name": null, "description": null},
        "admitted": {"phase": "absent", "spec": null, "live_executions": 0},
        "observed": {"version": null, "fingerprint": null, "executions": 0,
            "limits": {"batch_count": 0, "ack_wait_ms": 0, "max_ack_pending": 0, "limited": false},
            "counters": {"received": 0, "written": 0, "duplicates": 0, "dead_lettered": 0, "redelivered": 0, "buffered": 0}},
        "conditions": [{"type": "Valid", "status": false, "reason": "VersionMissing", "message": "no 7", "since": "2026-01-02T03:04:05Z"}],
        "history": [
            {"at": "2026-01-02T03:04:04Z", "type": "Valid", "status": true, "reason": "AsDesired", "message": ""},
            {"at": "2026-01-02T03:04:05Z", "type": "Valid", "status": false, "reason": "VersionMissing", "message": "no 7"}],
        "kept": {"bucket_created": null, "stream_created": null, "stream": null, "subjects": [], "on_delete": "drain",
            "drain_timeout_s": 600, "entry": null, "last_good": null, "proven": [], "drain_started": null}
    }))
    .unwrap()
}

async fn start(fake: Fake, token: Option<&str>) -> (String, Arc<Fake>, CancellationToken) {
    let (fake, stop) = (Arc::new(fake), CancellationToken::new());
    let metrics = Metrics::shared();
    metrics.pipeline(&PipelineId::parse("metrics").unwrap()).received.inc_by(5);
    let address = serve(LOOPBACK.parse().unwrap(), token.map(Secret::new), fake.clone(), metrics, stop.clone()).await.unwrap();
    (format!("http://{address}"), fake, stop)
}

async fn code(base: &str, path: &str, token: Option<&str>) -> u16 {
    http_get(base, path, token).await.unwrap().0
}

#[tokio::test]
async fn health_answers_200_or_503_and_says_why() {
    let (base, fake, _stop) = start(Fake::default(), None).await;
    assert_eq!(code(&base, "/health/live", None).await, 503);
    let check = Check { name: "nats".into(), ok: false, message: "no connection".into(), pipeline: None };
    *fake.health.lock().unwrap() = Health { live: true, ready: false, holder: Some(true), checks: vec![check] };
    assert_eq!(code(&base, "/health/live", None).await, 200);
    let (code_, body) = http_get(&base, "/health/ready", None).await.unwrap();
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((code_, body["checks"][0]["message"].as_str()), (503, Some("no connection")));
    fake.health.lock().unwrap().ready = true;
    assert_eq!(code(&base, "/health/ready", None).await, 200);
}

#[tokio::test]
async fn everything_but_health_needs_the_token_where_one_is_set() {
    let health = Mutex::new(Health { live: true, ready: true, ..Health::default() });
    let (base, _fake, _stop) = start(Fake { health, status: Some(status()) }, Some("canary-token")).await;
    for path in [
        "/metrics",
        "/api/v1/pipelines",
        "/api/v1/pipelines/metrics",
        "/api/v1/pipelines/metrics/history",
        "/api/v1/executions",
        "/nothing",
        "/",
    ] {
        for token in [None, Some(""), Some("canary-toke"), Some("canary-token2")] {
            let (code, body) = http_get(&base, path, token).await.unwrap();
            assert_eq!(code, 401, "{path} {token:?}");
            assert!(!body.contains("canary") && !body.contains("sluice_"), "{body}");
        }
    }
    assert_eq!(code(&base, "/metrics", Some("canary-token")).await, 200);
    assert_eq!(code(&base, "/health/live", None).await, 200);
    assert_eq!(code(&base, "/health/ready", None).await, 200);
}

#[tokio::test]
async fn health_names_no_pipeline_to_whoever_has_no_token() {
    let check = Check { name: "pipeline".into(), ok: false, message: "no connection".into(), pipeline: Some(status().id) };
    let health = Health { live: true, ready: false, holder: Some(true), checks: vec![check] };
    let (base, _fake, _stop) = start(Fake { health: Mutex::new(health), status: None }, Some("canary-token")).await;
    for path in ["/health/live", "/health/ready"] {
        let (_, stranger) = http_get(&base, path, None).await.unwrap();
        assert_eq!(stranger, r#"{"live":true,"ready":false,"holder":null,"checks":[]}"#, "{path}");
        let (_, known) = http_get(&base, path, Some("canary-token")).await.unwrap();
        assert!(known.contains("no connection") && known.contains("metrics"), "{path}: {known}");
    }
}

#[tokio::test]
async fn other_methods_need_the_token_too_and_change_nothing() {
    let (base, _fake, _stop) = start(Fake { status: Some(status()), ..Fake::default() }, Some("canary-token")).await;
    for (token, expected) in [("", "401 "), ("Authorization: Bearer canary-token\r\n", "405 ")] {
        for method in ["POST", "PUT", "DELETE", "PATCH"] {
            let mut stream = tokio::net::TcpStream::connect(base.trim_start_matches("http://")).await.unwrap();
            let request = format!("{method} /api/v1/pipelines/metrics HTTP/1.0\r\n{token}\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut reply = String::new();
            stream.read_to_string(&mut reply).await.unwrap();
            assert!(reply.lines().next().unwrap().contains(expected), "{method}: {reply}");
        }
    }
}

#[tokio::test]
async fn the_history_of_conditions_comes_with_remedies_the_newest_last() {
    let (base, _fake, _stop) = start(Fake { status: Some(status()), ..Fake::default() }, None).await;
    let (code_, body) = http_get(&base, "/api/v1/pipelines/metrics/history", None).await.unwrap();
    let shown: serde_json::Value = serde_json::from_str(&body).unwrap();
    let reasons: Vec<_> = shown["conditions"].as_array().unwrap().iter().map(|change| change["reason"].as_str().unwrap()).collect();
    assert_eq!((code_, shown["id"].as_str(), reasons), (200, Some("metrics"), vec!["AsDesired", "VersionMissing"]));
    assert!(shown["conditions"][1]["remedy"].as_str().unwrap().contains("sluice rollback"), "{body}");
    assert_eq!(code(&base, "/api/v1/pipelines/other/history", None).await, 404);
    assert_eq!(code(&base, "/api/v1/pipelines/..%2fx/history", None).await, 400);
}

#[tokio::test]
async fn metrics_come_as_openmetrics() {
    let (base, _fake, _stop) = start(Fake::default(), None).await;
    let mut stream = tokio::net::TcpStream::connect(base.trim_start_matches("http://")).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    assert!(reply.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"), "{reply}");
    assert!(reply.contains("sluice_received_messages_total{pipeline=\"metrics\"} 5") && reply.ends_with("# EOF\n"), "{reply}");
}

#[tokio::test]
async fn status_documents_come_as_json_and_unknown_paths_say_what_there_is() {
    let (base, _fake, _stop) = start(Fake { status: Some(status()), ..Fake::default() }, None).await;
    let (code_, body) = http_get(&base, "/api/v1/pipelines", None).await.unwrap();
    let all: Vec<PipelineStatus> = serde_json::from_str(&body).unwrap();
    assert_eq!((code_, all), (200, vec![PipelineStatus { history: Vec::new(), ..status() }]), "the list is short");
    let (code_, body) = http_get(&base, "/api/v1/pipelines/metrics", None).await.unwrap();
    assert_eq!((code_, serde_json::from_str::<PipelineStatus>(&body).unwrap()), (200, status()));
    let json: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert!(json["conditions"][0]["remedy"].as_str().unwrap().contains("sluice rollback"), "{body}");
    assert_eq!(code(&base, "/api/v1/pipelines/other", None).await, 404);
    assert_eq!(code(&base, "/api/v1/pipelines/..%2fx", None).await, 400);
    assert_eq!(http_get(&base, "/api/v1/executions", None).await.unwrap(), (200, "[]".into()));
    let (code_, body) = http_get(&base, "/api", None).await.unwrap();
    assert!(code_ == 404 && body.contains("/api/v1/pipelines"), "{body}");
}

#[tokio::test]
async fn an_address_that_is_taken_is_named_with_the_remedy() {
    let taken = tokio::net::TcpListener::bind(LOOPBACK).await.unwrap();
    let address = taken.local_addr().unwrap();
    let error = serve(address, None, Arc::new(Fake::default()), Metrics::shared(), CancellationToken::new()).await.unwrap_err();
    assert!(matches!(error, HttpError::Bind { .. }));
    let text = error.to_string();
    assert!(text.contains(&address.to_string()) && text.contains("http.listen"), "{text}");
}

#[tokio::test]
async fn an_address_that_others_reach_needs_a_token() {
    let everywhere: SocketAddr = "0.0.0.0:0".parse().unwrap();
    let start = |token| serve(everywhere, token, Arc::new(Fake::default()), Metrics::shared(), CancellationToken::new());
    assert!(matches!(start(None).await, Err(HttpError::TokenMissing { .. })));
    assert!(matches!(start(Some(Secret::new(""))).await, Err(HttpError::TokenMissing { .. })), "an empty token is none");
    assert!(start(Some(Secret::new("t"))).await.is_ok());
}

#[tokio::test]
async fn loopback_needs_no_token_in_whatever_form_it_is_written() {
    for address in ["127.0.0.1:0", "127.8.8.8:0", "[::1]:0", "[::ffff:127.0.0.1]:0"] {
        match serve(address.parse().unwrap(), None, Arc::new(Fake::default()), Metrics::shared(), CancellationToken::new()).await {
            // A machine without IPv6 has no such address.
            Ok(_) | Err(HttpError::Bind { .. }) => {}
            Err(error) => panic!("{address}: {error}"),
        }
    }
}

#[tokio::test]
async fn the_listener_ends_with_the_process() {
    let (base, _fake, stop) = start(Fake::default(), None).await;
    assert_eq!(code(&base, "/metrics", None).await, 200);
    stop.cancel();
    eventually("nobody listens", Duration::from_secs(5), || async { http_get(&base, "/metrics", None).await.is_err() }).await;
}
