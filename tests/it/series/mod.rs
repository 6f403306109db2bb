//! Time-series collections on real servers: each measurement once, whoever crashes, leaves or wakes up.

mod faults;
mod kills;
mod path;
mod payloads;
mod roles;

use crate::collector_support::{COLLECTION, Running, STREAM, World};
use crate::support::{Nats, eventually};
use async_nats::jetstream::consumer::pull;
use mongodb::bson::{DateTime, Document, doc, oid::ObjectId};
use sluice::pipeline::config::{OutputConfig, TimeSeries};
use sluice::pipeline::report::StreamRole;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(40);
/// Of the durable: what a crash leaves behind is soon delivered again.
const ACK_WAIT: Duration = Duration::from_secs(4);

fn measurement(n: i64) -> Document {
    doc! { "n": n, "ts": DateTime::from_millis(1_790_000_000_000 + n / 10), "device": format!("device-{}", n % 7), "value": n as f64 / 3.0 }
}

fn measurements(numbers: std::ops::Range<i64>) -> impl Iterator<Item = Document> {
    numbers.map(measurement)
}

/// Servers with a stream whose durable has a short `ack_wait`.
async fn world() -> World {
    world_on(Nats::start().await).await
}

async fn world_on(nats: Nats) -> World {
    let world = World::on(nats, 20_000).await;
    ack_wait(&world, ACK_WAIT).await;
    world
}

async fn ack_wait(world: &World, ack_wait: Duration) {
    let stream = world.jetstream.get_stream(STREAM).await.unwrap();
    let consumer = pull::Config { durable_name: Some("default".into()), max_ack_pending: 20_000, ack_wait, ..Default::default() };
    stream.update_consumer(consumer).await.unwrap();
}

fn output(world: &World) -> OutputConfig {
    let series = TimeSeries { time_field: "ts".into(), meta_field: Some("device".into()), granularity: None, expire_after: None };
    OutputConfig { time_series: Some(series), ..world.output() }
}

async fn run(world: &World) -> Running {
    world.run(output(world), false).await
}

async fn plays(running: &Running, role: StreamRole) {
    eventually(role.as_str(), SOON, || async { running.state.role() == Some(role) }).await;
}

/// Whether each of `numbers` is there once, by now or soon.
async fn each_once(world: &World, numbers: i64) {
    let numbers = usize::try_from(numbers).unwrap();
    eventually("each measurement is there once", SOON, || async { world.counted().await == (numbers, numbers) }).await;
}

/// Documents of the ledger: pages, and records of suspects.
async fn ledger(world: &World) -> (Vec<Document>, Vec<Document>) {
    let all = world.mongo.documents("sluice_ledger").await;
    all.into_iter().partition(|document| document.contains_key("term"))
}

/// A copy of the first measurement that is stored, as a late insert of another attempt makes it.
async fn copy_of_the_first(world: &World, attempt: u8) -> Document {
    let mut copy = world.mongo.documents(COLLECTION).await.remove(0);
    let mut id = copy.get_object_id("_id").unwrap().bytes();
    id[11] = attempt;
    copy.insert("_id", ObjectId::from_bytes(id));
    copy
}
