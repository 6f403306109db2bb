//! The sink: MongoDB clients, collections, inserts, look-ups. The only place outside `doctor` that names the driver.
//!
//! One batch is one `insert` command, built by hand from the payloads as they came and never decoded. What the server
//! or the driver says is handed on as facts (kinds, codes, labels); `classify` decides what they mean. No secret ever
//! stands in a message. Called by the driver of the collector.

mod command;
mod connect;
mod existing;
mod facts;
mod failure;
mod former;
mod gate;
mod guard;
mod keeping;
mod kind;
mod ledger;
mod listing;
mod measurements;
mod open;
mod proof;
mod remedy;
mod reply;
mod target;
mod tls;
mod url;

pub use command::{MAX_COMMAND_BYTES, MAX_DOCUMENT_BYTES};
pub use connect::{ConnectionError, Database, Databases};
pub use existing::{Existing, existing};
pub use facts::{Deployment, Product, ServerFacts};
pub use failure::{CommandFailure, FailureKind};
pub use former::Former;
pub use gate::Seat;
pub use keeping::Keeping;
pub use ledger::{Ledger, Record};
pub use listing::Age;
pub use measurements::{Causal, Measurements};
pub use reply::{DocumentFailure, InsertReply};
pub use target::Sharding;

use crate::collector::ledger::Key;
use crate::pipeline::config::{OutputConfig, WRITE_TIMEOUT, WriteConcern};
use crate::pipeline::moves::Series;
use crate::pipeline::spec::Target;
use bson::{Bson, RawBson, RawDocumentBuf, doc};
use bytes::Bytes;
use futures_util::TryStreamExt;
use mongodb::options::ReadConcern;
use std::sync::Arc;
use std::time::Duration;

/// One document to insert.
#[derive(Debug, Clone)]
pub struct Document {
    /// The message's payload: one BSON document, already validated.
    pub payload: Bytes,
    /// The ObjectId to put in front; `None` where the payload has an `_id` of its own.
    pub id: Option<[u8; 12]>,
}

/// What a command of one document has besides the prologue and the document: its own length, type and key of the
/// document, the ends of array and command.
const COMMAND_FRAME: usize = 4 + 3 + 2;

/// An insert command, ready to be sent. Never decoded.
#[derive(Debug)]
pub struct InsertCommand {
    bytes: Vec<u8>,
    documents: usize,
    /// What a command of one document has besides it.
    rest: usize,
    /// Whether it begins with a document that only a normal collection takes; not counted.
    guarded: bool,
}

impl InsertCommand {
    /// How many documents it inserts.
    pub fn documents(&self) -> usize {
        self.documents
    }

    /// Its size.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }
}

/// Why a collection cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The server, or the way to it.
    #[error(transparent)]
    Failed(#[from] CommandFailure),
    /// There is a collection of that name, of another kind than the config's.
    #[error("{0}")]
    KindDiffers(String),
    /// The server has no time-series collections.
    #[error("{0}")]
    NoSeries(String),
}

/// One collection that a pipeline writes to. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Collection {
    database: Arc<Database>,
    /// The database that it is in.
    within: Arc<str>,
    name: String,
    /// Everything in front of the documents of an insert command, the same for each.
    prologue: Arc<[u8]>,
    /// Whether a mongos answers.
    mongos: bool,
    /// Of a time-series collection.
    series: Option<Arc<Guarded>>,
}

/// What inserting measurements takes.
#[derive(Debug)]
struct Guarded {
    fields: Series,
    concern: WriteConcern,
    /// The document that only a normal collection takes.
    first: Vec<u8>,
    /// Whether single measurements can be deleted.
    deletes: bool,
    /// Which inserts begin with it.
    turns: guard::Turns,
}

impl Collection {
    /// Creates the collection of `target` where it is missing (time-series with its options, else a normal one), and
    /// checks that it is of the kind that `output` says. Also called by resyncs: a dropped time-series collection comes
    /// back as a normal one with the next insert. `age`: how old what is known of the collection may be; all that ask about
    /// a database at about the same time share one listing of it.
    pub async fn open(database: Arc<Database>, target: &Target, output: &OutputConfig, age: Age) -> Result<Self, OpenError> {
        let within: Arc<str> = target.database.as_str().into();
        let handle = database.client().database(&within);
        let prologue = command::prologue(&target.collection, &output.write_concern, WRITE_TIMEOUT).into();
        let name = target.collection.clone();
        match open::ensure(&handle, database.listings(), &name, output.time_series.as_ref(), age).await {
            Ok(()) => {}
            Err(OpenError::Failed(failure)) => return Err(Box::pin(database.explain(failure)).await.into()),
            Err(OpenError::NoSeries(said)) => {
                let server = Box::pin(database.called()).await;
                return Err(OpenError::NoSeries(format!("{server} has no time-series collections: {said}")));
            }
            Err(differs) => return Err(differs),
        }
        let mongos = Box::pin(database.is_mongos()).await?;
        let mut series = None;
        if let Some(of) = &output.time_series {
            let fields = Series { time_field: of.time_field.clone(), meta_field: of.meta_field.clone() };
            let deletes = Box::pin(database.deletes_measurements(&handle, &name, &fields)).await?;
            let sharded = mongos && Box::pin(target::may_be_sharded(&database.client(), &handle, &name)).await;
            series = Some(Arc::new(Guarded {
                fields,
                concern: output.write_concern.clone(),
                first: guard::document().into_bytes(),
                deletes,
                turns: guard::Turns::new(sharded),
            }));
        }
        Ok(Self { database, within, name, prologue, mongos, series })
    }

