//! Reports what this process runs, every 5 s, and notices every second what its executions say anew.

use super::Controller;
use super::peers::same;
use crate::pipeline::id::PipelineId;
use crate::pipeline::report::{ExecutionPhase, ExecutionReport, Report};
use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tracing::debug;

const LOOK: Duration = Duration::from_secs(1);
/// A report goes every so many looks.
const REPORT_EVERY: u32 = 5;
/// A complete one goes every so many reports.
const COMPLETE_EVERY: u32 = 6;
/// Executions a message: about 250 KiB, well below the smallest max_payload that people set.
const CHUNK: usize = 500;

impl Controller {
    /// Reports until `stop`, and then once more that everything has ended.
    pub(super) async fn report(self: Arc<Self>, stop: CancellationToken) {
        let mut seen = HashMap::new();
        let mut sent = HashMap::new();
        let mut looks = 0;
        while !stop.is_cancelled() {
            let now = self.own_reports().await;
            self.notice(&mut seen, &now);
            *self.own.lock().unwrap_or_else(PoisonError::into_inner) = now.values().cloned().collect();
            if looks % REPORT_EVERY == 0 {
                let complete = looks % (REPORT_EVERY * COMPLETE_EVERY) == 0;
                self.send_report(&mut sent, now, complete).await;
            }
            looks = looks.wrapping_add(1);
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = stop.cancelled() => {}
            }
        }
        self.send_report(&mut sent, HashMap::new(), true).await;
    }

    async fn own_reports(&self) -> HashMap<PipelineId, ExecutionReport> {
        match self.deps.executor.list().await {
            Ok(observed) => observed.into_iter().filter_map(|observed| observed.report).map(|report| (report.id.clone(), report)).collect(),
            Err(error) => {
                debug!(%error, "executions could not be listed");
                HashMap::new()
            }
        }
    }

    /// Puts into the queue what the executions say anew.
    fn notice(&self, seen: &mut HashMap<PipelineId, ExecutionReport>, now: &HashMap<PipelineId, ExecutionReport>) {
        let counted = |old: &ExecutionReport, new: &ExecutionReport| old.counters.dead_lettered == new.counters.dead_lettered;
        for (id, report) in now {
            let known = seen.get(id).is_some_and(|old| same(old, report) && counted(old, report));
            if !known {
                self.queue.add(id.clone());
            }
        }
        seen.clone_from(now);
    }

    async fn send_report(
        &self,
        sent: &mut HashMap<PipelineId, ExecutionReport>,
        now: HashMap<PipelineId, ExecutionReport>,
        complete: bool,
    ) {
        let mut changed: Vec<_> = now.values().filter(|report| complete || sent.get(&report.id) != Some(report)).cloned().collect();
        let ended = sent.values().filter(|old| !now.contains_key(&old.id));
        changed.extend(ended.map(|old| ExecutionReport { phase: ExecutionPhase::Stopped, ..old.clone() }));
        let mut chunks: Vec<Vec<_>> = changed.chunks(CHUNK).map(<[_]>::to_vec).collect();
        if chunks.is_empty() {
            // An empty report still says that the process is alive.
            chunks.push(Vec::new());
        }
        for (index, executions) in chunks.into_iter().enumerate() {
            let complete = complete && index == 0;
            let report = Report { schema: 1, process: self.process, host: self.host.clone(), complete, executions };
            if let Err(error) = self.deps.store.reports.publish(&report).await {
                debug!(%error, "report could not be sent");
            }
        }
        *sent = now;
    }
}
