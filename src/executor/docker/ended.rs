//! The last log lines of processes that have ended, as the engine kept them: of containers that do not run, and of those
//! that run again what they wrote before; what runs answers for itself. Called for `sluice logs`; bounded in lines and bytes.

use super::Shared;
use super::seen::Container;
use crate::executor::error::BackendError;
use crate::executor::kept_log::{MOST_BYTES, MOST_LINES, line, newest};
use crate::pipeline::id::PipelineId;
use crate::pipeline::instance::InstanceState;
use crate::pipeline::logs::LogLine;
use bollard::container::LogOutput;
use bollard::query_parameters::LogsOptions;
use futures_util::TryStreamExt;
use jiff::Timestamp;
use std::collections::VecDeque;

/// The lines of what has ended of `id`, oldest first; at most `last` of each container, 0 for all that is kept.
pub async fn logs(shared: &Shared, id: &PipelineId, last: u32) -> Result<Vec<LogLine>, BackendError> {
    let containers = shared.containers(id).await?;
    let ran: Vec<_> = containers.iter().filter(|one| one.replica.is_some() && one.finished.is_some()).collect();
    let most = MOST_BYTES / ran.len().max(1);
    let mut all = Vec::new();
    for one in ran {
        match read(shared, one, most).await {
            Ok(lines) => all.extend(newest(lines, last)),
            // Removed since it was listed.
            Err(BackendError::Missing { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    all.sort_by_key(|line| line.timestamp);
    Ok(all)
}

async fn read(shared: &Shared, one: &Container, most: usize) -> Result<VecDeque<LogLine>, BackendError> {
    let options = LogsOptions { stdout: true, stderr: true, timestamps: true, tail: MOST_LINES.to_string(), ..Default::default() };
    let (before, name) = (before(one), one.instance.name.as_str());
    let read = shared.engine.call("read logs", |engine| async move {
        let none = (VecDeque::new(), 0_usize);
        let add = |(mut lines, mut bytes): (VecDeque<(LogLine, usize)>, usize), output: LogOutput| {
            let text = String::from_utf8_lossy(&output.into_bytes()).into_owned();
            if let Some(line) = line(&text, "container", name).filter(|line| before.is_none_or(|before| line.timestamp < before)) {
                lines.push_back((line, text.len()));
                bytes += text.len();
            }
            while bytes > most {
                bytes -= lines.pop_front().map_or(bytes, |(_, dropped)| dropped);
            }
            async move { Ok((lines, bytes)) }
        };
        engine.logs(&one.id, Some(options)).try_fold(none, add).await
    });
    Ok(read.await?.0.into_iter().map(|(line, _)| line).collect())
}

/// Until when what a container wrote is of a process that has ended; `None`: all of it is.
fn before(one: &Container) -> Option<Timestamp> {
    let runs = one.instance.state.is_live() && one.instance.state != InstanceState::Restarting;
    if runs { one.instance.since } else { None }
}
