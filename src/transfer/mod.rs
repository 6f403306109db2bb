//! The producers' SDK: register a pipeline, send BSON documents to it, ask how it is, remove it.
//!
//! On the wire it is what the first parent's SDK is: a stream `{namespace}_{key}`, a durable `default`, an entry
//! `{"key","subs","collection","description"}` under the key, documents to `{namespace}.{key}`, the state asked for on
//! `{namespace}.states`. What it finds it leaves as it is: a producer that starts again resets no limit, unpauses
//! nothing, and does not put back an entry that an operator has taken over.
//!
//! ```text
//! add     entry (where it says something else) ─▶ stream, durable (where missing) ─▶ documents are taken from now on
//! send    document ─▶ BSON ─▶ publish ─▶ acknowledged by JetStream
//! get     entry + answer to a state request
//! remove  delete marker: what waits is written first, then the stream goes
//! ```
//!
//! The entry goes first: a stream that nobody reads would swallow documents, an entry without a stream gets one from
//! the controller. Needs the feature `transfer` only, which brings no database driver and no web server.
//!
//! ```
//! use serde::Serialize;
//! use sluice::transfer::{Message, Registration, Transfer};
//!
//! #[derive(Serialize)]
//! struct Reading<'a> {
//!     device: &'a str,
//!     celsius: f64,
//! }
//!
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/doc_server.in"));
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let Some(server) = Server::start() else { return Ok(()) };
//! # let nats_url = server.url.as_str();
//! let transfer = Transfer::new("alpha", async_nats::connect(nats_url).await?).await?;
//! transfer.add(&Registration { key: "metrics".into(), collection: "metrics".into(), ..Registration::default() }).await?;
//!
//! // Returns once JetStream has it.
//! let receipt = transfer.send("metrics", &Reading { device: "a", celsius: 21.5 }).await?;
//! assert_eq!((receipt.stream.as_str(), receipt.sequence), ("alpha_metrics", 1));
//!
//! // Under a message id it may be sent again when no acknowledgement came: it is stored once.
//! let reading = Message::new(&Reading { device: "b", celsius: 20.0 })?.with_id("b-2026-01-01");
//! assert!(!transfer.send_message("metrics", reading.clone()).await?.duplicate);
//! assert!(transfer.send_message("metrics", reading).await?.duplicate);
//!
//! // Many at a time, each failure with its position.
//! let readings = (0..1000).map(|n| Message::new(&Reading { device: "c", celsius: f64::from(n) }));
//! let sent = transfer.send_many("metrics", readings.collect::<Result<Vec<_>, _>>()?).await?;
//! assert!(sent.is_complete() && sent.acknowledged == 1000);
//!
//! let state = transfer.get("metrics").await?;
//! assert_eq!(state.registration.collection, "metrics");
//! // `None` while no Sluice runs.
//! assert_eq!(state.buffer_size, None);
//!
//! transfer.remove("metrics").await?;
//! # Ok(())
//! # }
//! ```

mod add;
mod entry;
mod error;
mod send;

pub use entry::Registration;
pub use error::{TransferError, TransferErrorKind};
pub use send::{Message, Receipt, Sent};

use crate::pipeline::created::{ENTRIES_HISTORY, metadata};
use crate::pipeline::id::{Namespace, PipelineId};
use crate::pipeline::names::{NameTemplates, Names};
use async_nats::Client;
use async_nats::jetstream::Context;
use async_nats::jetstream::context::{ContextBuilder, KeyValueError};
use async_nats::jetstream::kv::{Operation, Store};
use async_nats::jetstream::stream::{Config, DiscardPolicy};
use bytes::Bytes;
use entry::Found;
use serde::Deserialize;
use std::time::Duration;

/// How long the server may take for one answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long a state request waits for the executing process.
const STATE_TIMEOUT: Duration = Duration::from_secs(2);
/// How many documents may be unacknowledged, unless said otherwise.
const IN_FLIGHT: usize = 256;
/// How often a write of the entry is tried where others write it at the same time.
const TRIES: usize = 5;

/// A producer's view of one namespace. Clones share the connection; all methods may be called at the same time.
#[derive(Clone)]
pub struct Transfer {
    client: Client,
    jetstream: Context,
    bucket: Store,
    names: Names,
    in_flight: usize,
}

/// How a pipeline is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// What is registered. Of an operator's entry only the key and what it says for people.
    pub registration: Registration,
    /// How many documents the executing process holds that MongoDB does not have yet; 0 where nothing runs. `None`
    /// where nobody answered within two seconds.
    pub buffer_size: Option<u64>,
}

#[derive(Deserialize)]
struct Answer {
    buffer_size: u64,
}

fn key_of(key: &str) -> Result<PipelineId, TransferError> {
    Ok(PipelineId::parse(key)?)
}

impl Transfer {
    /// For the namespace, over a connection that the caller made. Creates the bucket of the entries where it is missing,
    /// and leaves it as it is where it exists.
    ///
    /// Errors: [`TransferErrorKind::Name`], [`TransferErrorKind::Refused`] (no permission, no JetStream) and
    /// [`TransferErrorKind::Unreachable`].
    pub async fn new(namespace: &str, client: Client) -> Result<Self, TransferError> {
        Self::with_names(Names::new(Namespace::parse(namespace)?, NameTemplates::default()), client).await
    }

