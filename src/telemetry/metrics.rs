//! The metrics: their names, types and help texts, in one place. Labels come from closed sets, but for `pipeline`,
//! whose series die with the pipeline ([`Metrics::forget`]).
//!
//! The collector holds one [`PipelineMetrics`] per execution and counts by batch, never by message.

use crate::pipeline::id::PipelineId;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info};
use prometheus_client::registry::{Registry, Unit};
use std::sync::{Arc, atomic::AtomicU64};

/// A gauge of seconds.
pub type SecondsGauge = Gauge<f64, AtomicU64>;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PipelineLabel {
    pipeline: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReconcileLabel {
    result: ReconcileResult,
}

/// How a reconcile ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReconcileResult {
    /// Nothing was left to do.
    Converged,
    /// It did something, or waits for something.
    Progressed,
    /// It failed and is tried again.
    Failed,
}

impl EncodeLabelValue for ReconcileResult {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        let word = match self {
            Self::Converged => "converged",
            Self::Progressed => "progressed",
            Self::Failed => "failed",
        };
        EncodeLabelValue::encode(&word, encoder)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClosedLabel {
    reason: Closed,
}

/// Why an HTTP connection was closed before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Closed {
    /// Another one needed its place.
    Evicted,
    /// Its request did not come, or its answer was not read, in time.
    Late,
}

impl EncodeLabelValue for Closed {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        let word = match self {
            Self::Evicted => "evicted",
            Self::Late => "late",
        };
        EncodeLabelValue::encode(&word, encoder)
    }
}

type Histograms = Family<PipelineLabel, Histogram, fn() -> Histogram>;

/// All metrics of a process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    received: Family<PipelineLabel, Counter>,
    written: Family<PipelineLabel, Counter>,
    duplicates: Family<PipelineLabel, Counter>,
    dead_lettered: Family<PipelineLabel, Counter>,
    redelivered: Family<PipelineLabel, Counter>,
    unreadable_headers: Family<PipelineLabel, Counter>,
    batch_documents: Histograms,
    insert: Histograms,
    end_to_end: Histograms,
    lag: Family<PipelineLabel, Gauge>,
    oldest: Family<PipelineLabel, SecondsGauge>,
    in_flight: Family<PipelineLabel, Gauge>,
    reconciles: Family<ReconcileLabel, Counter>,
    unwritten: Counter,
    closed: Family<ClosedLabel, Counter>,
    descriptors_open: Gauge,
    descriptors_limit: Gauge,
}

/// The metrics of one pipeline: shared handles, cheap to count on.
#[derive(Debug, Clone)]
pub struct PipelineMetrics {
    /// Messages received.
    pub received: Counter,
    /// Documents stored.
    pub written: Counter,
    /// Documents found to be stored already.
    pub duplicates: Counter,
    /// Messages put into the dead letters.
    pub dead_lettered: Counter,
    /// Messages received with a delivery count above 1.
    pub redelivered: Counter,
    /// Messages received with headers or a subject that cannot be read.
    pub unreadable_headers: Counter,
    /// Documents a batch.
    pub batch_documents: Histogram,
    /// Seconds an insert command took.
    pub insert: Histogram,
    /// Seconds from publish to acknowledgement, of the oldest message of each batch.
    pub end_to_end: Histogram,
    /// Messages that wait in the stream.
    pub lag: Gauge,
    /// Age of the oldest message without an acknowledgement, seconds.
    pub oldest: SecondsGauge,
    /// Messages received and not yet acknowledged.
    pub in_flight: Gauge,
}

fn documents() -> Histogram {
    Histogram::new([1.0, 10.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10_000.0])
}

