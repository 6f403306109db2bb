//! Processes that are killed in the middle of a load: nothing is lost, nothing is there twice.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn sluice_killed_ten_times_during_60_000_documents_stores_exactly_60_000() {
    require!("nats-server", "database");
    let mut stage = Stage::set().await;
    // A short ack_wait, or each kill would cost half a minute of waiting for redelivery.
    let config = format!("{}input: {{nats_jetstream: {{ack_wait: 24s, max_ack_pending: 20000}}}}\n", plain("metrics"));
    stage.publish("metrics", &config).await;
    let (begin, end) = (0, 60_000);
    let mut sent = begin;
    for kill in 0..10 {
        let until = sent + (end - begin) / 10;
        stage.send("alpha.metrics", sent..until).await;
        sent = until;
        // At another moment of the work each time.
        tokio::time::sleep(Duration::from_millis(20 * kill)).await;
        stage.sluice.kill9();
        stage.sluice.respawn();
    }
    stage.exactly("metrics", begin..end).await;
    stage.settled("metrics").await;
    assert_each_once(&stage.mongo, "metrics", begin..end).await;
    assert_eq!(stage.dead_letters("metrics").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_killed_in_the_middle_of_a_load_loses_and_doubles_nothing() {
    require!("nats-server", "database");
    // A server that syncs each publish before it acknowledges: what it loses otherwise is its own promise broken.
    let nats = Nats::start_with("jetstream { sync_interval: always }").await;
    let mut stage = Stage::of(nats, Mongo::start().await).await;
    stage.publish_plain("metrics").await;
    stage.send("alpha.metrics", 0..5_000).await;
    stage.nats.kill9();
    tokio::time::sleep(Duration::from_millis(500)).await;
    stage.nats.restart().await;
    stage.send("alpha.metrics", 5_000..8_000).await;
    stage.exactly("metrics", 0..8_000).await;
    stage.settled("metrics").await;
    assert_each_once(&stage.mongo, "metrics", 0..8_000).await;
    eventually("it is ready again", SOON, || async { stage.sluice.get("/health/ready").await.0 == 200 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_killed_in_the_middle_of_a_load_loses_and_doubles_nothing() {
    require!("nats-server", "database");
    let mut stage = Stage::set_durable().await;
    stage.publish_plain("metrics").await;
    stage.send("alpha.metrics", 0..5_000).await;
    stage.mongo.kill9();
    stage.send("alpha.metrics", 5_000..10_000).await;
    stage.says("metrics", "Progressing", false, "DatabaseUnavailable").await;
    stage.mongo.restart().await;
    let back = std::time::Instant::now();
    stage.exactly("metrics", 0..10_000).await;
    assert!(back.elapsed() < Duration::from_secs(25), "writing went on after {:?}", back.elapsed());
    stage.settled("metrics").await;
    assert_each_once(&stage.mongo, "metrics", 0..10_000).await;
    assert_eq!(stage.dead_letters("metrics").await, 0);
    stage.says("metrics", "Progressing", true, "AsDesired").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_durable_deleted_under_a_load_is_made_again_and_nothing_is_lost() {
    require!("nats-server", "database");
    let stage = Stage::set().await;
    stage.publish_plain("metrics").await;
    let load = stage.send("alpha.metrics", 0..20_000);
    let jetstream = stage.nats.jetstream().await;
    let deletion = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        jetstream.get_stream("alpha_metrics").await.unwrap().delete_consumer("default").await.unwrap();
    };
    tokio::join!(load, deletion);
    stage.exactly("metrics", 0..20_000).await;
    stage.settled("metrics").await;
    assert_each_once(&stage.mongo, "metrics", 0..20_000).await;
}
