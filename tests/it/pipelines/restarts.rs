//! Processes that end and begin again under a load, one after the other.

use super::*;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_of_two_processes_redelivers_nothing() {
    require!("nats-server", "database");
    let mut stage = Stage::set().await;
    let mut other = Run::new(&stage.nats, &stage.mongo).start().await;
    stage.publish_plain("metrics").await;
    let jetstream = stage.nats.jetstream().await;
    let (sent, over) = (Arc::new(AtomicI64::new(0)), CancellationToken::new());
    let load = tokio::spawn({
        let (jetstream, sent, over) = (jetstream.clone(), sent.clone(), over.clone());
        async move {
            while !over.is_cancelled() {
                let next = sent.load(Ordering::Relaxed);
                send_all(&jetstream, "alpha.metrics", next..next + 50, |n| doc! {"n": n}, &sent).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    });
    for _ in 0..3 {
        for sluice in [&mut stage.sluice, &mut other] {
            let status = sluice.sigterm().await;
            assert_eq!(status.code(), Some(0), "{}", sluice.log());
            sluice.respawn();
            sluice.wait_ready().await;
        }
    }
    over.cancel();
    load.await.unwrap();
    let all = sent.load(Ordering::Relaxed);
    stage.exactly("metrics", 0..all).await;
    stage.settled("metrics").await;
    let stream = jetstream.get_stream("alpha_metrics").await.unwrap();
    let durable: jetstream::consumer::PullConsumer = stream.get_consumer("default").await.unwrap();
    let delivered = durable.cached_info().delivered.consumer_sequence;
    assert_eq!(delivered, u64::try_from(all).unwrap(), "deliveries and messages");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ran_before_goes_on_after_a_restart_where_the_newer_version_cannot_run() {
    require!("nats-server", "database");
    let mut stage = Stage::set().await;
    stage.publish_plain("metrics").await;
    stage.send("alpha.metrics", 0..100).await;
    stage.exactly("metrics", 0..100).await;
    let good = stage.status("metrics").await["observed"]["version"].clone();
    let bad = stage.config_file("bad", "schema: 1\noutput:\n  mongodb: {collection: metrics, time_series: {time_field: at}}\n");
    stage.sluice.cli_ok(&["publish", "metrics", "-f", &bad]).await;
    stage.says("metrics", "Ready", false, "CollectionKindDiffers").await;
    stage.sluice.sigterm().await;
    stage.sluice.respawn();
    eventually("http listens", SOON, || async { stage.sluice.http_url().is_some() }).await;
    stage.says("metrics", "Ready", false, "CollectionKindDiffers").await;
    stage.send("alpha.metrics", 100..300).await;
    stage.exactly("metrics", 0..300).await;
    eventually("the status says what runs", SOON, || async { stage.status("metrics").await["observed"]["version"] == good }).await;
    stage.sluice.cli_ok(&["rollback", "metrics", "--wait"]).await;
    stage.send("alpha.metrics", 300..400).await;
    stage.exactly("metrics", 0..400).await;
    eventually("one execution is left", SOON, || async { stage.running().await == 1 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_that_is_gone_stops_nothing_that_runs_and_after_a_restart_everything_waits_for_it() {
    require!("nats-server", "database");
    let mut stage = Stage::set().await;
    stage.publish_plain("metrics").await;
    stage.send("alpha.metrics", 0..100).await;
    stage.exactly("metrics", 0..100).await;
    let version = stage.status("metrics").await["admitted"]["spec"]["version"].as_str().unwrap().to_owned();
    let configs = stage.nats.jetstream().await.get_object_store("alpha-configs").await.unwrap();
    configs.delete(format!("metrics/{version}")).await.unwrap();
    stage.send("alpha.metrics", 100..200).await;
    stage.exactly("metrics", 0..200).await;
    stage.sluice.sigterm().await;
    stage.sluice.respawn();
    eventually("http listens", SOON, || async { stage.sluice.http_url().is_some() }).await;
    stage.says("metrics", "Ready", false, "VersionMissing").await;
    stage.says("metrics", "Progressing", false, "ExecutionFailed").await;
    stage.send("alpha.metrics", 200..300).await;
    assert_eq!(stage.waiting("metrics").await, Some(100), "what comes waits");
    configs.put(format!("metrics/{version}").as_str(), &mut plain("metrics").as_bytes()).await.unwrap();
    stage.exactly("metrics", 0..300).await;
    stage.says("metrics", "Ready", true, "AsDesired").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_the_process_at_once_with_its_own_code_and_nothing_is_lost() {
    require!("nats-server", "database");
    let mut stage = Stage::set().await;
    stage.publish_plain("metrics").await;
    for (round, signal, code) in [(0, "TERM", 143), (1, "INT", 130)] {
        let from = round * 500;
        stage.mongo.sigstop();
        stage.send("alpha.metrics", from..from + 500).await;
        eventually("they are held", SOON, || async {
            let (_, body) = stage.sluice.get("/api/v1/executions").await;
            body.contains("\"buffered\":500")
        })
        .await;
        stage.sluice.signal(signal);
        eventually("it is stopping", SOON, || async { stage.sluice.log().contains("a second signal ends the process at once") }).await;
        assert!(stage.sluice.ended().is_none(), "it waits for the database");
        stage.sluice.signal(signal);
        let signalled = std::time::Instant::now();
        assert_eq!(stage.sluice.wait(SOON).await.code(), Some(code));
        assert!(signalled.elapsed() < Duration::from_secs(5), "{:?}", signalled.elapsed());
        stage.mongo.sigcont();
        stage.sluice.respawn();
        stage.sluice.wait_ready().await;
        stage.exactly("metrics", 0..from + 500).await;
        stage.settled("metrics").await;
    }
}
