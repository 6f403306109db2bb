//! What whoever connects to the HTTP listener may use up, and what not: connections, time, memory, pages.

use crate::support::{eventually, http_get};
use sluice::http::{Check, Health, View, serve};
use sluice::pipeline::{id::PipelineId, report::ExecutionReport, status::PipelineStatus};
use sluice::telemetry::metrics::Metrics;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

/// What the listener grants a head and a reader that stalls, and what it may be late.
const TIME: Duration = Duration::from_secs(20);

/// So many pipelines, none of them well.
struct Many(usize);

fn id(number: usize) -> PipelineId {
    PipelineId::parse(&format!("p{number:05}")).unwrap()
}

impl View for Many {
    fn health(&self) -> Health {
        let check = |number| Check { name: "pipeline".into(), ok: false, message: "not well".into(), pipeline: Some(id(number)) };
        let own = Check { name: "nats".into(), ok: true, message: "connected".into(), pipeline: None };
        Health { live: true, ready: true, holder: Some(true), checks: std::iter::once(own).chain((0..self.0).map(check)).collect() }
    }
    fn pipelines(&self) -> Health {
        self.health()
    }
    fn ids(&self) -> Vec<PipelineId> {
        (0..self.0).rev().map(id).collect()
    }
    fn status(&self, id: &PipelineId) -> Option<PipelineStatus> {
        serde_json::from_value(serde_json::json!({
            "schema": 1, "id": id, "epoch": 3, "updated": "2026-01-02T03:04:05Z",
            "desired": {"status": "draft", "version": null, "revision": 7, "name": null, "description": "d".repeat(1_000)},
            "admitted": {"phase": "absent", "spec": null, "live_executions": 0},
            "observed": {"version": null, "fingerprint": null, "executions": 0,
                "limits": {"batch_count": 0, "ack_wait_ms": 0, "max_ack_pending": 0, "limited": false},
                "counters": {"received": 0, "written": 0, "duplicates": 0, "dead_lettered": 0, "redelivered": 0, "buffered": 0}},
            "conditions": [], "history": [],
            "kept": {"bucket_created": null, "stream_created": null, "stream": null, "subjects": [], "on_delete": "drain",
                "drain_timeout_s": 600, "entry": null, "last_good": null, "proven": [], "drain_started": null}
        }))
        .ok()
    }
    fn executions(&self) -> Vec<ExecutionReport> {
        Vec::new()
    }
}

async fn start(pipelines: usize) -> (String, Arc<Metrics>, CancellationToken) {
    let (metrics, stop) = (Metrics::shared(), CancellationToken::new());
    let address = serve("127.0.0.1:0".parse().unwrap(), None, Arc::new(Many(pipelines)), metrics.clone(), stop.clone()).await.unwrap();
    (address.to_string(), metrics, stop)
}

async fn says(address: &str, words: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(words).await.unwrap();
    stream
}

