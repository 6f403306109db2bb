//! Registering a pipeline: the entry first, then stream and durable where they are missing. Nothing found is changed.

use super::entry::{self, Found, Registration};
use super::error::{TransferError, TransferErrorKind};
use super::{TRIES, Transfer, key_of, kind_of};
use crate::pipeline::created::{DEFAULT_ACK_WAIT, DEFAULT_MAX_ACK_PENDING, metadata};
use crate::pipeline::id::PipelineId;
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::context::{CreateStreamError, CreateStreamErrorKind, GetStreamError, GetStreamErrorKind};
use async_nats::jetstream::kv::UpdateErrorKind;
use async_nats::jetstream::stream::{Config, ConsumerCreateStrictErrorKind, DiscardPolicy, Info, RetentionPolicy};
use std::time::Duration;

/// How long a stream that is being drained may take to be opened again.
const REOPEN: Duration = Duration::from_secs(15);
/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(100);

/// Whether there is no such stream.
pub(super) fn is_missing(error: &GetStreamError) -> bool {
    matches!(error.kind(), GetStreamErrorKind::JetStream(error) if error.error_code() == async_nats::jetstream::ErrorCode::STREAM_NOT_FOUND)
}

/// Whether there is a stream of that name already.
pub(super) fn is_taken(error: &CreateStreamError) -> bool {
    matches!(error.kind(), CreateStreamErrorKind::JetStream(error) if error.error_code() == async_nats::jetstream::ErrorCode::STREAM_NAME_EXIST)
}

/// How the pipeline's stream stands to its subject.
enum Standing {
    Missing,
    /// It listens on the subject.
    Open(RetentionPolicy),
    /// Closed to producers, while what it holds is written.
    Closed,
    /// It listens on something else.
    Elsewhere,
}

impl Transfer {
    /// Registers a pipeline, so that documents are taken from now on. Doing it again changes nothing; with another
    /// collection, description or further subjects the entry says so, and the controller acts on it. An operator's entry
    /// (one with a version) stays as it is. Where the pipeline is being removed, this brings it back.
    ///
    /// Errors: [`TransferErrorKind::Name`]; [`TransferErrorKind::Foreign`] where a stream of that name belongs to
    /// something else; [`TransferErrorKind::NotTaken`] where the stream is being drained and no controller opens it
    /// again; [`TransferErrorKind::Conflict`], [`TransferErrorKind::Refused`], [`TransferErrorKind::Unreachable`].
    pub async fn add(&self, registration: &Registration) -> Result<(), TransferError> {
        let id = key_of(&registration.key)?;
        self.register(&id, registration).await?;
        self.open_stream(&id, &registration.subs).await?;
        self.open_durable(&id).await
    }

    async fn register(&self, id: &PipelineId, registration: &Registration) -> Result<(), TransferError> {
        for _ in 0..TRIES {
            let (found, revision) = self.entry(id).await?;
            if matches!(found, Some(Found::Unreadable)) {
                let message = format!("the entry of {id} cannot be read, and may be an operator's: correct or delete it first");
                return Err(TransferError::new(TransferErrorKind::Foreign, message));
            }
            let during = |error: &dyn std::error::Error, kind| TransferError::during(kind, format!("write the entry of {id}"), error);
            let Some(value) = entry::write(registration, found).map_err(|error| during(&error, TransferErrorKind::Document))? else {
                return Ok(());
            };
            match self.bucket.update(id.as_str(), value.into(), revision).await {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => {}
                Err(error) => return Err(during(&error, kind_of(&error))),
            }
        }
        Err(TransferError::new(TransferErrorKind::Conflict, format!("the entry of {id} is being changed by others")))
    }

