//! A controller of the usual 1,024 descriptors whose HTTP port is besieged: it answers health, finds its servers again after
//! their restarts, and holds no more than it may.

use crate::pipelines::{assert_each_once, plain, send_all};
use crate::support::{Mongo, Nats, Sluice, eventually, http_get};
use bson::doc;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const LONG: Duration = Duration::from_secs(120);

async fn publish(sluice: &Sluice, id: &str) {
    let file = sluice.dir.join(format!("{id}.yml"));
    std::fs::write(&file, plain(id)).unwrap();
    sluice.cli_ok(&["publish", id, "-f", &file.display().to_string(), "--wait"]).await;
}

fn memory(sluice: &Sluice) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", sluice.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

/// What the process counts under `name`.
async fn metric(sluice: &Sluice, name: &str) -> u64 {
    let (_, text) = sluice.get("/metrics").await;
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or(" 0");
    line.trim().parse().unwrap()
}

fn limit_descriptors(sluice: &Sluice, most: u32) {
    let limited = Command::new("prlimit")
        .args([
            &format!("--pid={}", sluice.pid()), // The soft limit alone: nobody may raise the other again.
            &format!("--nofile={most}:"),
        ])
        .status();
    assert!(limited.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn health_answers_within_a_second_while_5000_connections_are_held_half_open_and_the_servers_are_reached_again() {
    require!("nats-server", "database");
    sluice::telemetry::descriptors::raise();
    let (mut nats, mut mongo) = tokio::join!(Nats::start(), Mongo::start_durable());
    let sluice = Sluice::start(&nats, &mongo).await;
    limit_descriptors(&sluice, 1024);
    publish(&sluice, "metrics").await;
    let address = sluice.http_url().unwrap().trim_start_matches("http://").to_owned();
    // They come again and again, as fast as they are closed, until it is over.
    let (over, mut besiegers) = (Arc::new(AtomicBool::new(false)), Vec::new());
    let opened = Arc::new(AtomicI64::new(0));
    for _ in 0..50 {
        let (address, over, opened) = (address.clone(), over.clone(), opened.clone());
        besiegers.push(tokio::spawn(async move {
            let mut held = std::collections::VecDeque::new();
            while !over.load(Ordering::Relaxed) {
                if let Ok(mut stream) = TcpStream::connect(&address).await {
                    let _ = stream.write_all(b"GET /health/ready HTTP/1.1\r\nHost:").await;
                    held.push_back(stream);
                    opened.fetch_add(1, Ordering::Relaxed);
                }
                if held.len() > 100 {
                    held.pop_front();
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            }
        }));
    }
    eventually("5,000 are there", LONG, || async { opened.load(Ordering::Relaxed) >= 5_000 }).await;
    let base = sluice.http_url().unwrap();
    let mut took = Vec::new();
    for _ in 0..20 {
        let begun = Instant::now();
        let answer = http_get(&base, "/health/live", None).await;
        took.push(begun.elapsed());
        assert_eq!(answer.expect("it answers").0, 200);
    }
    took.sort();
    eprintln!("health answered within {:?} at most, {:?} mostly", took[19], took[10]);
    assert!(took[18] < Duration::from_secs(1), "{took:?}");

    nats.kill9();
    mongo.kill9();
    tokio::join!(nats.restart(), mongo.restart());
    publish(&sluice, "others").await;
    send_all(&nats.jetstream().await, "alpha.metrics", 0..1_000, |n| doc! {"n": n}, &AtomicI64::new(0)).await;
    eventually("all are stored", LONG, || async { mongo.count("metrics").await >= 1_000 }).await;
    assert_each_once(&mongo, "metrics", 0..1_000).await;
    assert!(metric(&sluice, "sluice_closed_http_connections_total{reason=\"evicted\"}").await > 4_000);
    assert!(metric(&sluice, "sluice_open_descriptors").await < 600);
    over.store(true, Ordering::Relaxed);
    for besieger in besiegers {
        besieger.await.unwrap();
    }
    eventually("it is ready", LONG, || async { sluice.get("/health/ready").await.0 == 200 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_descriptors_run_out_health_the_log_and_a_metric_say_so() {
    require!("nats-server", "database");
    let (nats, mongo) = tokio::join!(Nats::start(), Mongo::start());
    let sluice = Sluice::start(&nats, &mongo).await;
    publish(&sluice, "metrics").await;
    let (_, health) = sluice.get("/health/ready").await;
    let hard = Command::new("sh").args(["-c", "ulimit -Hn"]).output().unwrap();
    let hard: u64 = String::from_utf8(hard.stdout).unwrap().trim().parse().unwrap_or(u64::MAX);
    let limit = metric(&sluice, "sluice_descriptor_limit").await;
    assert!(limit == hard.min(1 << 20) && health.contains(&format!("of {limit} are open")), "as many as it may have: {limit}, {health}");
    limit_descriptors(&sluice, 64);
    let base = sluice.http_url().unwrap();
    let address = base.trim_start_matches("http://");
    eventually("health says so", LONG, || async {
        let mut held = Vec::new();
        for _ in 0..60 {
            held.push(TcpStream::connect(address).await.unwrap());
        }
        // The process counts every second.
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        let Ok((code, health)) = http_get(&base, "/health/ready", None).await else { return false };
        code == 503 && health.contains(r#""name":"descriptors","ok":false"#) && health.contains("ulimit -n")
    })
    .await;
    assert!(sluice.log().contains("file descriptors are running out"));
    limit_descriptors(&sluice, 1024);
    eventually("they are enough again", LONG, || async { sluice.get("/health/ready").await.0 == 200 }).await;
    assert!(sluice.log().contains("there are enough file descriptors again"));
}

#[tokio::test(flavor = "multi_thread")]
async fn forty_clients_that_do_not_read_the_statuses_of_large_entries_cost_a_few_megabytes() {
    require!("nats-server", "database");
    const ENTRIES: usize = 300;
    let (nats, mongo) = tokio::join!(Nats::start(), Mongo::start());
    let sluice = Sluice::start(&nats, &mongo).await;
    let entries = nats.jetstream().await.get_key_value("alpha").await.unwrap();
    for number in 0..ENTRIES {
        let entry = serde_json::json!({ "status": "draft", "labels": { "note": "x".repeat(50_000) } });
        entries.put(format!("p{number}"), entry.to_string().into()).await.unwrap();
    }
    let all = || async { serde_json::from_str::<Vec<serde_json::Value>>(&sluice.get("/api/v1/pipelines").await.1).unwrap_or_default() };
    eventually("all have a status", LONG, || async { all().await.len() == ENTRIES }).await;
    let before = memory(&sluice);
    let address = sluice.http_url().unwrap().trim_start_matches("http://").to_owned();
    let mut lazy = Vec::new();
    for _ in 0..40 {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream.write_all(b"GET /api/v1/pipelines HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        lazy.push(stream);
    }
    let mut most = 0;
    for _ in 0..30 {
        most = most.max(memory(&sluice));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    eprintln!("{before} MiB before, {most} MiB with forty that do not read");
    // Together they asked for 600 MB.
    assert!(most < before + 64, "{before} MiB before, {most} MiB with forty that do not read");
    assert_eq!(all().await.len(), ENTRIES, "others read all of it");
}
