//! The controller: level-triggered, one holder per namespace.
//!
//! ```text
//! entries' watch ─┐                        ┌ holder: entry + config + stream ─▶ wish ─▶ plan ─▶ admitted state ─┐
//! configs' watch ─┤                        │                                                  (status, by CAS)  │
//! status' watch  ─┼─▶ queue ─▶ reconcile(id)                                                                    │
//! executions     ─┤   (keyed)              └ everyone: admitted state + what runs ─▶ plan ─▶ ensure·stop·destroy ◀┘
//! resync, 30 s   ─┘
//! ```
//!
//! Every trigger is a hint that puts an id into the queue; `reconcile` reads what counts, plans purely and acts, and
//! doing it twice is a no-op. The holder alone decides: it writes what is *admitted* into the status. Every controller,
//! the holder too, runs what is admitted and never the entry itself; without a holder, what runs goes on.

mod act;
#[cfg(test)]
mod bounds;
mod conditions;
mod derived;
mod desire;
mod fitness;
mod follow;
mod joint;
mod lease;
mod logs;
mod looks;
mod memory;
mod moving;
mod peers;
mod queue;
mod reconcile;
mod report;
mod resync;
mod retire;
mod role;
mod seen;
mod states;
mod triggers;
mod view;
mod vital;
mod written;

pub use vital::Died;

use crate::collector::sink::Databases;
use crate::executor::{Executor, ExecutorError, Observed, Term, config_reader::ConfigReader};
use crate::pipeline::id::PipelineId;
use crate::pipeline::plan::Action;
use crate::pipeline::report::{ExecutionPhase, ExecutionReport};
use crate::pipeline::status::{Phase, PipelineStatus};
use crate::settings::Settings;
use crate::store::{LeaseHolder, Store, StoreError, WatchHealth, reports::hostname};
use crate::telemetry::{first::Said, metrics::Metrics};
use jiff::Timestamp;
use memory::{Memories, Memory};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tracing::{Instrument, info, info_span, warn};
use vital::Ends;

/// How many pipelines are reconciled at the same time.
const WORKERS: usize = 16;
/// A reconcile that takes longer keeps no worker any more, and turns health red: what it calls has limits of its own, all
/// of them shorter but those of a backend that fetches an image.
const ENDLESS: Duration = Duration::from_secs(45);
/// One that takes longer even than such a fetch is cut off and tried again.
const CUT_OFF: Duration = Duration::from_secs(900);
/// How soon that is.
const AFTER_A_FAULT: Duration = Duration::from_secs(5);
/// How long the first reconciles wait for what was resumed.
const RESUMING: Duration = Duration::from_secs(1);

/// What a controller works with.
pub struct Deps {
    /// What lies on NATS; prepared.
    pub store: Store,
    /// Who runs executions.
    pub executor: Arc<dyn Executor>,
    /// Who ran them before, and is emptied.
    pub retired: Vec<Arc<dyn Executor>>,
    /// The installation's id, as the store has it.
    pub installation: uuid::Uuid,
    /// Reads and checks configs; the executor's own, so that each is read once.
    pub configs: ConfigReader,
    /// MongoDB connections, for targets.
    pub databases: Arc<Databases>,
    /// The process's settings.
    pub settings: Arc<Settings>,
    /// Metrics.
    pub metrics: Arc<Metrics>,
}

/// A controller; [`Controller::run`] runs it, the HTTP API looks into it.
pub struct Controller {
    deps: Deps,
    installation: uuid::Uuid,
    process: uuid::Uuid,
    host: String,
    queue: queue::Queue,
    holding: Arc<lease::Holding>,
    peers: peers::Peers,
    wanted: report::Wanted,
    memory: Mutex<Memories>,
    watches: Watches,
    last_resync: Mutex<Option<Instant>>,
    resync_wanted: tokio::sync::Notify,
    /// When the entries' and the status bucket were created, as of the last resync.
    buckets: Mutex<Option<(Timestamp, Timestamp)>>,
    /// When the entries' bucket was created, for the reconciles that run at the same time.
    created: joint::Joint<Timestamp>,
    /// What the own executions said last, and since when each has been there.
    own: Mutex<Vec<(ExecutionReport, Instant)>>,
    /// The keys that are no pipeline ids and were said to be.
    garbage: Said,
    /// Why the stream of the dead letters may lose them.
    letters: Mutex<Vec<String>>,
    /// The task that must run for ever and has ended.
    dead: OnceLock<Died>,
}

