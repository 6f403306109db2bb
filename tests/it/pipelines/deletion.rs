//! Deleting an entry: nothing that was acknowledged to a producer is destroyed, whatever happens meanwhile.

use super::*;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

/// Publishes numbers from `next` on until told to stop or until the subject is gone; returns how many were acknowledged,
/// which are the first ones.
async fn racing(jetstream: &jetstream::Context, subject: &str, next: &AtomicI64, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let n = next.load(Ordering::Relaxed);
        let payload = doc! {"n": n}.to_vec().unwrap();
        let acknowledged = match jetstream.publish(subject.to_owned(), payload.into()).await {
            Ok(ack) => ack.await.is_ok(),
            Err(_) => false,
        };
        if acknowledged {
            next.store(n + 1, Ordering::Relaxed);
        } else {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_deleted_with_200_000_waiting_loses_none_and_a_racing_producer_is_told() {
    require!("nats-server", "database");
    let stage = Stage::set().await;
    stage.publish_plain("metrics").await;
    stage.sluice.cli_ok(&["pause", "metrics"]).await;
    stage.phase_is("metrics", "stopped").await;
    stage.send("alpha.metrics", 0..200_000).await;
    stage.sluice.cli_ok(&["publish", "metrics"]).await;
    stage.phase_is("metrics", "run").await;
    let jetstream = stage.nats.jetstream().await;
    let (next, stop) = (AtomicI64::new(200_000), AtomicBool::new(false));
    let deletion = async {
        stage.sluice.cli_ok(&["delete", "metrics", "--yes"]).await;
        eventually("stream and status are gone", LONG, || async {
            stage.waiting("metrics").await.is_none() && stage.status("metrics").await.is_null()
        })
        .await;
        stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(racing(&jetstream, "alpha.metrics", &next, &stop), deletion);
    let acknowledged = next.load(Ordering::Relaxed);
    let found = stage.mongo.count("metrics").await;
    // A publish that was stored but whose acknowledgement the producer did not get may be there too.
    assert!(found >= u64::try_from(acknowledged).unwrap(), "{acknowledged} acknowledged, {found} stored");
    assert_each_once_of(&stage, acknowledged).await;
}

/// As `exactly`, where one more than acknowledged may be there, several times: the producer went on with its number.
async fn assert_each_once_of(stage: &Stage, acknowledged: i64) {
    let documents = stage.mongo.documents("metrics").await;
    let mut seen = vec![0u32; usize::try_from(acknowledged).unwrap()];
    for document in documents {
        let n = usize::try_from(document.get_i64("n").unwrap()).unwrap();
        if let Some(seen) = seen.get_mut(n) {
            *seen += 1;
        }
    }
    let lost = seen.iter().filter(|seen| **seen == 0).count();
    let doubled = seen[..200_000].iter().filter(|seen| **seen > 1).count();
    assert_eq!((lost, doubled), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_put_again_in_the_middle_of_a_drain_cancels_it() {
    require!("nats-server", "database");
    let stage = Stage::set().await;
    stage.publish_plain("metrics").await;
    stage.sluice.cli_ok(&["pause", "metrics"]).await;
    stage.phase_is("metrics", "stopped").await;
    stage.send("alpha.metrics", 0..100_000).await;
    stage.sluice.cli_ok(&["publish", "metrics"]).await;
    stage.phase_is("metrics", "run").await;
    stage.sluice.cli_ok(&["delete", "metrics", "--yes"]).await;
    eventually("the stream is closed", SOON, || async {
        let stream = stage.nats.jetstream().await.get_stream("alpha_metrics").await.unwrap();
        stream.cached_info().config.subjects == ["alpha-closed.metrics"]
    })
    .await;
    stage.publish_plain("metrics").await;
    stage.phase_is("metrics", "run").await;
    stage.send("alpha.metrics", 100_000..101_000).await;
    stage.exactly("metrics", 0..101_000).await;
    stage.settled("metrics").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_killed_in_the_middle_of_a_drain_finishes_it_afterwards() {
    require!("nats-server", "database");
    let mut stage = Stage::set().await;
    stage.publish_plain("metrics").await;
    stage.sluice.cli_ok(&["pause", "metrics"]).await;
    stage.phase_is("metrics", "stopped").await;
    stage.send("alpha.metrics", 0..60_000).await;
    stage.sluice.cli_ok(&["publish", "metrics"]).await;
    stage.phase_is("metrics", "run").await;
    stage.sluice.cli_ok(&["delete", "metrics", "--yes"]).await;
    stage.phase_is("metrics", "drain").await;
    stage.sluice.kill9();
    stage.sluice.respawn();
    eventually("the stream is gone", LONG, || async { stage.waiting("metrics").await.is_none() }).await;
    stage.exactly("metrics", 0..60_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_pipeline_that_is_deleted_keeps_what_waits_and_says_so() {
    require!("nats-server", "database");
    let stage = Stage::set().await;
    stage.publish_plain("metrics").await;
    stage.sluice.cli_ok(&["pause", "metrics"]).await;
    stage.phase_is("metrics", "stopped").await;
    stage.send("alpha.metrics", 0..10).await;
    stage.sluice.cli_ok(&["delete", "metrics", "--yes"]).await;
    stage.says("metrics", "Ready", true, "StreamKept").await;
    stage.says("metrics", "Advisory", true, "StreamKept").await;
    assert_eq!(stage.waiting("metrics").await, Some(10));
    stage.publish_plain("metrics").await;
    stage.exactly("metrics", 0..10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_delete_keep_and_delete_do_as_they_say() {
    require!("nats-server", "database");
    let stage = Stage::set().await;
    for (id, on_delete) in [("kept", "keep"), ("dropped", "delete")] {
        stage.publish(id, &format!("{}on_delete: {on_delete}\n", plain(id))).await;
        stage.sluice.cli_ok(&["pause", id]).await;
        stage.phase_is(id, "stopped").await;
        stage.send(&format!("alpha.{id}"), 0..10).await;
        stage.sluice.cli_ok(&["delete", id, "--yes"]).await;
        eventually("the pipeline is gone", SOON, || async { stage.status(id).await.is_null() }).await;
    }
    assert_eq!(stage.waiting("kept").await, Some(10));
    assert_eq!(stage.waiting("dropped").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn sluice_delete_removes_a_pipeline_whose_bucket_is_gone() {
    require!("nats-server", "database");
    let stage = Stage::set().await;
    stage.publish_plain("metrics").await;
    stage.send("alpha.metrics", 0..100).await;
    stage.nats.jetstream().await.delete_key_value("alpha").await.unwrap();
    // No command of an editor makes a bucket: it says who does, and the marker finds its place once that is there.
    let deleted = || async {
        let output = stage.sluice.cli(&["delete", "metrics", "--yes"]).await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() || said.contains("makes it anew within 30 s"), "{said}");
        output.status.success()
    };
    eventually("the deletion is said", LONG, deleted).await;
    eventually("nothing is left", LONG, || async { stage.status("metrics").await.is_null() && stage.waiting("metrics").await.is_none() })
        .await;
    stage.exactly("metrics", 0..100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_paused_pipeline_under_fire_is_deleted_without_destroying_what_was_acknowledged() {
    require!("nats-server", "database");
    let stage = Stage::set().await;
    let jetstream = stage.nats.jetstream().await;
    for round in 0..3 {
        let id = format!("p{round}");
        stage.publish_plain(&id).await;
        stage.sluice.cli_ok(&["pause", &id]).await;
        stage.phase_is(&id, "stopped").await;
        let (next, stop) = (AtomicI64::new(0), AtomicBool::new(false));
        let subject = format!("alpha.{id}");
        let deletion = async {
            stage.sluice.cli_ok(&["delete", &id, "--yes"]).await;
            tokio::time::sleep(Duration::from_millis(500)).await;
            stop.store(true, Ordering::Relaxed);
        };
        tokio::join!(racing(&jetstream, &subject, &next, &stop), deletion);
        let acknowledged = next.load(Ordering::Relaxed);
        let waiting = stage.waiting(&id).await.unwrap_or(0);
        // An execution that is still on its way out may have taken the first ones.
        let written = stage.mongo.count(&id).await;
        assert!(
            waiting + written >= u64::try_from(acknowledged).unwrap(),
            "{acknowledged} acknowledged, {waiting} kept, {written} written"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_durable_deleted_in_the_middle_of_a_drain_is_made_anew_and_the_drain_ends() {
    require!("nats-server", "database");
    let stage = Stage::set().await;
    stage.publish_plain("metrics").await;
    stage.sluice.cli_ok(&["pause", "metrics"]).await;
    stage.phase_is("metrics", "stopped").await;
    stage.send("alpha.metrics", 0..60_000).await;
    stage.sluice.cli_ok(&["publish", "metrics"]).await;
    stage.phase_is("metrics", "run").await;
    stage.sluice.cli_ok(&["delete", "metrics", "--yes"]).await;
    stage.phase_is("metrics", "drain").await;
    let stream = stage.nats.jetstream().await.get_stream("alpha_metrics").await.unwrap();
    stream.delete_consumer("default").await.unwrap();
    eventually("the stream is gone", LONG, || async { stage.waiting("metrics").await.is_none() }).await;
    stage.exactly("metrics", 0..60_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_destroyed_by_discard_alone_whether_it_drains_or_was_kept() {
    require!("nats-server", "database");
    let stage = Stage::set().await;
    stage.publish_plain("metrics").await;
    stage.sluice.cli_ok(&["pause", "metrics", "--wait=9m"]).await;
    stage.send("alpha.metrics", 0..300).await;
    // Paused, so nothing of it is written: the stream stays, and the status names both ways out.
    let output = stage.sluice.cli(&["delete", "metrics"]).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("300 messages wait") && said.contains("the stream stays"), "{said}");
    stage.says("metrics", "Ready", true, "StreamKept").await;
    let shown = stage.sluice.cli_ok(&["status", "metrics"]).await;
    assert!(shown.contains("sluice restore metrics") && shown.contains("sluice delete metrics --discard"), "{shown}");
    assert_eq!(stage.waiting("metrics").await, Some(300));
    // Taken back, and all of it written after all.
    stage.sluice.cli_ok(&["restore", "metrics"]).await;
    stage.sluice.cli_ok(&["publish", "metrics", "--wait=9m"]).await;
    stage.exactly("metrics", 0..300).await;

    // A drain that cannot end, since the database refuses: the delete destroys nothing, and --discard ends it.
    stage.sluice.cli_ok(&["pause", "metrics", "--wait=9m"]).await;
    stage.send("alpha.metrics", 300..400).await;
    stage.mongo.fail_command(doc! {"mode": "alwaysOn", "data": {"failCommands": ["insert"], "errorCode": 11600}}).await;
    stage.sluice.cli_ok(&["publish", "metrics"]).await;
    stage.phase_is("metrics", "run").await;
    stage.sluice.cli_ok(&["delete", "metrics", "--yes"]).await;
    stage.phase_is("metrics", "drain").await;
    assert_eq!(stage.waiting("metrics").await, Some(100), "nothing is destroyed by a delete");
    let output = stage.sluice.cli(&["delete", "metrics", "--discard", "--wait=9m"]).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("100 messages wait") && said.contains("destroyed"), "{said}");
    assert!(stage.waiting("metrics").await.is_none() && stage.status("metrics").await.is_null());
}
