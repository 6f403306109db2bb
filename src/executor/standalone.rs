//! One execution as a process of its own: what runs inside a container or a pod.
//!
//! ```text
//! spec ─▶ in-process backend ─▶ run_execution, supervised as in a controller
//! status bucket, own key ─watched─▶ live executions      reports ─▶ {ns}-reports.{process}      log lines ─▶ who asks
//! ```
//!
//! Of its status it follows how many share the durable; whether its config is proven it takes from it when it starts. Of several
//! replicas, one that begins before anything is proven, and gets nothing but refused documents, holds them until it stores one too.
//!
//! It runs its spec until it is told to stop. What the status admits beside the limits (another version, a pause) is
//! for the executor to carry out, which started this process and ends it: an old version goes on until the new one is
//! healthy, and without a holder what runs goes on. It says so in its health and decides nothing. A failure that may pass is
//! tried again here with growing delays; one that lies in the config or the settings ends the process, see [`Ended`].

use super::execution::{ExecutionDeps, run_execution};
use super::{
    BoxFuture, Executor,
    answers::{answer_logs, answer_states},
    in_process::InProcess,
    supervise::Attempt,
};
use crate::pipeline::backoff::Backoff;
use crate::pipeline::health::{Check, Health, View, execution_check};
use crate::pipeline::id::PipelineId;
use crate::pipeline::report::{ExecutionPhase, ExecutionReport, Report};
use crate::pipeline::spec::ExecutionSpec;
use crate::pipeline::status::{Phase, PipelineStatus};
use crate::store::{State, Store, StoreError, WatchHealth, logs::Answering, reports::hostname, watch::watch_key};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// How often the execution is looked at; what is new goes at once.
const LOOK: Duration = Duration::from_secs(1);
/// How often a report goes without news. Each holds everything, so that who begins to listen knows within this time.
const REPORT_EVERY: Duration = Duration::from_secs(2);
/// How often the status is read without a hint.
const RESYNC: Duration = Duration::from_secs(30);
/// Delays between tries to read it.
const AGAIN: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
/// So many failures in a row that no restart helps with are believed: a cluster that is starting may miss what is there.
const BELIEVED: u32 = 3;

/// Why the process ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// The config is gone or is not the one that was meant, or the settings do not fit it: no restart helps.
    #[error("{0}; a restart does not help")]
    Hopeless(String),
    /// A task of the process ended by itself; a restart helps.
    #[error("{0} ended by itself, which is a fault in sluice; the process ends so that it can be restarted")]
    Died(&'static str),
}

/// One execution of this process; the HTTP API looks into it.
pub struct Standalone {
    spec: ExecutionSpec,
    store: Store,
    backend: InProcess,
    failures: Arc<Failures>,
    process: uuid::Uuid,
    host: String,
    begun: Instant,
    watch: Arc<WatchHealth>,
    status: Mutex<Option<PipelineStatus>>,
    own: Mutex<Vec<ExecutionReport>>,
}

/// Failures in a row that no restart helps with.
#[derive(Default)]
struct Failures {
    in_a_row: AtomicU32,
    last: OnceLock<String>,
    believed: CancellationToken,
}

impl Failures {
    fn count(&self, hopeless: Option<String>) {
        let Some(message) = hopeless else { return self.in_a_row.store(0, Ordering::Relaxed) };
        if self.in_a_row.fetch_add(1, Ordering::Relaxed) + 1 >= BELIEVED {
            self.last.get_or_init(|| message);
            self.believed.cancel();
        }
    }
}

impl Standalone {
    /// An execution of `spec` that does not run yet.
    pub fn new(spec: ExecutionSpec, deps: ExecutionDeps, store: Store) -> Arc<Self> {
        let failures = Arc::new(Failures::default());
        let counted = failures.clone();
        let attempt: Attempt = Arc::new(move |spec, deps, handle| {
            let counted = counted.clone();
            Box::pin(async move {
                let ended = run_execution(&spec, &deps, handle).await;
                counted.count(ended.as_ref().err().filter(|error| !error.retry()).map(ToString::to_string));
                ended
            })
        });
        Arc::new(Self {
            spec,
            store,
            backend: InProcess::with(deps, attempt),
            failures,
            process: uuid::Uuid::now_v7(),
            host: hostname(),
            begun: Instant::now(),
            watch: Arc::default(),
            status: Mutex::default(),
            own: Mutex::default(),
        })
    }