/// The watches' health.
#[derive(Default)]
struct Watches {
    entries: Arc<WatchHealth>,
    configs: Arc<WatchHealth>,
    status: Arc<WatchHealth>,
}

impl Controller {
    /// Reads every status. Errors: NATS does not answer or refuses.
    pub async fn new(deps: Deps) -> Result<Arc<Self>, StoreError> {
        let installation = deps.installation;
        let mut memory = Memories::default();
        for record in deps.store.status.list().await? {
            memory.note(&record.status.id.clone(), Some(Arc::new(record)));
        }
        Ok(Arc::new(Self {
            installation,
            process: uuid::Uuid::now_v7(),
            host: hostname(),
            queue: queue::Queue::default(),
            holding: Arc::default(),
            peers: peers::Peers::default(),
            wanted: report::Wanted::default(),
            memory: Mutex::new(memory),
            watches: Watches::default(),
            last_resync: Mutex::new(None),
            resync_wanted: tokio::sync::Notify::new(),
            buckets: Mutex::default(),
            created: joint::Joint::default(),
            own: Mutex::default(),
            garbage: Said::default(),
            letters: Mutex::default(),
            dead: OnceLock::new(),
            deps,
        }))
    }

    /// Runs until `stop`; then gives the lease back, lets the executions write what they hold, and returns. Errors: a
    /// task that must not end has ended; the rest was ended as gracefully.
    pub async fn run(self: &Arc<Self>, stop: CancellationToken) -> Result<(), Died> {
        info!(controller = %self.process, installation = %self.installation, "controller started");
        for executor in self.deps.retired.iter().chain([&self.deps.executor]) {
            let holding = self.holding.clone();
            executor.permit(Arc::new(move || holding.epoch().map(|(epoch, left)| Term { epoch, left })));
        }
        self.resume().await;
        // Deciding ends first, so that another controller takes over while the executions here finish.
        let deciding = stop.child_token();
        let tasks = TaskTracker::new();
        let ends = || Ends { until: deciding.clone(), takes: deciding.clone() };
        let me = LeaseHolder {
            process: self.process,
            host: self.host.clone(),
            executor: self.deps.settings.executor.kind.as_str().to_owned(),
            epoch: 0,
        };
        let keeper = lease::keep(self.deps.store.clone(), me, self.holding.clone(), deciding.clone());
        self.vital(&tasks, "the keeper of the lease", ends(), keeper);
        self.spawn_triggers(&tasks, &deciding);
        let starting = self.started();
        let reporting = CancellationToken::new();
        let reports = TaskTracker::new();
        let lasting = || Ends { until: reporting.clone(), takes: deciding.clone() };
        self.vital(&reports, "reporting", lasting(), self.clone().report(reporting.clone()));
        self.vital(&reports, "the answers to state requests", lasting(), self.clone().answer_states(reporting.clone()));
        tokio::select! {
            () = starting => {}
            () = deciding.cancelled() => {}
        }
        for _ in 0..WORKERS {
            self.vital(&tasks, "a worker", ends(), self.clone().work(deciding.clone()));
        }
        deciding.cancelled().await;
        info!("controller is stopping");
        tasks.close();
        tasks.wait().await;
        self.deps.executor.shutdown().await;
        reporting.cancel();
        reports.close();
        reports.wait().await;
        info!("controller stopped");
        self.dead.get().map_or(Ok(()), |died| Err(*died))
    }

