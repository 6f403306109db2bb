//! Lines of the log as they leave the process: what others say in them does nothing to a terminal, and is not longer than a
//! person reads. Wraps whatever the lines are written to; `logs` installs it.

use crate::pipeline::text::{bounded, printable, printable_json};
use serde_json::Value;
use std::io::{self, Write};
use tracing::Metadata;
use tracing_subscriber::fmt::MakeWriter;

/// The longest line, bytes; in JSON the strings of a longer one are cut off.
const LINE: usize = 8 << 10;
/// The longest text in a line: a message, a field.
pub(super) const TEXT: usize = 2 << 10;

/// How the lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Text without colours.
    Plain,
    /// Text with colours of the formatter, which lets no escape of anybody else's pass.
    Colored,
    /// One object a line.
    Json,
}

/// A writer of lines that are fit to be read.
pub(super) struct Fit<W> {
    pub writer: W,
    pub kind: Kind,
}

impl<'a, W: MakeWriter<'a>> MakeWriter<'a> for Fit<W> {
    type Writer = Fit<W::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        Fit { writer: self.writer.make_writer(), kind: self.kind }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Self::Writer {
        Fit { writer: self.writer.make_writer_for(meta), kind: self.kind }
    }
}

impl<W: Write> Write for Fit<W> {
    /// The formatter writes one line at a time.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let line = String::from_utf8_lossy(bytes);
        let (line, end) = line.strip_suffix('\n').map_or((&*line, ""), |line| (line, "\n"));
        self.writer.write_all(format!("{}{end}", fit(line, self.kind)).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

fn fit(line: &str, kind: Kind) -> String {
    match kind {
        Kind::Plain => bounded(&printable(line), LINE),
        Kind::Colored => {
            let parts: Vec<_> = line.split('\u{1b}').map(printable).collect();
            let reset = if line.len() > LINE { "\u{1b}[0m" } else { "" };
            // The escapes count six bytes each, of which there are a few.
            bounded(&parts.join("\u{1b}"), LINE) + reset
        }
        Kind::Json => {
            let short = (line.len() > LINE).then(|| serde_json::from_str(line).ok()).flatten();
            printable_json(short.map_or_else(
                || line.to_owned(),
                |mut value| {
                    shorten(&mut value);
                    value.to_string()
                },
            ))
        }
    }
}

fn shorten(value: &mut Value) {
    match value {
        Value::String(text) => *text = bounded(text, TEXT),
        Value::Array(items) => items.iter_mut().for_each(shorten),
        Value::Object(fields) => fields.values_mut().for_each(shorten),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::text::acts;

    const HOSTILE: &str = "\u{9b}31m\u{202e}txt\u{85}\u{7f}";

    #[test]
    fn a_line_of_any_kind_does_nothing_to_a_terminal_and_is_not_too_long() {
        let long = HOSTILE.repeat(5_000);
        for text in [HOSTILE, &long] {
            let line = fit(&format!("INFO a\nb {text}"), Kind::Plain);
            assert!(!line.contains(acts) && line.len() <= LINE && line.contains(r"\u{9b}31m\u{202e}txt"), "{line}");
            let line = fit(&format!("\u{1b}[32mINFO\u{1b}[0m {text}"), Kind::Colored);
            assert!(line.starts_with("\u{1b}[32mINFO\u{1b}[0m ") && !line.contains(|c| c != '\u{1b}' && acts(c)), "{line}");
            let line = fit(&serde_json::json!({ "message": text, "span": { "error": text } }).to_string(), Kind::Json);
            let value: Value = serde_json::from_str(&line).unwrap();
            assert!(!line.contains(acts) && line.len() < 4 * LINE && value["message"].as_str().unwrap().starts_with(HOSTILE), "{line}");
        }
    }
}
