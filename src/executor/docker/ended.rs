//! The last log lines of processes that have ended, as the engine kept them: of containers that do not run, and of those
//! that run again what they wrote before; what runs answers for itself. Called for `sluice logs`; bounded in lines and bytes.

use super::Shared;
use super::engine::EngineError;
use super::seen::Container;
use crate::pipeline::id::PipelineId;
use crate::pipeline::instance::InstanceState;
use crate::pipeline::logs::LogLine;
use bollard::container::LogOutput;
use bollard::query_parameters::LogsOptions;
use futures_util::TryStreamExt;
use jiff::Timestamp;
use serde_json::Map;
use std::collections::VecDeque;

/// The most lines that are read, and shown, of one container.
const MOST_LINES: usize = 1000;
/// The most bytes that are shown of all containers of a pipeline: with the process's own lines it is one message of NATS.
const MOST_BYTES: usize = 256 << 10;

/// The lines of what has ended of `id`, oldest first; at most `last` of each container, 0 for all that is kept.
pub async fn logs(shared: &Shared, id: &PipelineId, last: u32) -> Result<Vec<LogLine>, EngineError> {
    let containers = shared.containers(Some(id)).await?;
    let ran: Vec<_> = containers.iter().filter(|one| one.replica.is_some() && one.finished.is_some()).collect();
    let most = MOST_BYTES / ran.len().max(1);
    let mut all = Vec::new();
    for one in ran {
        match read(shared, one, most).await {
            Ok(lines) => all.extend(newest(lines, last)),
            // Removed since it was listed.
            Err(EngineError::Missing { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    all.sort_by_key(|line| line.timestamp);
    Ok(all)
}

async fn read(shared: &Shared, one: &Container, most: usize) -> Result<VecDeque<LogLine>, EngineError> {
    let options = LogsOptions { stdout: true, stderr: true, timestamps: true, tail: MOST_LINES.to_string(), ..Default::default() };
    let (before, name) = (before(one), one.instance.name.as_str());
    let read = shared.engine.call("read logs", |engine| async move {
        let none = (VecDeque::new(), 0_usize);
        let add = |(mut lines, mut bytes): (VecDeque<(LogLine, usize)>, usize), output: LogOutput| {
            let text = String::from_utf8_lossy(&output.into_bytes()).into_owned();
            if let Some(line) = line(&text, name).filter(|line| before.is_none_or(|before| line.timestamp < before)) {
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

fn newest(mut lines: VecDeque<LogLine>, last: u32) -> VecDeque<LogLine> {
    let last = usize::try_from(last).unwrap_or(usize::MAX);
    if last > 0 && lines.len() > last {
        lines.drain(..lines.len() - last);
    }
    lines
}

/// One line as the engine gives it: its own time, a space, what was written. What is no line of our log is why a process
/// ended, such as a panic: a fault.
fn line(text: &str, container: &str) -> Option<LogLine> {
    let (at, said) = text.trim_end().split_once(' ')?;
    let plain = || {
        let timestamp = at.parse().ok()?;
        Some(LogLine { number: 0, timestamp, level: "ERROR".into(), message: said.to_owned(), fields: Map::new() })
    };
    let mut line = LogLine::parse(said).or_else(plain)?;
    line.number = 0;
    line.fields.insert("container".into(), container.into());
    Some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_our_log_keeps_its_own_time_and_any_other_is_a_fault_at_the_engines() {
        let json = r#"2026-01-01T00:00:02Z {"timestamp":"2026-01-01T00:00:01Z","level":"INFO","message":"well","n":1}"#;
        assert_eq!(line(json, "c").unwrap().to_string(), "2026-01-01T00:00:01Z  INFO well container=c n=1");
        let panic = line("2026-01-01T00:00:02Z thread 'main' panicked\n", "c").unwrap();
        assert_eq!(panic.to_string(), "2026-01-01T00:00:02Z ERROR thread 'main' panicked container=c");
        assert_eq!(line("2026-01-01T00:00:02Z ", "c"), None);
        assert_eq!(line("no time", "c"), None);
    }

    #[test]
    fn only_the_newest_lines_are_shown_and_all_for_zero() {
        let lines: VecDeque<_> = (0..5).filter_map(|n| line(&format!("2026-01-01T00:00:0{n}Z {n}"), "c")).collect();
        let shown = |last| newest(lines.clone(), last).into_iter().map(|line| line.message).collect::<String>();
        assert_eq!((shown(2), shown(9), shown(0)), ("34".into(), "01234".into(), "01234".into()));
    }
}
