//! From publish to visible at a steady trickle: 100 messages a second into one pipeline, with `linger: 5ms` and with the
//! default, `linger: 0s`, where a partial batch waits for its period.
//!
//! Every document has an `_id` of its own, by which the benchmark asks for the next one, every half millisecond while one
//! is on its way: what is printed is at most that, and a look-up's round trip, too much.

use super::{
    idle_report::quantile,
    installation::Installation,
    report::{verdict, write_json},
    servers::Servers,
    stream::DATABASE,
};
use anyhow::{Context, Result, ensure};
use async_nats::jetstream;
use mongodb::{
    Collection,
    bson::{RawDocumentBuf, doc},
};
use serde_json::json;
use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

const PER_SECOND: u64 = 100;
const LOOK: Duration = Duration::from_micros(500);
/// The first messages warm things up and do not count.
const WARM: usize = 50;
/// How long the last ones are waited for.
const LATE: Duration = Duration::from_secs(30);

/// Measures and reports both.
pub async fn measure(servers: &Servers, seconds: u64, path: &Path) -> Result<()> {
    let mut figures = serde_json::Map::new();
    println!("\n{PER_SECOND} messages a second for {seconds} s, publish → visible, ms.");
    for linger in ["5ms", "0s"] {
        let took = one(servers, linger, seconds).await?;
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| quantile(&took, share).as_secs_f64() * 1e3);
        println!("linger {linger:<4} p50 {p50:>7.1}   p99 {p99:>7.1}   max {max:>7.1}   of {}", took.len());
        if linger == "5ms" {
            print!("{}", verdict("publish → visible p50, ms", p50, false, 10.0));
            print!("{}", verdict("publish → visible p99, ms", p99, false, 25.0));
        }
        figures.insert(linger.into(), json!({"messages": took.len(), "p50": p50, "p99": p99, "max": max}));
    }
    let report = json!({"schema": 1, "per_second": PER_SECOND, "servers": Servers::versions(), "publish_to_visible_ms": figures});
    write_json(path, &report)
}

async fn one(servers: &Servers, linger: &str, seconds: u64) -> Result<Vec<Duration>> {
    let namespace = format!("latency_{linger}");
    let installation = Installation::new(servers, &namespace, &servers.path().join(&namespace))?;
    let id = namespace.clone();
    installation.prepare(servers, std::slice::from_ref(&id), "published", &format!(", batching: {{linger: {linger}}}")).await?;
    let mut running = installation.run()?;
    let jetstream = jetstream::new(async_nats::connect(&servers.nats_url).await?);
    let mongo = mongodb::Client::with_uri_str(&servers.mongo_url).await?;
    let collection = mongo.database(DATABASE).collection::<RawDocumentBuf>(&id);

    let count = seconds * PER_SECOND + WARM as u64;
    let sent = Arc::new(Mutex::new(Vec::new()));
    let publishing = publish(jetstream, installation.subject(&id), count, sent.clone());
    let seeing = see(collection, count, sent);
    let took = tokio::try_join!(publishing, seeing).map(|((), took)| took).with_context(|| installation.log());
    running.end().await;
    let mut took = took?.split_off(WARM);
    took.sort_unstable();
    Ok(took)
}

async fn publish(jetstream: jetstream::Context, subject: String, count: u64, sent: Arc<Mutex<Vec<Instant>>>) -> Result<()> {
    let mut ticks = tokio::time::interval(Duration::from_millis(1000 / PER_SECOND));
    let mut last = None;
    for n in 0..count {
        ticks.tick().await;
        let document = doc! {"_id": i64::try_from(n)?, "device": format!("device-{:03}", n % 250), "value": (n as f64).sin()};
        sent.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
        // Its acknowledgement is not waited for: the next one is due.
        last = Some(jetstream.publish(subject.clone(), document.to_vec()?.into()).await?);
    }
    // A client that is dropped does not send what it has not flushed.
    if let Some(acknowledgement) = last {
        acknowledgement.await?;
    }
    Ok(())
}

/// Looks for one document after the other; how long each was on its way.
async fn see(collection: Collection<RawDocumentBuf>, count: u64, sent: Arc<Mutex<Vec<Instant>>>) -> Result<Vec<Duration>> {
    let mut took = Vec::with_capacity(usize::try_from(count)?);
    let mut last = Instant::now();
    for n in 0..count {
        loop {
            let at = sent.lock().unwrap_or_else(PoisonError::into_inner).get(usize::try_from(n)?).copied();
            if let Some(at) = at
                && collection.find_one(doc! {"_id": i64::try_from(n)?}).await?.is_some()
            {
                took.push(at.elapsed());
                last = Instant::now();
                break;
            }
            ensure!(last.elapsed() < LATE, "document {n} of {count} is not there after {LATE:?}");
            tokio::time::sleep(LOOK).await;
        }
    }
    Ok(took)
}
