//! Reports between processes over core NATS: who is alive and what it runs.

use super::error::{StoreError, StoreErrorKind};
use crate::pipeline::names::Names;
use crate::pipeline::report::Report;
use crate::telemetry::first::{Said, Say};
use async_nats::Client;
use bytes::Bytes;
use futures_util::StreamExt as _;
use std::time::Duration;
use tokio::sync::mpsc;

/// Reports that wait for a slow receiver; the ones after them wait in the subscription.
const WAITING: usize = 256;
/// How long handing a report to the connection may take.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The machine's name, for people; a container's own where it runs in one.
pub fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned())
}

/// The reports' subject.
#[derive(Clone)]
pub struct Reports {
    client: Client,
    names: Names,
}

impl Reports {
    pub(super) fn new(client: Client, names: Names) -> Self {
        Self { client, names }
    }

    /// Publishes a report; lost where nobody listens. `Refused` where it is larger than the server's `max_payload`.
    pub async fn publish(&self, report: &Report) -> Result<(), StoreError> {
        let what = "publish a report";
        let payload = serde_json::to_vec(report).map_err(|error| StoreError::caused(StoreErrorKind::Refused, what, error))?;
        let most = self.client.max_payload();
        if payload.len() > most {
            let message = format!("{what}: {} bytes are more than the server's max_payload of {most}", payload.len());
            return Err(StoreError::new(StoreErrorKind::Refused, message));
        }
        let sent = self.client.publish(self.names.report(&report.process.to_string()), Bytes::from(payload));
        match tokio::time::timeout(TIMEOUT, sent).await {
            Ok(sent) => sent.map_err(|error| StoreError::caused(StoreErrorKind::Unavailable, what, error)),
            Err(_) => Err(StoreError::new(StoreErrorKind::Unavailable, format!("{what}: timed out"))),
        }
    }

    /// Receives the reports of all processes, the own one included; those that do not parse are logged once and left out.
    /// Survives reconnects. Ends when the receiver is dropped. Reports may be lost where the receiver is slow.
    pub async fn subscribe(&self) -> Result<mpsc::Receiver<Report>, StoreError> {
        let subscribed = self.client.subscribe(self.names.report("*")).await;
        let mut messages =
            subscribed.map_err(|error| StoreError::caused(StoreErrorKind::Unavailable, "subscribe to the reports", error))?;
        let (sender, receiver) = mpsc::channel(WAITING);
        let unreadable = Said::default();
        tokio::spawn(async move {
            loop {
                let message = tokio::select! {
                    () = sender.closed() => return,
                    // The client subscribes again by itself after a reconnect; the end means that it is closed.
                    message = messages.next() => match message { Some(message) => message, None => return },
                };
                match serde_json::from_slice::<Report>(&message.payload) {
                    Ok(report) => {
                        if sender.send(report.bounded()).await.is_err() {
                            return;
                        }
                    }
                    Err(error) => match unreadable.first(&message.subject) {
                        Say::It => tracing::warn!(subject = %message.subject, %error, "left out an unreadable report"),
                        Say::More => tracing::warn!("further unreadable reports are left out and not named"),
                        Say::Nothing => {}
                    },
                }
            }
        });
        Ok(receiver)
    }
}
