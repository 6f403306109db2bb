//! What the processes of the namespace report of their executions: who is alive and what it runs.
//!
//! A process that has not been heard of for [`SILENT`] counts as gone. Built from reports only, so that every
//! controller knows the same; the own process's executions are asked directly, not from here.

use crate::pipeline::id::PipelineId;
use crate::pipeline::report::{ExecutionPhase, ExecutionReport, Report};
use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// After this time without a report a process counts as gone.
pub const SILENT: Duration = Duration::from_secs(16);

#[derive(Debug)]
struct Peer {
    heard: Instant,
    executions: HashMap<PipelineId, ExecutionReport>,
}

/// The other processes, as they report themselves.
#[derive(Debug, Default)]
pub struct Peers {
    peers: Mutex<HashMap<uuid::Uuid, Peer>>,
}

impl Peers {
    fn peers(&self) -> MutexGuard<'_, HashMap<uuid::Uuid, Peer>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a report in and says which pipelines it changes in a way that matters to the status.
    pub fn take(&self, report: Report, now: Instant) -> Vec<PipelineId> {
        let mut peers = self.peers();
        let peer = peers.entry(report.process).or_insert_with(|| Peer { heard: now, executions: HashMap::new() });
        peer.heard = now;
        let mut changed = Vec::new();
        if report.complete {
            let listed: HashSet<_> = report.executions.iter().map(|execution| &execution.id).collect();
            peer.executions.retain(|id, _| {
                let stays = listed.contains(id);
                if !stays {
                    changed.push(id.clone());
                }
                stays
            });
        }
        for execution in report.executions {
            let id = execution.id.clone();
            let differs = if execution.phase == ExecutionPhase::Stopped {
                peer.executions.remove(&id).is_some()
            } else {
                peer.executions.insert(id.clone(), execution.clone()).is_none_or(|old| !same(&old, &execution))
            };
            if differs {
                changed.push(id);
            }
        }
        changed
    }

    /// Drops the processes that went silent and says which pipelines they ran.
    pub fn expire(&self, now: Instant) -> Vec<PipelineId> {
        let mut gone = Vec::new();
        self.peers().retain(|_, peer| {
            let alive = now.saturating_duration_since(peer.heard) < SILENT;
            if !alive {
                gone.extend(peer.executions.keys().cloned());
            }
            alive
        });
        gone
    }

    /// The live executions of `id` in the other processes.
    pub fn of(&self, id: &PipelineId, own: uuid::Uuid) -> Vec<ExecutionReport> {
        let peers = self.peers();
        let others = peers.iter().filter(|(process, _)| **process != own);
        others.filter_map(|(_, peer)| peer.executions.get(id).cloned()).collect()
    }
}

/// Whether two reports of one execution say the same but for counters and times.
pub fn same(a: &ExecutionReport, b: &ExecutionReport) -> bool {
    (&a.fingerprint, a.phase, &a.troubles, a.limits, a.proven) == (&b.fingerprint, b.phase, &b.troubles, b.limits, b.proven)
}
