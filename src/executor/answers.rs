//! Answers requests for log lines of a pipeline with what this process kept of it, and, where it has a backend whose
//! executions are processes of their own, with what that kept of those that cannot answer any more. And requests for a
//! pipeline's state, with what the process says of it.
//!
//! Called by the controller for every pipeline and by a lone execution for its own. Who has nothing to say says nothing.

use super::BoxFuture;
use crate::pipeline::id::PipelineId;
use crate::pipeline::logs::LogLine;
use crate::store::logs::{Answering, Asked, Logs};
use crate::store::{State, StateRequest, States, StoreError};
use crate::telemetry::tail::Tail;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// How soon subscribing is tried again.
const AGAIN: Duration = Duration::from_secs(2);
/// After how long who has more to say of a pipeline's log says that.
const FIRST_WORD: Duration = Duration::from_millis(100);

/// Answers requests for `only`, or for every pipeline, until `stop`. `ended` gives at most so many lines of executions that
/// have ended.
pub async fn answer_logs(
    logs: Logs,
    only: Option<PipelineId>,
    answering: Answering,
    ended: impl Fn(PipelineId, u32) -> BoxFuture<'static, Vec<LogLine>>,
    stop: CancellationToken,
) {
    let mut requests = loop {
        match logs.subscribe(only.as_ref()).await {
            Ok(requests) => break requests,
            Err(error) => warn!(%error, "requests for log lines cannot be received"),
        }
        tokio::select! {
            () = tokio::time::sleep(AGAIN) => {}
            () = stop.cancelled() => return,
        }
    };
    let tail = Tail::shared();
    loop {
        let asked = tokio::select! {
            asked = requests.next() => asked,
            () = stop.cancelled() => return,
        };
        // The end means that the connection is closed, and with it everything.
        let Some(asked) = asked else { return stop.cancelled().await };
        let answered = tokio::select! {
            answered = answer(&logs, &tail, &asked, &answering, &ended) => answered,
            () = stop.cancelled() => return,
        };
        if let Err(error) = answered {
            debug!(pipeline = %asked.id, %error, "log lines could not be sent");
        }
    }
}

/// One answer, or two where the backend takes longer than those who ask wait for a first word.
async fn answer(
    logs: &Logs,
    tail: &Tail,
    asked: &Asked,
    answering: &Answering,
    ended: &impl Fn(PipelineId, u32) -> BoxFuture<'static, Vec<LogLine>>,
) -> Result<(), StoreError> {
    let after = asked.request.after.get(&answering.process).copied();
    let own = || tail.lines(asked.id.as_str(), after.unwrap_or(0), asked.request.last);
    let mut lines = Vec::new();
    // Who has been asked before: what has ended says nothing new.
    if after.is_none() {
        let mut ended = ended(asked.id.clone(), asked.request.last);
        match tokio::time::timeout(FIRST_WORD, &mut ended).await {
            Ok(ended) => lines = ended,
            Err(_) => {
                logs.answer(asked, answering.reply(own(), true)).await?;
                return logs.answer(asked, answering.reply(ended.await, false)).await;
            }
        }
    }
    lines.extend(own());
    if lines.is_empty() { Ok(()) } else { logs.answer(asked, answering.reply(lines, false)).await }
}

/// Requests for a state that are looked into at the same time; what comes beyond them is not answered, and asked again.
const AT_ONCE: usize = 256;

/// Answers requests for a pipeline's state until `stop`; `state` says what there is to say of one, if anything.
pub async fn answer_states(states: States, state: impl Fn(PipelineId) -> BoxFuture<'static, Option<State>>, stop: CancellationToken) {
    let mut requests = loop {
        match states.subscribe().await {
            Ok(requests) => break requests,
            Err(error) => warn!(%error, "state requests cannot be received"),
        }
        tokio::select! {
            () = tokio::time::sleep(AGAIN) => {}
            () = stop.cancelled() => return,
        }
    };
    // They end with the process: an answer is worth nothing later.
    let mut answers = JoinSet::new();
    loop {
        let request: StateRequest = tokio::select! {
            request = requests.next() => match request {
                Some(request) => request,
                // The end means that the connection is closed, and with it everything.
                None => return stop.cancelled().await,
            },
            Some(_) = answers.join_next(), if !answers.is_empty() => continue,
            () = stop.cancelled() => return,
        };
        if answers.len() >= AT_ONCE {
            debug!(pipeline = %request.id, "too many state requests at once, this one is not answered");
            continue;
        }
        let (says, states) = (state(request.id.clone()), states.clone());
        answers.spawn(async move {
            let Some(state) = says.await else { return };
            if let Err(error) = states.answer(&request, state).await {
                debug!(pipeline = %request.id, %error, "state request could not be answered");
            }
        });
    }
}
