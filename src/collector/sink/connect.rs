//! The MongoDB clients of a process: one per distinct connection of the settings, made when first asked for.
//!
//! No secret leaves this file: what the driver says about a connection string is not passed on, since it quotes it.

use super::facts::Known;
use super::failure::{CommandFailure, FailureKind, may_be_unknown_host, shorten};
use super::gate::Gate;
use super::listing::Listings;
use super::proof::Proof;
use super::tls;
use super::url;
use crate::pipeline::config::WRITE_TIMEOUT;
use crate::pipeline::moves::Place;
use crate::pipeline::spec::Target;
use crate::settings::{MongoConnection, MongoSettings};
use bson::doc;
use mongodb::event::{EventHandler, sdam::SdamEvent};
use mongodb::options::{ClientOptions, ConnectionString, Credential, HostInfo, ServerAddress, ServerMonitoringMode};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use tracing::{debug, info};

/// How long to look for a server, and to connect to one.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Our own bound around every command: the server's, and some for the way. A server that is stopped or cut off answers
/// nothing, and the driver would wait for ever.
const COMMAND_TIMEOUT: Duration = WRITE_TIMEOUT.saturating_add(Duration::from_secs(2));
/// Connections are made as they are needed; more than these only queue inside the server.
const POOL_SIZE: u32 = 16;
/// Those not used for so long are closed.
const IDLE_TIME: Duration = Duration::from_secs(60);

/// Why a connection cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The settings have no connection of this name.
    #[error("the settings have no MongoDB connection '{0}'")]
    Unknown(String),
    /// Neither the config nor the settings name a database.
    #[error("neither the config nor the connection '{0}' of the settings names a database")]
    NoDatabase(String),
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
pub struct Databases {
    connections: BTreeMap<String, MongoConnection>,
    made: tokio::sync::Mutex<Vec<(MongoConnection, Arc<Database>)>>,
}

impl Databases {
    /// Makes no connection yet.
    pub fn new(settings: &MongoSettings) -> Self {
        Self { connections: settings.connections.clone(), made: tokio::sync::Mutex::default() }
    }

    /// The client of the connection `name`. Waits for no server (but for the DNS, with mongodb+srv).
    pub async fn get(&self, name: &str) -> Result<Arc<Database>, ConnectionError> {
        // Names that differ in nothing but the default database share a client.
        let connection = MongoConnection { database: None, known_as: Vec::new(), ..self.connection(name)?.clone() };
        let mut made = self.made.lock().await;
        if let Some((_, database)) = made.iter().find(|(key, _)| *key == connection) {
            return Ok(database.clone());
        }
        let ignored = self.options_without_effect(name);
        if !ignored.is_empty() {
            tracing::warn!(connection = name, options = ignored.join(", "), "options of the url have no effect");
        }
        let database = Database::new(&connection).await;
        let database = Arc::new(database.map_err(|message| ConnectionError::Invalid { name: name.to_owned(), message })?);
        made.push((connection, database.clone()));
        Ok(database)
    }

    /// A client of the hosts of `place`: by the connection of its name, else by any other that leads to the same hosts, or
    /// to servers that are known as these.
    /// Errors: none does; for people.
    pub async fn of(&self, place: &Place) -> Result<Arc<Database>, String> {
        let Target { hosts, database, collection } = &place.target;
        let leads = |name: &&String| {
            self.target(name, Some(database), collection).is_ok_and(|target| target.hosts == *hosts)
                || self.connections.get(*name).is_some_and(|connection| is_known_as(connection, hosts))
        };
        let named = self.connections.get_key_value(&place.connection).map(|(name, _)| name).filter(leads);
        match named.or_else(|| self.connections.keys().find(leads)) {
            Some(name) => self.get(name).await.map_err(|error| error.to_string()),
            None => Err(format!("the settings have no MongoDB connection to {}", hosts.join(", "))),
        }
    }

    /// Where a pipeline's documents go: the connection's hosts, the config's or the connection's database (an error
    /// where neither names one), the collection. Opens no connection; mongodb+srv names its one host name.
    pub fn target(&self, connection: &str, database: Option<&str>, collection: &str) -> Result<Target, ConnectionError> {
        let settings = self.connection(connection)?;
        let invalid = |message: &str| ConnectionError::Invalid { name: connection.to_owned(), message: message.to_owned() };
        let url = parsed(&settings.url.expose()).map_err(|message| invalid(&message))?;
        let mut hosts = match &url.host_info {
            HostInfo::HostIdentifiers(addresses) => addresses.iter().map(ServerAddress::to_string).collect(),
            HostInfo::DnsRecord(name) => vec![name.clone()],
            _ => return Err(invalid(BAD_URL)),
        };
        hosts.sort_unstable();
        hosts.dedup();
        let database = database.or(settings.database.as_deref()).or(url.default_database.as_deref());
        let database = database.ok_or_else(|| ConnectionError::NoDatabase(connection.to_owned()))?;
        Ok(Target { hosts, database: database.to_owned(), collection: collection.to_owned() })
    }

