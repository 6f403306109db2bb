//! The MongoDB clients of a process.

use super::CommandFailure;
use crate::pipeline::spec::Target;
use crate::settings::MongoSettings;
use std::sync::Arc;

/// Why a connection cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The settings have no connection of this name.
    #[error("the settings have no MongoDB connection '{0}'")]
    Unknown(String),
    /// The connection's settings are not usable.
    #[error("MongoDB connection '{name}': {message}")]
    Invalid {
        /// Its name in the settings.
        name: String,
        /// What is wrong, without secrets.
        message: String,
    },
}

/// The MongoDB clients of a process: one per distinct connection, made when first asked for.
#[derive(Debug)]
pub struct Databases {}

impl Databases {
    /// Makes no connection yet.
    pub fn new(settings: &MongoSettings) -> Self {
        let _ = settings;
        todo!()
    }

    /// The client of the connection `name`.
    pub async fn get(&self, name: &str) -> Result<Arc<Database>, ConnectionError> {
        let _ = name;
        todo!()
    }

    /// Where a pipeline's documents go: the connection's hosts, the config's or the connection's database (an error
    /// where neither names one), the collection. Opens no connection; mongodb+srv names its one host name.
    pub fn target(&self, connection: &str, database: Option<&str>, collection: &str) -> Result<Target, ConnectionError> {
        let _ = (connection, database, collection);
        todo!()
    }
}

/// One MongoDB client, shared by all pipelines that write through its connection.
#[derive(Debug)]
pub struct Database {
    client: mongodb::Client,
}

impl Database {
    pub(super) fn client(&self) -> &mongodb::Client {
        &self.client
    }

    /// Asks the server whether it is there.
    pub async fn ping(&self) -> Result<(), CommandFailure> {
        todo!()
    }
}