    /// Whether a mongos answers, which up to MongoDB 7.0 does not hand on the `writeConcernError` of a command whose
    /// documents all failed: that they are duplicates then says nothing about whether what they duplicate is durable.
    pub fn behind_mongos(&self) -> bool {
        self.mongos
    }

    /// The database, by the client that there is now.
    fn handle(&self) -> mongodb::Database {
        self.database.client().database(&self.within)
    }

    /// Builds the command that inserts documents, each a payload and perhaps the `_id` to put in front. `bytes`: the sum of
    /// what [`Self::document_bytes`] says of them.
    pub fn command<'a>(&self, bytes: usize, documents: impl Iterator<Item = (&'a [u8], Option<[u8; 12]>)>) -> InsertCommand {
        let (bytes, documents) = command::build(&self.prologue, bytes, documents);
        InsertCommand { bytes, documents, rest: self.prologue.len() + COMMAND_FRAME, guarded: false }
    }

    /// The same for measurements: the server has `limit` for it, and a normal collection in their place gives itself away
    /// (in a sharded one, once in a while: see `guard`).
    pub fn measurements_command<'a>(
        &'a self,
        bytes: usize,
        limit: Duration,
        documents: impl Iterator<Item = (&'a [u8], Option<[u8; 12]>)>,
    ) -> InsertCommand {
        let Some(series) = &self.series else { return self.command(bytes, documents) };
        let prologue = command::prologue(&self.name, &series.concern, limit);
        if !series.turns.take() {
            let (bytes, documents) = command::build(&prologue, bytes, documents);
            return InsertCommand { bytes, documents, rest: prologue.len() + COMMAND_FRAME, guarded: false };
        }
        let first = command::document_bytes(series.first.len(), false);
        let (bytes, documents) =
            command::build(&prologue, bytes + first, std::iter::once((series.first.as_slice(), None)).chain(documents));
        InsertCommand { bytes, documents: documents - 1, rest: prologue.len() + first + COMMAND_FRAME, guarded: true }
    }

    /// The collection as repair needs it; `None` where it is a normal one, or the server cannot delete single measurements.
    pub fn measurements(&self) -> Option<Measurements> {
        let series = self.series.as_ref().filter(|series| series.deletes)?;
        Some(Measurements::new(self.database.clone(), &self.within, &self.name, series.fields.clone()))
    }

    /// A page of the ledger in this collection's database.
    pub fn ledger(&self, key: Key) -> Ledger {
        Ledger::new(self.database.clone(), &self.within, key)
    }

    /// The command that inserts `documents`.
    pub fn command_of(&self, documents: &[Document]) -> InsertCommand {
        let (bytes, documents) = command::build_all(&self.prologue, documents);
        InsertCommand { bytes, documents, rest: self.prologue.len() + COMMAND_FRAME, guarded: false }
    }

    /// Inserts documents by one unordered command. The caller splits what is larger than [`MAX_COMMAND_BYTES`]; a document
    /// alone may use the rest that the server leaves for a command, and is refused as [`FailureKind::TooLarge`] only where
    /// it is larger than [`MAX_DOCUMENT_BYTES`].
    pub async fn send(&self, command: InsertCommand) -> InsertReply {
        let InsertCommand { bytes, documents, rest, guarded } = command;
        if documents == 0 {
            return InsertReply::Executed { failures: Vec::new(), write_concern_error: None };
        }
        let alone = documents == 1 && bytes.len() - rest <= MAX_DOCUMENT_BYTES;
        if !alone && bytes.len() > MAX_COMMAND_BYTES {
            let message = format!("{documents} documents do not fit into one command of 16 MiB");
            return InsertReply::Failed(CommandFailure::new(FailureKind::TooLarge, message));
        }
        let command = match RawDocumentBuf::from_bytes(bytes) {
            Ok(command) => command,
            Err(error) => return InsertReply::Failed(CommandFailure::new(FailureKind::Other, error.to_string())),
        };
        match connect::bounded(self.handle().run_raw_command(command)).await {
            Ok(reply) if guarded => guard::strip(reply::read(&reply, documents + 1)),
            Ok(reply) => reply::read(&reply, documents),
            Err(failure) => InsertReply::Failed(self.database.explain(failure).await),
        }
    }

    /// Builds and sends the command of `documents`.
    pub async fn insert(&self, documents: &[Document]) -> InsertReply {
        self.send(self.command_of(documents)).await
    }

    /// The most that one document adds to a command, in bytes, for counting while a batch grows; a command without
    /// documents is within 1 KiB.
    pub fn document_bytes(payload: usize, adds_id: bool) -> usize {
        command::document_bytes(payload, adds_id)
    }

    /// The stored documents with one of these `_id`s, or nothing but their `_id`s (`bare`), by a majority read.
    pub async fn find(&self, ids: Vec<RawBson>, bare: bool) -> Result<Vec<RawDocumentBuf>, CommandFailure> {
        let ids: Result<Vec<Bson>, _> = ids.into_iter().map(Bson::try_from).collect();
        let ids = ids.map_err(|error| CommandFailure::new(FailureKind::Other, error.to_string()))?;
        let found = connect::bounded(async {
            let collection = self.handle().collection::<RawDocumentBuf>(&self.name);
            let find = collection.find(doc! {"_id": {"$in": ids}}).read_concern(ReadConcern::majority()).max_time(WRITE_TIMEOUT);
            let find = if bare { find.projection(doc! {"_id": 1}) } else { find };
            find.await?.try_collect().await
        });
        match found.await {
            Ok(found) => Ok(found),
            Err(failure) => Err(self.database.explain(failure).await),
        }
    }

    /// Asks the server whether it is there.
    pub async fn ping(&self) -> Result<(), CommandFailure> {
        self.database.ping().await
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }
}
