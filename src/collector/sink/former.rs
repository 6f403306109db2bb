//! A collection that documents went to before: only read, never created.
//!
//! What always holds: what is said to lie there is there by a majority read; what is said not to lie there is not even
//! applied at the primary, so that no write that is still being replicated is overlooked.

use super::connect::{Database, bounded};
use super::failure::{CommandFailure, FailureKind};
use super::measurements;
use crate::collector::traces::Window;
use crate::pipeline::config::WRITE_TIMEOUT;
use crate::pipeline::moves::Place;
use bson::{Bson, DateTime, Document, RawBson, RawDocumentBuf, doc};
use futures_util::TryStreamExt;
use mongodb::options::ReadConcern;
use std::sync::Arc;

/// A previous target.
#[derive(Debug, Clone)]
pub struct Former {
    database: Arc<Database>,
    place: Place,
}

impl Former {
    /// The collection `place`, by a client of its hosts.
    pub fn new(database: Arc<Database>, place: Place) -> Self {
        Self { database, place }
    }

    /// The stored documents with one of these `_id`s; in a time-series collection, which has no index on them, those of
    /// `times` (the first and the last date) alone, and everything in `windows`.
    pub async fn find(
        &self,
        ids: Vec<RawBson>,
        times: Option<(DateTime, DateTime)>,
        windows: &[Window],
    ) -> Result<Vec<RawDocumentBuf>, CommandFailure> {
        let ids: Result<Vec<Bson>, _> = ids.into_iter().map(Bson::try_from).collect();
        let ids = ids.map_err(|error| CommandFailure::new(FailureKind::Other, error.to_string()))?;
        let mut filter = doc! {"_id": {"$in": ids}};
        if let (Some(series), Some((first, last))) = (&self.place.series, times) {
            filter.insert(series.time_field.as_str(), doc! {"$gte": first, "$lte": last});
            let others = windows.chunks(1).map(|window| measurements::filter(window, series));
            filter = doc! {"$or": others.chain([filter.clone()]).collect::<Vec<_>>()};
        }
        let applied = self.read(filter.clone(), ReadConcern::local()).await?;
        if applied.is_empty() {
            return Ok(applied);
        }
        let durable = self.read(filter, ReadConcern::majority()).await?;
        if durable.len() < applied.len() {
            let message = format!("what was written to {} last is not on a majority of its nodes yet", self.place.target);
            return Err(CommandFailure::new(FailureKind::Other, message));
        }
        Ok(durable)
    }

    async fn read(&self, filter: Document, concern: ReadConcern) -> Result<Vec<RawDocumentBuf>, CommandFailure> {
        let target = &self.place.target;
        let collection = self.database.client().database(&target.database).collection::<RawDocumentBuf>(&target.collection);
        let found =
            bounded(async { collection.find(filter).read_concern(concern).max_time(WRITE_TIMEOUT).await?.try_collect().await }).await;
        match found {
            Ok(found) => Ok(found),
            Err(failure) => Err(self.database.explain(failure).await),
        }
    }
}
