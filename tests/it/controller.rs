//! The controller against a real nats-server, with the scriptable backend in place of executions: what it decides,
//! admits and says, and that it recovers from what fails.

use crate::controller_support::{CONFIG, Rig, SOON, id, invalid};
use crate::support::{Nats, eventually, random_name, within};
use futures_util::future::BoxFuture;
use sluice::executor::{Executor, fake::Script};
use sluice::http::View;
use sluice::pipeline::entry::{Edit, EntryStatus, edited};
use sluice::pipeline::id::VersionName;
use sluice::pipeline::status::{Phase, PipelineStatus, Reason};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_goes_through_its_life_by_edits_of_one_entry() {
    require!("nats-server");
    let nats = Nats::start().await;
    let (mut rig, id) = Rig::running(&nats).await;
    rig.status_is("run is admitted", &id, |status| status.admitted.phase == Phase::Run && status.epoch > 0).await;
    rig.set(&id, EntryStatus::Paused).await;
    rig.called("stop metrics").await;
    rig.set(&id, EntryStatus::Published).await;
    eventually("it is ensured again", SOON, || async { rig.fake.calls().iter().filter(|call| *call == "ensure metrics 1").count() == 2 })
        .await;
    rig.set(&id, EntryStatus::Draft).await;
    rig.called("destroy metrics").await;
    rig.set(&id, EntryStatus::Published).await;
    rig.status_is("run is admitted again", &id, |status| status.admitted.phase == Phase::Run).await;
    rig.remove(&id).await;
    eventually("nothing is left", SOON, || async { rig.store.status.get(&id).await.unwrap().is_none() }).await;
    let stream = rig.store.streams.observe(&id, &rig.store.names.stream(&id), "default").await.unwrap();
    assert!(stream.is_none(), "{stream:?}");
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_run_leaves_what_runs_alone_and_says_why() {
    require!("nats-server");
    let nats = Nats::start().await;
    let (mut rig, id) = Rig::running(&nats).await;
    let runs = |status: &PipelineStatus| {
        status.admitted.phase == Phase::Run && status.admitted.spec.as_ref().is_some_and(|spec| spec.version.as_str() == "1")
    };
    rig.raw(&id, b"not json").await;
    rig.status_is("garbage is reported", &id, |status| invalid(status, Reason::EntryUnreadable) && runs(status)).await;
    rig.raw(&id, br#"{"status":"published","version":"none"}"#).await;
    rig.status_is("a missing version is reported", &id, |status| invalid(status, Reason::VersionMissing) && runs(status)).await;
    let bad = VersionName::parse("bad").unwrap();
    rig.store.configs.put(&id, &bad, "schema: 1\noutputs: {}\n".into()).await.unwrap();
    rig.raw(&id, br#"{"status":"published","version":"bad"}"#).await;
    rig.status_is("an invalid config is reported", &id, |status| invalid(status, Reason::ConfigInvalid) && runs(status)).await;
    rig.raw(&id, br#"{"status":"published","version":"1","digest":"SHA-256=x"}"#).await;
    rig.status_is("another digest is reported", &id, |status| invalid(status, Reason::DigestDiffers) && runs(status)).await;
    rig.raw(&id, br#"{"status":"published","version":"1"}"#).await;
    rig.status_is("it is well again", &id, |status| status.conditions.iter().all(|condition| !invalid(status, condition.reason))).await;
    assert!(!rig.stopped_anything(), "{:?}", rig.fake.calls());
    assert!(rig.controller.status(&id).is_some());
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_backend_is_tried_again_and_drift_is_repaired() {
    require!("nats-server");
    let nats = Nats::start().await;
    let mut rig = Rig::start(&nats).await;
    rig.fake.script([Script::Fail(true), Script::Fail(true), Script::Delay(Duration::from_millis(50))]);
    let id = id("metrics");
    rig.publish(&id, "1", "metrics").await;
    eventually("the third try succeeds", SOON, || async { rig.fake.observe(&id).await.unwrap().is_some() }).await;
    assert_eq!(rig.fake.calls().len(), 3);
    rig.fake.drift(&id, |executions| {
        executions.clear();
    });
    eventually("it is ensured again", SOON, || async { rig.fake.calls().len() >= 4 }).await;
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reconciles_that_never_end_are_found_within_a_minute_keep_nobody_waiting_and_turn_health_red_for_exactly_their_pipelines() {
    require!("nats-server");
    let nats = Nats::start().await;
    let mut rig = Rig::start(&nats).await;
    // As many as can be under way at a time: nothing else is reconciled while they have the workers.
    let hung: Vec<_> = (0..16).map(|n| id(&format!("hung{n}"))).collect();
    rig.fake.script(hung.iter().map(|_| Script::Delay(Duration::from_secs(9_000))));
    for id in &hung {
        rig.publish(id, "1", "hung").await;
    }
    let calls = || rig.fake.calls().iter().filter(|call| call.starts_with("ensure hung")).count();
    eventually("they hang", SOON, || async { calls() == hung.len() }).await;
    let begun = std::time::Instant::now();
    let red = || {
        let checks = rig.controller.pipelines().checks;
        let mut red: Vec<_> = checks.into_iter().filter(|check| check.name == "reconcile").filter_map(|check| check.pipeline).collect();
        red.sort();
        red
    };
    assert_eq!(red(), []);
    let healthy = id("healthy");
    rig.publish(&healthy, "1", "healthy").await;
    let mut wanted = hung.clone();
    wanted.sort();
    within("they are found", Duration::from_secs(58), || async { red() == wanted }).await;
    eventually("others go on", SOON, || async { rig.fake.observe(&healthy).await.unwrap().is_some() }).await;
    println!("found after {:?}", begun.elapsed());
    assert!(rig.controller.health().ready && !rig.controller.pipelines().ready && !red().contains(&healthy));
    // Nor do they keep it from ending.
    tokio::time::timeout(SOON, rig.end()).await.expect("it ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_comes_back_empty_stops_and_deletes_nothing() {
    require!("nats-server");
    let nats = Nats::start().await;
    let (mut rig, id) = Rig::running(&nats).await;
    let jetstream = nats.jetstream().await;
    jetstream.delete_key_value(rig.store.names.entries()).await.unwrap();
    rig.store.prepare().await.unwrap();
    rig.status_is("the missing entry is reported", &id, |status| {
        invalid(status, Reason::EntryMissing) && status.admitted.phase == Phase::Run
    })
    .await;
    assert!(!rig.controller.pipelines().ready, "{:?}", rig.controller.pipelines());
    assert!(!rig.stopped_anything(), "{:?}", rig.fake.calls());
    // Any client's marker in the new bucket says nothing of what was published in the old one.
    rig.store.entries.delete(&id, &Default::default(), 0).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!rig.stopped_anything(), "{:?}", rig.fake.calls());
    // The marker of `sluice delete` names the bucket that it means.
    let marker = rig.store.entries.get(&id).await.unwrap().unwrap().revision;
    let meant = rig.store.status.get(&id).await.unwrap().unwrap().status.kept.bucket_created.unwrap();
    rig.store.entries.delete(&id, &sluice::store::Deletion { confirms: Some(meant), discards: false }, marker).await.unwrap();
    eventually("nothing is left", SOON, || async { rig.store.status.get(&id).await.unwrap().is_none() }).await;
    assert!(rig.fake.calls().contains(&"destroy metrics".to_owned()));
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_entry_in_the_middle_of_a_drain_opens_the_stream_and_what_ran_goes_on() {
    require!("nats-server");
    let nats = Nats::start().await;
    let (mut rig, id) = Rig::running(&nats).await;
    let jetstream = nats.jetstream().await;
    jetstream.publish(rig.store.names.subject(&id), "x".into()).await.unwrap().await.unwrap();
    rig.remove(&id).await;
    let subjects = async || {
        let stream = rig.store.streams.observe(&id, &rig.store.names.stream(&id), "default").await.unwrap();
        stream.unwrap().subjects
    };
    eventually("the stream is closed", SOON, || async { subjects().await == [rig.store.names.closed(&id)] }).await;
    rig.raw(&id, b"garbage").await;
    eventually("the stream is open", SOON, || async { subjects().await == [rig.store.names.subject(&id)] }).await;
    rig.status_is("it runs again", &id, |status| status.admitted.phase == Phase::Run && invalid(status, Reason::EntryUnreadable)).await;
    jetstream.publish(rig.store.names.subject(&id), "y".into()).await.unwrap().await.unwrap();
    assert!(!rig.stopped_anything(), "{:?}", rig.fake.calls());
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_that_was_lost_or_damaged_stops_nothing_and_comes_back() {
    require!("nats-server");
    let nats = Nats::start().await;
    let namespace = random_name("ns");
    let mut rig = Rig::start_in(&nats, &namespace, Arc::default()).await;
    let (lost, damaged) = (id("lost"), id("damaged"));
    for id in [&lost, &damaged] {
        rig.publish(id, "1", "metrics").await;
        rig.called(&format!("ensure {id} 1")).await;
        rig.raw(id, b"garbage").await;
        rig.status_is("garbage is reported", id, |status| invalid(status, Reason::EntryUnreadable)).await;
    }
    rig.end().await;
    let jetstream = nats.jetstream().await;
    let statuses = jetstream.get_key_value(rig.store.names.status()).await.unwrap();
    statuses.purge("lost").await.unwrap();
    statuses.put("damaged", "{".into()).await.unwrap();
    let mut rig = Rig::start_in(&nats, &namespace, rig.fake.clone()).await;
    eventually("it decides", SOON, || async { rig.controller.health().holder == Some(true) }).await;
    for id in [&lost, &damaged] {
        eventually("the status says what is wrong again", SOON, || async {
            matches!(rig.store.status.get(id).await, Ok(Some(record)) if invalid(&record.status, Reason::EntryUnreadable))
        })
        .await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!rig.fake.calls().contains(&format!("destroy {id}")), "{:?}", rig.fake.calls());
        rig.raw(id, br#"{"status":"published","version":"1"}"#).await;
        eventually("the status is back", SOON, || async {
            matches!(rig.store.status.get(id).await, Ok(Some(record)) if record.status.admitted.phase == Phase::Run)
        })
        .await;
    }
    assert!(!rig.stopped_anything(), "{:?}", rig.fake.calls());
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_bucket_that_was_made_anew_does_not_stop_the_holder_for_ever() {
    require!("nats-server");
    let nats = Nats::start().await;
    let namespace = random_name("ns");
    for _ in 0..2 {
        let mut earlier = Rig::start_in(&nats, &namespace, Arc::default()).await;
        eventually("it holds the lease", SOON, || async { earlier.controller.health().holder == Some(true) }).await;
        earlier.end().await;
    }
    let mut rig = Rig::start_in(&nats, &namespace, Arc::default()).await;
    let id = id("metrics");
    rig.publish(&id, "1", "metrics").await;
    rig.status_is("run is admitted", &id, |status| status.admitted.phase == Phase::Run).await;
    let before = rig.store.status.get(&id).await.unwrap().unwrap().status.epoch;
    nats.jetstream().await.delete_key_value(rig.store.names.lease()).await.unwrap();
    rig.store.prepare().await.unwrap();
    eventually("the lease is taken in the new bucket", Duration::from_secs(20), || async {
        rig.store.lease.current().await.unwrap().is_some_and(|holder| holder.epoch < before)
    })
    .await;
    rig.set(&id, EntryStatus::Paused).await;
    rig.called("stop metrics").await;
    rig.status_is("epochs go on", &id, |status| status.admitted.phase == Phase::Stopped && status.epoch > before).await;
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_overwritten_in_place_rolls_and_is_spoken_of_until_the_entry_is_put_again() {
    require!("nats-server");
    let nats = Nats::start().await;
    let mut rig = Rig::start(&nats).await;
    let (id, version) = (id("metrics"), VersionName::parse("1").unwrap());
    rig.publish(&id, "1", "metrics").await;
    rig.raw(&id, br#"{"status":"published","version":"1"}"#).await;
    rig.called("ensure metrics 1").await;
    let overwritten = |status: &PipelineStatus| status.conditions.iter().any(|condition| condition.reason == Reason::ConfigOverwritten);
    let changed = format!("{}on_delete: keep\n", CONFIG.replace("COLLECTION", "metrics"))
        .replace("schema: 1\n", "schema: 1\ninput:\n  nats_jetstream: {ack_wait: 60s, subjects: [extra.subject]}\n");
    let theirs = nats.jetstream().await.get_object_store(rig.store.names.configs()).await.unwrap();
    theirs.put(format!("{id}/{version}").as_str(), &mut changed.as_bytes()).await.unwrap();
    rig.status_is("it is said", &id, overwritten).await;
    rig.status_is("the new content runs, and it is still said", &id, |status| {
        overwritten(status) && status.kept.on_delete == sluice::pipeline::config::OnDelete::Keep
    })
    .await;
    rig.status_is("the stream that lacks a subject is reported", &id, |status| {
        status.conditions.iter().any(|condition| condition.reason == Reason::StreamDiffers)
    })
    .await;
    eventually("the durable of ours follows the config", SOON, || async {
        let stream = rig.store.streams.observe(&id, &rig.store.names.stream(&id), "default").await.unwrap();
        stream.unwrap().consumer.unwrap().ack_wait == Duration::from_secs(60)
    })
    .await;
    rig.raw(&id, br#"{"status":"published","version":"1","name":"x"}"#).await;
    rig.status_is("it is over", &id, |status| !overwritten(status) && status.desired.name.is_some()).await;
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_controller_stands_by_and_takes_over_when_the_first_stops() {
    require!("nats-server");
    let nats = Nats::start().await;
    let namespace = random_name("ns");
    let mut first = Rig::start_in(&nats, &namespace, Arc::default()).await;
    eventually("the first holds the lease", SOON, || async { first.controller.health().holder == Some(true) }).await;
    let mut second = Rig::start_in(&nats, &namespace, Arc::default()).await;
    let id = id("metrics");
    first.publish(&id, "1", "metrics").await;
    second.called("ensure metrics 1").await;
    assert_eq!(second.controller.health().holder, Some(false));
    let before = first.store.status.get(&id).await.unwrap().unwrap().status.epoch;
    first.end().await;
    let begun = std::time::Instant::now();
    eventually("the second holds the lease", SOON, || async { second.controller.health().holder == Some(true) }).await;
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    second.set(&id, EntryStatus::Paused).await;
    second.called("stop metrics").await;
    second.status_is("a newer epoch wrote", &id, |status| status.epoch > before).await;
    second.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_failed_the_controller_has_converged_30_s_after_it_healed() {
    require!("nats-server");
    tokio::join!(
        converges_on_a_backend_that_failed_for_long(),
        converges_on_a_server_that(|nats| Box::pin(async {
            nats.kill9();
            tokio::time::sleep(FAULT).await;
            nats.restart().await;
        })),
        converges_on_a_server_that(|nats| Box::pin(async {
            nats.sigstop();
            tokio::time::sleep(FAULT).await;
            nats.sigcont();
        })),
    );
}

/// Longer than the lease and the silence of a watch.
const FAULT: Duration = Duration::from_secs(13);
const HEALED: Duration = Duration::from_secs(30);

async fn converges_on_a_backend_that_failed_for_long() {
    let nats = Nats::start().await;
    let mut rig = Rig::start(&nats).await;
    let id = id("metrics");
    let failures = 9;
    rig.fake.script((0..failures).map(|_| Script::Fail(true)));
    rig.publish(&id, "1", "metrics").await;
    eventually("it was tried again and again", 4 * HEALED, || async { rig.fake.calls().len() >= failures }).await;
    within("it runs", HEALED, || async { rig.fake.observe(&id).await.unwrap().is_some() }).await;
    rig.end().await;
}

async fn converges_on_a_server_that(fault: impl FnOnce(&mut Nats) -> BoxFuture<'_, ()>) {
    let mut nats = Nats::start().await;
    let (mut rig, id) = Rig::running(&nats).await;
    fault(&mut nats).await;
    let healed = Instant::now();
    within("the edit is taken", HEALED, || async {
        let Ok(Some(old)) = rig.store.entries.get(&id).await else { return false };
        let value = edited(Some(&old.value), &Edit { status: Some(EntryStatus::Paused), ..Edit::default() });
        rig.store.entries.put(&id, value.into(), old.revision).await.is_ok()
    })
    .await;
    let left = HEALED.saturating_sub(healed.elapsed());
    within("the edit is followed", left, || async { rig.fake.calls().contains(&"stop metrics".to_owned()) }).await;
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_key_that_somebody_deletes_is_written_again_at_once_and_as_it_was() {
    require!("nats-server");
    let nats = Nats::start().await;
    let (mut rig, id) = Rig::running(&nats).await;
    rig.status_is("it is settled", &id, |status| status.kept.stream_created.is_some() && status.kept.entry.is_some()).await;
    let before = rig.store.status.get(&id).await.unwrap().unwrap().status;
    let statuses = nats.jetstream().await.get_key_value(rig.store.names.status()).await.unwrap();
    for purged in [false, true] {
        if purged {
            statuses.purge("metrics").await.unwrap();
        } else {
            statuses.delete("metrics").await.unwrap();
        }
        rig.status_is("it is back", &id, |status| (&status.admitted, &status.kept) == (&before.admitted, &before.kept)).await;
    }
    assert!(!rig.stopped_anything(), "{:?}", rig.fake.calls());
    // The controller's own removal is not undone.
    rig.remove(&id).await;
    eventually("nothing is left", SOON, || async { rig.store.status.get(&id).await.unwrap().is_none() }).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(rig.store.status.get(&id).await.unwrap().is_none() && rig.controller.status(&id).is_none());
    rig.end().await;
}
