//! Answers requests for log lines of a pipeline with what this process kept of it, and, where it has a backend whose
//! executions are processes of their own, with what that kept of those that cannot answer any more.
//!
//! Called by the controller for every pipeline and by a lone execution for its own. Who has nothing to say says nothing.

use super::BoxFuture;
use crate::pipeline::id::PipelineId;
use crate::pipeline::logs::LogLine;
use crate::store::logs::{Answering, Asked, Logs};
use crate::telemetry::tail::Tail;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// How soon subscribing is tried again.
const AGAIN: Duration = Duration::from_secs(2);

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
        let lines = tokio::select! {
            lines = lines(&tail, &asked, answering.process, &ended) => lines,
            () = stop.cancelled() => return,
        };
        if lines.is_empty() {
            continue;
        }
        if let Err(error) = logs.answer(&asked, answering.reply(lines)).await {
            debug!(pipeline = %asked.id, %error, "log lines could not be sent");
        }
    }
}

async fn lines(
    tail: &Tail,
    asked: &Asked,
    process: uuid::Uuid,
    ended: &impl Fn(PipelineId, u32) -> BoxFuture<'static, Vec<LogLine>>,
) -> Vec<LogLine> {
    let after = asked.request.after.get(&process).copied();
    let mut lines = match after {
        // What has ended says nothing new.
        Some(_) => Vec::new(),
        None => ended(asked.id.clone(), asked.request.last).await,
    };
    lines.extend(tail.lines(asked.id.as_str(), after.unwrap_or(0), asked.request.last));
    lines
}
