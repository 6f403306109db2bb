//! Producers that start again and again while documents flow, and many controllers on the durable that they make.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn adds_in_the_middle_of_60_000_documents_lose_and_double_nothing() {
    require!("nats-server", "database");
    let stage = stage().await;
    let config = "schema: 1\ninput: {nats_jetstream: {ack_wait: 120s, max_ack_pending: 6000}}\noutput:\n  mongodb:\n    \
                  collection: metrics\n    batching: {count: 1000, period: 1s, linger: 20ms}\n";
    stage.publish("metrics", config).await;
    let version = stage.status("metrics").await["observed"]["version"].clone();
    let producer = Producer::of(&stage, "metrics").await.into("elsewhere");
    let load = stage.send("alpha.metrics", 0..60_000);
    let adds = async {
        for _ in 0..10 {
            producer.add().await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::join!(load, adds);
    stage.exactly("metrics", 0..60_000).await;
    stage.settled("metrics").await;
    let status = stage.status("metrics").await;
    assert_eq!(status["observed"]["version"], version, "what runs is still ours: {status:#}");
    assert_eq!((stage.mongo.count("elsewhere").await, stage.dead_letters("metrics").await), (0, 0));
    // The server's defaults are in force again, are known, and are said to differ from what the config asks for.
    stage.says("metrics", "Advisory", true, "ConsumerDiffers").await;
    eventually("the live limits are read again", LONG, || async {
        let limits = stage.status("metrics").await["observed"]["limits"].clone();
        limits["ack_wait_ms"] == 30_000 && limits["max_ack_pending"] == 1_000
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn four_controllers_on_the_durable_of_1_000_that_the_sdk_makes_do_not_stall() {
    require!("nats-server", "database");
    let stage = stage().await;
    let mut others = Vec::new();
    for _ in 0..3 {
        others.push(quick(&stage.nats, &stage.mongo).start().await);
    }
    let producer = Producer::of(&stage, "metrics").await;
    producer.add().await;
    eventually("all four run it", LONG, || async { stage.status("metrics").await["observed"]["executions"] == 4 }).await;
    // At the 200 documents a second of batches that never fill this would take five minutes.
    stage.send("alpha.metrics", 0..60_000).await;
    stage.exactly("metrics", 0..60_000).await;
    stage.settled("metrics").await;
    stage.says("metrics", "Advisory", true, "BatchLimited").await;
    let limits = stage.status("metrics").await["observed"]["limits"].clone();
    assert_eq!((&limits["max_ack_pending"], &limits["batch_count"]), (&1_000.into(), &83.into()), "{limits}");
    drop(others);
}
