//! What stands still without a word: found within a minute, said, and red for its own pipeline alone.

use super::*;
use crate::collector_support::{STREAM, World};
use async_nats::jetstream::consumer::pull;
use futures_util::StreamExt;
use sluice::pipeline::status::Reason;

/// Found within a minute, whatever the machine is busy with.
const MINUTE: Duration = Duration::from_secs(59);

#[tokio::test(flavor = "multi_thread")]
async fn a_durable_paused_behind_its_back_is_found_within_a_minute_and_health_turns_red_for_exactly_its_pipeline() {
    require!("nats-server", "database");
    let stage = Stage::set().await;
    for id in ["stuck", "healthy"] {
        stage.publish_plain(id).await;
        stage.send(&format!("alpha.{id}"), 0..10).await;
        stage.exactly(id, 0..10).await;
    }
    let client = stage.nats.client().await;
    let pause = async |until: &str| {
        let body = format!(r#"{{"pause_until":"{until}"}}"#);
        client.request("$JS.API.CONSUMER.PAUSE.alpha_stuck.default", body.into()).await.unwrap();
    };
    pause("2099-01-01T00:00:00Z").await;
    let begun = std::time::Instant::now();
    for id in ["stuck", "healthy"] {
        stage.send(&format!("alpha.{id}"), 10..20).await;
    }
    stage.exactly("healthy", 0..20).await;
    let found = || async { has(&stage.status("stuck").await, "Progressing", false, "ConsumerStuck") };
    within("it is found", MINUTE, found).await;
    println!("found after {:?}", begun.elapsed());
    eventually("health is red for it", SOON, || async { wrong(&stage).await == (vec!["stuck".to_owned()], Vec::new()) }).await;
    let told = stage.sluice.cli_ok(&["status", "stuck"]).await;
    assert!(told.contains("the durable is paused, and 10 messages wait"), "{told}");
    pause("2020-01-01T00:00:00Z").await;
    stage.exactly("stuck", 0..20).await;
    stage.says("stuck", "Progressing", true, "AsDesired").await;
    eventually("nothing is wrong", SOON, || async { wrong(&stage).await == (Vec::new(), Vec::new()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_a_max_deliver_has_hidden_are_found_and_said() {
    require!("nats-server", "database");
    let world = World::start(1_000).await;
    let stream = world.jetstream.get_stream(STREAM).await.unwrap();
    let durable = pull::Config {
        durable_name: Some("default".into()),
        max_deliver: 1,
        ack_wait: Duration::from_secs(1),
        max_ack_pending: 1_000,
        ..Default::default()
    };
    stream.update_consumer(durable).await.unwrap();
    world.publish([doc! {"n": 1_i64}, doc! {"n": 2_i64}]).await;
    // Delivered to somebody who is never heard of again.
    let consumer = stream.get_consumer::<pull::Config>("default").await.unwrap();
    let mut taken = consumer.fetch().max_messages(2).messages().await.unwrap();
    while taken.next().await.is_some() {}
    let forgotten = || async { stream.consumer_info("default").await.unwrap().num_ack_pending == 0 };
    eventually("their leases end", SOON, forgotten).await;
    let running = world.run(world.output(), true).await;
    let said = || async {
        let troubles = running.state.troubles();
        troubles.iter().any(|trouble| trouble.reason == Reason::ConsumerStuck && trouble.message.contains("max_deliver"))
    };
    within("it is said", MINUTE, said).await;
    // The cure that the reason names.
    stream.delete_consumer("default").await.unwrap();
    let durable = pull::Config { durable_name: Some("default".into()), max_ack_pending: 1_000, ..Default::default() };
    stream.create_consumer(durable).await.unwrap();
    world.drained(SOON).await;
    assert_eq!(world.counted().await, (2, 2));
    eventually("nothing is wrong", SOON, || async { running.state.troubles().is_empty() }).await;
    running.stop().await;
}
