//! Pipelines that share a MongoDB client share what they find out about it; and what one command meets is nobody else's
//! business.

use super::*;
use crate::support::Commands;
use std::time::Instant;

/// The proxy's commands that are about documents or look for the server, without the driver's own.
fn asked(wire: &Commands) -> Vec<(String, u64)> {
    let own = |name: &str| ["hello", "isMaster", "ismaster", "endSessions", "buildInfo"].iter().any(|own| name.starts_with(own));
    wire.counts().into_iter().filter(|(name, _)| !own(name)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_that_one_pipeline_finds_stops_all_of_the_client_one_at_a_time_tries_and_all_go_on_within_10_s() {
    require!("nats-server", "database");
    const PIPELINES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let (nats, mongo) = tokio::join!(Nats::start(), Mongo::start());
    let wire = Commands::start(mongo.port(), None).await;
    let sluice = Run { mongo_url: wire.url(), ..Run::new(&nats, &mongo) }.start().await;
    let stage = Stage { nats, mongo, sluice };
    for id in PIPELINES {
        stage.publish_plain(id).await;
        stage.send(&format!("alpha.{id}"), 0..100).await;
        stage.exactly(id, 0..100).await;
    }
    // It answers everything else, pings too: only a write tells.
    let failure = doc! {"mode": "alwaysOn", "data": {"failCommands": ["insert"], "errorCode": 14031}};
    stage.mongo.fail_command(failure).await;
    // Two of them find out; the others have nothing to write.
    tokio::join!(stage.send("alpha.a", 100..300), stage.send("alpha.b", 100..300));
    for id in PIPELINES {
        stage.says(id, "Progressing", false, "DatabaseUnavailable").await;
    }
    // Requests that were out by then end by themselves.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let delivered = async |id: &str| {
        let stream = stage.nats.jetstream().await.get_stream(format!("alpha_{id}")).await.unwrap();
        stream.consumer_info("default").await.unwrap().delivered.consumer_sequence
    };
    let before = [delivered("a").await, delivered("b").await];
    for id in &PIPELINES[2..] {
        stage.send(&format!("alpha.{id}"), 100..300).await;
    }
    // From here on the pauses are as long as they get.
    tokio::time::sleep(Duration::from_secs(4)).await;
    wire.forget();
    const WINDOW: u64 = 9;
    tokio::time::sleep(Duration::from_secs(WINDOW)).await;
    let tries = asked(&wire);
    let sum: u64 = tries.iter().map(|(_, count)| count).sum();
    println!("in {WINDOW} s of an outage, {} pipelines together: {tries:?}", PIPELINES.len());
    // Half of 3 s at least lies between two.
    assert!((2..=WINDOW * 2 / 3 + 2).contains(&sum), "{tries:?}");
    assert!(tries.len() >= 2, "each tries in its turn: {tries:?}");
    assert_eq!([delivered("a").await, delivered("b").await], before, "nothing more is pulled");
    for id in &PIPELINES[2..] {
        // A request that lasts long may have been out; it was for one message.
        assert!(delivered(id).await <= 101, "{id}: {} delivered", delivered(id).await);
    }
    stage.mongo.heal().await;
    let back = Instant::now();
    for id in PIPELINES {
        eventually("writing goes on", LONG, || async { stage.mongo.count(id).await > 100 }).await;
    }
    let resumed = back.elapsed();
    println!("all {} went on after {resumed:?}", PIPELINES.len());
    assert!(resumed < Duration::from_secs(10), "writing went on after {resumed:?}");
    for id in PIPELINES {
        stage.exactly(id, 0..300).await;
        stage.settled(id).await;
        assert_eq!((delivered(id).await, stage.dead_letters(id).await), (300, 0), "{id}: redelivered, or a dead letter");
        stage.says(id, "Progressing", true, "AsDesired").await;
    }
}

/// Whether to wait until the bad one is a dead letter, which takes minutes by design: `SLUICE_PATIENCE=1`.
fn patient() -> bool {
    std::env::var_os("SLUICE_PATIENCE").is_some_and(|value| value == "1")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_for_which_the_server_refuses_whole_commands_with_an_unknown_code_is_found_and_its_neighbours_are_stored_once() {
    require!("nats-server", "database");
    const UNKNOWN: i32 = 471_147;
    let (nats, mongo) = tokio::join!(Nats::start(), Mongo::start());
    let wire = Commands::start_refusing(mongo.port(), b"poison-of-the-well".to_vec(), UNKNOWN).await;
    let sluice = Run { mongo_url: wire.url(), ..Run::new(&nats, &mongo) }.start().await;
    let stage = Stage { nats, mongo, sluice };
    for id in ["metrics", "others"] {
        stage.publish_plain(id).await;
        stage.send(&format!("alpha.{id}"), 0..10).await;
        stage.exactly(id, 0..10).await;
    }
    let make = |n| {
        if n == 333 {
            doc! {"n": n, "text": "poison-of-the-well"}
        } else {
            doc! {"n": n}
        }
    };
    stage.send_with("alpha.metrics", 10..1_000, make).await;
    // Narrowed down to itself; others of the client do not wait for that.
    stage.send("alpha.others", 10..200).await;
    stage.exactly("others", 0..200).await;
    eventually("all but one are stored", LONG, || async { stage.mongo.count("metrics").await == 999 }).await;
    stage.send("alpha.metrics", 1_000..1_100).await;
    eventually("what comes later is, too", LONG, || async { stage.mongo.count("metrics").await == 1_099 }).await;
    eventually("it alone waits", LONG, || async { stage.waiting("metrics").await == Some(1) }).await;
    println!("{} inserts were refused", wire.refused());
    assert!(wire.refused() < 60, "{} inserts were refused", wire.refused());
    if patient() {
        eventually("it is a dead letter", 4 * LONG, || async { stage.dead_letters("metrics").await == 1 }).await;
        stage.settled("metrics").await;
        let letters = stage.sluice.cli_ok(&["dlq", "list", "metrics", "-o", "json"]).await;
        assert!(letters.contains(&UNKNOWN.to_string()), "{letters}");
    } else {
        assert_eq!(stage.dead_letters("metrics").await, 0, "not before it was tried for minutes");
    }
    let stored: Vec<i64> = stage.mongo.documents("metrics").await.iter().filter_map(|document| document.get_i64("n").ok()).collect();
    let mut once: Vec<i64> = stored.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!((stored.len(), once.len(), once.contains(&333)), (1_099, 1_099, false));
}
