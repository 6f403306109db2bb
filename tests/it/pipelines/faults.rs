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

/// Waits until so many publishes were acknowledged.
async fn acknowledged_are(done: &AtomicI64, wanted: i64) {
    eventually("the load goes on", LONG, || async { done.load(Ordering::Relaxed) >= wanted }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_killed_three_times_in_the_middle_of_a_load_loses_and_doubles_nothing() {
    require!("nats-server", "database");
    // A server that syncs each publish before it acknowledges: what it loses otherwise is its own promise broken.
    let nats = Nats::start_synced().await;
    let mut stage = Stage::of(nats, Mongo::start().await).await;
    stage.publish_plain("metrics").await;
    let (jetstream, done) = (stage.nats.jetstream().await, AtomicI64::new(0));
    let load = send_all(&jetstream, "alpha.metrics", 0..12_000, |n| doc! {"n": n}, &done);
    let kills = async {
        for kill in 1..=3 {
            acknowledged_are(&done, kill * 3_000).await;
            assert!(stage.mongo.count("metrics").await > 0, "documents flow");
            stage.nats.kill9();
            tokio::time::sleep(Duration::from_millis(200)).await;
            stage.nats.restart().await;
        }
        assert!(done.load(Ordering::Relaxed) < 12_000, "the load ended before the last kill");
    };
    tokio::join!(load, kills);
    stage.exactly("metrics", 0..12_000).await;
    stage.settled("metrics").await;
    assert_each_once(&stage.mongo, "metrics", 0..12_000).await;
    eventually("it is ready again", SOON, || async { stage.sluice.get("/health/pipelines").await.0 == 200 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_killed_three_times_in_the_middle_of_a_load_loses_and_doubles_nothing() {
    require!("nats-server", "database");
    let mut stage = Stage::set_durable().await;
    stage.publish_plain("metrics").await;
    let (jetstream, done) = (stage.nats.jetstream().await, AtomicI64::new(0));
    let until = AtomicI64::new(0);
    // Never far ahead of the kills: each of them meets batches under way and messages that still come.
    let load = async {
        for part in 0..20 {
            eventually("the next part may go", LONG, || async { until.load(Ordering::Relaxed) >= part }).await;
            send_all(&jetstream, "alpha.metrics", part * 1_000..(part + 1) * 1_000, |n| doc! {"n": n}, &done).await;
        }
    };
    let kills = async {
        for kill in 1..=3 {
            until.store(kill * 5, Ordering::Relaxed);
            acknowledged_are(&done, (kill * 5 - 1) * 1_000).await;
            assert!(stage.mongo.count("metrics").await > 0, "documents flow");
            stage.mongo.kill9();
            until.store(kill * 5 + 2, Ordering::Relaxed);
            if kill == 3 {
                stage.says("metrics", "Progressing", false, "DatabaseUnavailable").await;
            }
            stage.mongo.restart().await;
        }
        until.store(20, Ordering::Relaxed);
    };
    tokio::join!(load, kills);
    let back = std::time::Instant::now();
    stage.exactly("metrics", 0..20_000).await;
    assert!(back.elapsed() < Duration::from_secs(25), "writing went on after {:?}", back.elapsed());
    stage.settled("metrics").await;
    assert_each_once(&stage.mongo, "metrics", 0..20_000).await;
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
