//! What passes between Sluice and the database, counted on the wire: without a fault no reads, and hardly a write but the inserts.

use super::*;
use crate::support::Commands;

#[tokio::test(flavor = "multi_thread")]
async fn without_a_fault_nothing_is_read_and_the_ledger_is_written_once_in_ten_thousand_messages() {
    require!("nats-server", "database");
    let mut world = world().await;
    // So that no beat of the page comes between.
    ack_wait(&world, Duration::from_secs(60)).await;
    let wire = Commands::start(world.mongo.port(), None).await;
    world.mongo_url = Some(wire.url());
    let running = run(&world).await;
    plays(&running, StreamRole::Active).await;
    world.publish(measurements(0..10)).await;
    world.drained(SOON).await;
    wire.forget();
    let begun = std::time::Instant::now();
    world.publish(measurements(10..40_010)).await;
    world.drained(SOON).await;
    let counts = wire.counts();
    println!("40,000 measurements: {counts:?}");
    let reads: Vec<_> = ["find", "aggregate", "count", "getMore", "distinct"]
        .iter()
        .flat_map(|read| counts.keys().filter(move |command| command.starts_with(read)))
        .collect();
    assert!(reads.is_empty(), "{reads:?}");
    let (inserts, ledger) = (wire.count("insert readings"), wire.count("update sluice_ledger"));
    // Blocks of 1,000 grow to 20,000; and a beat every five seconds.
    let beats = begun.elapsed().as_secs() / 5 + 1;
    assert!(inserts >= 40 && ledger <= 8 + beats, "{counts:?}");
    assert_eq!(wire.count("insert sluice_ledger"), 0, "nothing was suspect");
    assert_eq!(world.counted().await, (40_010, 40_010));
    running.stop().await;
    let (pages, records) = super::ledger(&world).await;
    assert_eq!((pages.len(), records.len()), (1, 0));
    // Given back, with nothing left over that would be suspect.
    assert_eq!((pages[0].get_i64("reserved").unwrap(), pages[0].get("owner") == Some(&mongodb::bson::Bson::Null)), (40_010, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_delete_single_measurements_gets_them_at_least_once_and_the_execution_says_so() {
    require!("nats-server", "database");
    let mut world = world().await;
    let version = world.mongo.client().await.database("admin").run_command(doc! { "buildInfo": 1 }).await.unwrap();
    let version = version.get_str("version").unwrap().to_owned();
    let Some(rest) = version.strip_prefix('8').or(version.strip_prefix('7')) else { panic!("an unknown version: {version}") };
    let wire = Commands::start(world.mongo.port(), Some((version.clone(), format!("6{rest}")))).await;
    world.mongo_url = Some(wire.url());
    let (one, two) = (run(&world).await, run(&world).await);
    plays(&one, StreamRole::AtLeastOnce).await;
    plays(&two, StreamRole::AtLeastOnce).await;
    world.publish(measurements(0..2_000)).await;
    world.drained(SOON).await;
    assert_eq!(world.counted().await, (2_000, 2_000));
    assert!(ledger(&world).await.0.is_empty());
    one.stop().await;
    two.stop().await;
}
