//! Requests for a pipeline's state, over core NATS: the body is the pipeline's id, the answer JSON. The first parent's
//! producers ask them, and take the first answer.
//!
//! Answers go to inboxes and nowhere else: whoever asks chooses the subject, and the rights are those of the one that answers.
//! Who knows nothing of an id says nothing: another may know. Called by whatever process executes pipelines, and by the
//! holder for those that nobody executes.

use super::api::TIMEOUT;
use super::error::{StoreError, StoreErrorKind};
use crate::pipeline::id::PipelineId;
use crate::pipeline::names::Names;
use crate::pipeline::report::ExecutionReport;
use crate::pipeline::subject::is_inbox;
use async_nats::{Client, Subject, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};

/// What is answered. Fields may be added.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Messages that the answering process holds and has not written yet.
    pub buffer_size: u64,
    /// Whether there is an execution of the pipeline, starting or running.
    pub running: bool,
}

impl State {
    /// What executions with these reports hold together.
    pub fn of(reports: &[ExecutionReport]) -> Self {
        Self { buffer_size: reports.iter().map(|report| report.counters.buffered).sum(), running: !reports.is_empty() }
    }
}

/// A request that waits for an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateRequest {
    /// The pipeline that is asked about.
    pub id: PipelineId,
    reply: Subject,
}

/// Requests and their answers.
#[derive(Clone)]
pub struct States {
    client: Client,
    subject: String,
    inboxes: Vec<String>,
}

impl States {
    pub(super) fn new(client: Client, names: &Names) -> Self {
        Self { client, subject: names.states(), inboxes: names.inboxes().to_vec() }
    }

    /// Receives the requests from now on, all of them in every process that does. Survives reconnects. `Unavailable` where
    /// the connection is closed.
    pub async fn subscribe(&self) -> Result<StateRequests, StoreError> {
        let what = "subscribe to the state requests";
        let subscribed = tokio::time::timeout(TIMEOUT, self.client.subscribe(self.subject.clone())).await;
        let messages = subscribed.map_err(|_| StoreError::new(StoreErrorKind::Unavailable, format!("{what}: timed out")))?;
        let messages = messages.map_err(|error| StoreError::caused(StoreErrorKind::Unavailable, what, error))?;
        Ok(StateRequests { messages, inboxes: self.inboxes.clone() })
    }

    /// Answers `request`; lost where nobody waits any more.
    pub async fn answer(&self, request: &StateRequest, state: State) -> Result<(), StoreError> {
        let what = "answer a state request";
        let payload = serde_json::to_vec(&state).map_err(|error| StoreError::caused(StoreErrorKind::Refused, what, error))?;
        let sent = self.client.publish(request.reply.clone(), Bytes::from(payload));
        match tokio::time::timeout(TIMEOUT, sent).await {
            Ok(sent) => sent.map_err(|error| StoreError::caused(StoreErrorKind::Unavailable, what, error)),
            Err(_) => Err(StoreError::new(StoreErrorKind::Unavailable, format!("{what}: timed out"))),
        }
    }
}

/// Whether an answer would get to where it is asked for: the client cannot send to a subject that is no text.
pub(super) fn answerable(reply: &str) -> bool {
    !reply.contains('\u{fffd}')
}

/// The requests as they come.
pub struct StateRequests {
    messages: Subscriber,
    inboxes: Vec<String>,
}

impl StateRequests {
    /// The next one that can be answered; `None` once the connection is closed. What names no pipeline, or no
    /// inbox for the answer, is left out. Safe to drop at any time.
    pub async fn next(&mut self) -> Option<StateRequest> {
        loop {
            let message = self.messages.next().await?;
            let id = std::str::from_utf8(&message.payload).ok().and_then(|id| PipelineId::parse(id).ok());
            let inbox = message.reply.filter(|reply| answerable(reply) && is_inbox(reply, &self.inboxes));
            if let (Some(id), Some(reply)) = (id, inbox) {
                return Some(StateRequest { id, reply });
            }
        }
    }
}