    /// Starts at once what the status says is to run: the fast way back after a restart, before anything is decided. What
    /// is admitted and never ran stands beside what did, as it did before the restart. Where the very config that is
    /// admitted is gone, nothing runs instead: an older version was not asked for, and what comes waits in the stream.
    async fn resume(&self) {
        let starts = self.may_resume().await;
        let known: Vec<_> = {
            let memory = self.memory();
            memory.iter().filter_map(|(id, memory)| Some((id.clone(), memory.record()?.clone()))).collect()
        };
        for (id, record) in known {
            let PipelineStatus { admitted, kept, .. } = &record.status;
            if let (true, Phase::Run | Phase::Drain, Some(spec)) = (starts, admitted.phase, &admitted.spec) {
                // Two targets never overlap.
                let before = kept.ran.as_ref().filter(|ran| ran.fingerprint != spec.fingerprint && ran.target == spec.target);
                if let Some(before) = before
                    && let Err(error) = self.deps.executor.go_on(before).await
                {
                    warn!(pipeline = %id, %error, "the version that ran before could not be started");
                }
                match self.deps.executor.ensure(spec).await {
                    Ok(()) => self.deps.executor.share(&id, admitted.live_executions),
                    Err(error) => warn!(pipeline = %id, %error, "execution could not be started"),
                }
            }
            self.queue.add(id);
        }
    }

    /// Waits until what was resumed runs here, a moment at most: what reconciles read, and there is one for each, would
    /// only keep the first pulls waiting.
    async fn started(&self) {
        let until = Instant::now() + RESUMING;
        while !self.deps.executor.shared() && Instant::now() < until {
            let starts = |observed: &Observed| observed.reports.iter().any(|report| report.phase == ExecutionPhase::Starting);
            match self.deps.executor.list().await {
                Ok(all) if all.iter().any(starts) => tokio::time::sleep(RESUMING / 20).await,
                _ => return,
            }
        }
    }

    async fn work(self: Arc<Self>, stop: CancellationToken) {
        loop {
            let id = tokio::select! {
                id = self.queue.next() => id,
                () = stop.cancelled() => return,
            };
            let span = info_span!("reconcile", pipeline = %id);
            // A task of its own, so that a panic costs this reconcile and not the worker.
            let controller = self.clone();
            let reconciled = id.clone();
            let attempt = tokio::spawn(async move { controller.reconcile_and_requeue(&reconciled).await }.instrument(span));
            let mut attempt = AbortOnDropHandle::new(attempt);
            match tokio::time::timeout(ENDLESS, &mut attempt).await {
                Ok(ended) => self.reconciled(&id, ended),
                // Others are not to wait for it.
                Err(_) => {
                    warn!(pipeline = %id, "reconcile does not end");
                    tokio::spawn(self.clone().outlast(id, attempt, stop.clone()));
                }
            }
        }
    }

    /// Waits for a reconcile that does not end, but not for ever.
    async fn outlast(self: Arc<Self>, id: PipelineId, mut attempt: AbortOnDropHandle<()>, stop: CancellationToken) {
        tokio::select! {
            ended = &mut attempt => self.reconciled(&id, ended),
            () = tokio::time::sleep(CUT_OFF - ENDLESS) => {
                warn!(pipeline = %id, "reconcile is cut off");
                drop(attempt);
                self.queue.add_after(id.clone(), AFTER_A_FAULT);
                self.queue.done(&id);
            }
            () = stop.cancelled() => {}
        }
    }

    fn reconciled(&self, id: &PipelineId, ended: Result<(), JoinError>) {
        if let Err(error) = ended {
            warn!(pipeline = %id, %error, "reconcile panicked");
            self.queue.add_after(id.clone(), AFTER_A_FAULT);
        }
        self.queue.done(id);
    }

    /// Whether the executor has only begun what these steps asked of it: an execution writes what it holds before it ends.
    async fn under_way(&self, id: &PipelineId, steps: &[Action]) -> Result<bool, ExecutorError> {
        if !steps.iter().any(|step| matches!(step, Action::Ensure(_) | Action::Stop | Action::Destroy)) {
            return Ok(false);
        }
        let observed = self.deps.executor.observe(id).await?;
        Ok(steps.iter().any(|step| match step {
            Action::Ensure(spec) => observed.as_ref().is_some_and(|observed| observed.fingerprint != spec.fingerprint),
            Action::Stop | Action::Destroy => observed.as_ref().is_some_and(|observed| observed.running),
            _ => false,
        }))
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memories> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is remembered of `id`, if anything is.
    fn recall(&self, id: &PipelineId, change: impl FnOnce(&mut Memory)) {
        self.memory().recall(id, change);
    }

    /// Changes what is remembered of `id`, from now on.
    fn remember(&self, id: &PipelineId, change: impl FnOnce(&mut Memory)) {
        self.memory().remember(id, change);
    }
}
