//! Live executions are counted by reports, and each gets its share of `max_ack_pending`, also when controllers come and go.

use super::*;

impl Fleet {
    /// Waits until so many executions are admitted to share the durable, and each batches its share.
    async fn shared(&self, id: &str, live: u64, batch: u64) {
        let what = format!("{live} executions share {id} in batches of {batch}");
        eventually(&what, SOON, || async {
            let mut runs = 0;
            for member in &self.members {
                for one in executions(member).await {
                    runs += 1;
                    if one["limits"]["batch_count"] != batch || one["limits"]["limited"] != true {
                        return false;
                    }
                }
            }
            runs == live && self.status(id).await["admitted"]["live_executions"] == live
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_live_execution_gets_its_share_of_the_durable_as_controllers_come_and_go() {
    require!("nats-server", "database");
    let mut fleet = Fleet::of(1).await;
    fleet.foreign_stream("metrics", Duration::from_secs(30)).await;
    // With two inserts under way and one batch being filled, an execution holds three.
    fleet.publish("metrics", "schema: 1\noutput:\n  mongodb:\n    collection: metrics\n    batching: {count: 1000, period: 1s}\n").await;
    fleet.shared("metrics", 1, 333).await;
    let status = fleet.status("metrics").await;
    assert!(has(&status, "Advisory", true, "BatchLimited"), "{status:#}");
    fleet.join();
    fleet.join();
    fleet.shared("metrics", 3, 111).await;
    let status = fleet.status("metrics").await;
    assert!(has(&status, "Advisory", true, "BatchLimited") && status["observed"]["executions"] == 3, "{status:#}");

    // Full shares side by side, and nothing waits for the period: 30,000 documents in a fraction of the time that batches
    // of 111 a second would take.
    fleet.send("metrics", 0..30_000).await;
    fleet.exactly("metrics", "metrics", 0..30_000).await;

    // The holder goes, and its share goes to the others.
    let holder = fleet.holder().await;
    assert!(fleet.members[holder].sigterm().await.success());
    fleet.members.remove(holder);
    fleet.shared("metrics", 2, 166).await;
    // One that dies without a word counts until it has been silent for a while.
    let other = fleet.other().await;
    fleet.members[other].kill9();
    fleet.members.remove(other);
    fleet.shared("metrics", 1, 333).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_holder_knows_at_once_what_the_others_run() {
    require!("nats-server", "database");
    let mut fleet = Fleet::of(3).await;
    fleet.foreign_stream("metrics", Duration::from_secs(30)).await;
    fleet.publish("metrics", &plain("metrics")).await;
    fleet.shared("metrics", 3, 111).await;
    // All restarted in turn: whoever decides, nobody is ever forgotten.
    let counts = async {
        loop {
            let live = fleet_status(&fleet.nats, "metrics").await["admitted"]["live_executions"].as_u64().unwrap_or_default();
            assert!(live >= 2, "{live} of at least two executions are known");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let members = &mut fleet.members;
    let restarts = async {
        for member in members.iter_mut() {
            assert!(member.sigterm().await.success());
            member.respawn();
            member.wait_ready().await;
            // The next goes when this one is counted again.
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    };
    tokio::select! {
        () = restarts => {}
        () = counts => {}
    }
    fleet.shared("metrics", 3, 111).await;
}

async fn fleet_status(nats: &Nats, id: &str) -> Value {
    let bucket = nats.jetstream().await.get_key_value("alpha-status").await.unwrap();
    serde_json::from_slice(&bucket.get(id).await.unwrap().unwrap()).unwrap()
}
