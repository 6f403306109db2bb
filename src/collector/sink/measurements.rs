//! A time-series collection as `repair` needs it: copies found by majority reads, single ones deleted.
//!
//! What always holds: what is said to be there is on a majority of the nodes; a read of a [`Causal`] session sees everything that
//! the server had carried out before the last write of the session.

use super::connect::{Database, bounded};
use super::failure::{CommandFailure, FailureKind};
use super::reply::{self, InsertReply};
use crate::collector::identity::Identity;
use crate::collector::traces::{Copy, Window};
use crate::pipeline::config::WRITE_TIMEOUT;
use crate::pipeline::moves::Series;
use bson::{Bson, DateTime, Document, RawBson, RawDocument, RawDocumentBuf, doc, oid::ObjectId};
use futures_util::TryStreamExt;
use mongodb::ClientSession;
use mongodb::options::ReadConcern;
use std::sync::Arc;

/// Windows or measurements named in one command.
const AT_ONCE: usize = 100;

/// Reads and writes that see each other; without sessions (a single server) there is nothing to see twice.
#[derive(Debug)]
pub struct Causal(Option<ClientSession>);

impl Causal {
    pub(super) fn session(&mut self) -> Option<&mut ClientSession> {
        self.0.as_mut()
    }

    /// The client that the session is of: another may have taken its place since.
    pub(super) fn client(&self, database: &Database) -> mongodb::Client {
        self.0.as_ref().map_or_else(|| database.client(), ClientSession::client)
    }
}

impl Database {
    /// Begins a causally consistent session.
    pub async fn causal(&self) -> Causal {
        Causal(bounded(self.client().start_session().causal_consistency(true)).await.ok())
    }
}

/// A time-series collection.
#[derive(Debug, Clone)]
pub struct Measurements {
    database: Arc<Database>,
    /// The database that it is in.
    within: Arc<str>,
    name: String,
    fields: Series,
}

impl Measurements {
    pub(super) fn new(database: Arc<Database>, within: &Arc<str>, name: &str, fields: Series) -> Self {
        Self { database, within: within.clone(), name: name.to_owned(), fields }
    }

    /// The names of its fields.
    pub fn fields(&self) -> &Series {
        &self.fields
    }

    /// The client.
    pub fn database(&self) -> &Arc<Database> {
        &self.database
    }

    /// The measurements in `windows` that have an ObjectId.
    pub async fn copies(&self, causal: &mut Causal, windows: &[Window]) -> Result<Vec<Copy>, CommandFailure> {
        let mut found = Vec::new();
        for windows in windows.chunks(AT_ONCE) {
            let documents = self.read(causal, filter(windows, &self.fields), Some(projection(&self.fields))).await?;
            found.extend(documents.iter().filter_map(|document| read_copy(document, &self.fields)));
        }
        Ok(found)
    }

    /// The whole measurements with one of these times, sources and `_id`s.
    pub async fn exact(
        &self,
        causal: &mut Causal,
        named: &[(DateTime, Option<RawBson>, Option<RawBson>)],
    ) -> Result<Vec<RawDocumentBuf>, CommandFailure> {
        let mut found = Vec::new();
        for named in named.chunks(AT_ONCE) {
            let one = |(time, meta, id): &(DateTime, Option<RawBson>, Option<RawBson>)| {
                let mut one = doc! {self.fields.time_field.as_str(): time};
                for (field, value) in [(self.fields.meta_field.as_deref(), meta), (Some("_id"), id)] {
                    if let (Some(field), Some(value)) = (field, value.as_ref().and_then(|value| Bson::try_from(value.clone()).ok())) {
                        one.insert(field, value);
                    }
                }
                one
            };
            let filter = doc! {"$or": named.iter().map(one).collect::<Vec<_>>()};
            found.extend(self.read(causal, filter, None).await?);
        }
        Ok(found)
    }

    /// Deletes single measurements, by time and `_id`.
    pub async fn delete(&self, copies: &[&Copy]) -> Result<(), CommandFailure> {
        for copies in copies.chunks(AT_ONCE) {
            let one = |copy: &&Copy| {
                let query = doc! {self.fields.time_field.as_str(): copy.time, "_id": ObjectId::from_bytes(copy.id)};
                doc! {"q": query, "limit": 0}
            };
            let deletes: Vec<_> = copies.iter().map(one).collect();
            let command = doc! {"delete": &self.name, "deletes": deletes, "ordered": false, "writeConcern": durable()};
            let handle = self.database.client().database(&self.within);
            let reply = match bounded(handle.run_command(limited(command))).await {
                Ok(reply) => reply,
                Err(failure) => {
                    self.database.delete_failed(&failure);
                    return Err(self.database.explain(failure).await);
                }
            };
            written(&reply).inspect_err(|failure| self.database.delete_failed(failure))?;
        }
        Ok(())
    }

