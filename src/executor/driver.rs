//! Drivers: one task for each pipeline that something is wanted of, from the verb until all is as wanted.
//!
//! A driver passes again and again: its [`Work`] looks, plans and takes the steps. What fails is tried again with growing
//! delays, and shown as a trouble meanwhile. There is never more than one for a pipeline: a verb that finds one tells it
//! what is wanted now. For backends whose executions outlive this process; a driver's memory is of work under way alone.

use super::BoxFuture;
use super::error::BackendError;
use crate::pipeline::backoff::Backoff;
use crate::pipeline::id::PipelineId;
use crate::pipeline::report::Trouble;
use crate::pipeline::spec::ExecutionSpec;
use std::collections::HashMap;
use std::fmt::Display;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, broadcast, watch};
use tokio_util::task::AbortOnDropHandle;
use tracing::{Instrument, debug, info, info_span, warn};

const AGAIN: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(30));
const LISTEN_AGAIN: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
/// Listening that lasted this long was good.
const GOOD: Duration = Duration::from_secs(10);

/// What a backend is to bring about for a pipeline.
#[derive(Debug, Clone, PartialEq)]
pub enum Want {
    /// Exactly this runs.
    Run(Box<ExecutionSpec>),
    /// Nothing runs, and what there is is kept.
    Stopped,
    /// Nothing is left.
    Gone,
    /// What runs this finds its secrets as they are now; nothing is started or ended for it.
    Refreshed(Box<ExecutionSpec>),
}

/// What one pass came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// All is as wanted.
    Done,
    /// Something was changed, or somebody else was faster: look at once.
    Again,
    /// Nothing to do before something happens, or this time has passed.
    Wait(Duration),
}

/// What a driver does for its pipeline.
pub trait Work: Send + 'static {
    /// Looks, plans, takes the steps.
    fn pass<'a>(&'a mut self, want: &'a Want) -> BoxFuture<'a, Result<Pass, BackendError>>;
}

/// A driver, as verbs and observers see it. Its task ends with it.
struct Driver {
    want: watch::Sender<Want>,
    trouble: Arc<Mutex<Option<Trouble>>>,
    poked: Arc<Notify>,
    _task: AbortOnDropHandle<()>,
}

/// The drivers of a backend, and its hints.
pub struct Drivers {
    drivers: Mutex<HashMap<PipelineId, Driver>>,
    events: broadcast::Sender<PipelineId>,
}

impl Default for Drivers {
    fn default() -> Self {
        Self { drivers: Mutex::default(), events: broadcast::channel(1024).0 }
    }
}

impl Drivers {
    fn drivers(&self) -> MutexGuard<'_, HashMap<PipelineId, Driver>> {
        self.drivers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same, but only where nothing is under way: what is has the last word.
    pub fn want_if_idle<W: Work>(self: &Arc<Self>, id: &PipelineId, want: Want, work: impl FnOnce() -> W) {
        let drivers = self.drivers();
        if !drivers.contains_key(id) {
            self.begin(drivers, id, want, work);
        }
    }

    /// Makes `want` what is wanted of `id`; `work` makes what does it, where nothing is under way.
    pub fn want<W: Work>(self: &Arc<Self>, id: &PipelineId, want: Want, work: impl FnOnce() -> W) {
        let drivers = self.drivers();
        if let Some(driver) = drivers.get(id) {
            driver.want.send_if_modified(|old| {
                let differs = *old != want;
                if differs {
                    *old = want;
                }
                differs
            });
            return;
        }
        self.begin(drivers, id, want, work);
    }

    fn begin<W: Work>(
        self: &Arc<Self>,
        mut drivers: MutexGuard<'_, HashMap<PipelineId, Driver>>,
        id: &PipelineId,
        want: Want,
        work: impl FnOnce() -> W,
    ) {
        let (sender, wanted) = watch::channel(want);
        let (trouble, poked) = (Arc::default(), Arc::new(Notify::new()));
        let drive = Drive { drivers: self.clone(), id: id.clone(), wanted, trouble: Arc::clone(&trouble), poked: poked.clone() };
        let task = tokio::spawn(drive.run(work()).instrument(info_span!("drive", pipeline = %id)));
        drivers.insert(id.clone(), Driver { want: sender, trouble, poked, _task: AbortOnDropHandle::new(task) });
    }

