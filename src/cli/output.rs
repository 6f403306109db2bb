//! The only place of the CLI that writes to stdout: tables and lines for people, JSON for programs.
//!
//! Whatever is printed passes [`printable`] here: entries, letters, logs and servers say what anybody likes, and nothing of
//! it may act on a terminal. A colour is a [`Tone`] beside the text, never in it.
//!
//! Results go to stdout, notes and errors to stderr, so that `--output json | jq` always works. Colours are used only
//! on a terminal without `NO_COLOR`, or where asked for. A reader that has gone away (`| head`) is no error.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use super::failure::Failure;
use crate::pipeline::problem::Problem;
use crate::pipeline::text::{printable, printable_json};
use clap::ValueEnum;
use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table};
use serde::Serialize;
use std::io::{ErrorKind, IsTerminal, Write};
use std::process::ExitCode;

/// A terminal that is narrower than this gets long lines instead of columns of single letters.
const NARROWEST: u16 = 60;

/// `--output`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Tables and lines for people.
    Table,
    /// JSON for programs.
    Json,
}

/// `--color`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ColorChoice {
    /// On a terminal, unless `NO_COLOR` is set.
    Auto,
    /// Even into a pipe.
    Always,
    /// Not at all.
    Never,
}

impl ColorChoice {
    /// Whether to use colours on a stream that is a terminal or not.
    pub fn enabled(self, terminal: bool) -> bool {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => terminal && !no_color && !dumb,
        }
    }
}

/// How a word is meant, for its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// No colour.
    Plain,
    /// As it should be.
    Good,
    /// Doubtful, or on its way.
    Doubtful,
    /// Wrong.
    Bad,
    /// Of less interest.
    Faint,
}

/// Where and how results are printed.
#[derive(Debug, Clone)]
pub struct Output {
    /// For people or for programs.
    pub format: Format,
    color: bool,
    color_err: bool,
    terminal: bool,
}

impl Output {
    /// Output in `format`, with colours as `choice` and the terminal say.
    pub fn new(format: Format, choice: ColorChoice) -> Self {
        let terminal = std::io::stdout().is_terminal();
        let color_err = choice.enabled(std::io::stderr().is_terminal());
        Self { format, color: choice.enabled(terminal), color_err, terminal }
    }

    /// Whether results are for programs.
    pub fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Whether a person is watching stdout.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// A line of a result.
    pub fn line(&self, text: &str) -> Result<(), Failure> {
        self.parts(&[(text, Tone::Plain)])
    }

    /// A line of a result in one colour.
    pub fn toned(&self, text: &str, tone: Tone) -> Result<(), Failure> {
        self.parts(&[(text, tone)])
    }

    /// A line of a result, each part in its colour.
    pub fn parts(&self, parts: &[(&str, Tone)]) -> Result<(), Failure> {
        let paint = |(text, tone): &(&str, Tone)| painted(&printable(text), if self.color { *tone } else { Tone::Plain });
        write_stdout(&format!("{}\n", parts.iter().map(paint).collect::<String>()))
    }

    /// Several lines of a result that are ours.
    pub fn lines(&self, text: &str) -> Result<(), Failure> {
        text.lines().try_for_each(|line| self.line(line))
    }

    /// A file's content: its very bytes into a file or pipe, printable onto a terminal.
    pub fn content(&self, bytes: &[u8]) -> Result<(), Failure> {
        if !self.terminal {
            return write_bytes(bytes);
        }
        self.lines(&String::from_utf8_lossy(bytes))
    }

    /// A unified diff: what goes and what comes in colours.
    pub fn diff(&self, text: &str) -> Result<(), Failure> {
        for line in text.lines() {
            let tone = match line.as_bytes().first() {
                _ if line.starts_with("---") || line.starts_with("+++") => Tone::Plain,
                Some(b'-') => Tone::Bad,
                Some(b'+') => Tone::Good,
                Some(b'@') => Tone::Faint,
                _ => Tone::Plain,
            };
            self.toned(line, tone)?;
        }
        Ok(())
    }