/// What comes until the other side has closed, which must be in time.
async fn until_closed(mut stream: TcpStream) -> String {
    let mut read = Vec::new();
    // A reset is an end, too.
    let _ = tokio::time::timeout(TIME, stream.read_to_end(&mut read)).await.expect("it is closed");
    String::from_utf8_lossy(&read).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sends_no_head_no_body_or_nothing_more_is_closed_in_time() {
    let (address, metrics, _stop) = start(0).await;
    let silent = says(&address, b"").await;
    let half = says(&address, b"GET /health/live HTTP/1.1\r\nHost: a").await;
    let body = says(&address, b"POST /health/live HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\nx").await;
    let idle = says(&address, b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let trickling = tokio::spawn({
        let mut stream = says(&address, b"GET /health/live HTTP/1.1\r\n").await;
        async move {
            let begun = Instant::now();
            while stream.write_all(b"X-Y: z\r\n").await.is_ok() {
                assert!(begun.elapsed() < TIME, "a head may take for ever");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    });
    let (silent, half, body, idle) = tokio::join!(until_closed(silent), until_closed(half), until_closed(body), until_closed(idle));
    assert_eq!((silent.as_str(), half.as_str()), ("", ""));
    assert!(body.starts_with("HTTP/1.1 405 ") && idle.starts_with("HTTP/1.1 200 "), "{body}\n{idle}");
    trickling.await.unwrap();
    assert!(metrics.encode().contains(r#"sluice_closed_http_connections_total{reason="late"}"#), "{}", metrics.encode());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_connects_finds_room_however_many_hold_connections_and_the_oldest_silent_ones_go() {
    let (address, metrics, _stop) = start(0).await;
    // Answered, and then silent like the others.
    let mut held = Vec::new();
    for number in 0..600 {
        held.push(says(&address, if number % 2 == 0 { b"GET /health/l" } else { b"" }).await);
    }
    let base = format!("http://{address}");
    for _ in 0..20 {
        let begun = Instant::now();
        assert_eq!(http_get(&base, "/health/live", None).await.unwrap().0, 200);
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    }
    assert!(metrics.encode().contains(r#"sluice_closed_http_connections_total{reason="evicted"}"#), "{}", metrics.encode());
    assert_eq!(until_closed(held.swap_remove(0)).await, "", "the oldest is closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_comes_a_page_at_a_time_with_a_link_to_the_next() {
    let (address, ..) = start(2_500).await;
    let (mut path, mut read, mut pages) = ("/api/v1/pipelines".to_owned(), Vec::new(), 0);
    loop {
        let answer = until_closed(says(&address, format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let page: Vec<PipelineStatus> = serde_json::from_str(body).unwrap();
        read.extend(page.into_iter().map(|status| status.id));
        pages += 1;
        let Some((_, link)) = head.split_once("link: <") else { break };
        let (next, rest) = link.split_once('>').unwrap();
        assert!(rest.starts_with("; rel=\"next\""), "{head}");
        path = next.to_owned();
    }
    assert_eq!((pages, read), (3, (0..2_500).map(id).collect::<Vec<_>>()));
    let base = format!("http://{address}");
    let few: Vec<PipelineStatus> =
        serde_json::from_str(&http_get(&base, "/api/v1/pipelines?after=p00041&limit=2", None).await.unwrap().1).unwrap();
    assert_eq!(few.into_iter().map(|status| status.id).collect::<Vec<_>>(), [id(42), id(43)]);
    for wrong in ["limit=0", "limit=1001", "limit=x", "limit=-1"] {
        let (code, body) = http_get(&base, &format!("/api/v1/pipelines?{wrong}"), None).await.unwrap();
        assert!(code == 400 && body.contains("from 1 to 1000"), "{wrong}: {code} {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_names_a_hundred_pipelines_and_says_how_many_more_there_are() {
    let (address, ..) = start(2_500).await;
    let (_, body) = http_get(&format!("http://{address}"), "/health/ready", None).await.unwrap();
    let health: serde_json::Value = serde_json::from_str(&body).unwrap();
    let checks = health["checks"].as_array().unwrap();
    assert_eq!((checks.len(), checks[0]["name"].as_str()), (102, Some("nats")));
    assert!(checks[101]["message"].as_str().unwrap().starts_with("2400 more"), "{}", checks[101]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_what_he_asked_for_is_closed_and_others_read_all_of_it() {
    let (address, metrics, _stop) = start(1_000).await;
    let mut lazy = Vec::new();
    for _ in 0..40 {
        lazy.push(says(&address, b"GET /api/v1/pipelines HTTP/1.1\r\nHost: a\r\n\r\n").await);
    }
    let (code, body) = http_get(&format!("http://{address}"), "/api/v1/pipelines", None).await.unwrap();
    assert_eq!((code, serde_json::from_str::<Vec<PipelineStatus>>(&body).unwrap().len()), (200, 1_000));
    eventually("all of them are closed", TIME, || async {
        metrics.encode().contains(r#"sluice_closed_http_connections_total{reason="late"} 40"#)
    })
    .await;
}
