//! Which collections a database has, asked once for all pipelines that want to know at about the same time.
//!
//! A thousand pipelines that start together ask about a thousand collections of one database: a listing of it answers all
//! of them. What always holds: an answer is no older than [`FRESH`] when it is asked for, and who asks [`Age::Anew`] gets one
//! that was begun after the question; one listing of a database is under way at a time, and who waits for one that fails
//! gets its failure. "Not there" may be wrong by the time it is read, and so may "there": the first is found out by
//! creating. Called by `open`.

use super::connect::bounded;
use super::failure::{CommandFailure, FailureKind};
use super::open::{self, UNAUTHORIZED};
use bson::{RawDocument, RawDocumentBuf, doc};
use futures_util::TryStreamExt;
use mongodb::Database;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How old a listing may be when it answers.
const FRESH: Duration = Duration::from_secs(1);
/// A listing in use that is older is made again meanwhile, so that nobody waits for the next one.
const RENEW: Duration = Duration::from_millis(500);
/// A database with more collections is not listed any more: each is asked for by its name.
const LARGE: usize = 10_000;

/// What a collection is, as far as a config says anything about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    Normal,
    /// With its fields, where the listing shows them.
    TimeSeries(Option<Fields>),
    View,
    Unknown,
}

/// The fields of a time-series collection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fields {
    pub(super) time_field: Option<Box<str>>,
    pub(super) meta_field: Option<Box<str>>,
}

impl Found {
    /// From an entry of `listCollections`.
    pub(super) fn read(entry: &RawDocument) -> Self {
        match entry.get_str("type").unwrap_or("collection") {
            "collection" => Self::Normal,
            "timeseries" => {
                let series = entry.get_document("options").and_then(|options| options.get_document("timeseries"));
                let field = |series: &RawDocument, field| series.get_str(field).ok().map(Box::from);
                Self::TimeSeries(
                    series.ok().map(|series| Fields { time_field: field(series, "timeField"), meta_field: field(series, "metaField") }),
                )
            }
            "view" => Self::View,
            _ => Self::Unknown,
        }
    }
}

/// How old an answer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Age {
    /// A little: others may have asked.
    Recent,
    /// Begun after the question: the last answer was bad.
    Anew,
}

/// The listings of one client, by database.
#[derive(Debug, Default)]
pub(super) struct Listings(Mutex<HashMap<String, Arc<Listing>>>);

impl Listings {
    /// What the collection `name` is; `None` where there is none.
    pub(super) async fn look(&self, database: &Database, name: &str, age: Age) -> Result<Option<Found>, CommandFailure> {
        let listing = self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(database.name().to_owned()).or_default().clone();
        if !listing.large.load(Relaxed)
            && let Some(all) = listing.all(database, age).await?
        {
            return Ok(all.get(name).cloned());
        }
        Box::pin(open::find(database, name)).await
    }
}

type All = Arc<HashMap<Box<str>, Found>>;

#[derive(Debug, Default)]
struct Listing {
    /// Locked while a listing is under way.
    taken: tokio::sync::Mutex<Option<Taken>>,
    renewing: AtomicBool,
    /// Whether the database has too many collections to list them.
    large: AtomicBool,
}

#[derive(Debug)]
struct Taken {
    begun: Instant,
    ended: Instant,
    /// `None`: too many.
    all: Result<Option<All>, CommandFailure>,
}

impl Listing {
    /// All collections; `None` where they are too many.
    async fn all(self: &Arc<Self>, database: &Database, age: Age) -> Result<Option<All>, CommandFailure> {
        let asked = Instant::now();
        let mut taken = self.taken.lock().await;
        match taken.as_ref() {
            Some(Taken { begun, all: Ok(all), .. }) if *begun + if age == Age::Anew { Duration::ZERO } else { FRESH } >= asked => {
                if begun.elapsed() > RENEW && !self.renewing.swap(true, Relaxed) {
                    tokio::spawn(self.clone().renew(database.clone()));
                }
                return all.clone().map_or(Ok(None), |all| Ok(Some(all)));
            }
            Some(Taken { ended, all: Err(failure), .. }) if *ended >= asked => return Err(failure.clone()),
            _ => {}
        }
        let begun = Instant::now();
        let all = Box::pin(self.list(database)).await;
        *taken = Some(Taken { begun, ended: Instant::now(), all: all.clone() });
        drop(taken);
        tokio::spawn(self.clone().forget());
        all
    }

    async fn list(&self, database: &Database) -> Result<Option<All>, CommandFailure> {
        let all = bounded(list(database)).await;
        let too_many = matches!(all, Ok(None)) || matches!(&all, Err(failure) if failure.kind == FailureKind::Timeout);
        self.large.fetch_or(too_many, Relaxed);
        Ok(all?.map(Arc::new))
    }

    /// Makes a listing that is in use again, while others go on using it.
    async fn renew(self: Arc<Self>, database: Database) {
        let begun = Instant::now();
        // Whether it worked is found out by who needs it.
        if let Ok(all) = self.list(&database).await {
            let mut taken = self.taken.lock().await;
            if taken.as_ref().is_none_or(|taken| taken.begun < begun) {
                *taken = Some(Taken { begun, ended: Instant::now(), all: Ok(all) });
                tokio::spawn(self.clone().forget());
            }
        }
        self.renewing.store(false, Relaxed);
    }

    /// Returns the memory of a listing that nobody uses any more.
    async fn forget(self: Arc<Self>) {
        tokio::time::sleep(2 * FRESH).await;
        self.taken.lock().await.take_if(|taken| taken.begun.elapsed() > FRESH);
    }
}

/// All collections of the database; `None` where they are too many.
async fn list(database: &Database) -> mongodb::error::Result<Option<HashMap<Box<str>, Found>>> {
    let command = doc! {"listCollections": 1, "cursor": {"batchSize": LARGE as i32}};
    let cursor = match database.run_cursor_command(command.clone()).await {
        Err(error) if CommandFailure::from_driver(&error).code == Some(UNAUTHORIZED) => {
            let mut command = command;
            command.extend(doc! {"nameOnly": true, "authorizedCollections": true});
            database.run_cursor_command(command).await?
        }
        cursor => cursor?,
    };
    let mut entries = cursor.with_type::<RawDocumentBuf>();
    let mut all = HashMap::new();
    while let Some(entry) = entries.try_next().await? {
        if all.len() == LARGE {
            return Ok(None);
        }
        if let Ok(name) = entry.get_str("name") {
            all.insert(name.into(), Found::read(&entry));
        }
    }
    all.shrink_to_fit();
    Ok(Some(all))
}
