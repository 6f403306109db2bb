//! One supervised execution of this process: runs it again and again until it is stopped, and says so when it is over.
//!
//! What always holds: a panic or an error ends here; what does not end within the grace period is aborted; and
//! [`Life::ended`] is called exactly once, after nothing of the execution runs any more, however it ended.

use super::BoxFuture;
use super::execution::{ExecutionDeps, ExecutionError, ExecutionHandle};
use crate::collector::ExecutionState;
use crate::pipeline::backoff::Backoff;
use crate::pipeline::report::{ExecutionPhase, ExecutionReport, Trouble};
use crate::pipeline::spec::ExecutionSpec;
use crate::pipeline::status::Reason;
use crate::store::Link;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{Instrument, warn};

const RESTART: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
/// What a stop may take beyond the grace period before the task is aborted.
pub(super) const ABORT_AFTER_GRACE: Duration = Duration::from_secs(5);
/// How often a new execution is asked whether it runs yet: at first, and later, when something is in its way.
const LOOK: Backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(250));

/// What runs one attempt of an execution: [`super::execution::run_execution`], or a test's stand-in.
pub type Attempt =
    Arc<dyn Fn(Arc<ExecutionSpec>, Arc<ExecutionDeps>, ExecutionHandle) -> BoxFuture<'static, Result<(), ExecutionError>> + Send + Sync>;

/// Who is told what becomes of an execution.
pub(super) trait Life: Send + Sync + 'static {
    /// It runs: it pulls, and its target is good.
    fn runs(&self, spec: &ExecutionSpec, serial: u64);
    /// Something about it changed.
    fn changed(&self, spec: &ExecutionSpec);
    /// Nothing of it is left.
    fn ended(&self, spec: &ExecutionSpec, serial: u64);
}

/// An execution that has not ended, as its slot sees it.
pub(super) struct Running {
    /// Tells it from any other of the process.
    pub serial: u64,
    /// What it runs; shared by all that know of it.
    pub spec: Arc<ExecutionSpec>,
    /// Whether it has ever run well.
    pub ran: Arc<AtomicBool>,
    state: Arc<ExecutionState>,
    failure: Arc<Mutex<Option<Trouble>>>,
    link: Arc<Link>,
    live: watch::Sender<u32>,
    stop: CancellationToken,
}

impl Running {
    /// Begins to stop it, gracefully. It is over when its [`Life::ended`] is called.
    pub fn end(&self) {
        self.stop.cancel();
    }

    /// Whether it was told to stop.
    pub fn ending(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// How many executions share the durable.
    pub fn share(&self, live: u32) {
        self.live.send_if_modified(|old| std::mem::replace(old, live.max(1)) != live.max(1));
    }

    /// What it says of itself.
    pub fn report(&self) -> ExecutionReport {
        let mut troubles = self.state.troubles();
        troubles.extend(self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone());
        let violations = self.link.violations();
        let own = violations.iter().filter(|violation| violation.is_about(&self.spec.stream, self.spec.id.as_str()));
        troubles.extend(own.take(5).map(|violation| {
            let message = format!("{violation}: grant it to the role execution (`sluice doctor --permissions execution` prints all)");
            Trouble::new(Reason::NotPermitted, &message)
        }));
        let (last_pull_ms, last_write_ms) = self.state.last_activity();
        let phase = match self.state.phase() {
            _ if self.ending() => ExecutionPhase::Stopping,
            // Between two attempts.
            ExecutionPhase::Stopped => ExecutionPhase::Blocked,
            phase => phase,
        };
        ExecutionReport {
            id: self.spec.id.clone(),
            version: self.spec.version.to_string(),
            fingerprint: self.spec.fingerprint.clone(),
            phase,
            troubles,
            advice: self.state.advice(),
            counters: self.state.counters(),
            role: self.state.role(),
            limits: self.state.limits(),
            proven: self.state.proven(),
            last_pull_ms,
            last_write_ms,
        }
    }
}

/// Runs one execution until it is stopped.
pub(super) struct Supervisor<L: Life> {
    serial: u64,
    spec: Arc<ExecutionSpec>,
    deps: Arc<ExecutionDeps>,
    attempt: Attempt,
    handle: ExecutionHandle,
    failure: Arc<Mutex<Option<Trouble>>>,
    ran: Arc<AtomicBool>,
    life: Arc<L>,
}

impl<L: Life> Supervisor<L> {
    /// An execution, and the future that runs it.
    pub fn new(serial: u64, spec: &Arc<ExecutionSpec>, deps: Arc<ExecutionDeps>, attempt: Attempt, life: Arc<L>) -> (Running, Self) {
        let (live, live_receiver) = watch::channel(1);
        let running = Running {
            serial,
            spec: spec.clone(),
            ran: Arc::default(),
            state: Arc::default(),
            failure: Arc::default(),
            link: deps.link.clone(),
            live,
            stop: CancellationToken::new(),
        };
        let handle = ExecutionHandle { state: running.state.clone(), live: live_receiver, stop: running.stop.clone() };
        let (failure, ran) = (running.failure.clone(), running.ran.clone());
        (running, Self { serial, spec: spec.clone(), deps, attempt, handle, failure, ran, life })
    }

