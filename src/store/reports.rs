//! Reports between processes over core NATS: who is alive and what it runs.

use super::error::StoreError;
use crate::pipeline::report::Report;

/// The reports' subject.
#[derive(Clone)]
pub struct Reports {}

impl Reports {
    /// Publishes a report; lost where nobody listens.
    pub async fn publish(&self, report: &Report) -> Result<(), StoreError> {
        let _ = report;
        todo!()
    }

    /// Receives the reports of all processes, the own one included; those that do not parse are logged and left out.
    /// Survives reconnects. Ends when the receiver is dropped.
    pub async fn subscribe(&self) -> Result<tokio::sync::mpsc::Receiver<Report>, StoreError> {
        todo!()
    }
}
