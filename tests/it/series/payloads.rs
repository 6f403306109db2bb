//! Payloads that a time-series collection must not get, although it would take them.

use super::*;
use mongodb::bson::RawDocumentBuf;

#[tokio::test(flavor = "multi_thread")]
async fn a_measurement_with_one_name_twice_or_above_4_mib_is_a_dead_letter_of_its_own_reason_and_its_neighbours_are_stored() {
    require!("nats-server", "database");
    let world = world_on(Nats::start_with("max_payload: 8388608").await).await;
    let running = run(&world).await;
    plays(&running, StreamRole::Active).await;
    let mut twice = RawDocumentBuf::try_from(&measurement(1_000)).unwrap();
    twice.append(mongodb::bson::raw::cstr!("value"), 1.5);
    let mut large = measurement(1_001);
    large.insert("blob", "x".repeat(4 << 20));
    let mut large_meta = measurement(3);
    large_meta.insert("device", "x".repeat(5 << 20));
    world.publish(measurements(0..3)).await;
    world.publish_bytes([twice.into_bytes(), large.to_vec().unwrap(), large_meta.to_vec().unwrap()]).await;
    world.publish(measurements(4..10)).await;
    world.drained(SOON).await;
    each_once(&world, 10).await;
    assert_eq!(world.dead_reasons().await, ["field_twice", "measurement_too_large"]);
    running.stop().await;
}
