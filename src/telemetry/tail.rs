//! The last log lines of each pipeline, kept in memory for `sluice logs`.
//!
//! A line belongs to the pipeline that it names, itself or by a span around it; others are nobody's and not kept. Bounded
//! by bytes: each pipeline has its share, and what has been silent longest goes first. Filled by the layer that `logs::init`
//! installs, read by whoever answers requests.

use super::lines::TEXT;
use crate::pipeline::logs::LogLine;
use crate::pipeline::text::bounded;
use jiff::Timestamp;
use serde_json::{Map, Value};
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

/// Bytes of one pipeline's lines.
const EACH: usize = 64 << 10;
/// Bytes of all lines of the process.
const ALL: usize = 8 << 20;
/// The field that names the pipeline.
const PIPELINE: &str = "pipeline";

/// The last lines of each pipeline of this process.
#[derive(Debug, Default)]
pub struct Tail {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    next: u64,
    bytes: usize,
    pipelines: HashMap<String, Lines>,
}

#[derive(Debug, Default)]
struct Lines {
    bytes: usize,
    lines: VecDeque<(LogLine, usize)>,
}

impl Tail {
    /// The one of this process.
    pub fn shared() -> Arc<Self> {
        static SHARED: OnceLock<Arc<Tail>> = OnceLock::new();
        SHARED.get_or_init(Arc::default).clone()
    }

    /// The lines of `pipeline` after the line `after`, oldest first, at most the `last` newest; 0 for all.
    pub fn lines(&self, pipeline: &str, after: u64, last: u32) -> Vec<LogLine> {
        let kept = self.kept();
        let Some(known) = kept.pipelines.get(pipeline) else { return Vec::new() };
        let new = known.lines.iter().filter(|(line, _)| line.number > after);
        let skipped = if last == 0 { 0 } else { new.clone().count().saturating_sub(last as usize) };
        new.skip(skipped).map(|(line, _)| line.clone()).collect()
    }

    fn push(&self, pipeline: String, mut line: LogLine) {
        let bytes = line.message.len() + line.fields.iter().map(|(name, value)| name.len() + text_of(value)).sum::<usize>() + 64;
        let mut kept = self.kept();
        let kept = &mut *kept;
        kept.next += 1;
        line.number = kept.next;
        let lines = kept.pipelines.entry(pipeline).or_default();
        lines.lines.push_back((line, bytes));
        lines.bytes += bytes;
        kept.bytes += bytes;
        while lines.bytes > EACH {
            let Some((_, bytes)) = lines.lines.pop_front() else { break };
            lines.bytes -= bytes;
            kept.bytes -= bytes;
        }
        while kept.bytes > ALL {
            let newest = |lines: &Lines| lines.lines.back().map_or(0, |(line, _)| line.number);
            let Some(silent) = kept.pipelines.iter().min_by_key(|(_, lines)| newest(lines)).map(|(name, _)| name.clone()) else { break };
            kept.bytes -= kept.pipelines.remove(&silent).map_or(0, |lines| lines.bytes);
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn text_of(value: &Value) -> usize {
    value.as_str().map_or(8, str::len)
}

/// Keeps what is logged.
pub struct TailLayer(pub Arc<Tail>);

/// The fields of a span.
struct Around(Map<String, Value>);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for TailLayer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let (Some(span), false) = (context.span(id), fields.0.is_empty()) {
            span.extensions_mut().insert(Around(fields.0));
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let mut fields = fields.0;
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(Around(around)) = span.extensions().get() {
                for (name, value) in around {
                    fields.entry(name.clone()).or_insert_with(|| value.clone());
                }
            }
        }
        let Some(Value::String(pipeline)) = fields.get(PIPELINE).cloned() else { return };
        let message = match fields.remove("message") {
            Some(Value::String(message)) => message,
            _ => String::new(),
        };
        let level = event.metadata().level().to_string();
        self.0.push(pipeline, LogLine { number: 0, timestamp: Timestamp::now(), level, message, fields });
    }
}

/// Takes fields in as JSON.
#[derive(Default)]
struct Fields(Map<String, Value>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_owned(), bounded(&format!("{value:?}"), TEXT).into());
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), bounded(value, TEXT).into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().to_owned(), value.into());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().to_owned(), value.into());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name().to_owned(), value.into());
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::layer::SubscriberExt;

    fn logged(log: impl FnOnce()) -> Arc<Tail> {
        let tail = Arc::<Tail>::default();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(TailLayer(tail.clone())), log);
        tail
    }

    #[test]
    fn a_line_belongs_to_the_pipeline_that_it_or_a_span_around_it_names() {
        let tail = logged(|| {
            tracing::info!(pipeline = "a", tries = 3, "named by itself");
            tracing::info_span!("execution", pipeline = %"b", version = "1").in_scope(|| tracing::warn!("named by its span"));
            tracing::info!("nobody's");
        });
        let (a, b) = (tail.lines("a", 0, 0), tail.lines("b", 0, 0));
        assert_eq!((a.len(), a[0].message.as_str(), &a[0].fields["tries"]), (1, "named by itself", &Value::from(3)));
        assert_eq!((b.len(), b[0].level.as_str(), &b[0].fields["version"]), (1, "WARN", &Value::from("1")));
        assert!(tail.lines("b", b[0].number, 0).is_empty());
    }

    #[test]
    fn each_pipeline_has_its_share_and_what_was_silent_longest_goes_first() {
        let tail = logged(|| {
            for n in 0..20_000 {
                tracing::info!(pipeline = "loud", n, "a line of a pipeline that logs without end");
            }
            for n in 0..300 {
                for _ in 0..700 {
                    tracing::info!(pipeline = %format!("p{n}"), "one of many pipelines that log much at the same time, all in all too much");
                }
            }
        });
        assert!(tail.kept().bytes <= ALL && tail.kept().pipelines.values().all(|lines| lines.bytes <= EACH));
        assert!(tail.lines("loud", 0, 0).is_empty() && !tail.lines("p299", 0, 0).is_empty());
        assert_eq!(tail.lines("p299", 0, 5).len(), 5);
    }
}
