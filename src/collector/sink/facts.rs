//! What a MongoDB server says of itself: its product, version and deployment, for `sluice doctor`, for what depends on
//! them here, and for what people are told.
//!
//! What always holds: an answer about the deployment is no older than [`FRESH`]; that measurements can be deleted was
//! tried on a collection, since it depends on the feature compatibility version, which a plain user may not read.

use super::connect::{Database, bounded};
use super::failure::{CommandFailure, FailureKind};
use super::measurements::{limited, written};
use super::open::UNAUTHORIZED;
use crate::pipeline::moves::Series;
use crate::pipeline::spec::Target;
use bson::{DateTime, Document, doc, oid::ObjectId};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// From this major version on MongoDB can delete single measurements of a time-series collection, at the feature
/// compatibility version of the same number.
const DELETES_MEASUREMENTS: u32 = 7;
/// How old an answer about the deployment may be: all pipelines of a client share it.
const FRESH: Duration = Duration::from_secs(20);
/// With these a server says that it deletes measurements by their meta field alone: `IllegalOperation` and
/// `InvalidOptions` (`deleteRequestCheckFunction`); and with these that it does not delete any: `CommandNotSupported`,
/// `NotImplemented`.
const CANNOT_DELETE: [i32; 4] = [20, 72, 115, 238];

/// What kind of deployment answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deployment {
    /// A replica set.
    ReplicaSet,
    /// A router of a sharded cluster.
    Sharded,
    /// A single server that replicates nowhere.
    Standalone,
}

/// Whose server it is, as far as it can be told: what speaks MongoDB's protocol is not always MongoDB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Product {
    /// MongoDB, or what cannot be told from it.
    MongoDb,
    /// FerretDB, on PostgreSQL or SQLite.
    FerretDb,
    /// Amazon DocumentDB.
    DocumentDb,
    /// Azure Cosmos DB for MongoDB.
    CosmosDb,
}

impl Product {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MongoDb => "MongoDB",
            Self::FerretDb => "FerretDB",
            Self::DocumentDb => "Amazon DocumentDB",
            Self::CosmosDb => "Azure Cosmos DB",
        }
    }

    /// FerretDB says so in its `buildInfo`; the vendors' services have hosts of their own.
    fn of(hosts: &[String], build: &Document) -> Self {
        let any = |suffix: &str| hosts.iter().any(|host| host.split(':').next().unwrap_or_default().ends_with(suffix));
        if build.contains_key("ferretdb") || build.contains_key("ferretdbVersion") {
            Self::FerretDb
        } else if any(".docdb.amazonaws.com") || any(".docdb-elastic.amazonaws.com") {
            Self::DocumentDb
        } else if any(".cosmos.azure.com") || any(".documents.azure.com") {
            Self::CosmosDb
        } else {
            Self::MongoDb
        }
    }
}

/// What a server says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFacts {
    /// Whose it is.
    pub product: Product,
    /// The version, as it says it: `7.0.14`.
    pub version: String,
    /// The deployment.
    pub deployment: Deployment,
}

impl ServerFacts {
    /// The major version; 0 where the version does not begin with a number.
    pub fn major(&self) -> u32 {
        self.version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or_default()
    }

    /// Whether its release can delete single measurements of a time-series collection, without which copies cannot be
    /// repaired. Whether it does so is found out by trying: see [`super::Collection::measurements`].
    pub fn deletes_measurements(&self) -> bool {
        self.major() >= DELETES_MEASUREMENTS
    }
}

/// What was found out about a client's server.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Whether it is a mongos, and when it said so.
    mongos: Mutex<Option<(Instant, bool)>>,
    /// Whether it was found to delete single measurements.
    deletes: AtomicBool,
}

impl Database {
    /// Asks the server what it is. Needs no permission beyond being logged in.
    pub async fn facts(&self) -> Result<ServerFacts, CommandFailure> {
        let admin = self.client().database("admin");
        let ask = |command| async { bounded(admin.run_command(command)).await };
        let (hello, build) = match (ask(doc! {"hello": 1}).await, ask(doc! {"buildInfo": 1}).await) {
            (Ok(hello), Ok(build)) => (hello, build),
            (Err(failure), _) | (_, Err(failure)) => return Err(self.explain(failure).await),
        };
        let deployment = match (hello.get_str("setName"), is_mongos(&hello)) {
            (Ok(_), _) => Deployment::ReplicaSet,
            (_, true) => Deployment::Sharded,
            _ => Deployment::Standalone,
        };
        let product = Product::of(self.hosts(), &build);
        Ok(ServerFacts { product, version: build.get_str("version").unwrap_or("unknown").to_owned(), deployment })
    }

