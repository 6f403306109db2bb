//! What the producers of a soak published, and where it is at the end: each in exactly one place, the right one, unharmed.
//!
//! Every publish is repeated until it is acknowledged. One that was not answered may be there or not, but not twice.

use super::message::{Belongs, Key};
use crate::support::Mongo;
use async_nats::jetstream;
use bson::Document;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Serialize;
use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::task::JoinHandle;

/// How long a publish may remain without an acknowledgement, however often it is repeated.
const PATIENCE: Duration = Duration::from_secs(120);

/// How fast the producers publish, and how much at most.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Publishes of one producer that wait for their acknowledgements together.
    pub together: usize,
    /// How long it rests after each lot.
    pub pause: Duration,
    /// How many numbers a producer has.
    pub most: i64,
    /// How long an acknowledgement is waited for before the publish is repeated.
    pub answer: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { together: 20, pause: Duration::from_millis(40), most: i64::MAX, answer: Duration::from_secs(5) }
    }
}

/// What became of the publishes of one producer.
#[derive(Debug, Default)]
struct Said {
    acknowledged: HashSet<Key>,
    unanswered: HashSet<Key>,
}

/// One producer and what it has published.
struct Producer {
    pipeline: String,
    said: Arc<Mutex<Said>>,
    task: JoinHandle<()>,
}

/// The producers of a soak.
pub struct Ledger {
    producers: Vec<Producer>,
    ended: Arc<AtomicBool>,
}

/// Where everything is.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Account {
    /// Messages whose publish was acknowledged.
    pub published: usize,
    /// Messages whose publish was not, of which some are there all the same.
    pub unanswered: usize,
    /// Documents in MongoDB.
    pub stored: usize,
    /// Dead letters.
    pub dead: usize,
    /// Acknowledged messages that are nowhere.
    pub lost: usize,
    /// Copies beyond the first.
    pub doubled: usize,
    /// Among the documents what belongs among the dead letters, or the other way round; without its reason; not as it was
    /// sent; or never sent.
    pub wrong: usize,
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { published, unanswered, stored, dead, lost, doubled, wrong } = self;
        write!(
            f,
            "published {published} (and {unanswered} without an answer), stored {stored}, dead letters {dead}, lost {lost}, \
             doubled {doubled}, wrong {wrong}"
        )
    }
}

impl Account {
    /// Panics unless every publish is in exactly one place, the right one.
    pub fn assert_exactly_once(&self, line: &str) {
        assert_eq!((self.lost, self.doubled, self.wrong), (0, 0, 0), "{line}");
        assert!(self.published <= self.stored + self.dead, "{line}");
    }
}

/// What was found of the messages of one pipeline.
#[derive(Default)]
struct Found {
    names: Vec<String>,
    places: HashMap<Key, Vec<usize>>,
    odd: Vec<String>,
}

impl Found {
    fn place(&mut self, name: String) -> usize {
        self.names.push(name);
        self.names.len() - 1
    }

    /// Notes what lies in a place; `reason`: of a dead letter.
    fn note(&mut self, place: usize, key: Option<Key>, reason: Option<&str>, what: impl FnOnce() -> String) {
        let Some(key) = key else {
            self.odd.push(format!("in {} is what nobody sent: {}", self.names[place], what()));
            return;
        };
        let right = match (key.belongs(), reason) {
            (Belongs::Stored, reason) => reason.is_none(),
            (Belongs::Dead(why), reason) => reason == Some(why),
            (Belongs::FirstWins(why), reason) => reason.is_none_or(|reason| reason == why),
        };
        if !right {
            self.odd.push(format!("{key:?} is in {} with reason {reason:?}: {}", self.names[place], what()));
        }
        self.places.entry(key).or_default().push(place);
    }
}

