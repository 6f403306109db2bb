//! Log lines as an engine or a node kept them of a process that has ended: read one by one, and only the newest shown. Pure;
//! the backends whose executions are processes of their own fetch the text.

use crate::pipeline::logs::LogLine;
use serde_json::Map;
use std::collections::VecDeque;

/// The most lines that are read, and shown, of one container.
pub const MOST_LINES: usize = 1000;
/// The most bytes that are shown of all containers of a pipeline: with the process's own lines it is one message of NATS.
pub const MOST_BYTES: usize = 256 << 10;

/// The newest lines, at most `last` of them; all for 0.
pub fn newest(mut lines: VecDeque<LogLine>, last: u32) -> VecDeque<LogLine> {
    let last = usize::try_from(last).unwrap_or(usize::MAX);
    if last > 0 && lines.len() > last {
        lines.drain(..lines.len() - last);
    }
    lines
}

/// One line as the engine gives it: its own time, a space, what was written. What is no line of our log is why a process
/// ended, such as a panic: a fault. `what` of the name `name` wrote it.
pub fn line(text: &str, what: &str, name: &str) -> Option<LogLine> {
    let (at, said) = text.trim_end().split_once(' ')?;
    let plain = || {
        let timestamp = at.parse().ok()?;
        Some(LogLine { number: 0, timestamp, level: "ERROR".into(), message: said.to_owned(), fields: Map::new() })
    };
    let mut line = LogLine::parse(said).or_else(plain)?;
    line.number = 0;
    line.fields.insert(what.into(), name.into());
    Some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_our_log_keeps_its_own_time_and_any_other_is_a_fault_at_the_engines() {
        let json = r#"2026-01-01T00:00:02Z {"timestamp":"2026-01-01T00:00:01Z","level":"INFO","message":"well","n":1}"#;
        assert_eq!(line(json, "container", "c").unwrap().to_string(), "2026-01-01T00:00:01Z  INFO well container=c n=1");
        let panic = line("2026-01-01T00:00:02Z thread 'main' panicked\n", "container", "c").unwrap();
        assert_eq!(panic.to_string(), "2026-01-01T00:00:02Z ERROR thread 'main' panicked container=c");
        assert_eq!(line("2026-01-01T00:00:02Z ", "container", "c"), None);
        assert_eq!(line("no time", "container", "c"), None);
    }

    #[test]
    fn only_the_newest_lines_are_shown_and_all_for_zero() {
        let lines: VecDeque<_> = (0..5).filter_map(|n| line(&format!("2026-01-01T00:00:0{n}Z {n}"), "container", "c")).collect();
        let shown = |last| newest(lines.clone(), last).into_iter().map(|line| line.message).collect::<String>();
        assert_eq!((shown(2), shown(9), shown(0)), ("34".into(), "01234".into(), "01234".into()));
    }
}
