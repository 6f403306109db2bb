//! Logs: text for people on a terminal, JSON elsewhere, always to stderr. The one place that knows their format.
//!
//! `cli::run` calls [`init`] once, before anything can log. A line never holds a secret, because no secret type can be
//! formatted; the libraries below us are kept to warnings, since they log what we report ourselves.

use super::lines::{Fit, Kind};
use super::tail::{Tail, TailLayer};
use crate::pipeline::text::printable;
use std::fmt::Debug;
use std::io;
use tracing::field::Field;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::filter::{LevelFilter, ParseError};
use tracing_subscriber::fmt::format::{Writer, debug_fn};
use tracing_subscriber::fmt::{FormatFields, MakeWriter};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Registry, reload};

/// What the libraries may say unless the filter names them.
const QUIET: [&str; 5] = ["async_nats", "mongodb", "hyper", "rustls", "hickory_resolver"];

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text {
        /// With colours.
        colors: bool,
    },
    /// For programs, one object a line.
    Json,
}

/// Logs cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogsError {
    /// The filter does not parse.
    #[error("'{level}' is no log filter: {source} (write a level, `info`, or levels by module, `sluice=debug,warn`)")]
    Filter {
        /// The filter as it was given.
        level: String,
        /// Why it does not parse.
        source: ParseError,
    },
    /// A lone word that is no level: `tracing` would take it for the name of a module and log nothing else.
    #[error("'{0}' is no log level (write one of off, error, warn, info, debug, trace, or levels by module, `sluice=debug,warn`)")]
    Level(String),
    /// Something else in the process has set up logs before.
    #[error("logs are set up already: {0}")]
    Taken(#[source] tracing::subscriber::SetGlobalDefaultError),
    /// What logged has ended.
    #[error("the filter cannot be changed: {0}")]
    Gone(#[source] reload::Error),
}

/// Sends what passes the filter `level` to stderr from now on, and keeps the last lines of each pipeline. What it returns
/// changes the filter.
pub fn init(format: Format, level: &str) -> Result<Level, LogsError> {
    // On top of all, so that it holds for what is kept too.
    let (filter, handle) = reload::Layer::new(filter(level)?);
    let tail = TailLayer(Tail::shared());
    match format {
        Format::Text { colors } => tracing::subscriber::set_global_default(text(filter, colors, io::stderr).with(tail)),
        Format::Json => tracing::subscriber::set_global_default(json(filter, io::stderr).with(tail)),
    }
    .map_err(LogsError::Taken)?;
    Ok(Level(handle))
}

/// Changes what is logged while the process runs.
#[derive(Debug, Clone)]
pub struct Level(reload::Handle<EnvFilter, Registry>);

impl Level {
    /// Logs what passes the filter `level` from now on.
    pub fn set(&self, level: &str) -> Result<(), LogsError> {
        self.0.reload(filter(level)?).map_err(LogsError::Gone)
    }
}

fn text<W>(
    filter: impl Layer<Registry> + Send + Sync,
    colors: bool,
    writer: W,
) -> impl tracing::Subscriber + for<'a> LookupSpan<'a> + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let writer = Fit { writer, kind: if colors { Kind::Colored } else { Kind::Plain } };
    let lines = tracing_subscriber::fmt::layer().fmt_fields(fields()).with_writer(writer).with_ansi(colors).with_target(false);
    tracing_subscriber::registry().with(filter).with(lines)
}

/// The fields of a line as `tracing` writes them, with nothing in their values that acts on a terminal: it lets the escapes
/// of a `%value` pass.
fn fields() -> impl for<'a> FormatFields<'a> + Send + Sync + 'static {
    let field = |writer: &mut Writer<'_>, field: &Field, value: &dyn Debug| {
        let value = format!("{value:?}");
        let value = printable(&value);
        match field.name() {
            "message" => write!(writer, "{value}"),
            name if writer.has_ansi_escapes() => write!(writer, "\u{1b}[3m{name}\u{1b}[0m\u{1b}[2m=\u{1b}[0m{value}"),
            name => write!(writer, "{name}={value}"),
        }
    };
    debug_fn(field).delimited(" ")
}