    /// Runs until it is stopped.
    pub async fn run(self) {
        let _over = Over(&self);
        tokio::select! {
            () = self.again_and_again() => {}
            () = self.watch_over() => {}
        }
    }

    async fn again_and_again(&self) {
        let mut failures = 0;
        loop {
            let begun = tokio::time::Instant::now();
            let message = match self.once().await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error.to_string(),
                Err(error) if error.is_cancelled() => return,
                Err(panic) => format!("panic: {panic}"),
            };
            if begun.elapsed() > RESTART.cap {
                failures = 0;
            }
            failures += 1;
            warn!(error = message, failures, "execution failed and is started again");
            self.failed(Some(Trouble::new(Reason::ExecutionFailed, &message)));
            self.life.changed(&self.spec);
            tokio::select! {
                () = tokio::time::sleep(RESTART.delay(failures, rand::random())) => {}
                () = self.handle.stop.cancelled() => return,
            }
            self.failed(None);
        }
    }

    fn failed(&self, trouble: Option<Trouble>) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// One attempt, in a task of its own, so that a panic ends here; never left behind, whatever becomes of this task.
    async fn once(&self) -> Result<Result<(), ExecutionError>, tokio::task::JoinError> {
        let attempt = (self.attempt)(self.spec.clone(), self.deps.clone(), self.handle.clone());
        let mut attempt = AbortOnDropHandle::new(tokio::spawn(attempt.in_current_span()));
        let overdue = async {
            self.handle.stop.cancelled().await;
            tokio::time::sleep(self.deps.shutdown_grace + ABORT_AFTER_GRACE).await;
        };
        tokio::select! {
            ended = &mut attempt => return ended,
            () = overdue => {}
        }
        warn!("execution did not end within its grace period and is aborted");
        attempt.abort();
        // It is over only once nothing of it can run any more.
        attempt.await
    }

    /// Says once that it runs; never returns.
    async fn watch_over(&self) {
        let mut looks = 0_u32;
        while self.handle.stop.is_cancelled() || self.handle.state.phase() != ExecutionPhase::Running {
            looks = looks.saturating_add(1);
            tokio::time::sleep(LOOK.delay(looks.min(8), 0.5)).await;
        }
        self.ran.store(true, Ordering::Relaxed);
        self.life.runs(&self.spec, self.serial);
        std::future::pending().await
    }
}

/// Says that an execution is over, when it is dropped.
struct Over<'a, L: Life>(&'a Supervisor<L>);

impl<L: Life> Drop for Over<'_, L> {
    fn drop(&mut self) {
        self.0.life.ended(&self.0.spec, self.0.serial);
    }
}
