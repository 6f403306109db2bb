//! Target changes on real servers: whatever happens around one, each document is in exactly one of the targets.

use super::*;
use crate::support::Proxy;
use std::collections::BTreeMap;

/// Where documents may be: a server, a database and a collection.
struct Place<'a> {
    mongo: &'a Mongo,
    database: &'a str,
    collection: &'a str,
}

impl<'a> Place<'a> {
    fn new(mongo: &'a Mongo, collection: &'a str) -> Self {
        Self { mongo, database: mongo.database(), collection }
    }

    async fn numbers(&self) -> Vec<i64> {
        let collection = self.mongo.client().await.database(self.database).collection::<Document>(self.collection);
        let cursor = collection.find(doc! {}).await.expect("the database finds");
        let found: Vec<Document> = futures_util::TryStreamExt::try_collect(cursor).await.expect("the cursor ends");
        found.iter().filter_map(|document| document.get_i64("n").ok()).collect()
    }
}

/// Asserts that each of `numbers` is in exactly one of the places, once; how many are in each.
async fn in_exactly_one(places: &[Place<'_>], numbers: Range<i64>) -> Vec<usize> {
    let (mut counts, mut held) = (BTreeMap::<i64, u32>::new(), Vec::new());
    for place in places {
        let found = place.numbers().await;
        held.push(found.len());
        found.into_iter().for_each(|n| *counts.entry(n).or_default() += 1);
    }
    let missing = numbers.clone().filter(|n| !counts.contains_key(n)).count();
    let doubled = counts.values().filter(|count| **count > 1).count();
    let strange = counts.keys().filter(|n| !numbers.contains(n)).count();
    assert_eq!((missing, doubled, strange), (0, 0, 0), "of {numbers:?}: {missing} lost, {doubled} doubled; in each: {held:?}");
    held
}

/// A config with a short ack_wait: what a dead owner holds is waited for twice as long.
fn to(collection: &str, more: &str) -> String {
    format!(
        "schema: 1\ninput: {{nats_jetstream: {{ack_wait: 24s, max_ack_pending: 20000}}}}\noutput:\n  mongodb:\n    collection: {collection}\n    \
         batching: {{count: 1000, period: 1s, linger: 20ms}}\n{more}"
    )
}

/// Publishes `{n}` for `numbers`, in parts, each of which waits until `until` allows it.
async fn load(jetstream: &jetstream::Context, numbers: Range<i64>, done: &AtomicI64) {
    send_all(jetstream, "alpha.metrics", numbers, |n| doc! {"n": n}, done).await;
}

impl Stage {
    /// `sluice publish` without waiting.
    async fn change(&self, name: &str, config: &str) {
        let file = self.config_file(name, config);
        self.sluice.cli_ok(&["publish", "metrics", "-f", &file]).await;
    }

    async fn writes_to(&self, collection: &str) {
        eventually(&format!("it writes to {collection}"), LONG, || async {
            let status = self.status("metrics").await;
            status["admitted"]["phase"] == "run" && status["admitted"]["spec"]["target"]["collection"] == collection
        })
        .await;
    }

    async fn consumer(&self) -> jetstream::consumer::Info {
        let stream = self.nats.jetstream().await.get_stream("alpha_metrics").await.unwrap();
        stream.consumer_info("default").await.unwrap()
    }

    /// Lets the database take a batch without saying so, and kills the process that waits for the answer.
    async fn kill_with_messages_in_flight(&mut self, proxy: &Proxy, collection: &str, numbers: Range<i64>) {
        let before = self.mongo.count(collection).await;
        proxy.stall_replies();
        self.send("alpha.metrics", numbers).await;
        eventually("the database has some of it", SOON, || async { self.mongo.count(collection).await > before }).await;
        self.sluice.kill9();
        assert!(self.consumer().await.num_ack_pending > 0);
        proxy.resume();
    }
}

/// A further connection, in the environment of the process and of all commands.
fn connection(name: &str, mongo: &Mongo) -> Vec<(String, String)> {
    let name = format!("SLUICE_MONGODB_CONNECTIONS_{}", name.to_uppercase());
    vec![(format!("{name}_URL"), mongo.url()), (format!("{name}_DATABASE"), mongo.database().to_owned())]
}

/// A stage whose process reaches its database through a proxy.
async fn stage_behind(nats: Nats, mongo: Mongo) -> (Stage, Proxy) {
    let proxy = Proxy::start(mongo.port()).await;
    let run = Run { mongo_url: mongo.url_through(&proxy), ..Run::new(&nats, &mongo) };
    let sluice = run.start().await;
    (Stage { nats, mongo, sluice }, proxy)
}

#[tokio::test(flavor = "multi_thread")]
async fn collection_and_database_change_under_a_load_of_60_000_and_each_document_is_in_exactly_one() {
    require!("nats-server", "database");
    let stage = Stage::set().await;
    stage.publish("metrics", &to("a", "")).await;
    let other = format!("{}_other", stage.mongo.database());
    let (jetstream, done) = (stage.nats.jetstream().await, AtomicI64::new(0));
    let changes = async {
        let acknowledged = |wanted: i64| {
            let done = &done;
            async move { eventually("the load goes on", LONG, || async { done.load(Ordering::Relaxed) >= wanted }).await }
        };
        acknowledged(12_000).await;
        stage.change("b", &to("b", "")).await;
        stage.writes_to("b").await;
        acknowledged(30_000).await;
        stage.change("c", &to("b", &format!("    database: {other}\n"))).await;
        acknowledged(45_000).await;
    };
    tokio::join!(load(&jetstream, 0..60_000, &done), changes);
    stage.settled("metrics").await;
    let places =
        [Place::new(&stage.mongo, "a"), Place::new(&stage.mongo, "b"), Place { database: &other, ..Place::new(&stage.mongo, "b") }];
    let held = in_exactly_one(&places, 0..60_000).await;
    assert!(held.iter().all(|held| *held > 0), "{held:?}");
    eventually("the consumer is resumed", SOON, || async { !stage.consumer().await.paused }).await;
    assert_eq!(stage.dead_letters("metrics").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_connection_changes_to_another_server_under_load() {
    require!("nats-server", "database");
    let (nats, mongo, second) = tokio::join!(Nats::start(), Mongo::start(), Mongo::start());
    let run = Run::new(&nats, &mongo);
    let env = connection("second", &second);
    let sluice = Run { env, ..run }.start().await;
    let stage = Stage { nats, mongo, sluice };
    stage.publish("metrics", &to("a", "")).await;
    let (jetstream, done) = (stage.nats.jetstream().await, AtomicI64::new(0));
    let changes = async {
        eventually("the load goes on", LONG, || async { done.load(Ordering::Relaxed) >= 8_000 }).await;
        stage.change("b", &to("a", "    connection: second\n")).await;
    };
    tokio::join!(load(&jetstream, 0..30_000, &done), changes);
    stage.settled("metrics").await;
    let held = in_exactly_one(&[Place::new(&stage.mongo, "a"), Place::new(&second, "a")], 0..30_000).await;
    assert!(held.iter().all(|held| *held > 0), "{held:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_owner_had_stored_and_not_acknowledged_is_not_stored_again_in_the_new_target() {
    require!("nats-server", "database");
    let (mut stage, proxy) = stage_behind(Nats::start().await, Mongo::start().await).await;
    stage.publish("metrics", &to("a", "")).await;
    stage.send("alpha.metrics", 0..1_000).await;
    stage.exactly("a", 0..1_000).await;
    stage.kill_with_messages_in_flight(&proxy, "a", 1_000..6_000).await;
    stage.change("b", &to("b", "")).await;
    stage.sluice.respawn();
    stage.sluice.wait_ready().await;
    stage.send("alpha.metrics", 6_000..8_000).await;
    stage.writes_to("b").await;
    stage.settled("metrics").await;
    let held = in_exactly_one(&[Place::new(&stage.mongo, "a"), Place::new(&stage.mongo, "b")], 0..8_000).await;
    assert!(held[0] > 1_000 && held[1] > 0, "{held:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn both_servers_restarted_in_the_middle_of_a_change_with_messages_in_flight_double_nothing() {
    require!("nats-server", "database");
    let (nats, mongo) = tokio::join!(Nats::start_synced(), Mongo::start_durable());
    let (mut stage, proxy) = stage_behind(nats, mongo).await;
    stage.publish("metrics", &to("a", "")).await;
    stage.kill_with_messages_in_flight(&proxy, "a", 0..5_000).await;
    stage.change("b", &to("b", "")).await;
    stage.sluice.respawn();
    stage.sluice.wait_ready().await;
    stage.phase_is("metrics", "switch").await;
    eventually("the consumer is paused", SOON, || async { stage.consumer().await.paused }).await;
    let (jetstream, done) = (stage.nats.jetstream().await, AtomicI64::new(0));
    let restarts = async {
        eventually("the load goes on", LONG, || async { done.load(Ordering::Relaxed) >= 100 }).await;
        stage.nats.kill9();
        stage.mongo.kill9();
        tokio::join!(stage.nats.restart(), stage.mongo.restart());
    };
    tokio::join!(load(&jetstream, 5_000..8_000, &done), restarts);
    stage.writes_to("b").await;
    stage.settled("metrics").await;
    let held = in_exactly_one(&[Place::new(&stage.mongo, "a"), Place::new(&stage.mongo, "b")], 0..8_000).await;
    assert!(held.iter().all(|held| *held > 0), "{held:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn there_and_back_and_on_under_load_leaves_each_document_in_exactly_one() {
    require!("nats-server", "database");
    let stage = Stage::set().await;
    stage.publish("metrics", &to("a", "")).await;
    let (jetstream, done) = (stage.nats.jetstream().await, AtomicI64::new(0));
    let changes = async {
        for (number, collection) in ["b", "a", "c", "b", "a", "c"].into_iter().enumerate() {
            let wanted = 4_000 * (number as i64 + 1);
            eventually("the load goes on", LONG, || async { done.load(Ordering::Relaxed) >= wanted }).await;
            stage.change(&format!("{number}"), &to(collection, "")).await;
        }
        stage.writes_to("c").await;
    };
    tokio::join!(load(&jetstream, 0..30_000, &done), changes);
    stage.settled("metrics").await;
    let places = ["a", "b", "c"].map(|collection| Place::new(&stage.mongo, collection));
    in_exactly_one(&places, 0..30_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_owner_that_wakes_after_the_change_doubles_nothing() {
    require!("nats-server", "database");
    let stage = Stage::set().await;
    stage.publish("metrics", &to("a", "")).await;
    let second = Run::new(&stage.nats, &stage.mongo).start().await;
    eventually("both run it", SOON, || async { stage.status("metrics").await["observed"]["executions"] == 2 }).await;
    let (jetstream, done) = (stage.nats.jetstream().await, AtomicI64::new(0));
    let changes = async {
        eventually("the load goes on", LONG, || async { done.load(Ordering::Relaxed) >= 5_000 }).await;
        second.signal("STOP");
        stage.change("b", &to("b", "")).await;
        stage.writes_to("b").await;
        second.signal("CONT");
    };
    tokio::join!(load(&jetstream, 0..20_000, &done), changes);
    stage.send("alpha.metrics", 20_000..25_000).await;
    stage.settled("metrics").await;
    let held = in_exactly_one(&[Place::new(&stage.mongo, "a"), Place::new(&stage.mongo, "b")], 0..25_000).await;
    assert!(held.iter().all(|held| *held > 0), "{held:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_killed_in_the_middle_of_a_change_is_followed_by_one_that_finishes_it() {
    require!("nats-server", "database");
    let (mut stage, proxy) = stage_behind(Nats::start().await, Mongo::start().await).await;
    stage.publish("metrics", &to("a", "")).await;
    // The same hosts: what a target is does not depend on who decides.
    let second = Run { mongo_url: stage.mongo.url_through(&proxy), ..Run::new(&stage.nats, &stage.mongo) }.start().await;
    eventually("both run it", SOON, || async { stage.status("metrics").await["observed"]["executions"] == 2 }).await;
    proxy.stall_replies();
    stage.send("alpha.metrics", 0..5_000).await;
    stage.change("b", &to("b", "")).await;
    stage.phase_is("metrics", "switch").await;
    eventually("the consumer is paused", SOON, || async { stage.consumer().await.paused }).await;
    assert!(stage.consumer().await.num_ack_pending > 0, "the holder cannot finish");
    stage.sluice.kill9();
    proxy.resume();
    stage.send("alpha.metrics", 5_000..6_000).await;
    let moved = || async {
        let (_, body) = second.get("/api/v1/pipelines/metrics").await;
        let status: Value = serde_json::from_str(&body).unwrap_or_default();
        status["admitted"]["phase"] == "run" && status["admitted"]["spec"]["target"]["collection"] == "b"
    };
    eventually("the other finishes the change", LONG, moved).await;
    eventually("the consumer is resumed", SOON, || async { !stage.consumer().await.paused }).await;
    stage.settled("metrics").await;
    let held = in_exactly_one(&[Place::new(&stage.mongo, "a"), Place::new(&stage.mongo, "b")], 0..6_000).await;
    assert!(held.iter().all(|held| *held > 0), "{held:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_is_paused_taken_back_or_deleted_in_the_middle_leaves_no_pause_and_doubles_nothing() {
    require!("nats-server", "database");
    let (mut stage, proxy) = stage_behind(Nats::start().await, Mongo::start().await).await;
    stage.publish("metrics", &to("a", "")).await;
    stage.kill_with_messages_in_flight(&proxy, "a", 0..3_000).await;
    stage.change("b", &to("b", "")).await;
    stage.sluice.respawn();
    stage.sluice.wait_ready().await;
    let paused = || async { eventually("the consumer is paused", SOON, || async { stage.consumer().await.paused }).await };
    let resumed = || async { eventually("the consumer is resumed", SOON, || async { !stage.consumer().await.paused }).await };
    paused().await;
    stage.sluice.cli_ok(&["pause", "metrics", "--wait"]).await;
    resumed().await;
    stage.sluice.cli_ok(&["publish", "metrics"]).await;
    paused().await;
    stage.change("a", &to("a", "")).await;
    stage.writes_to("a").await;
    resumed().await;
    stage.change("b", &to("b", "")).await;
    paused().await;
    stage.sluice.cli_ok(&["delete", "metrics", "--yes"]).await;
    eventually("the stream is gone", LONG, || async { stage.waiting("metrics").await.is_none() }).await;
    let held = in_exactly_one(&[Place::new(&stage.mongo, "a"), Place::new(&stage.mongo, "b")], 0..3_000).await;
    assert_eq!(held, [3_000, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_old_target_is_away_what_may_lie_there_waits_and_the_status_says_what_to_do() {
    require!("nats-server", "database");
    let (nats, mongo, second) = tokio::join!(Nats::start(), Mongo::start(), Mongo::start());
    let proxy = Proxy::start(mongo.port()).await;
    let env = connection("second", &second);
    let run = Run { mongo_url: mongo.url_through(&proxy), env, ..Run::new(&nats, &mongo) };
    let sluice = run.start().await;
    let mut stage = Stage { nats, mongo, sluice };
    stage.publish("metrics", &to("a", "")).await;
    stage.kill_with_messages_in_flight(&proxy, "a", 0..2_000).await;
    proxy.cut();
    stage.change("b", &to("a", "    connection: second\n")).await;
    stage.sluice.respawn();
    eventually("it listens", SOON, || async { stage.sluice.http_url().is_some() }).await;
    eventually("it says so", LONG, || async { has(&stage.status("metrics").await, "Progressing", false, "PreviousTargetUnavailable") })
        .await;
    assert_eq!(second.count("a").await, 0);
    proxy.resume();
    stage.settled("metrics").await;
    let held = in_exactly_one(&[Place::new(&stage.mongo, "a"), Place::new(&second, "a")], 0..2_000).await;
    assert!(held[0] > 0, "{held:?}");

    // The other way round, and for good: the way out is the operator's.
    stage.send("alpha.metrics", 2_000..3_000).await;
    stage.settled("metrics").await;
    second.sigstop();
    stage.change("c", &to("c", "")).await;
    stage.writes_to("c").await;
    stage.send("alpha.metrics", 3_000..4_000).await;
    stage.says("metrics", "Progressing", false, "PreviousTargetUnavailable").await;
    stage.sluice.cli_ok(&["give-up", "metrics", "--yes"]).await;
    stage.exactly("c", 3_000..4_000).await;
    second.sigcont();
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_with_an_id_of_their_own_and_dead_letters_are_found_again_too() {
    require!("nats-server", "database");
    let (mut stage, proxy) = stage_behind(Nats::start().await, Mongo::start().await).await;
    stage.publish("metrics", &to("a", "")).await;
    // One that the new target would take and the old one refused.
    let own = |n: i64| {
        if n < 2 {
            doc! {"_id": "same", "n": n}
        } else {
            doc! {"_id": n, "n": n}
        }
    };
    stage.send_with("alpha.metrics", 0..2, own).await;
    stage.settled("metrics").await;
    assert_eq!(stage.dead_letters("metrics").await, 1);
    proxy.stall_replies();
    stage.send_with("alpha.metrics", 2..1_000, own).await;
    eventually("the database has some of it", SOON, || async { stage.mongo.count("a").await > 1 }).await;
    stage.sluice.kill9();
    proxy.resume();
    // Another document under an id of the old target is another document.
    stage.send_with("alpha.metrics", 5..6, |_| doc! {"_id": 5_i64, "n": 5_000_i64}).await;
    stage.change("b", &to("b", "")).await;
    stage.sluice.respawn();
    stage.sluice.wait_ready().await;
    stage.writes_to("b").await;
    stage.settled("metrics").await;
    let mut found = Place::new(&stage.mongo, "a").numbers().await;
    found.extend(Place::new(&stage.mongo, "b").numbers().await);
    found.sort_unstable();
    let total = found.len();
    found.dedup();
    assert_eq!((total, found.len()), (1_000, 1_000), "one of two under the same id, 998 others, and another one");
    assert_eq!(stage.dead_letters("metrics").await, 1);
}