    /// Runs until `stop`, then writes what it holds within the grace period and returns.
    pub async fn run(self: &Arc<Self>, stop: CancellationToken) -> Result<(), Ended> {
        let ExecutionSpec { id, version, fingerprint, .. } = &self.spec;
        info!(pipeline = %id, %version, %fingerprint, process = %self.process, "execution process started");
        // What has become known since the spec was written; without an answer it runs as it was told.
        if let Err(error) = self.look().await {
            warn!(pipeline = %id, %error, "status could not be read, running as told");
        }
        let spec = self.as_known();
        if let Err(error) = self.backend.ensure(&spec).await {
            return Err(Ended::Hopeless(error.to_string()));
        }
        self.share();
        let ending = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(self.clone().follow(ending.clone()));
        tasks.spawn(self.clone().report(ending.clone()));
        let answering = Answering { process: self.process, host: self.host.clone() };
        let nothing = |_, _| Box::pin(async { Vec::new() }) as BoxFuture<'static, _>;
        tasks.spawn(answer_logs(self.store.logs.clone(), Some(self.spec.id.clone()), answering, nothing, ending.clone()));
        let me = self.clone();
        let state = move |id| Box::pin(me.clone().state(id)) as BoxFuture<'static, _>;
        tasks.spawn(answer_states(self.store.states.clone(), state, ending.clone()));
        let died = tokio::select! {
            () = stop.cancelled() => false,
            () = self.failures.believed.cancelled() => false,
            Some(_) = tasks.join_next() => true,
        };
        info!(pipeline = %id, "execution process is stopping");
        self.backend.shutdown().await;
        ending.cancel();
        while tasks.join_next().await.is_some() {}
        let hopeless = self.failures.last.get().cloned();
        // Whoever counts executions need not wait until this one has been silent for long; of a hopeless one the last report
        // stands, with its trouble.
        if hopeless.is_none() {
            self.send(Vec::new()).await;
        }
        info!(pipeline = %id, "execution process stopped");
        match (hopeless, died) {
            (Some(message), _) => Err(Ended::Hopeless(message)),
            (None, true) => Err(Ended::Died("the listener to the status, reporting or answering")),
            (None, false) => Ok(()),
        }
    }

    /// The spec as the status knows it by now: what is not part of the fingerprint may have changed since this process was
    /// told, and it may have been started again by itself long after.
    fn as_known(&self) -> ExecutionSpec {
        let known = self.status();
        let Some(status) = known.as_ref() else { return self.spec.clone() };
        let same = status.admitted.spec.as_ref().filter(|spec| spec.fingerprint == self.spec.fingerprint);
        let proven = self.spec.proven || status.kept.proven.contains(&self.spec.digest);
        let previous = same.unwrap_or(&self.spec).previous.clone();
        // What the fingerprint covers stays as this process was told: a digest that is not the config's must show.
        ExecutionSpec { proven, previous, ..self.spec.clone() }
    }

    /// Reads the status whenever it may have changed.
    async fn follow(self: Arc<Self>, stop: CancellationToken) {
        let (events, mut hints) = mpsc::channel(16);
        let (client, stream) = (self.store.client.clone(), self.store.status.stream().to_owned());
        watch_key(client, stream, self.spec.id.as_str(), events, self.watch.clone(), stop.child_token());
        let mut failures = 0_u32;
        loop {
            let pause = if failures == 0 { RESYNC } else { AGAIN.delay(failures, rand::random()) };
            tokio::select! {
                hint = hints.recv() => if hint.is_none() { return },
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => return,
            }
            match self.look().await {
                Ok(()) => failures = 0,
                Err(error) => {
                    failures = failures.saturating_add(1);
                    debug!(%error, "status could not be read");
                }
            }
        }
    }

    /// Reads the status and passes on what concerns what runs. One that is not there says nothing.
    async fn look(&self) -> Result<(), StoreError> {
        let Some(record) = self.store.status.get(&self.spec.id).await? else { return Ok(()) };
        let was_meant = self.is_meant();
        *self.status() = Some(record.status);
        if was_meant && !self.is_meant() {
            info!(pipeline = %self.spec.id, "something else is admitted now; this goes on until the executor ends it");
        }
        self.share();
        Ok(())
    }

    /// What is to be said of `id`: of the own pipeline what it holds, of any other nothing.
    async fn state(self: Arc<Self>, id: PipelineId) -> Option<State> {
        if id != self.spec.id {
            return None;
        }
        let observed = self.backend.observe(&id).await.ok().flatten()?;
        (!observed.reports.is_empty()).then(|| State::of(&observed.reports))
    }

    fn share(&self) {
        if let Some(live) = self.status().as_ref().map(|status| status.admitted.live_executions) {
            self.backend.share(&self.spec.id, live);
        }
    }

