//! `sluice logs`: the last log lines of a pipeline, from every process that executes it or decides about it.
//!
//! Asked over NATS, so that it works from any machine and needs neither the processes' files nor an engine's socket. Each
//! process keeps its last lines in memory; for containers that have ended the holder reads what the engine kept.
//! `--output json` prints one line as one object.

use super::context::Context;
use super::failure::Failure;
use super::output::Tone;
use crate::pipeline::id::PipelineId;
use crate::pipeline::logs::{LogLine, LogsReply, LogsRequest};
use crate::store::Store;
use clap::Args;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

/// Without an answer for so long, all have answered.
const QUIET: Duration = Duration::from_millis(500);
/// How often is asked what is new.
const AGAIN: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub struct LogsArgs {
    /// The pipeline
    id: String,
    /// Go on with what comes, until interrupted
    #[arg(long, short)]
    follow: bool,
    /// At most so many lines of each process; 0 for all that are kept
    #[arg(long, short = 'n', default_value_t = 100, value_name = "LINES")]
    tail: u32,
}

/// Prints the lines.
pub async fn logs(context: &Context, args: LogsArgs) -> Result<(), Failure> {
    let id = PipelineId::parse(&args.id)?;
    let store = context.connect().await?;
    let mut request = LogsRequest { schema: 1, last: args.tail, after: BTreeMap::new() };
    let replies = store.logs.ask(&id, &request, QUIET).await?;
    if replies.is_empty() {
        nobody_answers(context, &store, &id, args.follow).await?;
    }
    print(context, &mut request, replies)?;
    if !args.follow {
        return Ok(());
    }
    loop {
        tokio::time::sleep(AGAIN).await;
        // Processes that are new are asked for all that they have.
        request.last = 0;
        let replies = store.logs.ask(&id, &request, QUIET).await?;
        print(context, &mut request, replies)?;
    }
}

/// Says why there is nothing to read.
async fn nobody_answers(context: &Context, store: &Store, id: &PipelineId, follow: bool) -> Result<(), Failure> {
    let known = context.record(store, id).await?.is_some() || matches!(store.status.get(id).await, Ok(Some(_)));
    if !known {
        return Err(context.no_pipeline(id));
    }
    let waiting = if follow { "; waiting for one" } else { "" };
    context.out.note(&format!("no process has a line of {id} (is a controller running? `sluice status {id}`){waiting}"));
    Ok(())
}

/// Prints the lines of all processes in the order of their times, and notes how far each was read.
fn print(context: &Context, request: &mut LogsRequest, replies: Vec<LogsReply>) -> Result<(), Failure> {
    let mut lines: Vec<(String, uuid::Uuid, LogLine)> = Vec::new();
    for reply in replies {
        let newest = reply.lines.iter().map(|line| line.number).max().unwrap_or(0);
        let known = request.after.entry(reply.process).or_default();
        *known = newest.max(*known);
        lines.extend(reply.lines.into_iter().map(|line| (reply.host.clone(), reply.process, line)));
    }
    lines.sort_by_key(|(_, _, line)| line.timestamp);
    for (host, process, line) in lines {
        if context.out.is_json() {
            let mut object = json!({ "host": host, "process": process });
            if let (Some(object), Ok(serde_json::Value::Object(line))) = (object.as_object_mut(), serde_json::to_value(&line)) {
                object.extend(line);
            }
            context.out.json_line(&object)?;
            continue;
        }
        let tone = match line.level.as_str() {
            "ERROR" => Tone::Bad,
            "WARN" => Tone::Doubtful,
            _ => Tone::Plain,
        };
        context.out.toned(&format!("{host} | {line}"), tone)?;
    }
    Ok(())
}
