//! What the producers of a soak published, and where it is at the end: each in exactly one place.
//!
//! A document is `{p: producer, n: number}`; every so often it is no BSON, and belongs into the dead letters.

use crate::pipelines::acknowledged;
use crate::support::{Mongo, Nats};
use async_nats::jetstream;
use bson::Document;
use futures_util::{StreamExt, TryStreamExt, stream};
use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};
use tokio::task::JoinHandle;

/// Every so many messages is poison.
const POISON: i64 = 997;
/// Publishes of one producer that wait for their acknowledgements together.
const TOGETHER: usize = 20;

/// One producer and what it has published.
struct Producer {
    pipeline: String,
    number: i64,
    acknowledged: Arc<AtomicI64>,
    task: JoinHandle<()>,
}

/// The producers of a soak.
pub struct Ledger {
    producers: Vec<Producer>,
    ended: Arc<AtomicBool>,
}

/// Where everything is.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Publishes that were acknowledged.
    pub published: i64,
    /// Documents in MongoDB.
    pub stored: i64,
    /// Dead letters.
    pub dead: i64,
    /// Publishes that are nowhere.
    pub lost: i64,
    /// Copies beyond the first.
    pub doubled: i64,
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { published, stored, dead, lost, doubled } = self;
        write!(f, "published {published}, stored {stored}, dead letters {dead}, lost {lost}, doubled {doubled}")
    }
}

impl Ledger {
    /// Starts `each` producers for every pipeline, which publish until [`Ledger::end`], about every `pause`
    /// [`TOGETHER`] messages each.
    pub async fn open(nats: &Nats, pipelines: &[&str], each: i64, pause: Duration) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let mut producers = Vec::new();
        for pipeline in pipelines {
            for number in 0..each {
                let acknowledged = Arc::new(AtomicI64::new(0));
                let task =
                    produce(nats.jetstream().await, format!("alpha.{pipeline}"), number, pause, (acknowledged.clone(), ended.clone()));
                producers.push(Producer { pipeline: (*pipeline).to_owned(), number, acknowledged, task: tokio::spawn(task) });
            }
        }
        Self { producers, ended }
    }

    /// Lets the producers end: from then on nothing is published.
    pub async fn end(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        for producer in &mut self.producers {
            (&mut producer.task).await.expect("no publish fails for long");
        }
    }

    /// Counts what was published, once it has ended and nothing waits in any stream. `places`: the databases and collections
    /// where a pipeline's documents may be. Says of some that are lost or doubled which they are.
    pub async fn account(&self, nats: &Nats, mongo: &Mongo, places: impl Fn(&str) -> Vec<(String, String)>) -> Account {
        let mut pipelines: Vec<_> = self.producers.iter().map(|producer| producer.pipeline.as_str()).collect();
        pipelines.dedup();
        let (jetstream, client) = (nats.jetstream().await, mongo.client().await);
        let mut account = Account::default();
        for pipeline in pipelines {
            // Where each is, by the place's number.
            let mut found = HashMap::<(i64, i64), Vec<usize>>::new();
            let mut names = vec!["dead letters".to_owned()];
            for (database, collection) in places(pipeline) {
                names.push(format!("{database}.{collection}"));
                let collection = client.database(&database).collection::<Document>(&collection);
                let mut documents = collection.find(Document::new()).await.expect("the database finds");
                while let Some(document) = documents.try_next().await.expect("the cursor goes on") {
                    let of = (document.get_i64("p").expect("a producer"), document.get_i64("n").expect("a number"));
                    found.entry(of).or_default().push(names.len() - 1);
                    account.stored += 1;
                }
            }
            for letter in dead_letters(&jetstream, pipeline).await {
                found.entry(letter).or_default().push(0);
                account.dead += 1;
            }
            for (place, name) in names.iter().enumerate() {
                let held = found.values().flatten().filter(|held| **held == place).count();
                if held > 0 {
                    eprintln!("{pipeline}: {held} in {name}");
                }
            }
            let mut odd = Vec::new();
            for producer in self.producers.iter().filter(|producer| producer.pipeline == pipeline) {
                let published = producer.acknowledged.load(Ordering::Relaxed);
                account.published += published;
                let lost = (0..published).filter(|n| !found.contains_key(&(producer.number, *n)));
                odd.extend(lost.map(|n| format!("{n} of producer {} is nowhere", producer.number)));
            }
            account.lost += odd.len() as i64;
            for ((producer, n), places) in found.iter().filter(|(_, places)| places.len() > 1) {
                account.doubled += places.len() as i64 - 1;
                let places: Vec<_> = places.iter().map(|place| names[*place].as_str()).collect();
                odd.push(format!("{n} of producer {producer} is in {}", places.join(" and ")));
            }
            odd.iter().take(20).for_each(|odd| eprintln!("{pipeline}: {odd}"));
        }
        account
    }
}

async fn produce(
    jetstream: jetstream::Context,
    subject: String,
    producer: i64,
    pause: Duration,
    (count, ended): (Arc<AtomicI64>, Arc<AtomicBool>),
) {
    let mut next = 0;
    while !ended.load(Ordering::Relaxed) {
        let numbers = next..next + TOGETHER as i64;
        next = numbers.end;
        let sends = numbers.map(|n| acknowledged(&jetstream, &subject, payload(producer, n)));
        stream::iter(sends).buffer_unordered(TOGETHER).collect::<Vec<_>>().await;
        count.store(next, Ordering::Relaxed);
        tokio::time::sleep(pause).await;
    }
}

fn payload(producer: i64, n: i64) -> Vec<u8> {
    if n % POISON == POISON - 1 {
        return format!("poison {producer} {n}").into_bytes();
    }
    bson::doc! {"p": producer, "n": n}.to_vec().expect("a document")
}

/// Producer and number of each dead letter of a pipeline.
async fn dead_letters(jetstream: &jetstream::Context, pipeline: &str) -> Vec<(i64, i64)> {
    let stream = jetstream.get_stream("alpha-dlq").await.expect("the stream of the dead letters");
    let subjects = stream.info_with_subjects(format!("alpha-dlq.{pipeline}.>")).await.expect("its subjects");
    let subjects: Vec<_> = subjects.try_collect().await.expect("all subjects");
    let mut found = Vec::new();
    for (subject, count) in subjects {
        assert_eq!(count, 1, "{subject}");
        let message = stream.get_last_raw_message_by_subject(&subject).await.expect("the letter");
        let text = String::from_utf8(message.payload.to_vec()).expect("poison is text");
        let mut words = text.split(' ').skip(1).map(|word| word.parse().expect("a number"));
        found.push((words.next().expect("a producer"), words.next().expect("a number")));
    }
    found
}
