//! Logs and metrics: the only place that knows their formats, and the only one that names a metric.

pub mod descriptors;
pub mod first;
mod lines;
pub mod logs;
pub mod metrics;
pub mod tail;
