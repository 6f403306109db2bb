//! The holder ends, dies or sleeps: another decides soon, and never two.

use super::*;
use futures_util::StreamExt;
use std::sync::{Arc, Mutex};

/// Every record of a KV bucket's stream from now on: when the server took it (milliseconds), key and value; null for markers.
struct Watch {
    seen: Arc<Mutex<Vec<(i128, String, Value)>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Watch {
    async fn on(nats: &Nats, bucket: &str) -> Self {
        let stream = nats.jetstream().await.get_stream(format!("KV_{bucket}")).await.unwrap();
        let config =
            jetstream::consumer::pull::OrderedConfig { deliver_policy: jetstream::consumer::DeliverPolicy::New, ..Default::default() };
        let mut messages = stream.create_consumer(config).await.unwrap().messages().await.unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let into = seen.clone();
        let task = tokio::spawn(async move {
            while let Some(Ok(message)) = messages.next().await {
                let taken = message.info().unwrap().published.unix_timestamp_nanos() / 1_000_000;
                let value = serde_json::from_slice(&message.payload).unwrap_or(Value::Null);
                into.lock().unwrap().push((taken, message.subject.to_string(), value));
            }
        });
        Self { seen, task }
    }

    fn seen(&self) -> Vec<(i128, String, Value)> {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn now_ms() -> i128 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i128::try_from(now.as_millis()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_is_killed_is_followed_by_another_within_15_s_and_the_flow_goes_on_meanwhile() {
    require!("nats-server", "database");
    let mut fleet = Fleet::of(3).await;
    fleet.publish("metrics", &plain("metrics")).await;
    let (before, holder) = (fleet.lease().await.unwrap(), fleet.holder().await);
    fleet.members[holder].kill9();
    let killed = Instant::now();
    fleet.send("metrics", 0..1_000).await;
    eventually("the others write", SOON, || async { fleet.mongo.count("metrics").await > 300 }).await;
    assert_eq!(fleet.lease().await.unwrap()["epoch"], before["epoch"], "documents flowed before anybody decided again");
    let mut after = before.clone();
    while after["epoch"] == before["epoch"] || after["process"] == before["process"] {
        assert!(killed.elapsed() < Duration::from_secs(15), "nobody took over");
        tokio::time::sleep(Duration::from_millis(50)).await;
        after = fleet.lease().await.unwrap_or(before.clone());
    }
    assert!(after["epoch"].as_u64() > before["epoch"].as_u64());
    // It decides, too.
    fleet.operator.cli_ok(&["pause", "metrics"]).await;
    fleet.phase_is("metrics", "stopped").await;
    assert_eq!(fleet.status("metrics").await["epoch"], after["epoch"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_is_told_to_end_is_followed_within_2_s_while_it_still_writes_what_it_holds() {
    require!("nats-server", "database");
    let mut fleet = Fleet::of(3).await;
    fleet.publish("metrics", &plain("metrics")).await;
    fleet.send("metrics", 0..2_000).await;
    let watch = Watch::on(&fleet.nats, "alpha-lease").await;
    for _ in 0..2 {
        let (before, holder) = (fleet.lease().await.unwrap(), fleet.holder().await);
        let told = now_ms();
        fleet.members[holder].signal("TERM");
        // By the server's clock, which is this machine's.
        let taken = || {
            let by_another = |lease: &Value| lease["process"].is_string() && lease["process"] != before["process"];
            watch.seen().iter().find(|(at, _, lease)| *at >= told && by_another(lease)).map(|(at, _, _)| at - told)
        };
        eventually("another holds the lease", SOON, || async { taken().is_some() }).await;
        assert!(taken().unwrap() < 2_000, "taken over after {taken:?} ms: {:?}", watch.seen(), taken = taken());
        assert_eq!(fleet.members[holder].wait(SOON).await.code(), Some(0));
        fleet.members.remove(holder);
    }
    fleet.exactly("metrics", "metrics", 0..2_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_sleeps_past_its_lease_acts_no_more_in_its_old_epoch() {
    require!("nats-server", "database");
    let fleet = Fleet::of(3).await;
    let mut versions = std::collections::HashMap::new();
    for id in ["one", "two", "three"] {
        fleet.publish(id, &plain(id)).await;
        versions.insert(id, fleet.status(id).await["admitted"]["spec"]["version"].as_str().unwrap().to_owned());
    }
    let (status, changes) = (Watch::on(&fleet.nats, "alpha-status").await, Changes::on(&fleet.nats).await);
    let (old, sleeper) = (fleet.lease().await.unwrap(), fleet.holder().await);
    // Something is to be decided all the time: asleep, awake, and while it wakes.
    let edits = async {
        let bucket = fleet.nats.jetstream().await.get_key_value("alpha").await.unwrap();
        for edit in 0..120 {
            let turn = edit / 3;
            let (id, entry) = match edit % 3 {
                0 => ("one", if turn % 2 == 0 { "paused" } else { "published" }),
                1 => ("two", if turn % 2 == 0 { "draft" } else { "published" }),
                // Streams are closed, deleted and made again, too.
                _ => ("three", if turn % 2 == 0 { "deleted" } else { "published" }),
            };
            match entry {
                "deleted" => bucket.delete(id).await.unwrap(),
                status => {
                    let version = &versions[id];
                    bucket.put(id, format!(r#"{{"status":"{status}","version":"{version}"}}"#).into()).await.map(|_| ()).unwrap();
                }
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let sleep = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        fleet.members[sleeper].signal("STOP");
        // Past its lease, and until somebody else has decided something.
        eventually("another decides", SOON, || async {
            fleet.lease().await.is_some_and(|lease| lease["process"] != old["process"])
                && status.seen().last().is_some_and(|(_, _, written)| written["epoch"].as_u64() > old["epoch"].as_u64())
        })
        .await;
        fleet.members[sleeper].signal("CONT");
    };
    tokio::join!(edits, sleep);
    eventually("the sleeper knows that another decides", SOON, || async {
        let health = health(&fleet.members[sleeper]).await;
        health["holder"] == false && health["ready"] == true
    })
    .await;
    let epochs: Vec<_> = status.seen().iter().filter_map(|(_, _, written)| written["epoch"].as_u64()).collect();
    assert!(epochs.is_sorted(), "an old epoch wrote after a new one: {epochs:?}");
    assert!(epochs.first() < epochs.last());
    // Whoever of the processes changed anything on JetStream did so before the next one began.
    let by: Vec<_> = changes.seen();
    let turns = by.chunk_by(|a, b| a.0 == b.0).count();
    assert_eq!(turns, 2, "{by:#?}");
    for (n, id) in ["one", "two", "three"].into_iter().enumerate() {
        fleet.publish(id, &plain(id).replace("1000", &(900 + n).to_string())).await;
    }
}

/// Who changes streams and durables of pipelines, by the server's own audit: connection and request.
struct Changes {
    seen: Arc<Mutex<Vec<(u64, String)>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Changes {
    async fn on(nats: &Nats) -> Self {
        let client = nats.client().await;
        let mut audit = client.subscribe("$JS.EVENT.ADVISORY.API").await.unwrap();
        client.flush().await.unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let into = seen.clone();
        let task = tokio::spawn(async move {
            while let Some(message) = audit.next().await {
                let advisory: Value = serde_json::from_slice(&message.payload).unwrap();
                let subject = advisory["subject"].as_str().unwrap_or_default();
                let changes =
                    ["STREAM.CREATE", "STREAM.UPDATE", "STREAM.DELETE", "CONSUMER.DURABLE", "CONSUMER.CREATE.alpha_", "CONSUMER.PAUSE"];
                if changes.iter().any(|change| subject.contains(change)) && subject.contains("alpha_") {
                    into.lock().unwrap().push((advisory["client"]["id"].as_u64().unwrap_or(0), subject.to_owned()));
                }
            }
        });
        Self { seen, task }
    }

    fn seen(&self) -> Vec<(u64, String)> {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_that_sleeps_past_its_leases_discards_what_it_held_and_another_stores_it_once() {
    require!("nats-server", "database");
    let fleet = Fleet::of(2).await;
    // Leases so short that a test can outsleep them.
    fleet.foreign_stream("metrics", Duration::from_secs(3)).await;
    // Both hold what they have for a while.
    fleet.publish("metrics", "schema: 1\noutput:\n  mongodb:\n    collection: metrics\n    batching: {count: 1000, period: 4s}\n").await;
    eventually("both run it", SOON, || async {
        !versions(&fleet.members[0], "metrics").await.is_empty() && !versions(&fleet.members[1], "metrics").await.is_empty()
    })
    .await;
    let sleeper = fleet.other().await;
    let held =
        || async { executions(&fleet.members[sleeper]).await.iter().filter_map(|one| one["counters"]["buffered"].as_u64()).sum::<u64>() };
    let mut sent = 0;
    while held().await == 0 {
        fleet.send("metrics", sent..sent + 50).await;
        sent += 50;
        assert!(sent < 20_000, "nothing reaches the sleeper");
    }
    fleet.members[sleeper].signal("STOP");
    tokio::time::sleep(Duration::from_secs(7)).await;
    fleet.exactly("metrics", "metrics", 0..sent).await;
    fleet.members[sleeper].signal("CONT");
    eventually("what it held is discarded", SOON, || async {
        let executions = executions(&fleet.members[sleeper]).await;
        executions.iter().any(|one| one["counters"]["expired"].as_u64() > Some(0)) && held().await == 0
    })
    .await;
    fleet.send("metrics", sent..sent + 1_000).await;
    fleet.exactly("metrics", "metrics", 0..sent + 1_000).await;
}
