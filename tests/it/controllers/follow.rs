//! Every process follows what is admitted: versions, pause, draft, deletion; who joins late, sleeps or is only looked at.

use super::*;

impl Fleet {
    /// Waits until every process runs `id` in exactly the version that is admitted.
    async fn all_run(&self, id: &str) {
        eventually(&format!("every process runs {id} as admitted"), SOON, || async {
            let admitted = self.status(id).await["admitted"]["spec"]["version"].clone();
            for member in &self.members {
                let running = executions(member).await;
                let right = running.iter().filter(|one| one["id"] == id).all(|one| one["version"] == admitted && one["phase"] == "running");
                if !right || versions(member, id).await.len() != 1 {
                    return false;
                }
            }
            true
        })
        .await;
    }

    /// Waits until no process runs anything.
    async fn none_runs(&self) {
        eventually("no process runs anything", SOON, || async {
            join_all(self.members.iter().map(executions)).await.iter().all(Vec::is_empty)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_controller_follows_versions_pause_draft_and_deletion_and_nothing_is_lost() {
    require!("nats-server", "database");
    let mut fleet = Fleet::of(3).await;
    fleet.publish("metrics", &plain("metrics")).await;
    fleet.all_run("metrics").await;
    let (jetstream, sent) = (fleet.nats.jetstream().await, AtomicI64::new(0));
    let load = send_all(&jetstream, "alpha.metrics", 0..20_000, |n| doc! {"n": n}, &sent);
    let edits = async {
        for count in [500, 700] {
            fleet.publish("metrics", &plain("metrics").replace("1000", &count.to_string())).await;
            fleet.all_run("metrics").await;
        }
        for step in ["pause", "draft"] {
            fleet.operator.cli_ok(&[step, "metrics"]).await;
            fleet.none_runs().await;
            fleet.operator.cli_ok(&["publish", "metrics", "--wait"]).await;
            fleet.all_run("metrics").await;
        }
    };
    tokio::join!(load, edits);
    fleet.exactly("metrics", "metrics", 0..20_000).await;

    // Who joins late runs what is admitted, though the entry cannot be followed.
    fleet.nats.jetstream().await.get_key_value("alpha").await.unwrap().put("metrics", "{".into()).await.unwrap();
    eventually("the entry is seen to be garbage", SOON, || async {
        has(&fleet.status("metrics").await, "Valid", false, "EntryUnreadable")
    })
    .await;
    fleet.join();
    fleet.all_run("metrics").await;

    fleet.send("metrics", 20_000..25_000).await;
    fleet.operator.cli_ok(&["delete", "metrics", "--yes"]).await;
    eventually("nothing is left of it", SOON, || async {
        fleet.status("metrics").await.is_null() && jetstream.get_stream("alpha_metrics").await.is_err()
    })
    .await;
    fleet.none_runs().await;
    assert_each_once(&fleet.mongo, "metrics", 0..25_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_slept_through_a_deletion_leaves_nothing_running() {
    require!("nats-server", "database");
    let fleet = Fleet::of(2).await;
    for id in ["metrics", "other"] {
        fleet.publish(id, &plain(id)).await;
        fleet.all_run(id).await;
    }
    let sleeper = fleet.other().await;
    fleet.members[sleeper].signal("STOP");
    fleet.operator.cli_ok(&["delete", "metrics", "--yes"]).await;
    eventually("it is deleted without the sleeper, which counts as gone", SOON, || async { fleet.status("metrics").await.is_null() }).await;
    fleet.members[sleeper].signal("CONT");
    eventually("the sleeper ends what it ran of it", SOON, || async { versions(&fleet.members[sleeper], "metrics").await.is_empty() })
        .await;
    fleet.all_run("other").await;
    fleet.send("other", 0..1_000).await;
    fleet.exactly("other", "other", 0..1_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn controllers_that_do_not_decide_answer_health_and_status_as_the_holder_does() {
    require!("nats-server", "database");
    let fleet = Fleet::of(3).await;
    fleet.publish("metrics", &plain("metrics")).await;
    let holder = fleet.holder().await;
    let process = fleet.lease().await.unwrap()["process"].as_str().unwrap().to_owned();
    for (place, member) in fleet.members.iter().enumerate() {
        eventually("it is ready and shows the status as it stands in the bucket", SOON, || async {
            let (ready, _) = member.get("/health/ready").await;
            let (live, _) = member.get("/health/live").await;
            let (found, body) = member.get("/api/v1/pipelines/metrics").await;
            let shown: Value = serde_json::from_str(&body).unwrap_or_default();
            let stored = fleet.status("metrics").await;
            let same = ["epoch", "updated", "admitted", "observed"].iter().all(|field| shown[field] == stored[field]);
            (ready, live, found) == (200, 200, 200) && same
        })
        .await;
        let health = health(member).await;
        assert_eq!(health["holder"], place == holder, "{health:#}");
        let lease = health["checks"].as_array().unwrap().iter().find(|check| check["name"] == "lease").unwrap();
        let message = lease["message"].as_str().unwrap();
        assert!(if place == holder { message.contains("this controller decides") } else { message.contains(&process) }, "{message}");
        let (code, metrics) = member.get("/metrics").await;
        assert!(code == 200 && metrics.contains("sluice_"), "{metrics}");
    }
}
