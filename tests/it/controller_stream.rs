//! What the controller says of streams and durables that others made, and how it ends where a part of it has died.

use crate::controller_support::{CONFIG, Rig, SOON, id};
use crate::support::{Nats, random_name};
use async_nats::jetstream::{consumer::pull, stream};
use sluice::executor::fake::Fake;
use sluice::pipeline::entry::{Edit, EntryStatus};
use sluice::pipeline::id::VersionName;
use sluice::pipeline::status::{Phase, PipelineStatus, Reason};
use std::{sync::Arc, time::Duration};

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_and_a_durable_of_others_that_differ_from_the_config_are_reported_and_left_as_they_are() {
    require!("nats-server");
    let nats = Nats::start().await;
    let mut rig = Rig::start(&nats).await;
    let (id, version) = (id("metrics"), VersionName::parse("1").unwrap());
    let name = rig.store.names.stream(&id);
    let theirs = stream::Config {
        name: name.clone(),
        subjects: vec![rig.store.names.subject(&id)],
        retention: stream::RetentionPolicy::WorkQueue,
        ..Default::default()
    };
    let stream = nats.jetstream().await.create_stream(theirs).await.unwrap();
    let durable = pull::Config { durable_name: Some("default".into()), max_ack_pending: 1000, ..Default::default() };
    stream.create_consumer(durable).await.unwrap();
    let input = "input:\n  nats_jetstream: {ack_wait: 60s, max_ack_pending: 5000, subjects: [extra.subject]}\n";
    let config = CONFIG.replace("COLLECTION", "metrics").replace("output:", &format!("{input}output:"));
    let digest = rig.store.configs.put(&id, &version, config.into()).await.unwrap();
    rig.edit(&id, Edit { status: Some(EntryStatus::Published), version: Some((version, digest)), ..Edit::default() }).await;
    let says = |status: &PipelineStatus, reason: Reason, part: &str| {
        status.conditions.iter().any(|condition| condition.reason == reason && condition.message.contains(part))
    };
    rig.status_is("every difference is named", &id, |status| {
        says(status, Reason::ConsumerDiffers, "ack_wait is 30s, the config says 1m")
            && says(status, Reason::ConsumerDiffers, "max_ack_pending is 1000, the config says 5000")
            && says(status, Reason::StreamDiffers, "does not listen on extra.subject")
            && status.admitted.phase == Phase::Run
    })
    .await;
    let live = rig.store.streams.observe(&id, &name, "default").await.unwrap().unwrap();
    let consumer = live.consumer.unwrap();
    assert_eq!((consumer.ack_wait, consumer.max_ack_pending, live.subjects.len()), (Duration::from_secs(30), 1000, 1));
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_of_which_a_vital_part_has_died_ends_with_an_error_and_stops_what_runs() {
    require!("nats-server");
    let nats = Nats::start().await;
    let fake = Arc::new(Fake::default());
    let rig = Rig::start_in(&nats, &random_name("ns"), fake.clone()).await;
    let id = id("metrics");
    rig.publish(&id, "1", "metrics").await;
    rig.called("ensure metrics 1").await;
    // The channel of its events is closed: whoever listens to it cannot go on.
    fake.close_events();
    let ended = tokio::time::timeout(SOON, rig.ended()).await.expect("it ends by itself");
    let died = ended.expect_err("it says why");
    assert!(died.to_string().contains("the executor's listener"), "{died}");
}
