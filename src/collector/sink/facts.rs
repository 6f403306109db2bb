//! What a MongoDB server says of itself, for `sluice doctor`.

use super::connect::{Database, bounded};
use super::failure::CommandFailure;
use bson::doc;

/// From this major version on MongoDB can delete single measurements of a time-series collection.
const DELETES_MEASUREMENTS: u32 = 7;

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

/// What a server says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFacts {
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

    /// Whether it can delete single measurements of a time-series collection, without which copies cannot be repaired.
    pub fn deletes_measurements(&self) -> bool {
        self.major() >= DELETES_MEASUREMENTS
    }
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
        let deployment = match (hello.get_str("setName"), hello.get_str("msg")) {
            (Ok(_), _) => Deployment::ReplicaSet,
            (_, Ok("isdbgrid")) => Deployment::Sharded,
            _ => Deployment::Standalone,
        };
        Ok(ServerFacts { version: build.get_str("version").unwrap_or("unknown").to_owned(), deployment })
    }
}
