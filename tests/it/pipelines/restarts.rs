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
    assert_eq!(delivered, u64::try_from(all).unwrap(), "every message was delivered once");
}