    /// Whether the router of a sharded cluster answers: up to 7.0 it hides a `writeConcernError` where all documents of
    /// a command failed. A cluster that was a replica set is noticed within [`FRESH`] and the time between two openings.
    pub(super) async fn is_mongos(&self) -> Result<bool, CommandFailure> {
        let known = |at_most: Duration| {
            let known = *self.known().mongos.lock().unwrap_or_else(PoisonError::into_inner);
            known.filter(|(asked, _)| asked.elapsed() < at_most).map(|(_, is)| is)
        };
        if let Some(is) = known(FRESH) {
            return Ok(is);
        }
        let is = match bounded(self.client().database("admin").run_command(doc! {"hello": 1})).await {
            Ok(hello) => is_mongos(&hello),
            // A server that does not know the command is no router of today.
            Err(failure) if failure.kind == FailureKind::Server => known(Duration::MAX).unwrap_or(false),
            Err(failure) => return Err(self.explain(failure).await),
        };
        *self.known().mongos.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), is));
        Ok(is)
    }

    /// Whether the server deletes single measurements of the time-series collection `name`: asked until it does, by a
    /// delete that matches nothing. The release says what it could do, and the feature compatibility version what it does.
    pub(super) async fn deletes_measurements(
        &self,
        handle: &mongodb::Database,
        name: &str,
        fields: &Series,
    ) -> Result<bool, CommandFailure> {
        if self.known().deletes.load(Relaxed) {
            return Ok(true);
        }
        let deletes = self.facts().await?.deletes_measurements() && self.try_to_delete(handle, name, fields).await?;
        self.known().deletes.store(deletes, Relaxed);
        Ok(deletes)
    }

    /// Whether copies of measurements in the collection of `target` can be repaired; tried each time.
    pub async fn repairs(&self, target: &Target, fields: &Series) -> Result<bool, CommandFailure> {
        let deletes = self.facts().await?.deletes_measurements();
        Ok(deletes && self.try_to_delete(&self.client().database(&target.database), &target.collection, fields).await?)
    }

    async fn try_to_delete(&self, handle: &mongodb::Database, name: &str, fields: &Series) -> Result<bool, CommandFailure> {
        // No message was published in 1970.
        let nothing = doc! {fields.time_field.as_str(): DateTime::from_millis(0), "_id": ObjectId::from_bytes([0; 12])};
        let command = limited(doc! {"delete": name, "deletes": [{"q": nothing, "limit": 0}]});
        let tried = match bounded(handle.run_command(command)).await {
            Ok(reply) => written(&reply).map(drop),
            Err(failure) => Err(failure),
        };
        match tried {
            Ok(()) => Ok(true),
            Err(failure) if failure.code.is_some_and(|code| CANNOT_DELETE.contains(&code) || code == UNAUTHORIZED) => {
                tracing::debug!(error = %failure, collection = name, "single measurements cannot be deleted");
                Ok(false)
            }
            Err(failure) => Err(self.explain(failure).await),
        }
    }

    /// What a refused delete of a measurement says: it is tried anew when the collection is opened next.
    pub(super) fn delete_failed(&self, failure: &CommandFailure) {
        if failure.code.is_some_and(|code| CANNOT_DELETE.contains(&code) || code == UNAUTHORIZED) {
            self.known().deletes.store(false, Relaxed);
        }
    }

    /// How the server is called in messages: `FerretDB 7.0.42`, `the server` where it does not say.
    pub(super) async fn called(&self) -> String {
        match Box::pin(self.facts()).await {
            Ok(facts) => format!("{} {}", facts.product.as_str(), facts.version),
            Err(_) => "the server".to_owned(),
        }
    }
}

fn is_mongos(hello: &Document) -> bool {
    hello.get_str("msg").is_ok_and(|message| message == "isdbgrid")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_that_are_not_mongodb_are_told_by_what_they_say_and_by_their_hosts() {
        let product = |host: &str, build: Document| Product::of(&[host.to_owned()], &build);
        let mongodb = doc! {"version": "7.0.14"};
        assert_eq!(product("db.example:27017", mongodb.clone()), Product::MongoDb);
        assert_eq!(product("cluster0-shard-00-00.abcde.mongodb.net:27017", mongodb.clone()), Product::MongoDb);
        assert_eq!(product("127.0.0.1:27017", doc! {"version": "7.0.42", "ferretdb": {"version": "v1.24.2"}}), Product::FerretDb);
        assert_eq!(product("c.cluster-x.eu-west-1.docdb.amazonaws.com:27017", mongodb.clone()), Product::DocumentDb);
        assert_eq!(product("account.mongo.cosmos.azure.com:10255", mongodb.clone()), Product::CosmosDb);
        assert_eq!(product("cluster.mongocluster.cosmos.azure.com:10260", mongodb), Product::CosmosDb);
    }
}