    /// The same for an installation whose settings change the names on NATS.
    pub async fn with_names(names: Names, client: Client) -> Result<Self, TransferError> {
        let jetstream = ContextBuilder::new().timeout(TIMEOUT).ack_timeout(TIMEOUT).backpressure_on_inflight(true).build(client.clone());
        let bucket = bucket(&jetstream, &names.entries()).await?;
        Ok(Self { client, jetstream, bucket, names, in_flight: IN_FLIGHT })
    }

    /// How many documents [`Transfer::send_many`] may have unacknowledged: 256 unless said otherwise, at least 1.
    #[must_use]
    pub fn with_in_flight(mut self, in_flight: usize) -> Self {
        self.in_flight = in_flight.max(1);
        self
    }

    /// The registration, and how many documents are held by the process that runs it.
    ///
    /// Errors: [`TransferErrorKind::NotFound`], [`TransferErrorKind::Foreign`] where the entry cannot be read,
    /// [`TransferErrorKind::Unreachable`].
    pub async fn get(&self, key: &str) -> Result<State, TransferError> {
        let id = key_of(key)?;
        let registration = match self.entry(&id).await?.0 {
            None => return Err(TransferError::new(TransferErrorKind::NotFound, format!("there is no pipeline {id}"))),
            Some(Found::Registered(registration, _)) => registration,
            Some(Found::Operated(fields)) => {
                let text = |name: &str| fields.get(name).and_then(|text| text.as_str()).unwrap_or_default().to_owned();
                Registration { key: id.to_string(), description: text("description"), ..Registration::default() }
            }
            Some(Found::Unreadable) => {
                return Err(TransferError::new(TransferErrorKind::Foreign, format!("the entry of {id} cannot be read; add it again")));
            }
        };
        let request = self.client.request(self.names.states(), Bytes::from(id.to_string()));
        // Nobody listens, nobody answers, or an answer that is none: all say that nothing is known.
        let answer = tokio::time::timeout(STATE_TIMEOUT, request).await.ok().and_then(Result::ok);
        let answer = answer.and_then(|answer| serde_json::from_slice::<Answer>(&answer.payload).ok());
        Ok(State { registration, buffer_size: answer.map(|answer| answer.buffer_size) })
    }

    /// Removes the pipeline: the controller closes its stream to producers, writes what waits, then deletes it. Missing
    /// is no error.
    ///
    /// Errors: [`TransferErrorKind::Conflict`], [`TransferErrorKind::Refused`], [`TransferErrorKind::Unreachable`].
    pub async fn remove(&self, key: &str) -> Result<(), TransferError> {
        let id = key_of(key)?;
        // An entry that went by itself, by a TTL say, was removed by nobody, whether a marker stands for it or nothing: while its
        // stream is there, the pipeline goes on.
        if self.entry(&id).await?.0.is_none() && self.stream_info(&self.names.stream(&id)).await?.is_none() {
            return Ok(());
        }
        let during = format!("remove the entry of {id}");
        self.bucket.delete(id.as_str()).await.map_err(|error| TransferError::during(kind_of(&error), during, &error))
    }

    /// What stands under the key, and the revision to write over.
    async fn entry(&self, id: &PipelineId) -> Result<(Option<Found>, u64), TransferError> {
        let during = |error| TransferError::during(TransferErrorKind::Unreachable, format!("read the entry of {id}"), &error);
        let found = self.bucket.entry(id.as_str()).await.map_err(during)?;
        Ok(match found {
            None => (None, 0),
            Some(found) if found.operation == Operation::Put => (Some(entry::read(&found.value)), found.revision),
            Some(marker) => (None, marker.revision),
        })
    }
}

/// The entries' bucket, made where it is missing.
async fn bucket(jetstream: &Context, name: &str) -> Result<Store, TransferError> {
    let open = |error: KeyValueError| TransferError::during(kind_of(&error), format!("open the bucket {name}"), &error);
    let stream = format!("KV_{name}");
    let missing = match jetstream.get_stream(&stream).await {
        Ok(_) => None,
        Err(error) if add::is_missing(&error) => Some(error),
        Err(error) => return Err(TransferError::during(kind_of(&error), format!("open the bucket {name}"), &error)),
    };
    if missing.is_some() {
        let config = Config {
            name: stream,
            subjects: vec![format!("$KV.{name}.>")],
            discard: DiscardPolicy::New,
            max_messages_per_subject: i64::from(ENTRIES_HISTORY),
            allow_rollup: true,
            deny_delete: true,
            allow_direct: true,
            metadata: metadata(None).into_iter().collect(),
            ..Config::default()
        };
        // Where somebody else is faster, theirs is as good.
        if let Err(error) = jetstream.create_stream(config).await
            && !add::is_taken(&error)
        {
            return Err(TransferError::during(kind_of(&error), format!("create the bucket {name}"), &error));
        }
    }
    jetstream.get_key_value(name).await.map_err(open)
}

/// Unreachable where no answer came, else refused: from the chain of the error's sources, whose kinds differ by call.
fn kind_of(error: &(dyn std::error::Error + 'static)) -> TransferErrorKind {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<async_nats::jetstream::Error>().is_some() {
            return TransferErrorKind::Refused;
        }
        cause = error.source();
    }
    TransferErrorKind::Unreachable
}