    async fn read(
        &self,
        causal: &mut Causal,
        filter: Document,
        projection: Option<Document>,
    ) -> Result<Vec<RawDocumentBuf>, CommandFailure> {
        let found = bounded(async {
            let collection = causal.client(&self.database).database(&self.within).collection::<RawDocumentBuf>(&self.name);
            let find = collection.find(filter).read_concern(ReadConcern::majority()).max_time(WRITE_TIMEOUT);
            let find = if let Some(projection) = projection { find.projection(projection) } else { find };
            match causal.session() {
                Some(session) => find.session(&mut *session).await?.stream(session).try_collect().await,
                None => find.await?.try_collect().await,
            }
        });
        match found.await {
            Ok(found) => Ok(found),
            Err(failure) => Err(self.database.explain(failure).await),
        }
    }
}

/// Everything in `windows`.
pub(super) fn filter(windows: &[Window], fields: &Series) -> Document {
    let one = |window: &Window| {
        let id = |id: Identity| ObjectId::from_bytes(id);
        let mut one = doc! {
            fields.time_field.as_str(): {"$gte": window.times.0, "$lte": window.times.1},
            "_id": {"$gte": id(window.ids.0), "$lte": id(window.ids.1)},
        };
        if let (Some(field), Some(metas)) = (&fields.meta_field, &window.metas) {
            let metas: Vec<Bson> = metas.iter().filter_map(|meta| Bson::try_from(meta.clone()).ok()).collect();
            one.insert(field, doc! {"$in": metas});
        }
        one
    };
    match windows {
        [window] => one(window),
        windows => doc! {"$or": windows.iter().map(one).collect::<Vec<_>>()},
    }
}

/// What [`read_copy`] needs.
pub(super) fn projection(fields: &Series) -> Document {
    let mut projection = doc! {"_id": 1, fields.time_field.as_str(): 1};
    if let Some(meta) = &fields.meta_field {
        projection.insert(meta, 1);
    }
    projection
}

/// `None` where the `_id` is none of ours.
pub(super) fn read_copy(document: &RawDocument, fields: &Series) -> Option<Copy> {
    let mut meta = RawDocumentBuf::new();
    if let Some(value) = fields.meta_field.as_deref().and_then(|field| document.get(field).ok().flatten()) {
        meta.append(bson::raw::cstr!("m"), value);
    }
    Some(Copy {
        id: document.get_object_id("_id").ok()?.bytes(),
        time: document.get_datetime(&fields.time_field).ok()?,
        meta: meta.into_bytes(),
    })
}

/// The write concern of everything that the ledger's promise rests on, whatever the config says of documents.
pub(super) fn durable() -> Document {
    doc! {"w": "majority", "j": true, "wtimeout": i64::try_from(WRITE_TIMEOUT.as_millis()).unwrap_or(10_000)}
}

/// The command with a bound on the server's time.
pub(super) fn limited(mut command: Document) -> Document {
    command.insert("maxTimeMS", i64::try_from(WRITE_TIMEOUT.as_millis()).unwrap_or(10_000));
    command
}

/// How many documents an update or delete matched; an error where any part of it failed or is not durable.
pub(super) fn written(reply: &Document) -> Result<u64, CommandFailure> {
    let matched = match reply.get("n") {
        Some(Bson::Int32(n)) => u64::try_from(*n).unwrap_or(0),
        Some(Bson::Int64(n)) => u64::try_from(*n).unwrap_or(0),
        Some(Bson::Double(n)) => *n as u64,
        _ => 0,
    };
    // Read as an insert's: errors of single statements and of the write concern look the same.
    let failed = reply.get_array("writeErrors").map_or(0, Vec::len);
    let mut as_insert = reply.clone();
    as_insert.insert("n", 0);
    match reply::read(&as_insert, failed) {
        InsertReply::Executed { failures, write_concern_error } => match (failures.into_iter().next(), write_concern_error) {
            (Some(failure), _) => {
                Err(CommandFailure { code: Some(failure.code), ..CommandFailure::new(FailureKind::Server, failure.message) })
            }
            (None, Some(failure)) => Err(failure),
            (None, None) => Ok(matched),
        },
        InsertReply::Failed(failure) => Err(failure),
        InsertReply::NotSeries { .. } => Ok(matched),
    }
}
