//! Requests for a pipeline's state, as the SDK's `Get` sends them.

use super::*;

const PATIENCE: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread")]
async fn states_are_answered_by_who_executes_else_by_the_holder_and_for_unknown_ids_by_nobody() {
    require!("nats-server", "database");
    // Batches that wait for their whole period, so that there is something to see.
    let stage = Stage::set().await;
    let second = Run::new(&stage.nats, &stage.mongo).start().await;
    let producer = Producer::of(&stage, "metrics").await;
    producer.add().await;
    // Put a moment ago and not even reconciled: known all the same.
    assert!(producer.state(Duration::from_secs(15)).await.is_some());
    eventually("both run it", LONG, || async { stage.status("metrics").await["observed"]["executions"] == 2 }).await;
    let first = producer.state(Duration::from_secs(15)).await.unwrap();
    assert!(first["buffer_size"].is_u64(), "{first}");
    let held = |answers: &[Value]| answers.iter().map(|answer| answer["buffer_size"].as_u64().unwrap()).sum::<u64>();
    let mut sent = 0;
    eventually("the answers together say what both hold", LONG, || {
        let (from, producer, stage) = (sent, &producer, &stage);
        sent += 100;
        async move {
            stage.send("alpha.metrics", from..from + 100).await;
            let answers = producer.all_states(PATIENCE).await;
            answers.len() == 2 && held(&answers) >= 100
        }
    })
    .await;
    stage.sluice.cli_ok(&["pause", "metrics", "--wait"]).await;
    let idle = producer.all_states(PATIENCE).await;
    assert_eq!((idle.len(), held(&idle)), (1, 0), "the holder alone: {idle:?}");
    let unknown = Producer::of(&stage, "nobody").await;
    assert_eq!(unknown.all_states(PATIENCE).await, Vec::<Value>::new());
    for hostile in ["", "a.b", "../x", "*", "\u{0}"] {
        assert!(Producer::of(&stage, hostile).await.all_states(Duration::from_millis(200)).await.is_empty(), "{hostile:?}");
    }
    assert_eq!(stage.sluice.get("/health/live").await.0, 200);
    drop(second);
}
