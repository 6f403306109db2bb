//! Who reads: one execution; the others stand by and take over.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn one_of_three_reads_and_when_it_leaves_another_follows_at_once() {
    require!("nats-server", "database");
    let world = world().await;
    let first = run(&world).await;
    plays(&first, StreamRole::Active).await;
    let (second, third) = (run(&world).await, run(&world).await);
    plays(&second, StreamRole::Standby).await;
    plays(&third, StreamRole::Standby).await;
    world.publish(measurements(0..3_000)).await;
    world.drained(SOON).await;
    assert_eq!(first.state.counters().written, 3_000);
    assert_eq!(second.state.counters().received + third.state.counters().received, 0);
    first.stop().await;
    world.publish(measurements(3_000..6_000)).await;
    world.drained(SOON).await;
    each_once(&world, 6_000).await;
    // What the first left behind made no suspects.
    assert!(ledger(&world).await.1.is_empty());
    let roles = [second.state.role(), third.state.role()];
    assert!(roles.contains(&Some(StreamRole::Active)) && roles.contains(&Some(StreamRole::Standby)), "{roles:?}");
    second.stop().await;
    third.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_reader_dies_in_the_middle_another_takes_over_and_each_is_there_once() {
    require!("nats-server", "database");
    let world = world().await;
    let (first, second) = (run(&world).await, run(&world).await);
    eventually("one of them reads", SOON, || async {
        [&first, &second].iter().any(|running| running.state.role() == Some(StreamRole::Active))
    })
    .await;
    let (reader, other) = if first.state.role() == Some(StreamRole::Active) { (first, second) } else { (second, first) };
    world.publish(measurements(0..8_000)).await;
    eventually("some are stored", SOON, || async { reader.state.counters().written > 500 }).await;
    reader.crash().await;
    world.publish(measurements(8_000..10_000)).await;
    world.drained(SOON).await;
    each_once(&world, 10_000).await;
    plays(&other, StreamRole::Active).await;
    assert_eq!(ledger(&world).await.0[0].get_i64("term").unwrap(), 2);
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_whose_page_was_taken_steps_back_and_what_it_held_goes_to_the_new_one() {
    require!("nats-server", "database");
    let world = world().await;
    let first = run(&world).await;
    plays(&first, StreamRole::Active).await;
    world.publish(measurements(0..100)).await;
    world.drained(SOON).await;
    // Somebody else, who never lives: its beat stands.
    let ledger = world.mongo.client().await.database(world.mongo.database()).collection::<Document>("sluice_ledger");
    let stranger = doc! { "$set": { "owner": uuid::Uuid::new_v4().to_string(), "version": "1" }, "$inc": { "term": 1_i64, "beat": 1_i64 } };
    ledger.update_one(doc! {}, stranger).await.unwrap();
    plays(&first, StreamRole::Standby).await;
    world.publish(measurements(100..300)).await;
    plays(&first, StreamRole::Active).await;
    world.drained(SOON).await;
    each_once(&world, 300).await;
    first.stop().await;
}
