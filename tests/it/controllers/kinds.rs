//! A controller whose executor is of another kind than the holder's stands by. The other kind's holder and its executions
//! are the test itself: a record in the lease's bucket and a report.

use super::*;

/// Writes into the lease as a holder of kind `docker` does, and goes on renewing it until it is dropped.
struct Foreign {
    task: tokio::task::JoinHandle<()>,
}

impl Foreign {
    async fn takes(nats: &Nats) -> Self {
        let bucket = nats.jetstream().await.get_key_value("alpha-lease").await.unwrap();
        let record = r#"{"process":"01a20737-0000-7000-8000-000000000000","host":"there","executor":"docker","epoch":1}"#;
        bucket.put("holder", record.into()).await.unwrap();
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(500)).await;
                // Only a fault of the test's own server could refuse it; the test then fails by itself.
                let _ = bucket.put("holder", record.into()).await;
            }
        });
        Self { task }
    }

    async fn gives_back(self, nats: &Nats) {
        self.task.abort();
        let bucket = nats.jetstream().await.get_key_value("alpha-lease").await.unwrap();
        bucket.delete("holder").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_of_another_kind_stands_by_and_ends_what_it_runs_once_the_holders_kind_runs_it() {
    require!("nats-server", "database");
    let mut fleet = Fleet::of(1).await;
    fleet.publish("metrics", &plain("metrics")).await;
    let foreign = Foreign::takes(&fleet.nats).await;
    eventually("it says that it stands by", SOON, || async {
        let health = health(&fleet.members[0]).await;
        health["holder"] == false && health["checks"].to_string().contains("this one, in_process, stands by")
    })
    .await;
    // What it runs goes on until the other kind runs it.
    fleet.send("metrics", 0..1_000).await;
    fleet.exactly("metrics", "metrics", 0..1_000).await;
    let mut report = executions(&fleet.members[0]).await[0].clone();
    report["counters"]["written"] = 0.into();
    let says = serde_json::json!({
        "schema": 1, "process": uuid::Uuid::now_v7(), "host": "there", "complete": true, "executions": [report],
    });
    let client = fleet.nats.client().await;
    eventually("it ends what it ran", SOON, || async {
        client.publish("alpha-reports.there", says.to_string().into()).await.unwrap();
        client.flush().await.unwrap();
        executions(&fleet.members[0]).await.is_empty()
    })
    .await;
    // One that starts now starts nothing, and is well.
    fleet.join();
    fleet.members[1].wait_ready().await;
    eventually("it knows who decides", SOON, || async {
        health(&fleet.members[1]).await["checks"].to_string().contains("this one, in_process, stands by")
    })
    .await;
    fleet.send("metrics", 1_000..1_100).await;
    assert!(join_all(fleet.members.iter().map(executions)).await.iter().all(Vec::is_empty), "nothing was started");
    assert_eq!(fleet.waiting("metrics").await, 100);

    foreign.gives_back(&fleet.nats).await;
    fleet.exactly("metrics", "metrics", 0..1_100).await;
}
