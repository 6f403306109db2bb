//! Keeps measurements out of normal collections: a time-series collection that is dropped comes back as a normal one with the next
//! insert, and nothing in the reply would say so.
//!
//! Every insert of measurements begins with a document that has no time. A time-series collection refuses it, a normal one takes it: so
//! the reply says what was written to, before anything is acknowledged. What a normal one took is taken back, and a collection in
//! which nothing else lies then is dropped, to be created as the config says.
//!
//! Sharded collections are the exception. A mongos finds no shard for a document without a time, takes its routing table for
//! stale and fetches it anew from the config servers (`noteCouldNotTarget`, `refreshIfNeeded`): once for every insert. So there
//! one insert in [`EVERY`] is guarded, and what was acknowledged meanwhile may lie in a normal collection that came in the place of
//! a dropped one. That is therefore never dropped here: it is said, and a person decides. Part of the sink.

use super::connect::bounded;
use super::failure::{CommandFailure, FailureKind};
use super::listing::Found;
use super::measurements::{durable, limited, written};
use super::reply::InsertReply;
use super::{Collection, open};
use bson::{Bson, Document, RawBson, RawDocumentBuf, doc, rawdoc};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The `_id` of the document that only a normal collection takes.
const ID: &str = "sluice: no time-series collection";
const DUPLICATE_KEY: i32 = 11000;
/// A validator's refusal, which says nothing about the kind.
const VALIDATION: i32 = 121;

/// How often an insert into a sharded collection is guarded: what that costs is one refresh of a mongos's routing table.
const EVERY: Duration = Duration::from_secs(2);

/// Which inserts are guarded.
#[derive(Debug)]
pub(super) struct Turns {
    /// Of a sharded collection: when the last one was.
    last: Option<Mutex<Option<Instant>>>,
}

impl Turns {
    pub(super) fn new(sharded: bool) -> Self {
        Self { last: sharded.then(Mutex::default) }
    }

    /// Whether the next insert is guarded; the first always is.
    pub(super) fn take(&self) -> bool {
        let Some(last) = &self.last else { return true };
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.is_none_or(|last| last.elapsed() >= EVERY);
        if due {
            *last = Some(Instant::now());
        }
        due
    }

    /// Whether each insert is guarded.
    fn always(&self) -> bool {
        self.last.is_none()
    }
}

/// The document.
pub(super) fn document() -> RawDocumentBuf {
    rawdoc! {"_id": ID}
}

/// The reply without the first document's part; where that was taken, [`InsertReply::NotSeries`].
pub(super) fn strip(reply: InsertReply) -> InsertReply {
    let InsertReply::Executed { mut failures, write_concern_error } = reply else { return reply };
    let first = failures.first().filter(|failure| failure.index == 0).map(|failure| failure.code);
    failures.retain(|failure| failure.index > 0);
    failures.iter_mut().for_each(|failure| failure.index -= 1);
    match first {
        Some(code) if code != DUPLICATE_KEY && code != VALIDATION => InsertReply::Executed { failures, write_concern_error },
        _ => InsertReply::NotSeries { refused: failures.into_iter().map(|failure| failure.index).collect() },
    }
}

impl Collection {
    /// Takes back what a normal collection in the place of a time-series one took: the documents with these `_id`s, and the collection
    /// itself, where nothing else is in it. Always a failure, which says what was done.
    pub async fn take_back(&self, ids: Vec<RawBson>) -> CommandFailure {
        match self.try_take_back(ids).await {
            Ok(true) => {
                let message = format!("the time-series collection '{}' was dropped, and is created again", self.name);
                CommandFailure::new(FailureKind::Dropped, message)
            }
            Ok(false) => {
                let message = format!("'{}' is a normal collection now, in which documents lie or may lie", self.name);
                CommandFailure::new(FailureKind::Dropped, message)
            }
            Err(failure) => self.database.explain(failure).await,
        }
    }

    async fn try_take_back(&self, ids: Vec<RawBson>) -> Result<bool, CommandFailure> {
        if !matches!(Box::pin(open::find(&self.handle(), &self.name)).await?, Some(Found::Normal)) {
            // Somebody was faster.
            return Ok(true);
        }
        let mut ids: Vec<Bson> = ids.into_iter().filter_map(|id| Bson::try_from(id).ok()).collect();
        ids.push(ID.into());
        let deletes = vec![doc! {"q": {"_id": {"$in": ids}}, "limit": 0}];
        let command = limited(doc! {"delete": &self.name, "deletes": deletes, "writeConcern": durable()});
        written(&bounded(self.handle().run_command(command)).await?)?;
        // What an unguarded insert put there is acknowledged.
        let all_guarded = self.series.as_ref().is_some_and(|series| series.turns.always());
        if !all_guarded || bounded(self.handle().collection::<Document>(&self.name).find_one(doc! {})).await?.is_some() {
            return Ok(false);
        }
        tracing::warn!(collection = self.name, "a time-series collection was dropped and came back as a normal one, which is dropped");
        bounded(self.handle().run_command(doc! {"drop": &self.name, "writeConcern": durable()})).await?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::sink::DocumentFailure;

    fn failure(index: usize, code: i32) -> DocumentFailure {
        DocumentFailure { index, code, message: String::new(), on_id: None }
    }

    fn executed(failures: Vec<DocumentFailure>) -> InsertReply {
        InsertReply::Executed { failures, write_concern_error: None }
    }

    #[test]
    fn what_a_time_series_collection_refuses_is_counted_from_the_first_measurement() {
        assert_eq!(strip(executed(vec![failure(0, 2), failure(3, 14)])), executed(vec![failure(2, 14)]));
        assert_eq!(strip(executed(vec![failure(0, 5743702)])), executed(vec![]));
    }

    #[test]
    fn a_collection_that_takes_a_document_without_a_time_or_has_one_already_is_none() {
        let normal = |refused| InsertReply::NotSeries { refused };
        assert_eq!(strip(executed(vec![failure(2, 11000)])), normal(vec![1]));
        assert_eq!(strip(executed(vec![failure(0, 11000), failure(1, 121)])), normal(vec![0]));
        assert_eq!(strip(executed(vec![failure(0, 121)])), normal(vec![]), "a validator refuses anything");
    }

    #[test]
    fn each_insert_is_guarded_but_those_into_a_sharded_collection_of_which_the_first_and_then_one_in_a_while_is() {
        let (each, some) = (Turns::new(false), Turns::new(true));
        assert!((0..5).all(|_| each.take()) && each.always());
        assert_eq!((0..5).map(|_| some.take()).collect::<Vec<_>>(), [true, false, false, false, false]);
        *some.last.as_ref().unwrap().lock().unwrap() = Instant::now().checked_sub(EVERY);
        assert!(some.take() && !some.take() && !some.always());
    }

    #[test]
    fn a_command_that_failed_says_nothing_about_the_kind() {
        let failed = InsertReply::Failed(CommandFailure::new(FailureKind::Network, "gone"));
        assert_eq!(strip(failed.clone()), failed);
    }
}
