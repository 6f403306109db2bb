//! Requests for the log lines of a pipeline, over core NATS, and their answers: from every process that has some, to inboxes
//! and nowhere else.
//!
//! Called by whatever process executes pipelines, and by the command that asks.

use super::api::TIMEOUT;
use super::error::{StoreError, StoreErrorKind};
use super::states::answerable;
use crate::pipeline::id::PipelineId;
use crate::pipeline::logs::{LogLine, LogsReply, LogsRequest};
use crate::pipeline::names::Names;
use crate::pipeline::subject::is_inbox;
use async_nats::{Client, StatusCode, Subject, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// What an answer is kept below, beside the server's own limit.
const LARGEST: usize = 512 << 10;

/// How long a process that has said that it has more is waited for.
const OWED: Duration = Duration::from_secs(5);

/// The subjects of the log lines.
#[derive(Clone)]
pub struct Logs {
    client: Client,
    names: Names,
}

/// A request that waits for an answer.
#[derive(Debug)]
pub struct Asked {
    /// The pipeline.
    pub id: PipelineId,
    /// Which lines.
    pub request: LogsRequest,
    reply: Subject,
}

impl Logs {
    pub(super) fn new(client: Client, names: Names) -> Self {
        Self { client, names }
    }

    /// Receives the requests for `id`, or for every pipeline, from now on. Survives reconnects. `Unavailable` where the
    /// connection is closed.
    pub async fn subscribe(&self, id: Option<&PipelineId>) -> Result<Requests, StoreError> {
        let messages = self.client.subscribe(self.names.logs(id.map_or("*", PipelineId::as_str))).await;
        let failed = |error| StoreError::caused(StoreErrorKind::Unavailable, "subscribe to requests for log lines", error);
        Ok(Requests { messages: messages.map_err(failed)?, inboxes: self.names.inboxes().to_vec() })
    }

    /// Answers; lost where nobody waits any more. Of too many lines the oldest are left out.
    pub async fn answer(&self, asked: &Asked, mut reply: LogsReply) -> Result<(), StoreError> {
        let what = "answer a request for log lines";
        let most = LARGEST.min(self.client.max_payload());
        let mut payload = serialized(&reply, what)?;
        while payload.len() > most && !reply.lines.is_empty() {
            reply.lines.drain(..reply.lines.len().div_ceil(2));
            payload = serialized(&reply, what)?;
        }
        let sent = tokio::time::timeout(TIMEOUT, self.client.publish(asked.reply.clone(), Bytes::from(payload))).await;
        let sent = sent.map_err(|_| StoreError::new(StoreErrorKind::Unavailable, format!("{what}: timed out")))?;
        sent.map_err(|error| StoreError::caused(StoreErrorKind::Unavailable, what, error))
    }

    /// Asks every process for lines of `id`, and waits for answers until none has come for `quiet`, and for up to 5 s where
    /// one says that it has more. Answers without lines are left out.
    pub async fn ask(&self, id: &PipelineId, request: &LogsRequest, quiet: Duration) -> Result<Vec<LogsReply>, StoreError> {
        let what = format!("ask for the log lines of {id}");
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| StoreError::caused(StoreErrorKind::Unavailable, &what, error);
        let inbox = self.client.new_inbox();
        let mut answers = self.client.subscribe(inbox.clone()).await.map_err(|error| failed(error.into()))?;
        let payload = Bytes::from(serialized(request, &what)?);
        let asked = self.client.publish_with_reply(self.names.logs(id.as_str()), inbox, payload).await;
        asked.map_err(|error| failed(error.into()))?;
        let (mut replies, mut owing, begun) = (Vec::new(), HashSet::new(), Instant::now());
        let patience = |owing: &HashSet<_>| if owing.is_empty() { quiet } else { quiet.max(OWED.saturating_sub(begun.elapsed())) };
        while let Ok(Some(message)) = tokio::time::timeout(patience(&owing), answers.next()).await {
            // Without any listener the server says so at once.
            if message.status == Some(StatusCode::NO_RESPONDERS) {
                break;
            }
            match serde_json::from_slice::<LogsReply>(&message.payload) {
                Ok(reply) => {
                    if reply.more {
                        owing.insert(reply.process);
                    } else {
                        owing.remove(&reply.process);
                    }
                    replies.push(reply);
                }
                Err(error) => tracing::debug!(%error, "left out an unreadable answer"),
            }
        }
        replies.retain(|reply| !reply.lines.is_empty());
        Ok(replies)
    }
}

fn serialized(value: &impl serde::Serialize, what: &str) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value).map_err(|error| StoreError::caused(StoreErrorKind::Refused, what, error))
}

/// The requests as they come.
pub struct Requests {
    messages: Subscriber,
    inboxes: Vec<String>,
}

impl Requests {
    /// The next one that can be answered; `None` once the connection is closed. Safe to drop at any time.
    pub async fn next(&mut self) -> Option<Asked> {
        loop {
            let message = self.messages.next().await?;
            let id = message.subject.rsplit('.').next().and_then(|id| PipelineId::parse(id).ok());
            let request = serde_json::from_slice(&message.payload).ok();
            let inbox = message.reply.filter(|reply| answerable(reply) && is_inbox(reply, &self.inboxes));
            if let (Some(id), Some(request), Some(reply)) = (id, request, inbox) {
                return Some(Asked { id, request, reply });
            }
        }
    }
}

/// Who answers: `process` on `host`, with what it kept.
pub struct Answering {
    /// The process.
    pub process: uuid::Uuid,
    /// Its hostname.
    pub host: String,
}

impl Answering {
    /// The answer with `lines`; `more`: another one follows.
    pub fn reply(&self, lines: Vec<LogLine>, more: bool) -> LogsReply {
        LogsReply { schema: 1, process: self.process, host: self.host.clone(), lines, more }
    }
}
