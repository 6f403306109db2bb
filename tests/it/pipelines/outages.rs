//! Outages: a database that is away and dead letters that are full. Pulling stops, memory stays, leases are kept, and each
//! pipeline speaks for itself alone.

use super::*;
use crate::support::Proxy;
use std::time::Instant;

#[tokio::test(flavor = "multi_thread")]
async fn full_dead_letters_pause_their_pipeline_alone_until_there_is_room() {
    require!("nats-server", "database");
    let stage = Stage::set().await;
    stage.publish_plain("metrics").await;
    stage.publish_plain("others").await;
    let jetstream = stage.nats.jetstream().await;
    stage.send("alpha.metrics", 0..10).await;
    stage.exactly("metrics", 0..10).await;
    let limit = async |messages: i64| {
        let mut config = jetstream.get_stream("alpha-dlq").await.unwrap().cached_info().config.clone();
        config.max_messages = messages;
        jetstream.update_stream(config).await.unwrap();
    };
    limit(2).await;
    for n in 0..5 {
        acknowledged(&jetstream, "alpha.metrics", format!("no BSON, number {n}").into_bytes()).await;
    }
    stage.says("metrics", "Progressing", false, "DeadLettersUnavailable").await;
    let told = stage.sluice.cli(&["status", "metrics"]).await;
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.contains("make room in it"), "{told}");
    // It fetches nothing more, and holds what it has; the other one does not notice.
    stage.send("alpha.metrics", 10..20).await;
    stage.send("alpha.others", 0..100).await;
    stage.exactly("others", 0..100).await;
    assert_eq!(wrong(&stage).await, (vec!["metrics".to_owned()], Vec::new()));
    assert_eq!((stage.dead_letters("metrics").await, stage.mongo.count("metrics").await), (2, 10));
    assert_eq!(stage.waiting("metrics").await, Some(13));
    limit(100).await;
    stage.exactly("metrics", 0..20).await;
    stage.settled("metrics").await;
    assert_eq!(stage.dead_letters("metrics").await, 5);
    stage.says("metrics", "Progressing", true, "AsDesired").await;
    eventually("nothing is wrong", SOON, || async { wrong(&stage).await == (Vec::new(), Vec::new()) }).await;
}

/// Seconds of the outage: longer than a lease, or `SLUICE_OUTAGE_SECONDS`.
fn outage() -> Duration {
    Duration::from_secs(std::env::var("SLUICE_OUTAGE_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(32))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_longer_than_the_leases_costs_no_redelivery_no_memory_and_no_dead_letter_and_is_over_within_10_s() {
    require!("nats-server", "database");
    const PIPELINES: [&str; 3] = ["metrics", "events", "traces"];
    let (nats, mongo) = tokio::join!(Nats::start(), Mongo::start());
    let proxy = Proxy::start(mongo.port()).await;
    let run = Run { mongo_url: mongo.url_through(&proxy), extra: "limits: {memory: 32MiB}".into(), ..Run::new(&nats, &mongo) };
    let sluice = run.start().await;
    let stage = Stage { nats, mongo, sluice };
    for id in PIPELINES {
        let config = format!("{}input: {{nats_jetstream: {{ack_wait: 24s, max_ack_pending: 20000}}}}\n", plain(id));
        stage.publish(id, &config).await;
        stage.send(&format!("alpha.{id}"), 0..100).await;
        stage.exactly(id, 0..100).await;
    }
    proxy.cut();
    let begun = Instant::now();
    for id in PIPELINES {
        stage.send_with(&format!("alpha.{id}"), 100..5_000, |n| doc! {"n": n, "text": "x".repeat(2_000)}).await;
        stage.says(id, "Progressing", false, "DatabaseUnavailable").await;
    }
    let (mut least, mut most) = (u64::MAX, 0);
    while begun.elapsed() < outage() {
        // What is fetched before the first failure is fetched by now.
        if begun.elapsed() > outage() / 3 {
            let now = memory(stage.sluice.pid());
            (least, most) = (least.min(now), most.max(now));
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    for id in PIPELINES {
        assert_eq!(stage.mongo.count(id).await, 100, "it was away");
    }
    proxy.resume();
    let back = Instant::now();
    for id in PIPELINES {
        let written = || async { stage.mongo.count(id).await > 100 };
        eventually("writing goes on", LONG, written).await;
    }
    let resumed = back.elapsed();
    for id in PIPELINES {
        stage.exactly(id, 0..5_000).await;
        stage.settled(id).await;
        assert_eq!(stage.dead_letters(id).await, 0);
        // Each delivery has a number of its own: as many as there are messages.
        let stream = stage.nats.jetstream().await.get_stream(format!("alpha_{id}")).await.unwrap();
        let consumer = stream.consumer_info("default").await.unwrap();
        assert_eq!(consumer.delivered.consumer_sequence, 5_000, "{id}: redelivered");
    }
    eprintln!("resumed after {resumed:?}, memory between {least} and {most} KiB in an outage of {:?}", outage());
    assert!(resumed < Duration::from_secs(10), "writing went on after {resumed:?}");
    assert!(most < least + (16 << 10), "memory grew from {least} to {most} KiB");
}
