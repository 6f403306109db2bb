//! Controllers that come and go under a load.

use super::*;

/// Waits until so many publishes were acknowledged.
async fn acknowledged_are(done: &AtomicI64, wanted: i64) {
    eventually("the load goes on", LONG, || async { done.load(Ordering::Relaxed) >= wanted }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_under_a_load_loses_and_doubles_nothing_and_redelivers_nothing() {
    require!("nats-server", "database");
    let mut fleet = Fleet::of(3).await;
    fleet.publish("metrics", &plain("metrics")).await;
    let (jetstream, sent) = (fleet.nats.jetstream().await, AtomicI64::new(0));
    let load = send_all(&jetstream, "alpha.metrics", 0..30_000, |n| doc! {"n": n}, &sent);
    let members = &mut fleet.members;
    let restarts = async {
        for (turn, member) in members.iter_mut().enumerate() {
            acknowledged_are(&sent, (turn as i64 + 1) * 5_000).await;
            let status = member.sigterm().await;
            assert_eq!(status.code(), Some(0), "{}", member.log());
            member.respawn();
            member.wait_ready().await;
        }
    };
    tokio::join!(load, restarts);
    fleet.exactly("metrics", "metrics", 0..30_000).await;
    assert_eq!(fleet.deliveries("metrics").await, (30_000, 30_000), "deliveries and messages");
}

#[tokio::test(flavor = "multi_thread")]
async fn controllers_that_are_killed_in_turn_under_a_load_lose_and_double_nothing() {
    require!("nats-server", "database");
    let mut fleet = Fleet::of(3).await;
    let config = format!("{}input: {{nats_jetstream: {{ack_wait: 24s}}}}\n", plain("metrics"));
    fleet.publish("metrics", &config).await;
    let (jetstream, sent) = (fleet.nats.jetstream().await, AtomicI64::new(0));
    let load = send_all(&jetstream, "alpha.metrics", 0..30_000, |n| doc! {"n": n}, &sent);
    let members = &mut fleet.members;
    let kills = async {
        for kill in 0..6 {
            acknowledged_are(&sent, (kill + 1) * 4_000).await;
            let member = &mut members[usize::try_from(kill).unwrap() % 3];
            member.kill9();
            tokio::time::sleep(Duration::from_millis(100)).await;
            member.respawn();
        }
    };
    tokio::join!(load, kills);
    fleet.exactly("metrics", "metrics", 0..30_000).await;
}
