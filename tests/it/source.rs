//! The source on a real server: what pulls bring, what ends them, and that nothing ends the source.

use crate::support::{Nats, eventually};
use async_nats::Subject;
use async_nats::jetstream::{self, consumer, stream};
use sluice::collector::source::{Delivery, Found, Source, SourceErrorKind, SourceEvent};
use std::time::{Duration, Instant};

const ACK_WAIT: Duration = Duration::from_secs(3);
const EXPIRES: Duration = Duration::from_secs(20);
const BEAT: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(15);

async fn prepare(nats: &Nats) -> (jetstream::Context, Source) {
    let jetstream = nats.jetstream().await;
    let config = stream::Config {
        name: "s".into(),
        subjects: vec!["s".into()],
        retention: stream::RetentionPolicy::WorkQueue,
        ..Default::default()
    };
    jetstream.create_stream(config).await.unwrap();
    durable(&jetstream).await;
    (jetstream, Source::open(nats.client().await, "s", "c").await.unwrap())
}

async fn durable(jetstream: &jetstream::Context) {
    let config = consumer::pull::Config { durable_name: Some("c".into()), ack_wait: ACK_WAIT, ..Default::default() };
    jetstream.create_consumer_on_stream(config, "s").await.unwrap();
}

async fn publish(jetstream: &jetstream::Context, count: usize, size: usize) {
    for number in 0..count {
        let mut payload = number.to_string().into_bytes();
        payload.resize(size.max(payload.len()), b' ');
        jetstream.publish("s", payload.into()).await.unwrap().await.unwrap();
    }
}

/// The next event that `wanted` accepts; others are passed over.
async fn event<T>(source: &mut Source, wanted: impl Fn(SourceEvent) -> Option<T>) -> T {
    tokio::time::timeout(PATIENCE, async {
        loop {
            if let Some(found) = wanted(source.next(100).await) {
                return found;
            }
        }
    })
    .await
    .expect("the event came in time")
}

async fn deliveries(source: &mut Source, count: usize) -> Vec<Delivery> {
    let mut all = Vec::new();
    while all.len() < count {
        all.extend(event(source, |event| if let SourceEvent::Delivered(some) = event { Some(some) } else { None }).await);
    }
    all
}

fn replies(deliveries: &[Delivery]) -> Vec<Subject> {
    deliveries.iter().map(|delivery| delivery.message.reply.clone().unwrap()).collect()
}

async fn acked(source: &mut Source) -> (u64, usize, usize) {
    event(source, |event| if let SourceEvent::Acked { token, confirmed, of } = event { Some((token, confirmed, of)) } else { None }).await
}