fn json<W>(filter: impl Layer<Registry> + Send + Sync, writer: W) -> impl tracing::Subscriber + for<'a> LookupSpan<'a> + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let writer = Fit { writer, kind: Kind::Json };
    let lines =
        tracing_subscriber::fmt::layer().with_writer(writer).json().flatten_event(true).with_current_span(true).with_span_list(false);
    tracing_subscriber::registry().with(filter).with(lines)
}

fn filter(level: &str) -> Result<EnvFilter, LogsError> {
    let refuse = |source| LogsError::Filter { level: level.to_owned(), source };
    if let Some(word) = level.split(',').map(str::trim).find(|word| !word.contains(['=', '[']) && word.parse::<LevelFilter>().is_err()) {
        return Err(LogsError::Level(word.to_owned()));
    }
    let mut filter = EnvFilter::builder().parse(level).map_err(refuse)?;
    if filter.max_level_hint().is_some_and(|most| most < LevelFilter::WARN) {
        return Ok(filter);
    }
    for library in QUIET.iter().filter(|library| !level.contains(**library)) {
        filter = filter.add_directive(format!("{library}=warn").parse().map_err(refuse)?);
    }
    Ok(filter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: Format, level: &str) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let log = || {
            tracing::info!(pipeline = "metrics", version = "1-0a0b0c0d", "pipeline runs");
            tracing::debug!("a detail");
            tracing::info!(target: "async_nats", "a library's chatter");
            tracing::warn!(target: "async_nats", "a library's warning");
        };
        match format {
            Format::Json => tracing::subscriber::with_default(json(filter(level).unwrap(), move || writer.clone()), log),
            Format::Text { colors } => tracing::subscriber::with_default(text(filter(level).unwrap(), colors, move || writer.clone()), log),
        }
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_json_line_has_the_message_and_its_fields_on_top() {
        let text = logged(Format::Json, "info");
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert_eq!((lines[0]["message"].as_str(), lines[0]["pipeline"].as_str()), (Some("pipeline runs"), Some("metrics")));
        assert_eq!(lines[1]["message"], "a library's warning");
    }

    #[test]
    fn text_has_colours_only_where_they_are_asked_for() {
        assert!(!logged(Format::Text { colors: false }, "debug").contains('\u{1b}'));
        assert!(logged(Format::Text { colors: true }, "debug").contains('\u{1b}'));
    }

    #[test]
    fn what_others_say_in_a_line_does_nothing_to_a_terminal() {
        let lines = Lines::default();
        let writer = lines.clone();
        let hostile = "\u{1b}[31m\u{9b}2J\u{202e}gnp\nINFO forged";
        tracing::subscriber::with_default(text(filter("info").unwrap(), true, move || writer.clone()), || {
            tracing::warn!(error = %hostile, debug = ?hostile, text = hostile, "{hostile}");
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert!(text.lines().count() == 1 && !text.contains("\u{1b}[31m") && !text.contains(['\u{9b}', '\u{202e}']), "{text:?}");
        assert!(text.contains("\u{1b}[33m"), "its own colours stay: {text:?}");
    }

    #[test]
    fn libraries_are_kept_to_warnings_unless_the_filter_names_them() {
        assert!(!logged(Format::Json, "debug").contains("chatter"));
        assert!(logged(Format::Json, "info,async_nats=info").contains("chatter"));
        assert_eq!(logged(Format::Json, "error"), "");
    }

    #[test]
    fn a_filter_that_does_not_parse_is_named_with_what_to_write_instead() {
        let error = filter("sluice=loud").unwrap_err().to_string();
        assert!(error.contains("'sluice=loud'") && error.contains("sluice=debug,warn"), "{error}");
        assert!(filter("verbose").unwrap_err().to_string().contains("'verbose' is no log level"));
    }
}
