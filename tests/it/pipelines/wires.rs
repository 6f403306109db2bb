//! What is said on the wires to NATS and to MongoDB, and in which order: the promise itself, not only what came of it.

use super::*;
use crate::controllers::{foreign_durable, foreign_stream};
use crate::support::Proxy;
use crate::support::wire::{Command, Delivery, Ears, Heard, delivery};
use std::collections::{HashMap, HashSet};

const STREAM: &str = "alpha_metrics";

/// A stage whose process is heard on both wires.
struct Heed {
    stage: Stage,
    ears: Ears,
    nats: Proxy,
    mongo: Proxy,
}

async fn heed() -> Heed {
    let (nats, mongo) = tokio::join!(Nats::start(), Mongo::start());
    let ears = Ears::default();
    let (to_nats, to_mongo) = (Proxy::start_tapped(nats.port(), ears.nats()).await, Proxy::start_tapped(mongo.port(), ears.mongo()).await);
    let run = Run { nats_url: nats.url_through(&to_nats), mongo_url: mongo.url_through(&to_mongo), ..Run::new(&nats, &mongo) };
    let sluice = run.start().await;
    Heed { stage: Stage { nats, mongo, sluice }, ears, nats: to_nats, mongo: to_mongo }
}

/// What is known at some moment, by the frames so far.
#[derive(Default)]
struct Known {
    /// What each message of the stream is, by its sequence.
    payloads: HashMap<u64, Vec<u8>>,
    /// Documents of each insert under way.
    asked: HashMap<Command, Vec<Document>>,
    /// Numbers of the documents that the database has confirmed.
    durable: HashSet<i64>,
    /// Payloads of dead letters under way, by the inbox that their acknowledgement is awaited on.
    buried: HashMap<String, Vec<u8>>,
    /// Those that are acknowledged.
    dead: HashSet<Vec<u8>>,
    /// Sequences that were acknowledged, and terminated.
    acknowledged: HashSet<u64>,
    terminated: HashSet<u64>,
}

fn documents(body: &Document) -> Vec<Document> {
    body.get_array("documents").unwrap().iter().map(|document| document.as_document().unwrap().clone()).collect()
}