async fn gap(source: &mut Source) -> &'static str {
    event(source, |event| if let SourceEvent::Gap(reason) = event { Some(reason) } else { None }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn double_acknowledgements_remove_messages_for_good() {
    require!("nats-server");
    let nats = Nats::start().await;
    let (jetstream, mut source) = prepare(&nats).await;
    publish(&jetstream, 300, 10).await;
    let before = Instant::now();
    source.pull(300, 0, EXPIRES, BEAT).await.unwrap();
    let got = deliveries(&mut source, 300).await;
    assert!(got.windows(2).all(|pair| pair[0].sequence + 1 == pair[1].sequence));
    assert_eq!((got[0].delivered, got[0].pending, got[299].pending), (1, 299, 0));
    let taken = Instant::now();
    assert!(got.iter().all(|delivery| delivery.lease_from <= taken && delivery.bytes >= 10));
    assert!(before - got[0].lease_from < Duration::from_secs(3), "the lease is not given away either");
    assert_eq!(source.outstanding(), 0);
    source.ack(&mut replies(&got), 7).await.unwrap();
    assert_eq!(acked(&mut source).await, (7, 300, 300));
    let facts = source.info().await.unwrap();
    assert_eq!((facts.num_pending, facts.num_ack_pending, facts.last_sequence, facts.ack_wait), (0, 0, 300, ACK_WAIT));
    assert_eq!(jetstream.get_stream("s").await.unwrap().get_info().await.unwrap().state.messages, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_known_again_by_sequence_and_time_and_one_that_left_the_stream_is_not_there() {
    require!("nats-server");
    let nats = Nats::start().await;
    let (jetstream, mut source) = prepare(&nats).await;
    publish(&jetstream, 2, 10).await;
    source.pull(2, 0, EXPIRES, BEAT).await.unwrap();
    let got = deliveries(&mut source, 2).await;
    let (sequence, published_ns) = (got[1].sequence, got[1].published_ns);
    let inspector = source.inspector();
    assert_eq!(inspector.holds(sequence, published_ns).await.unwrap(), Found::Same);
    assert_eq!(inspector.holds(sequence, published_ns + 1).await.unwrap(), Found::Another);
    source.ack(&mut replies(&got), 1).await.unwrap();
    acked(&mut source).await;
    assert_eq!(inspector.holds(sequence, published_ns).await.unwrap(), Found::Nothing);
    assert_eq!(inspector.holds(sequence + 7, published_ns).await.unwrap(), Found::Nothing);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_is_bounded_by_bytes_but_never_below_one_message() {
    require!("nats-server");
    let nats = Nats::start().await;
    let (jetstream, mut source) = prepare(&nats).await;
    publish(&jetstream, 6, 300 << 10).await;
    source.pull(100, 10, EXPIRES, BEAT).await.unwrap();
    // Asked for ten bytes: raised to the largest message (1 MiB) and 64 KiB, which three of these fill.
    assert_eq!(deliveries(&mut source, 3).await.len(), 3);
    let outstanding =
        event(&mut source, |event| if let SourceEvent::PullEnded { outstanding } = event { Some(outstanding) } else { None }).await;
    assert_eq!(outstanding, 0);
    source.pull(100, 4 << 20, EXPIRES, BEAT).await.unwrap();
    assert_eq!(deliveries(&mut source, 3).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_expire_end_and_others_stay_outstanding() {
    require!("nats-server");
    let nats = Nats::start().await;
    let (_, mut source) = prepare(&nats).await;
    source.pull(10, 0, Duration::from_secs(1), BEAT).await.unwrap();
    source.pull(20, 0, EXPIRES, BEAT).await.unwrap();
    assert_eq!(source.outstanding(), 30);
    let left = event(&mut source, |event| if let SourceEvent::PullEnded { outstanding } = event { Some(outstanding) } else { None });
    assert_eq!(left.await, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn renewals_keep_messages_and_naks_give_them_back() {
    require!("nats-server");
    let nats = Nats::start().await;
    let (jetstream, mut source) = prepare(&nats).await;
    publish(&jetstream, 2, 10).await;
    source.pull(2, 0, EXPIRES, BEAT).await.unwrap();
    let got = deliveries(&mut source, 2).await;
    source.pull(10, 0, EXPIRES, BEAT).await.unwrap();
    let start = Instant::now();
    while start.elapsed() < 2 * ACK_WAIT {
        source.renew(&mut replies(&got), 1).await.unwrap();
        let renewed = |event| match event {
            SourceEvent::Renewed { confirmed, of, .. } => Some((confirmed, of)),
            SourceEvent::Delivered(_) => panic!("redelivered in spite of renewals"),
            _ => None,
        };
        assert_eq!(event(&mut source, renewed).await, (2, 2));
        tokio::time::sleep(ACK_WAIT / 6).await;
    }
    source.nak(&mut replies(&got), Duration::from_millis(300)).await.unwrap();
    let again = deliveries(&mut source, 2).await;
    assert!(again.iter().all(|delivery| delivery.delivered == 2));
    source.term(&mut replies(&again), 9).await.unwrap();
    assert_eq!(acked(&mut source).await, (9, 2, 2));
    assert_eq!(source.info().await.unwrap().num_ack_pending, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stands_still_is_a_gap_and_goes_on_afterwards() {
    require!("nats-server");
    let nats = Nats::start().await;
    let (jetstream, mut source) = prepare(&nats).await;
    source.pull(10, 0, EXPIRES, BEAT).await.unwrap();
    tokio::time::timeout(3 * BEAT, source.next(10)).await.expect_err("heartbeats are no events");
    nats.sigstop();
    assert_eq!(gap(&mut source).await, "heartbeats are missing");
    assert_eq!(source.outstanding(), 0);
    nats.sigcont();
    publish(&jetstream, 5, 10).await;
    source.pull(10, 0, EXPIRES, BEAT).await.unwrap();
    deliveries(&mut source, 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_is_a_gap_as_soon_as_it_is_back() {
    require!("nats-server");
    let mut nats = Nats::start().await;
    let (jetstream, mut source) = prepare(&nats).await;
    publish(&jetstream, 3, 10).await;
    source.pull(2, 0, EXPIRES, BEAT).await.unwrap();
    let got = deliveries(&mut source, 2).await;
    source.pull(10, 0, EXPIRES, Duration::from_secs(10)).await.unwrap();
    nats.kill9();
    let source_ref = tokio::sync::Mutex::new(&mut source);
    eventually("calls fail at once without a connection", PATIENCE, || async {
        let sent = source_ref.lock().await.ack(&mut replies(&got), 1).await;
        sent.is_err_and(|error| error.kind == SourceErrorKind::Disconnected)
    })
    .await;
    let down = Instant::now();
    nats.restart().await;
    assert_eq!(gap(&mut source).await, "the connection was made anew");
    assert!(down.elapsed() < Duration::from_secs(8), "not by the missing heartbeat");
    source.pull(10, 0, EXPIRES, BEAT).await.unwrap();
    let again = deliveries(&mut source, 1).await;
    assert!(!again.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_consumer_is_an_event_and_the_source_works_with_the_next_one() {
    require!("nats-server");
    let nats = Nats::start().await;
    let (jetstream, mut source) = prepare(&nats).await;
    let gone = |event| if let SourceEvent::ConsumerGone(reason) = event { Some(reason) } else { None };
    source.pull(10, 0, EXPIRES, BEAT).await.unwrap();
    tokio::time::timeout(BEAT, source.next(10)).await.expect_err("nothing to report");
    jetstream.delete_consumer_from_stream("c", "s").await.unwrap();
    assert_eq!(event(&mut source, gone).await, "the consumer was deleted");
    assert_eq!(source.info().await.unwrap_err().kind, SourceErrorKind::NotFound);
    source.pull(10, 0, EXPIRES, BEAT).await.unwrap();
    assert_eq!(event(&mut source, gone).await, "nobody answers for the consumer");
    durable(&jetstream).await;
    publish(&jetstream, 1, 10).await;
    source.pull(10, 0, EXPIRES, BEAT).await.unwrap();
    deliveries(&mut source, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_counts_from_before_the_delivery_even_if_nobody_listened_meanwhile() {
    require!("nats-server");
    let nats = Nats::start().await;
    let (jetstream, mut source) = prepare(&nats).await;
    source.pull(10, 0, EXPIRES, Duration::from_secs(9)).await.unwrap();
    tokio::time::timeout(BEAT, source.next(10)).await.expect_err("nothing to report");
    publish(&jetstream, 1, 10).await;
    let delivered = Instant::now();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let got = deliveries(&mut source, 1).await;
    assert!(got[0].lease_from <= delivered);
    assert!(delivered - got[0].lease_from < Duration::from_secs(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_heartbeats_ends_by_itself_and_nothing_is_taken_for_a_gap() {
    require!("nats-server");
    let nats = Nats::start().await;
    let (jetstream, mut source) = prepare(&nats).await;
    publish(&jetstream, 3, 10).await;
    source.pull(10, 0, Duration::from_secs(2), Duration::ZERO).await.unwrap();
    assert_eq!(deliveries(&mut source, 3).await.len(), 3);
    let outstanding = event(&mut source, |event| match event {
        SourceEvent::PullEnded { outstanding } => Some(outstanding),
        other => panic!("{other:?}"),
    });
    assert_eq!(outstanding.await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_taken_back_bring_what_was_on_its_way_and_nothing_more() {
    require!("nats-server");
    let nats = Nats::start().await;
    let (jetstream, mut source) = prepare(&nats).await;
    source.pull(100, 0, EXPIRES, BEAT).await.unwrap();
    publish(&jetstream, 5, 10).await;
    source.withdraw().await;
    let mut got = deliveries(&mut source, 5).await;
    let ended = |event| if let SourceEvent::PullEnded { outstanding } = event { Some(outstanding) } else { None };
    assert_eq!(event(&mut source, ended).await, 0);
    publish(&jetstream, 5, 10).await;
    tokio::time::timeout(2 * BEAT, source.next(100)).await.expect_err("nothing was asked for");
    let facts = source.info().await.unwrap();
    assert_eq!((facts.num_pending, facts.num_ack_pending, facts.num_waiting, facts.num_redelivered), (5, 5, 0, 0));
    // What was brought is still acknowledged, and others get the rest; the source itself can begin again, too.
    source.ack(&mut replies(&got), 3).await.unwrap();
    assert_eq!(acked(&mut source).await, (3, 5, 5));
    source.pull(100, 0, EXPIRES, BEAT).await.unwrap();
    got.extend(deliveries(&mut source, 5).await);
    assert!(got.iter().all(|delivery| delivery.delivered == 1) && got.len() == 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn taking_requests_back_again_and_again_beside_a_trickle_redelivers_next_to_nothing() {
    require!("nats-server");
    let nats = Nats::start().await;
    let (jetstream, first) = prepare(&nats).await;
    drop(first);
    let publisher = jetstream.clone();
    let stop = tokio_util::sync::CancellationToken::new();
    let trickle = tokio::spawn({
        let stop = stop.clone();
        async move {
            while !stop.is_cancelled() {
                publish(&publisher, 1, 10).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    });
    let (mut got, mut again) = (0, 0);
    for _ in 0..40 {
        let mut source = Source::open(nats.client().await, "s", "c").await.unwrap();
        source.pull(1000, 0, EXPIRES, BEAT).await.unwrap();
        let mut all = deliveries(&mut source, 2).await;
        source.withdraw().await;
        while source.outstanding() > 0 {
            if let SourceEvent::Delivered(some) = source.next(100).await {
                all.extend(some);
            }
        }
        source.ack(&mut replies(&all), 1).await.unwrap();
        acked(&mut source).await;
        got += all.len() as u64;
        again += all.iter().filter(|delivery| delivery.delivered > 1).count();
    }
    // What the server had in hand just when an inbox was given up.
    assert!(again <= 4, "{again} were delivered again");
    stop.cancel();
    trickle.await.unwrap();
    let source = Source::open(nats.client().await, "s", "c").await.unwrap();
    let facts = source.info().await.unwrap();
    assert_eq!((facts.num_ack_pending, facts.num_redelivered), (0, 0));
    assert_eq!(got + facts.num_pending, facts.last_sequence);
}