    /// The stream listens on the pipeline's subject when this returns.
    async fn open_stream(&self, id: &PipelineId, subs: &[String]) -> Result<(), TransferError> {
        let (name, subject) = (self.names.stream(id), self.names.subject(id));
        let begun = tokio::time::Instant::now();
        loop {
            match self.standing(id).await? {
                Standing::Missing => self.create_stream(id, &name, &subject, subs).await?,
                Standing::Open(RetentionPolicy::WorkQueue) => return Ok(()),
                Standing::Open(_) => {
                    let message = format!("stream {name} has no work-queue retention: delete it, or choose another key");
                    return Err(TransferError::new(TransferErrorKind::Foreign, message));
                }
                Standing::Elsewhere => {
                    let message = format!("stream {name} does not listen on {subject}: it belongs to something else; choose another key");
                    return Err(TransferError::new(TransferErrorKind::Foreign, message));
                }
                // The entry is there again: the controller opens the stream, or the deletion had gone too far and it
                // is missing in a moment.
                Standing::Closed if begun.elapsed() >= REOPEN => {
                    let message = format!("stream {name} is being drained and nobody opens it again: is Sluice running?");
                    return Err(TransferError::new(TransferErrorKind::NotTaken, message));
                }
                Standing::Closed => tokio::time::sleep(LOOK).await,
            }
        }
    }

    /// Whether a stream that took nothing takes documents now: one that was closed to be drained, whose pipeline was
    /// added again, is opened in a moment. An `add` cannot wait for that: where the controller saw the removal and not
    /// yet the new entry, it closes the stream after `add` has seen it open.
    pub(super) async fn opens_again(&self, id: &PipelineId) -> Result<bool, TransferError> {
        let begun = tokio::time::Instant::now();
        loop {
            match self.standing(id).await? {
                Standing::Open(_) => return Ok(true),
                Standing::Closed if begun.elapsed() < REOPEN && self.entry(id).await?.0.is_some() => tokio::time::sleep(LOOK).await,
                Standing::Missing | Standing::Elsewhere | Standing::Closed => return Ok(false),
            }
        }
    }

    async fn standing(&self, id: &PipelineId) -> Result<Standing, TransferError> {
        let (subject, closed) = (self.names.subject(id), self.names.closed(id));
        Ok(match self.stream_info(&self.names.stream(id)).await? {
            None => Standing::Missing,
            Some(info) if info.config.subjects.iter().any(|listens| takes(listens, &subject)) => Standing::Open(info.config.retention),
            Some(info) if info.config.subjects == [closed.as_str()] => Standing::Closed,
            Some(_) => Standing::Elsewhere,
        })
    }

    pub(super) async fn stream_info(&self, name: &str) -> Result<Option<Info>, TransferError> {
        match self.jetstream.get_stream(name).await {
            Ok(stream) => Ok(Some(stream.cached_info().clone())),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(TransferError::during(kind_of(&error), format!("look at stream {name}"), &error)),
        }
    }

    async fn create_stream(&self, id: &PipelineId, name: &str, subject: &str, subs: &[String]) -> Result<(), TransferError> {
        let further = subs.iter().filter(|sub| *sub != subject).cloned();
        let config = Config {
            name: name.to_owned(),
            subjects: std::iter::once(subject.to_owned()).chain(further).collect(),
            retention: RetentionPolicy::WorkQueue,
            // A full stream refuses at the producer; it never drops what it has acknowledged.
            discard: DiscardPolicy::New,
            allow_direct: true,
            metadata: metadata(Some(id)).into_iter().collect(),
            ..Config::default()
        };
        match self.jetstream.create_stream(config).await {
            Ok(_) => Ok(()),
            // Somebody else was faster: it is looked at again.
            Err(error) if is_taken(&error) => Ok(()),
            Err(error) => Err(TransferError::during(kind_of(&error), format!("create stream {name}"), &error)),
        }
    }

    async fn open_durable(&self, id: &PipelineId) -> Result<(), TransferError> {
        let (stream, name) = (self.names.stream(id), self.names.consumer());
        let config = pull::Config {
            durable_name: Some(name.clone()),
            name: Some(name.clone()),
            ack_policy: AckPolicy::Explicit,
            ack_wait: DEFAULT_ACK_WAIT,
            max_ack_pending: DEFAULT_MAX_ACK_PENDING,
            metadata: metadata(Some(id)).into_iter().collect(),
            ..pull::Config::default()
        };
        match self.jetstream.create_consumer_strict_on_stream(config, &stream).await {
            Ok(_) => Ok(()),
            // There is one, and it may be set otherwise: it stays as it is.
            Err(error) if error.kind() == ConsumerCreateStrictErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(TransferError::during(kind_of(&error), format!("create consumer {name} of stream {stream}"), &error)),
        }
    }
}

/// Whether a stream that listens on `pattern` takes `subject`.
fn takes(pattern: &str, subject: &str) -> bool {
    crate::pipeline::subject::covers(pattern, subject)
}
