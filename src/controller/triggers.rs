//! What puts ids into the queue: watches, executor events, reports, the lease. All of it only hints.

use super::Controller;
use super::memory::Memory;
use super::vital::Ends;
use crate::pipeline::id::PipelineId;
use crate::store::{WatchEvent, watch::watch};
use crate::telemetry::first::Say;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{broadcast::error::RecvError, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

/// Hints that may wait; a full channel coalesces them in the watch.
const HINTS: usize = 4096;

/// Which bucket a watch is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bucket {
    Entries,
    Configs,
    Status,
}

impl Controller {
    /// Starts everything that puts ids into the queue.
    pub(super) fn spawn_triggers(self: &Arc<Self>, tasks: &TaskTracker, stop: &CancellationToken) {
        let names = &self.deps.store.names;
        let buckets = [
            (Bucket::Entries, format!("KV_{}", names.entries()), self.watches.entries.clone()),
            (Bucket::Configs, format!("OBJ_{}", names.configs()), self.watches.configs.clone()),
            (Bucket::Status, format!("KV_{}", names.status()), self.watches.status.clone()),
        ];
        let ends = || Ends { until: stop.clone(), takes: stop.clone() };
        for (bucket, stream, health) in buckets {
            let (events, received) = mpsc::channel(HINTS);
            let watching = watch(self.deps.store.client.clone(), stream, events, health, stop.child_token());
            self.vital(tasks, "a watch", ends(), async move {
                if let Err(error) = watching.await {
                    warn!(%error, "watch ended badly");
                }
            });
            self.vital(tasks, "a watch's listener", ends(), self.clone().listen(bucket, received, stop.clone()));
        }
        self.vital(tasks, "the executor's listener", ends(), self.clone().listen_to_executor(stop.clone()));
        self.vital(tasks, "the reports' listener", ends(), self.clone().listen_to_reports(stop.clone()));
        self.vital(tasks, "the emptying of retired backends", ends(), self.clone().retire(stop.clone()));
        self.vital(tasks, "the answers to who asks for logs", ends(), self.clone().answer_logs(stop.clone()));
        self.vital(tasks, "the looks at streams", ends(), self.clone().look_at_streams(stop.clone()));
        self.vital(tasks, "the resync", ends(), self.clone().resync_now_and_then(stop.clone()));
    }

    async fn listen(self: Arc<Self>, bucket: Bucket, mut events: mpsc::Receiver<WatchEvent>, stop: CancellationToken) {
        loop {
            let event = tokio::select! {
                event = events.recv() => event,
                () = stop.cancelled() => return,
            };
            match event {
                Some(WatchEvent::Changed(key)) => self.hint(bucket, &key, false),
                Some(WatchEvent::Removed(key)) => self.hint(bucket, &key, true),
                Some(WatchEvent::Restarted) => self.restarted(bucket),
                None => return,
            }
        }
    }

    fn hint(&self, bucket: Bucket, key: &str, removed: bool) {
        // The installation's id and the like; objects are named `id/version`.
        if key.starts_with('_') {
            return;
        }
        let name = key.split('/').next().unwrap_or(key);
        match PipelineId::parse(name) {
            // The holder writes the status itself; another's write shows in its compare-and-set, which may be far away
            // where somebody deletes it.
            Ok(_) if bucket == Bucket::Status && !removed && self.holding.epoch().is_some() => {}
            Ok(id) => {
                if bucket == Bucket::Status {
                    self.recall(&id, Memory::hinted);
                }
                self.queue.add(id);
            }
            Err(error) => match self.garbage.first(&format!("{bucket:?} {key}")) {
                Say::It => warn!(?bucket, %error, "a key that is no pipeline id is ignored"),
                Say::More => warn!(?bucket, "further keys that are no pipeline ids are ignored and not named"),
                Say::Nothing => {}
            },
        }
    }

    /// Anything may have happened while a watch was away.
    fn restarted(&self, bucket: Bucket) {
        debug!(?bucket, "watch started");
        match bucket {
            Bucket::Entries => self.resync_soon(),
            Bucket::Configs | Bucket::Status => {
                if bucket == Bucket::Status {
                    // Reports may have been missed as well.
                    self.peers.missed();
                    self.wanted.ask();
                }
                let holder = self.holding.epoch().is_some();
                let ids: Vec<_> = {
                    let mut memory = self.memory();
                    if bucket == Bucket::Status && !holder {
                        memory.change_all(Memory::hinted);
                    }
                    memory.iter().map(|(id, _)| id.clone()).collect()
                };
                // At the very start everything was just read.
                if self.last_resync.lock().unwrap_or_else(std::sync::PoisonError::into_inner).is_some() {
                    ids.into_iter().for_each(|id| self.queue.add(id));
                }
            }
        }
    }

    async fn listen_to_executor(self: Arc<Self>, stop: CancellationToken) {
        let mut events = self.deps.executor.events();
        loop {
            let event = tokio::select! {
                event = events.recv() => event,
                () = stop.cancelled() => return,
            };
            match event {
                Ok(id) => self.queue.add(id),
                // What was missed, the resync finds.
                Err(RecvError::Lagged(missed)) => {
                    debug!(missed, "executor events missed");
                    self.resync_soon();
                }
                Err(RecvError::Closed) => return,
            }
        }
    }

    async fn listen_to_reports(self: Arc<Self>, stop: CancellationToken) {
        let mut reports = loop {
            match self.deps.store.reports.subscribe().await {
                Ok(reports) => break reports,
                Err(error) => warn!(%error, "reports cannot be received"),
            }
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(2)) => {}
                () = stop.cancelled() => return,
            }
        };
        // Not before: what is answered must be heard.
        self.wanted.ask();
        let mut sweep = tokio::time::interval(Duration::from_secs(2));
        loop {
            let changed = tokio::select! {
                report = reports.recv() => match report {
                    Some(report) if report.process == self.process => continue,
                    Some(report) => {
                        if report.asks {
                            self.wanted.answer();
                        }
                        let heard = self.peers.take(report, Instant::now());
                        if heard.unknown {
                            self.wanted.ask();
                        }
                        heard.changed
                    }
                    None => return,
                },
                _ = sweep.tick() => self.peers.expire(Instant::now()),
                () = stop.cancelled() => return,
            };
            changed.into_iter().for_each(|id| self.queue.add(id));
        }
    }
}