fn seconds() -> Histogram {
    Histogram::new([0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0])
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// A registry with everything registered.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("sluice");
        let histograms = |make: fn() -> Histogram| Histograms::new_with_constructor(make);
        let metrics = Self {
            received: Family::default(),
            written: Family::default(),
            duplicates: Family::default(),
            dead_lettered: Family::default(),
            redelivered: Family::default(),
            unreadable_headers: Family::default(),
            batch_documents: histograms(documents),
            insert: histograms(seconds),
            end_to_end: histograms(seconds),
            lag: Family::default(),
            oldest: Family::default(),
            in_flight: Family::default(),
            reconciles: Family::default(),
            unwritten: Counter::default(),
            closed: Family::default(),
            descriptors_open: Gauge::default(),
            descriptors_limit: Gauge::default(),
            registry: Registry::default(),
        };
        registry.register("received_messages", "Messages received from NATS", metrics.received.clone());
        registry.register("written_documents", "Documents stored in MongoDB", metrics.written.clone());
        registry.register("duplicate_documents", "Documents found to be stored already", metrics.duplicates.clone());
        registry.register("dead_lettered_messages", "Messages put into the dead letters", metrics.dead_lettered.clone());
        registry.register("redelivered_messages", "Messages received with a delivery count above 1", metrics.redelivered.clone());
        let help = "Messages received with headers or a subject that cannot be read";
        registry.register("unreadable_header_messages", help, metrics.unreadable_headers.clone());
        registry.register("batch_documents", "Documents a batch", metrics.batch_documents.clone());
        registry.register_with_unit("insert", "Time an insert command took", Unit::Seconds, metrics.insert.clone());
        registry.register_with_unit(
            "end_to_end",
            "Time from publish to acknowledgement, oldest message of each batch",
            Unit::Seconds,
            metrics.end_to_end.clone(),
        );
        registry.register("lag_messages", "Messages that wait in the stream", metrics.lag.clone());
        registry.register_with_unit(
            "oldest_unacknowledged",
            "Age of the oldest message without an acknowledgement",
            Unit::Seconds,
            metrics.oldest.clone(),
        );
        registry.register("in_flight_messages", "Messages received and not yet acknowledged", metrics.in_flight.clone());
        registry.register("reconciles", "Reconciles by how they ended", metrics.reconciles.clone());
        registry.register("status_write_failures", "Status documents that could not be written", metrics.unwritten.clone());
        registry.register("closed_http_connections", "HTTP connections closed before their end, by why", metrics.closed.clone());
        registry.register("open_descriptors", "File descriptors of the process that are open", metrics.descriptors_open.clone());
        registry.register(
            "descriptor_limit",
            "File descriptors that the process may have; 0 for any number",
            metrics.descriptors_limit.clone(),
        );
        registry.register("build", "The running release", Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]));
        Self { registry, ..metrics }
    }

    /// The handles of `id`, made at the first call.
    pub fn pipeline(&self, id: &PipelineId) -> PipelineMetrics {
        let label = PipelineLabel { pipeline: id.to_string() };
        PipelineMetrics {
            received: self.received.get_or_create_owned(&label),
            written: self.written.get_or_create_owned(&label),
            duplicates: self.duplicates.get_or_create_owned(&label),
            dead_lettered: self.dead_lettered.get_or_create_owned(&label),
            redelivered: self.redelivered.get_or_create_owned(&label),
            unreadable_headers: self.unreadable_headers.get_or_create_owned(&label),
            batch_documents: self.batch_documents.get_or_create_owned(&label),
            insert: self.insert.get_or_create_owned(&label),
            end_to_end: self.end_to_end.get_or_create_owned(&label),
            lag: self.lag.get_or_create_owned(&label),
            oldest: self.oldest.get_or_create_owned(&label),
            in_flight: self.in_flight.get_or_create_owned(&label),
        }
    }

    /// Removes the series of a pipeline that is gone.
    pub fn forget(&self, id: &PipelineId) {
        let label = PipelineLabel { pipeline: id.to_string() };
        for family in [&self.received, &self.written, &self.duplicates, &self.dead_lettered, &self.redelivered, &self.unreadable_headers] {
            family.remove(&label);
        }
        for family in [&self.batch_documents, &self.insert, &self.end_to_end] {
            family.remove(&label);
        }
        for family in [&self.lag, &self.in_flight] {
            family.remove(&label);
        }
        self.oldest.remove(&label);
    }

    /// Counts a reconcile.
    pub fn reconciled(&self, result: ReconcileResult) {
        self.reconciles.get_or_create(&ReconcileLabel { result }).inc();
    }

    /// Counts a status document that could not be written.
    pub fn status_unwritten(&self) {
        self.unwritten.inc();
    }

    /// Counts an HTTP connection that was closed before its end.
    pub fn closed(&self, reason: Closed) {
        self.closed.get_or_create(&ClosedLabel { reason }).inc();
    }

    /// Notes how many file descriptors are open, and how many may be.
    pub fn descriptors(&self, open: u64, limit: u64) {
        self.descriptors_open.set(i64::try_from(open).unwrap_or(i64::MAX));
        self.descriptors_limit.set(i64::try_from(limit).unwrap_or(i64::MAX));
    }

    /// All metrics in the OpenMetrics text format.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing into a String cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }

    /// The same, shared.
    pub fn shared() -> Arc<Self> {
        Arc::new(Self::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_in_use() -> (Metrics, PipelineId) {
        let (metrics, id) = (Metrics::new(), PipelineId::parse("metrics").unwrap());
        let pipeline = metrics.pipeline(&id);
        for counter in [&pipeline.received, &pipeline.written, &pipeline.duplicates, &pipeline.dead_lettered, &pipeline.redelivered] {
            counter.inc_by(3);
        }
        pipeline.unreadable_headers.inc_by(4);
        for histogram in [&pipeline.batch_documents, &pipeline.insert, &pipeline.end_to_end] {
            histogram.observe(0.5);
        }
        pipeline.lag.set(7);
        pipeline.oldest.set(1.5);
        pipeline.in_flight.set(2);
        metrics.reconciled(ReconcileResult::Converged);
        metrics.status_unwritten();
        metrics.closed(Closed::Evicted);
        metrics.descriptors(30, 1024);
        (metrics, id)
    }

    #[test]
    fn every_metric_has_its_agreed_name() {
        let text = all_in_use().0.encode();
        for line in [
            r#"sluice_received_messages_total{pipeline="metrics"} 3"#,
            r#"sluice_written_documents_total{pipeline="metrics"} 3"#,
            r#"sluice_duplicate_documents_total{pipeline="metrics"} 3"#,
            r#"sluice_dead_lettered_messages_total{pipeline="metrics"} 3"#,
            r#"sluice_redelivered_messages_total{pipeline="metrics"} 3"#,
            r#"sluice_unreadable_header_messages_total{pipeline="metrics"} 4"#,
            r#"sluice_batch_documents_count{pipeline="metrics"} 1"#,
            r#"sluice_insert_seconds_count{pipeline="metrics"} 1"#,
            r#"sluice_end_to_end_seconds_sum{pipeline="metrics"} 0.5"#,
            r#"sluice_lag_messages{pipeline="metrics"} 7"#,
            r#"sluice_oldest_unacknowledged_seconds{pipeline="metrics"} 1.5"#,
            r#"sluice_in_flight_messages{pipeline="metrics"} 2"#,
            r#"sluice_reconciles_total{result="converged"} 1"#,
            "sluice_status_write_failures_total 1",
            r#"sluice_closed_http_connections_total{reason="evicted"} 1"#,
            "sluice_open_descriptors 30",
            "sluice_descriptor_limit 1024",
            concat!(r#"sluice_build_info{version=""#, env!("CARGO_PKG_VERSION"), r#""} 1"#),
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn the_text_is_valid_openmetrics() {
        let text = all_in_use().0.encode();
        assert!(text.ends_with("# EOF\n"));
        let mut families = std::collections::HashSet::new();
        for line in text.lines().filter(|line| line.starts_with("# TYPE ")) {
            assert!(families.insert(line.split(' ').nth(2).unwrap().to_owned()), "twice: {line}");
        }
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let name = line.split(['{', ' ']).next().unwrap();
            assert!(families.iter().any(|family| name.starts_with(family.as_str())), "no type: {line}");
            assert!(!["_total_total", "_seconds_seconds", "_info_info"].iter().any(|twice| name.contains(twice)), "{line}");
        }
    }

    #[test]
    fn a_forgotten_pipeline_leaves_no_series() {
        let (metrics, id) = all_in_use();
        metrics.forget(&id);
        assert!(!metrics.encode().contains("pipeline=\"metrics\""));
    }
}