    /// A result as JSON, indented.
    pub fn json<T: Serialize>(&self, value: &T) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value).map_err(std::io::Error::from)?;
        write_stdout(&format!("{}\n", printable_json(text)))
    }

    /// A result as JSON on one line, for those that come one after the other.
    pub fn json_line<T: Serialize>(&self, value: &T) -> Result<(), Failure> {
        let text = serde_json::to_string(value).map_err(std::io::Error::from)?;
        write_stdout(&format!("{}\n", printable_json(text)))
    }

    /// A table. On a terminal it is fitted to the width; elsewhere no cell is ever wrapped.
    pub fn table(&self, header: &[&str], rows: Vec<Vec<(String, Tone)>>) -> Result<(), Failure> {
        let mut table = Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        // Fitted to a terminal that says how wide it is; a serial line or a recorder says 0.
        let width = table.width().filter(|width| self.terminal && *width >= NARROWEST);
        // The table itself does not know about `NO_COLOR` and `--color`.
        table.force_no_tty();
        if let Some(width) = width {
            table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
        }
        if self.color {
            table.enforce_styling();
        }
        table.set_header(header.iter().map(|name| Cell::new(name.to_uppercase()).add_attribute(Attribute::Bold)).collect::<Vec<_>>());
        for row in rows {
            table.add_row(row.into_iter().map(|(text, tone)| cell(printable(&text).into_owned(), tone)).collect::<Vec<_>>());
        }
        for line in table.to_string().lines() {
            // With colours that the table set; the cells passed above.
            write_stdout(&format!("{}\n", line.trim_end()))?;
        }
        Ok(())
    }

    /// Clears a terminal before the next picture of `--watch`.
    pub fn clear(&self) -> Result<(), Failure> {
        if self.terminal { write_stdout("\u{1b}[2J\u{1b}[H") } else { Ok(()) }
    }

    /// A note for people, on stderr; nothing in JSON mode.
    pub fn note(&self, text: &str) {
        if !self.is_json() {
            eprintln!("{}", printable(text));
        }
    }

    /// A problem that does not end the command, on stderr.
    pub fn warn(&self, problem: &Problem) {
        eprintln!("{}", self.paint_err(&printable(&problem.to_string()), Tone::Doubtful));
    }

    /// The one error of a command, on stderr; nothing where it has been told already.
    pub fn error(&self, failure: &Failure) {
        let text = failure.to_string();
        // Several problems, and the conditions below a message, have a line each.
        let text = text.lines().map(printable).collect::<Vec<_>>().join("\n");
        match (text.is_empty(), failure.is_problems()) {
            (true, _) => {}
            (false, true) => eprintln!("{}", self.paint_err(&text, Tone::Bad)),
            (false, false) => eprintln!("{} {text}", self.paint_err("error:", Tone::Bad)),
        }
    }

    /// Asks on the terminal; `false` unless the answer is yes. Only for when both ends are a terminal.
    pub fn confirm(&self, question: &str) -> Result<bool, Failure> {
        eprint!("{} [y/N] ", printable(question));
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer)?;
        Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
    }

    fn paint_err(&self, text: &str, tone: Tone) -> String {
        if self.color_err { painted(text, tone) } else { text.to_owned() }
    }
}

/// Says why arguments do not parse, or what was asked for instead: help, the version. What a script passed on is repeated,
/// and may be anybody's.
pub fn usage(error: &clap::Error) -> ExitCode {
    if error.use_stderr() {
        error.render().to_string().lines().for_each(|line| eprintln!("{}", printable(line)));
    } else {
        // A reader that has gone away has seen enough.
        let _ = error.print();
    }
    u8::try_from(error.exit_code()).unwrap_or(2).into()
}

fn painted(text: &str, tone: Tone) -> String {
    let code = match tone {
        Tone::Plain => return text.to_owned(),
        Tone::Good => 32,
        Tone::Doubtful => 33,
        Tone::Bad => 31,
        Tone::Faint => 2,
    };
    format!("\u{1b}[{code}m{text}\u{1b}[0m")
}

fn cell(text: String, tone: Tone) -> Cell {
    let cell = Cell::new(text);
    match tone {
        Tone::Plain => cell,
        Tone::Good => cell.fg(Color::Green),
        Tone::Doubtful => cell.fg(Color::Yellow),
        Tone::Bad => cell.fg(Color::Red),
        Tone::Faint => cell.add_attribute(Attribute::Dim),
    }
}

fn write_stdout(text: &str) -> Result<(), Failure> {
    write_bytes(text.as_bytes())
}

fn write_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        // The reader has seen enough (`sluice list | head -1`).
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        result => Ok(result?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_used_only_where_they_are_seen_or_asked_for() {
        assert!(!ColorChoice::Auto.enabled(false));
        assert!(ColorChoice::Always.enabled(false));
        assert!(!ColorChoice::Never.enabled(true));
    }
}