    /// What is under way for `id`, and what is in its way.
    pub fn at_work(&self, id: &PipelineId) -> (Option<Want>, Vec<Trouble>) {
        let trouble = |driver: &Driver| driver.trouble.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect();
        self.drivers().get(id).map_or((None, Vec::new()), |driver| (Some(driver.want.borrow().clone()), trouble(driver)))
    }

    /// The pipelines that something is under way for.
    pub fn ids(&self) -> Vec<PipelineId> {
        self.drivers().keys().cloned().collect()
    }

    /// Makes the controller look at `id`, and its driver too.
    pub fn hint(&self, id: &PipelineId) {
        self.poke(id);
        self.tell(id);
    }

    /// Makes the driver of `id` look; whether there is one.
    pub fn poke(&self, id: &PipelineId) -> bool {
        let drivers = self.drivers();
        let driver = drivers.get(id);
        driver.inspect(|driver| driver.poked.notify_one()).is_some()
    }

    /// Makes the controller look at `id`.
    pub fn tell(&self, id: &PipelineId) {
        // Only a hint: without a receiver nobody needs it.
        let _ = self.events.send(id.clone());
    }

    /// The hints.
    pub fn events(&self) -> broadcast::Receiver<PipelineId> {
        self.events.subscribe()
    }

    /// Ends all drivers, wherever they are.
    pub fn clear(&self) {
        self.drivers().clear();
    }
}

/// Listens to what changes by itself, again and again with growing delays, for ever; ended by being dropped. `once` listens
/// until there is nothing more to hear.
pub async fn listen_for_ever<E: Display, F: Future<Output = Result<(), E>>>(to: &'static str, once: impl Fn() -> F) {
    let mut failures = 0;
    loop {
        let begun = Instant::now();
        match once().await {
            Ok(()) => debug!(to, "listening ended"),
            Err(error) => debug!(to, %error, "listening failed"),
        }
        failures = if begun.elapsed() > GOOD { 1 } else { failures + 1 };
        tokio::time::sleep(LISTEN_AGAIN.delay(failures, rand::random())).await;
    }
}

struct Drive {
    drivers: Arc<Drivers>,
    id: PipelineId,
    wanted: watch::Receiver<Want>,
    trouble: Arc<Mutex<Option<Trouble>>>,
    poked: Arc<Notify>,
}

impl Drive {
    async fn run<W: Work>(mut self, mut work: W) {
        let mut failures = 0;
        loop {
            let want = self.wanted.borrow_and_update().clone();
            let wait = match work.pass(&want).await {
                Ok(Pass::Done) => {
                    self.clear();
                    let mut drivers = self.drivers.drivers();
                    // Under the lock: a verb either finds this driver and changes its mind, or none.
                    if self.wanted.has_changed().unwrap_or(true) {
                        continue;
                    }
                    let done = drivers.remove(&self.id);
                    drop(drivers);
                    self.drivers.tell(&self.id);
                    // Dropped last: it ends this task.
                    drop(done);
                    return;
                }
                Ok(passed) => {
                    failures = 0;
                    self.clear();
                    match passed {
                        Pass::Wait(wait) => wait,
                        _ => continue,
                    }
                }
                Err(BackendError::NotPermitted) => {
                    info!("this controller does not decide any more and leaves the rest to the one that does");
                    let done = self.drivers.drivers().remove(&self.id);
                    drop(done);
                    return;
                }
                Err(error) => {
                    failures += 1;
                    self.show(&error);
                    AGAIN.delay(failures, rand::random())
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.poked.notified() => {}
                _ = self.wanted.changed() => {}
            }
        }
    }

    /// Shows what is in the way, and says so where it is new.
    fn show(&self, error: &BackendError) {
        let trouble = Trouble::new(error.reason(), &error.to_string());
        let mut shown = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.as_ref() == Some(&trouble) {
            return;
        }
        warn!(%error, "backend does not do what is wanted, and is asked again");
        *shown = Some(trouble);
        drop(shown);
        self.drivers.tell(&self.id);
    }

    fn clear(&self) {
        let gone = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).take();
        if gone.is_some() {
            self.drivers.tell(&self.id);
        }
    }
}