    /// Options in the url of the connection `name` that other drivers take and that change nothing here.
    pub fn options_without_effect(&self, name: &str) -> Vec<String> {
        self.connection(name).map(|connection| url::without_effect(&connection.url.expose()).1).unwrap_or_default()
    }

    fn connection(&self, name: &str) -> Result<&MongoConnection, ConnectionError> {
        self.connections.get(name).ok_or_else(|| ConnectionError::Unknown(name.to_owned()))
    }
}

/// A connection string, without the options that the driver does not take and that change nothing here.
fn parsed(text: &str) -> Result<ConnectionString, String> {
    let (url, _) = url::without_effect(text);
    ConnectionString::parse(url).map_err(|_| url::refused_option(text).unwrap_or_else(|| BAD_URL.to_owned()))
}

const BAD_URL: &str = "the url is no MongoDB connection string (mongodb://host:port/…; in user names and passwords, \
                       the characters : / ? # [ ] @ % must be percent-encoded)";

/// Whether the servers of `connection` are those that a target calls `hosts`.
fn is_known_as(connection: &MongoConnection, hosts: &[String]) -> bool {
    let known = |host: &String| connection.known_as.iter().any(|known| known == host || host.strip_suffix(":27017") == Some(known));
    !hosts.is_empty() && hosts.iter().all(known)
}

/// One MongoDB client, shared by all pipelines that write through its connection. Where its password or certificates change,
/// another client takes its place, and what is under way with the old one ends with that.
#[derive(Debug)]
pub struct Database {
    settings: MongoConnection,
    now: RwLock<Made>,
    hosts: Vec<String>,
    listings: Listings,
    gate: Gate,
    known: Known,
    /// Held by who makes another client.
    renewing: tokio::sync::Mutex<()>,
}

/// A client, and what it was made with.
#[derive(Debug, Clone)]
struct Made {
    client: mongodb::Client,
    /// Why the last look at a server failed; the driver tells nobody else, and a failed selection has only a text.
    cause: Arc<Mutex<Option<Cause>>>,
    proof: Proof,
}

#[derive(Debug, Clone)]
struct Cause {
    failure: CommandFailure,
    may_be_unknown_host: bool,
}

impl Made {
    /// A client, and the hosts that it was given.
    async fn new(settings: &MongoConnection) -> Result<(Self, Vec<String>), String> {
        // Before what it is made with: what changes meanwhile is found as a change.
        let proof = Proof::of(settings);
        let url = parsed(&settings.url.expose())?;
        let mut options = ClientOptions::parse(url).await.map_err(|error| match CommandFailure::from_driver(&error) {
            failure if failure.kind == FailureKind::UnknownHost => failure.message,
            _ => BAD_URL.to_owned(),
        })?;
        options.app_name = Some("sluice".into());
        options.server_selection_timeout = Some(CONNECT_TIMEOUT);
        options.connect_timeout = Some(CONNECT_TIMEOUT);
        options.max_pool_size = Some(options.max_pool_size.unwrap_or(POOL_SIZE));
        options.max_idle_time = Some(options.max_idle_time.unwrap_or(IDLE_TIME));
        // With the default, streaming, a server that answered "I am shutting down" (91) is unknown until its next
        // streamed reply, up to ten seconds later; polling asks again as soon as somebody needs it, on one connection less.
        options.server_monitoring_mode = Some(options.server_monitoring_mode.unwrap_or(ServerMonitoringMode::Poll));
        // Commands carry their own concerns; one from the connection string would stand beside them.
        options.write_concern = None;
        options.read_concern = None;
        options.selection_criteria = None;
        credentials(&mut options, settings);
        let files = tls::apply(&mut options, &settings.tls)?;
        let cause = Arc::new(Mutex::new(None));
        options.sdam_event_handler = Some(watch_servers(cause.clone()));
        let hosts = options.hosts.iter().map(ServerAddress::to_string).collect();
        let client = mongodb::Client::with_options(options).map_err(|error| CommandFailure::from_driver(&error).message)?;
        // Read by now; a combined file of certificate and key goes again.
        drop(files);
        Ok((Self { client, cause, proof }, hosts))
    }
}

impl Database {
    async fn new(settings: &MongoConnection) -> Result<Self, String> {
        let (made, hosts) = Made::new(settings).await?;
        Ok(Self {
            settings: settings.clone(),
            now: RwLock::new(made),
            hosts,
            listings: Listings::default(),
            gate: Gate::default(),
            known: Known::default(),
            renewing: tokio::sync::Mutex::default(),
        })
    }