impl Known {
    fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Asked { command, body } if body.get_str("insert").is_ok_and(|name| name == "metrics") => {
                let concern = body.get_document("writeConcern").unwrap();
                assert!(concern.get_str("w").is_ok_and(|w| w == "majority") && concern.get_bool("j").is_ok_and(|j| j), "{concern}");
                self.asked.insert(command, documents(&body));
            }
            Heard::Answered { command, body } => self.answered(command, &body),
            Heard::Delivered { subject, reply, payload } => {
                if let Some(Delivery { sequence, .. }) = delivery(&reply, STREAM) {
                    self.payloads.insert(sequence, payload);
                } else if let Some(letter) = self.buried.remove(&subject)
                    && serde_json::from_slice::<Value>(&payload).is_ok_and(|ack| ack["stream"] == "alpha-dlq" && ack["seq"].is_u64())
                {
                    self.dead.insert(letter);
                }
            }
            Heard::Published { subject, reply, payload } if subject.starts_with("alpha-dlq.metrics.") => {
                self.buried.insert(reply, payload);
            }
            Heard::Published { subject, payload, .. } => {
                if let Some(Delivery { sequence, .. }) = delivery(&subject, STREAM) {
                    self.settled(sequence, &payload);
                }
            }
            Heard::Asked { .. } => {}
        }
    }

    fn answered(&mut self, command: Command, body: &Document) {
        let Some(documents) = self.asked.remove(&command) else { return };
        let ok = body.get("ok").is_some_and(|ok| ok.as_f64() == Some(1.0) || ok.as_i32() == Some(1));
        if !ok || body.contains_key("writeConcernError") {
            return;
        }
        let refused: HashSet<_> = body
            .get_array("writeErrors")
            .into_iter()
            .flatten()
            .filter_map(bson::Bson::as_document)
            .collect::<Vec<_>>()
            .into_iter()
            // What it has already is there.
            .filter(|error| error.get_i32("code").ok() != Some(11000))
            .map(|error| error.get_i32("index").unwrap())
            .collect();
        let stored = documents.iter().enumerate().filter(|(index, _)| !refused.contains(&(*index as i32)));
        self.durable.extend(stored.map(|(_, document)| document.get_i64("n").unwrap()));
    }

    fn settled(&mut self, sequence: u64, what: &[u8]) {
        let payload = &self.payloads[&sequence];
        match what {
            b"+WPI" => {}
            b"+ACK" => {
                let number = Document::from_reader(&payload[..]).unwrap().get_i64("n").unwrap();
                assert!(self.durable.contains(&number), "{number} was acknowledged before the database said that it is durable");
                self.acknowledged.insert(sequence);
            }
            _ if what.starts_with(b"+TERM") => {
                assert!(self.dead.contains(payload), "{sequence} was terminated before its dead letter was acknowledged");
                self.terminated.insert(sequence);
            }
            other => panic!("{sequence}: {}", String::from_utf8_lossy(other)),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_acknowledged_before_the_database_has_it_durably_and_nothing_terminated_before_its_dead_letter_is_stored() {
    require!("nats-server", "database");
    let Heed { stage, ears, nats, mongo } = heed().await;
    stage.publish("metrics", &plain("metrics").replace("1000", "50")).await;
    stage.send("alpha.metrics", 0..50).await;
    let (jetstream, total) = (stage.nats.jetstream().await, 3_000_i64);
    let load = async {
        for n in 50..total {
            let payload = if n % 500 == 499 { format!("poison {n}").into_bytes() } else { doc! {"n": n}.to_vec().unwrap() };
            jetstream.publish("alpha.metrics", payload.into()).await.unwrap().await.unwrap();
        }
    };
    // Answers come late, fail, or say that it is not durable: whoever does not wait for them gives himself away.
    let troubles = async {
        let concern = doc! {"code": 64, "errmsg": "as the test wants it"};
        for data in [doc! {"writeConcernError": concern}, doc! {"errorCode": 91}, doc! {"closeConnection": true}] {
            let mut data = data;
            data.insert("failCommands", vec!["insert"]);
            stage.mongo.fail_command(doc! {"mode": {"times": 2}, "data": data}).await;
            for _ in 0..3 {
                mongo.stall_replies();
                tokio::time::sleep(Duration::from_millis(120)).await;
                mongo.resume();
                nats.stall_replies();
                tokio::time::sleep(Duration::from_millis(60)).await;
                nats.resume();
            }
        }
    };
    tokio::join!(load, troubles);
    stage.settled("metrics").await;
    let mut known = Known::default();
    ears.heard().into_iter().for_each(|heard| known.hear(heard));
    let poison = (50..total).filter(|n| n % 500 == 499).count();
    assert_eq!((known.acknowledged.len(), known.terminated.len()), (usize::try_from(total).unwrap() - poison, poison));
    assert_eq!((stage.mongo.count("metrics").await, stage.dead_letters("metrics").await), (total as u64 - poison as u64, poison as u64));
}

/// Holds a batch of 100 in the process, on a durable whose leases are so short that it can outsleep them.
async fn holding(stage: &Stage, ears: &Ears, linger: &str) {
    let jetstream = stage.nats.jetstream().await;
    foreign_stream(&jetstream, "metrics", Duration::from_secs(3)).await;
    foreign_durable(&jetstream, "metrics", Duration::from_secs(3)).await;
    let config = format!("schema: 1\noutput:\n  mongodb:\n    collection: metrics\n    batching: {{count: 1000, {linger}}}\n");
    stage.publish("metrics", &config).await;
    stage.send("alpha.metrics", 0..100).await;
    eventually("all are delivered", SOON, || async { ears.deliveries(STREAM).len() >= 100 }).await;
}

/// What the process said from this frame on: every insert must follow a later delivery of what it inserts, and nothing may
/// be said for a first delivery.
fn assert_silent_for_first_deliveries(ears: &Ears, from: usize) {
    let mut delivered_again = HashSet::new();
    for heard in ears.heard().into_iter().skip(from) {
        match heard {
            Heard::Delivered { reply, payload, .. } if delivery(&reply, STREAM).is_some() => {
                let number = Document::from_reader(&payload[..]).unwrap().get_i64("n").unwrap();
                delivered_again.insert(number);
            }
            Heard::Published { subject, payload, .. } => {
                let first = delivery(&subject, STREAM).filter(|delivery| delivery.count == 1);
                assert_eq!(first, None, "said {}", String::from_utf8_lossy(&payload));
            }
            Heard::Asked { body, .. } if body.contains_key("insert") => {
                let numbers: HashSet<_> = documents(&body).iter().map(|document| document.get_i64("n").unwrap()).collect();
                assert!(numbers.is_subset(&delivered_again), "what was held was sent: {numbers:?}");
            }
            _ => {}
        }
    }
    assert_eq!(delivered_again.len(), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_slept_past_its_leases_says_nothing_for_what_it_held() {
    require!("nats-server", "database");
    let Heed { stage, ears, nats: _nats, mongo: _mongo } = heed().await;
    holding(&stage, &ears, "period: 5s").await;
    stage.sluice.signal("STOP");
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (from, begun) = (ears.so_far(), stage.mongo.count("metrics").await);
    assert_eq!(begun, 0, "it still held all of them");
    tokio::time::sleep(Duration::from_secs(6)).await;
    stage.sluice.signal("CONT");
    stage.exactly("metrics", 0..100).await;
    stage.settled("metrics").await;
    assert_silent_for_first_deliveries(&ears, from);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_slept_past_its_leases_acknowledges_nothing_by_an_insert_that_had_begun() {
    require!("nats-server", "database");
    let Heed { stage, ears, mongo, nats: _nats } = heed().await;
    let inserting =
        |ears: &Ears| ears.heard().iter().any(|heard| matches!(heard, Heard::Asked { body, .. } if body.contains_key("insert")));
    holding(&stage, &ears, "period: 2s").await;
    mongo.stall_replies();
    eventually("the insert is under way", SOON, || async { inserting(&ears) && stage.mongo.count("metrics").await == 100 }).await;
    stage.sluice.signal("STOP");
    tokio::time::sleep(Duration::from_millis(300)).await;
    let from = ears.so_far();
    tokio::time::sleep(Duration::from_secs(6)).await;
    mongo.resume();
    stage.sluice.signal("CONT");
    stage.settled("metrics").await;
    stage.exactly("metrics", 0..100).await;
    assert_silent_for_first_deliveries(&ears, from);
}
