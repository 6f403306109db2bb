//! A nats-server that forgets: what it delivered, what was acknowledged to it, which ids it has seen, the tail of a stream.
//! The identity of a message is all that is left then, and it is enough.

use super::*;
use crate::controllers::foreign_stream;
use crate::support::Proxy;
use crate::support::wire::Ears;
use std::collections::HashMap;
use std::path::Path;

/// A stage whose process is heard on its way to NATS, over a stream with leases so short that what is forgotten comes soon.
async fn stage() -> (Stage, Ears, Proxy) {
    let (nats, mongo) = tokio::join!(Nats::start_synced(), Mongo::start());
    let ears = Ears::default();
    let proxy = Proxy::start_tapped(nats.port(), ears.nats()).await;
    let run = Run { nats_url: nats.url_through(&proxy), ..Run::new(&nats, &mongo) };
    let sluice = run.start().await;
    foreign_stream(&nats.jetstream().await, "metrics", Duration::from_secs(4)).await;
    let stage = Stage { nats, mongo, sluice };
    stage.publish_plain("metrics").await;
    (stage, ears, proxy)
}

/// How many deliveries that say to be the first of their message were not.
fn false_firsts(ears: &Ears) -> usize {
    let mut firsts = HashMap::<u64, usize>::new();
    for (delivery, _) in ears.deliveries("alpha_metrics").iter().filter(|(delivery, _)| delivery.count == 1) {
        *firsts.entry(delivery.sequence).or_default() += 1;
    }
    firsts.values().map(|times| times - 1).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_killed_within_100_ms_of_a_delivery_delivers_again_as_if_for_the_first_time_and_nothing_is_doubled() {
    require!("nats-server", "database");
    let (mut stage, ears, _proxy) = stage().await;
    for round in 0..6 {
        let before = ears.deliveries("alpha_metrics").len();
        stage.send("alpha.metrics", round * 500..(round + 1) * 500).await;
        eventually("something is delivered", SOON, || async { ears.deliveries("alpha_metrics").len() > before }).await;
        stage.nats.kill9();
        stage.nats.restart().await;
    }
    stage.exactly("metrics", 0..3_000).await;
    stage.settled("metrics").await;
    assert_each_once(&stage.mongo, "metrics", 0..3_000).await;
    assert!(false_firsts(&ears) > 0, "the server forgot nothing");
    assert_eq!(stage.dead_letters("metrics").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_durable_that_is_reset_again_and_again_under_a_load_doubles_nothing() {
    require!("nats-server", "database");
    let (stage, ears, _proxy) = stage().await;
    let client = stage.nats.client().await;
    let resets = async {
        for _ in 0..10 {
            let before = ears.deliveries("alpha_metrics").len();
            eventually("something is delivered", SOON, || async { ears.deliveries("alpha_metrics").len() > before + 100 }).await;
            let answer = client.request("$JS.API.CONSUMER.RESET.alpha_metrics.default", "".into()).await.unwrap();
            assert!(!String::from_utf8_lossy(&answer.payload).contains("\"error\""), "{:?}", answer.payload);
        }
    };
    tokio::join!(stage.send("alpha.metrics", 0..10_000), resets);
    stage.exactly("metrics", 0..10_000).await;
    stage.settled("metrics").await;
    assert_each_once(&stage.mongo, "metrics", 0..10_000).await;
    assert!(false_firsts(&ears) > 0, "the server forgot nothing");
}

/// Publishes and waits for the acknowledgement; whether the server knew the id.
async fn publish_as(stage: &Stage, id: &str, document: Document) -> bool {
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Nats-Msg-Id", id);
    let jetstream = stage.nats.jetstream().await;
    let ack = jetstream.publish_with_headers("alpha.metrics", headers, document.to_vec().unwrap().into()).await.unwrap();
    ack.await.unwrap().duplicate
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_repeated_after_a_second_and_a_restart_is_one_document_and_its_id_with_another_payload_is_another() {
    require!("nats-server", "database");
    let (mut stage, _ears, _proxy) = stage().await;
    assert!(!publish_as(&stage, "a", doc! {"n": 0i64}).await);
    stage.exactly("metrics", 0..1).await;
    stage.settled("metrics").await;
    for n in 0..2 {
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        stage.nats.kill9();
        stage.nats.restart().await;
        assert!(!publish_as(&stage, "a", doc! {"n": n as i64}).await, "the server has forgotten the id");
        stage.settled("metrics").await;
    }
    stage.exactly("metrics", 0..2).await;
    assert_eq!(stage.dead_letters("metrics").await, 0);
}

/// Copies a directory with all that is in it.
pub(super) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() { copy(&entry.path(), &to) } else { std::fs::copy(entry.path(), &to).map(drop).unwrap() }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sequences_used_again_after_the_tail_of_a_stream_was_lost_are_other_messages() {
    require!("nats-server", "database");
    let (mut stage, ears, _proxy) = stage().await;
    stage.send_bare(0..10).await;
    stage.exactly("metrics", 0..10).await;
    stage.settled("metrics").await;
    stage.nats.kill9();
    let (store, kept) = (stage.nats.dir.join("store"), stage.nats.dir.join("kept"));
    copy(&store, &kept);
    stage.nats.restart().await;
    stage.send_bare(10..60).await;
    stage.exactly("metrics", 0..60).await;
    stage.settled("metrics").await;
    // The disk of an hour ago.
    stage.nats.kill9();
    std::fs::remove_dir_all(&store).unwrap();
    copy(&kept, &store);
    stage.nats.restart().await;
    let noticed = || async { stage.sluice.log().contains("the stream is another one, or lost messages that were delivered") };
    eventually("the loss is noticed", SOON, noticed).await;
    stage.says("metrics", "Advisory", true, "StreamLostMessages").await;
    stage.send_bare(60..110).await;
    stage.exactly("metrics", 0..110).await;
    stage.settled("metrics").await;
    let sequences = ears.deliveries("alpha_metrics");
    let twice = |sequence| {
        sequences
            .iter()
            .filter(|(delivery, _)| delivery.sequence == sequence)
            .map(|(_, payload)| payload)
            .collect::<std::collections::HashSet<_>>()
    };
    assert_eq!(twice(30).len(), 2, "one sequence, two messages");
}

impl Stage {
    /// Publishes `{n}` for each of `numbers` in turn, without ids.
    async fn send_bare(&self, numbers: Range<i64>) {
        let jetstream = self.nats.jetstream().await;
        for n in numbers {
            jetstream.publish("alpha.metrics", doc! {"n": n}.to_vec().unwrap().into()).await.unwrap().await.unwrap();
        }
    }
}