    fn now(&self) -> Made {
        self.now.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn client(&self) -> mongodb::Client {
        self.now().client
    }

    /// Reads the files of the connection again, and makes another client where they hold something else than this one was
    /// made with. Whether there is another one now, for whoever made it.
    pub(super) async fn renew(&self) -> bool {
        let Ok(_renewing) = self.renewing.try_lock() else { return false };
        for secret in std::iter::once(&self.settings.url).chain(&self.settings.password) {
            // What cannot be read just now is what it was; `SecretFiles` says so.
            let _ = secret.refresh();
        }
        if Proof::of(&self.settings) == self.now().proof {
            return false;
        }
        match Box::pin(Made::new(&self.settings)).await {
            Ok((made, _)) => {
                *self.now.write().unwrap_or_else(PoisonError::into_inner) = made;
                info!(hosts = self.hosts.join(","), "mongodb credentials or certificates have changed, and connections are made with them");
                true
            }
            Err(error) => {
                debug!(error, "mongodb client could not be made anew");
                false
            }
        }
    }

    pub(super) fn listings(&self) -> &Listings {
        &self.listings
    }

    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }

    pub(super) fn known(&self) -> &Known {
        &self.known
    }

    pub(super) fn hosts(&self) -> &[String] {
        &self.hosts
    }

    /// Asks the server whether it is there.
    pub async fn ping(&self) -> Result<(), CommandFailure> {
        let reply = bounded(self.client().database("admin").run_command(doc! {"ping": 1})).await;
        match reply {
            Ok(_) => Ok(()),
            Err(failure) => Err(self.explain(failure).await),
        }
    }

    /// Replaces "no server was found" by why, where that is known: wrong credentials, TLS and unknown hosts need a
    /// person, and a server that is merely away does not. What was refused because of who we are is about to be tried with
    /// what the files hold now, where that is something else.
    pub(super) async fn explain(&self, failure: CommandFailure) -> CommandFailure {
        let failure = self.cause_of(failure).await;
        if failure.is_refusal() && self.renew().await {
            let message = format!("{}; the credentials have changed since, and it is tried again with them", failure.message);
            return CommandFailure { kind: FailureKind::Network, code: None, message, ..failure };
        }
        failure
    }

    async fn cause_of(&self, failure: CommandFailure) -> CommandFailure {
        if failure.kind != FailureKind::Selection {
            return failure;
        }
        let Some(cause) = self.now().cause.lock().unwrap_or_else(PoisonError::into_inner).clone() else {
            let message = format!("no MongoDB at {} takes writes", self.hosts.join(", "));
            return CommandFailure { message, ..failure };
        };
        if matches!(cause.failure.kind, FailureKind::Auth | FailureKind::Tls | FailureKind::UnknownHost) {
            return cause.failure;
        }
        if cause.may_be_unknown_host && self.no_host_resolves().await {
            return CommandFailure { kind: FailureKind::UnknownHost, ..cause.failure };
        }
        let message = shorten(&format!("no MongoDB answers at {}: {}", self.hosts.join(", "), cause.failure.message));
        CommandFailure { message, ..failure }
    }

    async fn no_host_resolves(&self) -> bool {
        for host in &self.hosts {
            match tokio::time::timeout(CONNECT_TIMEOUT, tokio::net::lookup_host(host.as_str())).await {
                Ok(Err(_)) => {}
                Ok(Ok(_)) | Err(_) => return false,
            }
        }
        !self.hosts.is_empty()
    }
}

/// Waits for a command, but not for ever.
pub(super) async fn bounded<T>(command: impl IntoFuture<Output = mongodb::error::Result<T>>) -> Result<T, CommandFailure> {
    match tokio::time::timeout(COMMAND_TIMEOUT, command.into_future()).await {
        Ok(reply) => reply.map_err(|error| CommandFailure::from_driver(&error)),
        Err(_) => Err(CommandFailure::new(FailureKind::Timeout, format!("no reply within {} s", COMMAND_TIMEOUT.as_secs()))),
    }
}

fn watch_servers(cause: Arc<Mutex<Option<Cause>>>) -> EventHandler<SdamEvent> {
    EventHandler::callback(move |event| {
        let now = match event {
            SdamEvent::ServerHeartbeatSucceeded(_) => None,
            SdamEvent::ServerHeartbeatFailed(event) => Some(Cause {
                failure: CommandFailure::from_driver(&event.failure),
                may_be_unknown_host: may_be_unknown_host(&event.failure),
            }),
            _ => return,
        };
        *cause.lock().unwrap_or_else(PoisonError::into_inner) = now;
    })
}

/// What the settings say goes before what the connection string says.
fn credentials(options: &mut ClientOptions, settings: &MongoConnection) {
    if settings.username.is_none() && settings.password.is_none() && settings.auth_source.is_none() {
        return;
    }
    let given = options.credential.take();
    if given.is_none() && settings.username.is_none() {
        return;
    }
    let mut credential: Credential = given.unwrap_or_default();
    if let Some(username) = &settings.username {
        credential.username = Some(username.clone());
    }
    if let Some(password) = &settings.password {
        credential.password = Some(password.expose().to_string());
    }
    if let Some(source) = &settings.auth_source {
        credential.source = Some(source.clone());
    } else if credential.source.is_none() {
        credential.source = Some("admin".into());
    }
    options.credential = Some(credential);
}

#[cfg(test)]
mod tests;