    /// Whether what is admitted, as far as it is known, is what runs here.
    fn is_meant(&self) -> bool {
        self.status().as_ref().is_none_or(|status| {
            let own = status.admitted.spec.as_ref().is_some_and(|spec| spec.fingerprint == self.spec.fingerprint);
            own && matches!(status.admitted.phase, Phase::Run | Phase::Drain)
        })
    }

    /// Reports until `stop`.
    async fn report(self: Arc<Self>, stop: CancellationToken) {
        let mut sent: Option<(Vec<ExecutionReport>, Instant)> = None;
        while !stop.is_cancelled() {
            let now = match self.backend.observe(&self.spec.id).await {
                Ok(observed) => observed.map(|observed| observed.reports).unwrap_or_default(),
                Err(error) => {
                    debug!(%error, "the execution could not be looked at");
                    Vec::new()
                }
            };
            self.own().clone_from(&now);
            if sent.as_ref().is_none_or(|(old, at)| at.elapsed() >= REPORT_EVERY || is_news(old, &now)) {
                self.send(now.clone()).await;
                sent = Some((now, Instant::now()));
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    async fn send(&self, executions: Vec<ExecutionReport>) {
        let host = self.host.clone();
        let report = Report { schema: 1, process: self.process, host, complete: true, asks: false, from: None, to: None, executions };
        if let Err(error) = self.store.reports.publish(&report).await {
            debug!(%error, "report could not be sent");
        }
    }

    fn status(&self) -> MutexGuard<'_, Option<PipelineStatus>> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn own(&self) -> MutexGuard<'_, Vec<ExecutionReport>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the execution says of itself, and whether it moves.
    fn running(&self) -> Vec<Check> {
        let check = |ok: bool, message: String| Check { name: "execution".into(), ok, message, pipeline: Some(self.spec.id.clone()) };
        let own = self.own();
        let Some(report) = own.first() else { return vec![check(false, "has not begun".into())] };
        let message = match (report.phase, report.troubles.first()) {
            (_, Some(trouble)) => format!("{}: {}", trouble.reason.as_str(), trouble.message),
            (ExecutionPhase::Running, None) => format!("runs {} ({})", report.version, report.fingerprint.short()),
            (phase, None) => format!("{phase:?}").to_lowercase(),
        };
        let mut checks = vec![check(report.phase == ExecutionPhase::Running, message)];
        checks.extend(execution_check(report, self.begun.elapsed(), now_ms()));
        checks
    }
}

impl View for Standalone {
    fn health(&self) -> Health {
        let (connected, connection) = self.store.connection();
        let alive = self.watch.alive();
        let check = |name: &str, ok: bool, message: &str| Check { name: name.into(), ok, message: message.into(), pipeline: None };
        let mut checks = vec![
            check("nats", connected, &connection),
            check("status' watch", alive, if alive { "alive" } else { "silent; being made anew" }),
        ];
        checks.extend(self.running());
        if !self.is_meant() {
            // No fault of this process, which is healthy as long as it runs.
            checks.push(check("admitted", true, "something else is admitted; the executor ends this"));
        }
        let live = self.failures.last.get().is_none();
        Health { live, ready: live && checks.iter().all(|check| check.ok), holder: None, checks }
    }

    fn pipelines(&self) -> Health {
        // All that this process is for is one pipeline.
        self.health()
    }

    fn ids(&self) -> Vec<PipelineId> {
        self.status().iter().map(|status| status.id.clone()).collect()
    }

    fn status(&self, id: &PipelineId) -> Option<PipelineStatus> {
        self.status().as_ref().filter(|status| status.id == *id).cloned()
    }

    fn executions(&self) -> Vec<ExecutionReport> {
        self.own().clone()
    }
}

/// Whether others should hear of it at once.
fn is_news(old: &[ExecutionReport], new: &[ExecutionReport]) -> bool {
    let said = |report: &ExecutionReport| {
        let reasons = report.troubles.iter().chain(&report.advice).map(|trouble| trouble.reason).collect::<Vec<_>>();
        (report.phase, report.role, report.limits, report.proven, reasons)
    };
    old.len() != new.len() || old.iter().zip(new).any(|(old, new)| said(old) != said(new))
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_failures_in_a_row_that_no_restart_helps_with_are_believed() {
        let failures = Failures::default();
        let hopeless = || Some("gone".to_owned());
        for one in [hopeless(), hopeless(), None, hopeless(), hopeless()] {
            failures.count(one);
        }
        assert!(!failures.believed.is_cancelled());
        failures.count(hopeless());
        assert!(failures.believed.is_cancelled() && failures.last.get().is_some_and(|message| message == "gone"));
    }
}