impl Ledger {
    /// Starts `each` producers for every pipeline, which publish to any of `servers` until [`Ledger::end`].
    pub async fn open(servers: &[String], pipelines: &[&str], each: i64, pace: Pace) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let mut producers = Vec::new();
        for pipeline in pipelines {
            for number in 0..each {
                let client = async_nats::ConnectOptions::new().connect(servers).await.expect("a nats-server takes a producer");
                let mut jetstream = jetstream::new(client);
                jetstream.set_timeout(pace.answer);
                let said = Arc::new(Mutex::new(Said::default()));
                let task = produce(jetstream, format!("alpha.{pipeline}"), number, pace, (said.clone(), ended.clone()));
                producers.push(Producer { pipeline: (*pipeline).to_owned(), said, task: tokio::spawn(task) });
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
    /// where a pipeline's documents may be. Says of some that are not as they should be which they are.
    pub async fn account(&self, jetstream: &jetstream::Context, mongo: &Mongo, places: impl Fn(&str) -> Vec<(String, String)>) -> Account {
        let mut pipelines: Vec<_> = self.producers.iter().map(|producer| producer.pipeline.as_str()).collect();
        pipelines.dedup();
        let client = mongo.client().await;
        let mut account = Account::default();
        for pipeline in pipelines {
            let mut found = Found::default();
            for (database, collection) in places(pipeline) {
                let place = found.place(format!("{database}.{collection}"));
                let collection = client.database(&database).collection::<Document>(&collection);
                let mut documents = collection.find(Document::new()).await.expect("the database finds");
                while let Some(document) = documents.try_next().await.expect("the cursor goes on") {
                    found.note(place, Key::of_document(&document), None, || document.to_string());
                    account.stored += 1;
                }
            }
            let place = found.place("dead letters".into());
            for (payload, reason) in dead_letters(jetstream, pipeline).await {
                let text = || String::from_utf8_lossy(&payload).into_owned();
                found.note(place, Key::of_payload(&payload), Some(&reason), text);
                account.dead += 1;
            }
            account.wrong += found.odd.len();
            self.compare(pipeline, found, &mut account);
        }
        account
    }

    /// Holds what was found against what was published.
    fn compare(&self, pipeline: &str, found: Found, account: &mut Account) {
        let Found { names, places, mut odd } = found;
        for (place, name) in names.iter().enumerate() {
            let held = places.values().flatten().filter(|held| **held == place).count();
            eprintln!("{pipeline}: {held} in {name}");
        }
        let mut sent = HashSet::new();
        for producer in self.producers.iter().filter(|producer| producer.pipeline == pipeline) {
            let said = producer.said.lock().expect("no producer panics");
            account.published += said.acknowledged.len();
            account.unanswered += said.unanswered.difference(&said.acknowledged).count();
            let lost = said.acknowledged.iter().filter(|key| !places.contains_key(key));
            let before = odd.len();
            odd.extend(lost.map(|key| format!("{key:?} is nowhere")));
            account.lost += odd.len() - before;
            sent.extend(said.acknowledged.union(&said.unanswered).copied());
        }
        for (key, held) in &places {
            if held.len() > 1 {
                account.doubled += held.len() - 1;
                let held: Vec<_> = held.iter().map(|place| names[*place].as_str()).collect();
                odd.push(format!("{key:?} is in {}", held.join(" and ")));
            }
            if !sent.contains(key) {
                account.wrong += 1;
                odd.push(format!("{key:?} was never sent"));
            }
        }
        odd.iter().take(20).for_each(|odd| eprintln!("{pipeline}: {odd}"));
    }
}

async fn produce(
    jetstream: jetstream::Context,
    subject: String,
    producer: i64,
    pace: Pace,
    (said, ended): (Arc<Mutex<Said>>, Arc<AtomicBool>),
) {
    let mut next = 0;
    while !ended.load(Ordering::Relaxed) && next < pace.most {
        let numbers = next..next + pace.together as i64;
        next = numbers.end;
        let sends = numbers.map(|number| send(&jetstream, &subject, Key { producer, number, attempt: 0 }, &said));
        stream::iter(sends).buffer_unordered(pace.together).collect::<Vec<_>>().await;
        tokio::time::sleep(pace.pause).await;
    }
}

/// Publishes until it is acknowledged.
async fn send(jetstream: &jetstream::Context, subject: &str, mut key: Key, said: &Mutex<Said>) {
    let begun = Instant::now();
    loop {
        let mut headers = async_nats::HeaderMap::new();
        if let Some(id) = key.message_id() {
            headers.insert("Nats-Msg-Id", id);
        }
        // Noted first: what is never answered may be there all the same.
        said.lock().expect("no producer panics").unanswered.insert(key);
        let published = jetstream.publish_with_headers(subject.to_owned(), headers, key.payload().into()).await;
        if let Ok(ack) = published
            && ack.await.is_ok()
        {
            said.lock().expect("no producer panics").acknowledged.insert(key);
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "no publish to {subject} was acknowledged");
        key = key.again();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Asks until there is an answer: a cluster that was just healed may have no leader for a moment.
async fn insist<T, E: fmt::Debug>(ask: impl AsyncFn() -> Result<T, E>) -> T {
    let begun = Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => assert!(begun.elapsed() < PATIENCE, "{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Payload and reason of each dead letter of a pipeline.
async fn dead_letters(jetstream: &jetstream::Context, pipeline: &str) -> Vec<(Vec<u8>, String)> {
    let stream = insist(|| jetstream.get_stream("alpha-dlq")).await;
    // A leader that was just elected, or is about to lose its office, may answer before it has applied its log: a purge of
    // nothing goes through that log, and is answered behind what was acknowledged before.
    insist(async || stream.purge().filter("alpha-dlq.nobody").await.map_err(|error| error.to_string())).await;
    let subjects = insist(async || {
        let subjects = stream.info_with_subjects(format!("alpha-dlq.{pipeline}.>")).await.map_err(|error| error.to_string())?;
        subjects.try_collect::<Vec<_>>().await.map_err(|error| error.to_string())
    })
    .await;
    let mut found = Vec::new();
    for (subject, count) in subjects {
        assert_eq!(count, 1, "{subject}");
        let message = insist(|| stream.get_last_raw_message_by_subject(&subject)).await;
        let reason = message.headers.get("Sluice-Reason").map(|reason| reason.as_str().to_owned());
        found.push((message.payload.to_vec(), reason.unwrap_or_default()));
    }
    found
}
