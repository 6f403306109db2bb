//! The engine's own restarts where it does not keep containers alive meanwhile: what ran runs again by itself, what was stopped
//! stays so, and what is published while no engine answers is said to wait for it.

use super::pipelines::Stage;
use crate::pipelines::has;
use crate::scene::LONG;
use crate::support::{Docker, eventually};
use serde_json::Value;
use std::sync::atomic::AtomicI64;

#[tokio::test(flavor = "multi_thread")]
async fn containers_come_back_with_an_engine_that_ended_them_and_no_document_is_lost_or_doubled() {
    require!("docker", "nats-server", "database");
    if Docker::shared().await.host().is_none() {
        // Only where the tests may start engines at all.
        return;
    }
    let mut stage = Stage::set(Docker::own(&[]).await).await;
    stage.publish(1000).await;
    let done = AtomicI64::new(0);
    stage.send(0..500, &done).await;
    stage.exactly(500).await;
    let first = stage.containers(false).await;

    // Nobody else is there to start it again.
    assert!(stage.controllers[0].sigterm().await.success());
    stage.docker.stop().await;
    stage.send(500..1_000, &done).await;
    stage.docker.restart().await;
    stage.exactly(1_000).await;
    assert_eq!(stage.containers(false).await, first, "the engine starts it by itself");
    stage.controllers[0].respawn();
    stage.controllers[0].wait_ready().await;
    stage.says("Ready", true, "AsDesired").await;

    // Killed in the middle of a load, and with a pipeline that it has never heard of.
    let other = async || stage.status_of("other").await;
    let deaths = async {
        stage.docker.kill9();
        stage.publish_with("other", "schema: 1\noutput:\n  mongodb: {collection: other}\n", &[]).await;
        eventually("what is published is said to wait for the engine", LONG, || async {
            let status = other().await;
            let since = |condition: &Value| condition["message"].as_str().is_some_and(|message| message.contains("has not answered since"));
            has(&status, "Ready", false, "EngineUnavailable") && status["conditions"].as_array().unwrap().iter().any(since)
        })
        .await;
        stage.docker.restart().await;
    };
    tokio::join!(stage.send(1_000..6_000, &done), deaths);
    stage.exactly(6_000).await;
    stage.says_of("other", "Ready", true, "AsDesired").await;
    stage.says("Ready", true, "AsDesired").await;
    stage.sluice().cli_ok(&["draft", "other", "--wait=9m"]).await;
    eventually("only the first is there", LONG, || async { stage.containers(true).await == first }).await;

    // What was stopped is left alone by the engine.
    stage.sluice().cli_ok(&["pause", "metrics", "--wait=9m"]).await;
    eventually("it is stopped", LONG, || async { stage.containers(false).await.is_empty() }).await;
    stage.docker.stop().await;
    stage.docker.restart().await;
    assert!(stage.containers(false).await.is_empty() && stage.containers(true).await == first);
    stage.send(6_000..6_500, &done).await;
    stage.sluice().cli_ok(&["publish", "metrics", "--wait=9m"]).await;
    stage.exactly(6_500).await;
    assert_eq!(stage.containers(true).await, first);
}
