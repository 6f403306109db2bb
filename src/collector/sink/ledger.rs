//! Reads and writes the ledger: a stream's page, and the records of its suspects. What they mean: `collector::ledger`.
//!
//! What always holds: every write is on a majority of the nodes and in their journals before it counts; a page is written only where
//! it is still as it was read, or of the term that is named.

use super::connect::{Database, bounded};
use super::failure::{CommandFailure, FailureKind};
use super::measurements::{Causal, durable, limited, written};
use crate::collector::identity::Identity;
use crate::collector::ledger::{COLLECTION, Key, Page};
use crate::collector::traces::{PREFIX, Trace};
use bson::{Bson, DateTime, Document, RawBson, doc, oid::ObjectId};
use futures_util::TryStreamExt;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// Suspects in one record at most: well below 16 MiB, with sources of any length that is kept.
const RECORD: usize = 4000;
const DUPLICATE_KEY: i32 = 11000;

/// One page of the ledger.
#[derive(Debug, Clone)]
pub struct Ledger {
    database: Arc<Database>,
    /// The database that it is in.
    within: Arc<str>,
    key: Key,
    id: String,
}

/// Suspects that were inserted again.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Its `_id`.
    pub id: String,
    /// How old it is, by this machine's clock.
    pub age: Duration,
    /// How often it was looked at.
    pub passes: u32,
}

impl Ledger {
    /// The page `key` in the database `name`.
    pub fn new(database: Arc<Database>, name: &Arc<str>, key: Key) -> Self {
        Self { within: name.clone(), database, id: key.id(), key }
    }

    /// The database, by the client that there is now.
    fn handle(&self) -> mongodb::Database {
        self.database.client().database(&self.within)
    }

    /// The page, where there is one.
    pub async fn read(&self) -> Result<Option<Page>, CommandFailure> {
        let collection = self.handle().collection::<Document>(COLLECTION);
        match bounded(collection.find_one(doc! {"_id": &self.id})).await {
            Ok(page) => page.map(|page| read_page(&page)).transpose(),
            Err(failure) => Err(self.database.explain(failure).await),
        }
    }

    /// Makes the page what it is to be, if it still is as it was read (`None`: not there). Whether it was.
    pub async fn take(&self, from: Option<&Page>, to: &Page) -> Result<bool, CommandFailure> {
        let mut fields = doc! {
            "term": long(to.term),
            "beat": long(to.beat),
            "owner": to.owner.map(|owner| owner.to_string()),
            "version": &to.version,
            "reserved": long(to.reserved),
            "lease_ms": i64::try_from(to.lease.as_millis()).unwrap_or(i64::MAX),
            "at": DateTime::now(),
        };
        let Some(from) = from else {
            fields.extend(doc! {
                "_id": &self.id, "stream": &self.key.stream, "created_ns": long(self.key.created_ns), "collection": &self.key.collection,
            });
            return self.insert(None, fields).await;
        };
        let same = doc! {"_id": &self.id, "term": long(from.term), "beat": long(from.beat)};
        self.update(None, same, doc! {"$set": fields}).await
    }

    /// Says that the owner of `term` lives. Whether it still is the owner.
    pub async fn renew(&self, term: u64) -> Result<bool, CommandFailure> {
        self.update(None, self.of(term), doc! {"$inc": {"beat": 1_i64}, "$set": {"at": DateTime::now()}}).await
    }

    /// Reserves the sequences up to `upto`, in `term`. Whether it still is the owner. Never lowers: a request that was late must not
    /// take back what a later one reserved.
    pub async fn reserve(&self, term: u64, upto: u64) -> Result<bool, CommandFailure> {
        self.update(None, self.of(term), doc! {"$max": {"reserved": long(upto)}, "$inc": {"beat": 1_i64}}).await
    }

    /// Gives the page back: nothing above `inserted` was inserted, and nothing will be in `term`.
    pub async fn release(&self, term: u64, inserted: u64) -> Result<bool, CommandFailure> {
        let free = doc! {"$set": {"owner": Bson::Null, "reserved": long(inserted)}, "$inc": {"beat": 1_i64}};
        self.update(None, self.of(term), free).await
    }

    /// Writes something that a majority must have before it returns: a read of the session after it sees what was before it.
    pub async fn barrier(&self, causal: &mut Causal) -> Result<(), CommandFailure> {
        self.update(Some(causal), doc! {"_id": &self.id}, doc! {"$inc": {"beat": 1_i64}}).await.map(drop)
    }

    /// Records suspects, to be looked at again; a [`Self::barrier`], too.
    pub async fn record(&self, causal: &mut Causal, traces: &[Trace]) -> Result<(), CommandFailure> {
        for traces in traces.chunks(RECORD) {
            let record = doc! {
                "_id": format!("{}#{}", self.id, Uuid::now_v7().simple()),
                "at": DateTime::now(),
                "passes": 0,
                "suspects": traces.iter().map(write_trace).collect::<Vec<_>>(),
            };
            self.insert(Some(causal), record).await?;
        }
        Ok(())
    }

    /// All records, without their suspects.
    pub async fn records(&self) -> Result<Vec<Record>, CommandFailure> {
        let filter = doc! {"_id": {"$gte": format!("{}#", self.id), "$lt": format!("{}$", self.id)}};
        let found = bounded(async {
            let collection = self.handle().collection::<Document>(COLLECTION);
            collection.find(filter).projection(doc! {"at": 1, "passes": 1}).await?.try_collect::<Vec<_>>().await
        });
        match found.await {
            Ok(found) => Ok(found.iter().filter_map(read_record).collect()),
            Err(failure) => Err(self.database.explain(failure).await),
        }
    }

    /// The suspects of a record; none where it is gone.
    pub async fn suspects(&self, record: &Record) -> Result<Vec<Trace>, CommandFailure> {
        let collection = self.handle().collection::<Document>(COLLECTION);
        match bounded(collection.find_one(doc! {"_id": &record.id})).await {
            Ok(found) => Ok(found.iter().flat_map(read_suspects).collect()),
            Err(failure) => Err(self.database.explain(failure).await),
        }
    }

    /// Counts a look at a record.
    pub async fn looked_at(&self, record: &Record) -> Result<(), CommandFailure> {
        self.update(None, doc! {"_id": &record.id}, doc! {"$set": {"passes": record.passes + 1}}).await.map(drop)
    }

    /// Removes a record.
    pub async fn forget(&self, record: &Record) -> Result<(), CommandFailure> {
        let deletes = vec![doc! {"q": {"_id": &record.id}, "limit": 1}];
        let reply = self.run(None, doc! {"delete": COLLECTION, "deletes": deletes, "writeConcern": durable()}).await?;
        written(&reply).map(drop)
    }

    fn of(&self, term: u64) -> Document {
        doc! {"_id": &self.id, "term": long(term)}
    }

    async fn insert(&self, causal: Option<&mut Causal>, document: Document) -> Result<bool, CommandFailure> {
        let reply = self.run(causal, doc! {"insert": COLLECTION, "documents": [document], "writeConcern": durable()}).await?;
        match written(&reply) {
            Err(failure) if failure.code == Some(DUPLICATE_KEY) => Ok(false),
            written => written.map(|inserted| inserted == 1),
        }
    }

    async fn update(&self, causal: Option<&mut Causal>, filter: Document, update: Document) -> Result<bool, CommandFailure> {
        let updates = vec![doc! {"q": filter, "u": update}];
        let reply = self.run(causal, doc! {"update": COLLECTION, "updates": updates, "writeConcern": durable()}).await?;
        written(&reply).map(|matched| matched == 1)
    }

    async fn run(&self, causal: Option<&mut Causal>, command: Document) -> Result<Document, CommandFailure> {
        let client = causal.as_ref().map_or_else(|| self.database.client(), |causal| causal.client(&self.database));
        let handle = client.database(&self.within);
        let run = handle.run_command(limited(command));
        let reply = match causal.and_then(Causal::session) {
            Some(session) => bounded(run.session(session)).await,
            None => bounded(run).await,
        };
        match reply {
            Ok(reply) => Ok(reply),
            Err(failure) => Err(self.database.explain(failure).await),
        }
    }
}

/// Sequences and terms stay far below what 63 bits hold.
fn long(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn number(document: &Document, field: &str) -> Option<u64> {
    match document.get(field)? {
        Bson::Int32(number) => u64::try_from(*number).ok(),
        Bson::Int64(number) => u64::try_from(*number).ok(),
        Bson::Double(number) if *number >= 0.0 => Some(*number as u64),
        _ => None,
    }
}

/// A page that cannot be read is no free page: somebody has written into it.
fn read_page(page: &Document) -> Result<Page, CommandFailure> {
    let read = || {
        let owner = match page.get("owner")? {
            Bson::Null => None,
            owner => Some(Uuid::parse_str(owner.as_str()?).ok()?),
        };
        Some(Page {
            term: number(page, "term")?,
            beat: number(page, "beat")?,
            owner,
            version: page.get_str("version").unwrap_or_default().to_owned(),
            reserved: number(page, "reserved")?,
            lease: Duration::from_millis(number(page, "lease_ms")?),
        })
    };
    read().ok_or_else(|| {
        let message =
            format!("a page of {COLLECTION} cannot be read: {page}; stop the pipeline, delete the document, and publish it again");
        CommandFailure::new(FailureKind::Other, super::failure::shorten(&message))
    })
}

fn write_trace(trace: &Trace) -> Document {
    let mut id = [0; 12];
    id[..PREFIX].copy_from_slice(&trace.prefix);
    let mut written = doc! {"id": ObjectId::from_bytes(id), "time": trace.time};
    if let Some(meta) = trace.meta.clone().and_then(|meta| Bson::try_from(meta).ok()) {
        written.insert("meta", meta);
    }
    written
}

fn read_trace(written: &Document) -> Option<Trace> {
    let id: Identity = written.get_object_id("id").ok()?.bytes();
    let mut prefix = [0; PREFIX];
    prefix.copy_from_slice(&id[..PREFIX]);
    let meta = written.get("meta").cloned().and_then(|meta| RawBson::try_from(meta).ok());
    Some(Trace { prefix, time: *written.get_datetime("time").ok()?, meta })
}

fn read_record(record: &Document) -> Option<Record> {
    let at = record.get_datetime("at").copied().unwrap_or(DateTime::MIN);
    let age = DateTime::now().timestamp_millis().saturating_sub(at.timestamp_millis());
    Some(Record {
        id: record.get_str("_id").ok()?.to_owned(),
        age: Duration::from_millis(u64::try_from(age).unwrap_or(0)),
        passes: number(record, "passes").and_then(|passes| u32::try_from(passes).ok()).unwrap_or(0),
    })
}

fn read_suspects(record: &Document) -> Vec<Trace> {
    let suspects = record.get_array("suspects").map(Vec::as_slice).unwrap_or_default();
    suspects.iter().filter_map(Bson::as_document).filter_map(read_trace).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suspect_is_read_as_it_was_written() {
        for meta in [None, Some(RawBson::String("a".into())), Some(RawBson::Int64(7))] {
            let trace = Trace { prefix: [7; PREFIX], time: DateTime::from_millis(42), meta };
            assert_eq!(read_trace(&write_trace(&trace)), Some(trace));
        }
    }

    #[test]
    fn a_page_that_somebody_has_spoilt_is_an_error_that_says_what_to_do() {
        let good = doc! {"term": 1_i64, "beat": 2, "owner": Bson::Null, "version": "1", "reserved": 5.0, "lease_ms": 15_000};
        let page = read_page(&good).unwrap();
        assert_eq!((page.term, page.beat, page.owner, page.reserved), (1, 2, None, 5));
        let mut bad = good;
        bad.insert("reserved", "many");
        assert!(read_page(&bad).unwrap_err().message.contains("delete the document"));
    }
}
