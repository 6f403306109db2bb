//! Drivers: one task for each pipeline that something is wanted of, from the verb until all is as wanted.
//!
//! A driver looks, plans, takes the steps and looks again. What fails is tried again with growing delays, and shown as a
//! trouble meanwhile. There is never more than one for a pipeline: a verb that finds one tells it what is wanted now.

use super::Shared;
use super::config::{self, container_config, filling_config, filling_name, made_in, stop_timeout, volume_config};
use super::engine::EngineError;
use super::plan::{Next, Step, plan};
use super::seen::{Container, Want};
use crate::executor::names::replica_name;
use crate::pipeline::backoff::Backoff;
use crate::pipeline::id::PipelineId;
use crate::pipeline::report::Trouble;
use crate::pipeline::spec::ExecutionSpec;
use crate::settings::PullPolicy;
use bollard::auth::DockerCredentials;
use bollard::exec::{CreateExecOptions, StartExecOptions};
use bollard::models::VolumeCreateRequest;
use bollard::query_parameters::{
    CreateContainerOptions, CreateImageOptions, RemoveContainerOptions, RemoveVolumeOptions, StopContainerOptions,
};
use futures_util::TryStreamExt;
use futures_util::future::join_all;
use jiff::Timestamp;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio_util::task::AbortOnDropHandle;
use tracing::{Instrument, debug, info, info_span, warn};

const AGAIN: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(30));
/// What a pull may take beyond a call's timeout.
const PULL: Duration = Duration::from_secs(600);
/// How often, and how long apart, a probe is asked for its end.
const PROBE_LOOKS: u32 = 60;
const PROBE_LOOK: Duration = Duration::from_millis(100);

/// A driver, as verbs and observers see it. Its task ends with it.
pub struct Driver {
    want: watch::Sender<Want>,
    trouble: Arc<Mutex<Option<Trouble>>>,
    poked: Arc<Notify>,
    _task: AbortOnDropHandle<()>,
}

impl Driver {
    /// What it is at work on.
    pub fn want(&self) -> Want {
        self.want.borrow().clone()
    }

    /// What is in its way.
    pub fn trouble(&self) -> Vec<Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Makes it look now.
    pub fn poke(&self) {
        self.poked.notify_one();
    }
}

/// Makes `want` what is wanted of `id`.
pub fn want(shared: &Arc<Shared>, id: &PipelineId, want: Want) {
    let mut drivers = shared.drivers();
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
    let (sender, wanted) = watch::channel(want);
    let (trouble, poked) = (Arc::default(), Arc::new(Notify::new()));
    let work =
        Work { shared: shared.clone(), id: id.clone(), wanted, trouble: Arc::clone(&trouble), poked: poked.clone(), ready: HashSet::new() };
    let task = AbortOnDropHandle::new(tokio::spawn(work.run().instrument(info_span!("drive", pipeline = %id))));
    drivers.insert(id.clone(), Driver { want: sender, trouble, poked, _task: task });
}

struct Work {
    shared: Arc<Shared>,
    id: PipelineId,
    wanted: watch::Receiver<Want>,
    trouble: Arc<Mutex<Option<Trouble>>>,
    poked: Arc<Notify>,
    /// The containers that have said that they are ready.
    ready: HashSet<String>,
}

impl Work {
    async fn run(mut self) {
        let mut failures = 0;
        loop {
            let want = self.wanted.borrow_and_update().clone();
            let wait = match self.pass(&want).await {
                Ok(Next { steps, again: None }) if steps.is_empty() => {
                    self.clear();
                    let mut drivers = self.shared.drivers();
                    // Under the lock: a verb either finds this driver and changes its mind, or none.
                    if self.wanted.has_changed().unwrap_or(true) {
                        continue;
                    }
                    let done = drivers.remove(&self.id);
                    drop(drivers);
                    self.shared.tell(&self.id);
                    // Dropped last: it ends this task.
                    drop(done);
                    return;
                }
                Ok(Next { again, .. }) => {
                    failures = 0;
                    self.clear();
                    match again {
                        Some(wait) => wait,
                        None => continue,
                    }
                }
                Err(EngineError::NotPermitted) => {
                    info!("this controller does not decide any more and leaves the rest to the one that does");
                    let done = self.shared.drivers().remove(&self.id);
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
    fn show(&self, error: &EngineError) {
        let trouble = Trouble { reason: error.reason(), message: error.to_string() };
        let mut shown = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.as_ref() == Some(&trouble) {
            return;
        }
        warn!(%error, "engine does not do what is wanted, and is asked again");
        *shown = Some(trouble);
        drop(shown);
        self.shared.tell(&self.id);
    }

    fn clear(&self) {
        let gone = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).take();
        if gone.is_some() {
            self.shared.tell(&self.id);
        }
    }

    /// Looks, plans, takes the steps; what was planned.
    async fn pass(&mut self, want: &Want) -> Result<Next, EngineError> {
        self.shared.permitted()?;
        let (containers, volumes) = tokio::try_join!(self.shared.containers(Some(&self.id)), self.shared.volumes(Some(&self.id)))?;
        let next = plan(want, &containers, &volumes, &self.ready, Timestamp::now());
        debug!(?next, "planned");
        let spec = match want {
            Want::Run(spec) => Some(spec.as_ref()),
            Want::Stopped | Want::Gone => None,
        };
        // What is started again gets its files anew, before: a password may have changed since. What is made waits for them
        // itself, so that they come while it is being started; those of one replica are those of all.
        let creates = next.steps.iter().any(|step| matches!(step, Step::Create(_)));
        let starts = next.steps.iter().any(|step| matches!(step, Step::Start(_)));
        let begun = |spec: &&ExecutionSpec| volumes.iter().any(|volume| volume.filling && volume.fingerprint == spec.fingerprint);
        let mut alongside = spec.filter(begun);
        if let (true, Some(spec)) = (creates || starts, spec) {
            let there = containers.iter().any(|one| one.fingerprint == spec.fingerprint && one.replica.is_some());
            if starts || !there {
                tokio::try_join!(self.image(), self.volume(volume_config(spec)), self.volume(filling_config(spec)))?;
                alongside = Some(spec);
            } else {
                self.image().await?;
            }
        }
        if let Some(spec) = alongside.take_if(|_| starts) {
            self.fill(spec).await?;
        }
        let made = Notify::new();
        let fill = async {
            let Some(spec) = alongside else { return Ok(()) };
            // Not before the first container is there, which would be slower for it; where many wait to be made, at once.
            if creates && self.shared.starts.available_permits() > 0 {
                made.notified().await;
            }
            self.fill(spec).await
        };
        let steps = async {
            let taken = join_all(next.steps.iter().map(|step| self.take(step, spec, &containers, &made))).await;
            made.notify_one();
            taken
        };
        let (filled, taken) = tokio::join!(fill, steps);
        filled?;
        let mut failed = None;
        for (step, taken) in next.steps.iter().zip(taken) {
            match (step, taken) {
                (Step::Probe(id), Ok(true)) => {
                    self.ready.insert(id.clone());
                }
                // Gone or changed since the look; the next one shows it.
                (_, Ok(_) | Err(EngineError::Missing { .. })) => {}
                (_, Err(error)) => failed = failed.or(Some(error)),
            }
        }
        match failed {
            Some(error) => Err(error),
            // One that has just become ready may be the last that was waited for.
            None if next.steps.iter().any(|step| matches!(step, Step::Probe(id) if self.ready.contains(id))) => {
                Ok(Next { again: None, ..next })
            }
            None => Ok(next),
        }
    }

    /// Takes one step; whether it is so, for a probe. Says `made` once a container is there and before it is started.
    async fn take(&self, step: &Step, spec: Option<&ExecutionSpec>, containers: &[Container], made: &Notify) -> Result<bool, EngineError> {
        let shared = &self.shared;
        let name = |id: &str| containers.iter().find(|one| one.id == id).map_or(String::new(), |one| one.instance.name.clone());
        let grace = shared.settings.executor.shutdown_grace;
        match step {
            Step::Create(replica) => {
                if let Some(spec) = spec {
                    self.create(spec, *replica, grace, made).await?;
                }
            }
            Step::Start(id) => {
                let _start = shared.starts.acquire().await;
                shared.permitted()?;
                shared.engine.call("start container", |engine| async move { engine.start_container(id, None).await }).await?;
                info!(container = name(id), "container started");
            }
            Step::Unpause(id) => {
                shared.permitted()?;
                shared.engine.call("unpause container", |engine| async move { engine.unpause_container(id).await }).await?;
                info!(container = name(id), "container goes on");
            }
            Step::Probe(id) => return self.probe(id).await,
            Step::Stop(id) => {
                shared.permitted()?;
                let longest = stop_timeout(grace);
                let options = StopContainerOptions { t: Some(i32::try_from(longest.as_secs()).unwrap_or(i32::MAX)), ..Default::default() };
                let stop = |engine: bollard::Docker| async move { engine.stop_container(id, Some(options)).await };
                shared.engine.call_for("stop container", longest, stop).await?;
                info!(container = name(id), "container stopped");
            }
            Step::Remove(id) => {
                shared.permitted()?;
                let options = RemoveContainerOptions::default();
                shared.engine.call("remove container", |engine| async move { engine.remove_container(id, Some(options)).await }).await?;
                info!(container = name(id), "container removed");
            }
            Step::RemoveVolume(volume) => self.remove_volume(volume).await?,
        }
        Ok(true)
    }

    /// Makes and starts one replica; its volume is there.
    async fn create(&self, spec: &ExecutionSpec, replica: u32, grace: Duration, made: &Notify) -> Result<(), EngineError> {
        let shared = &self.shared;
        let name = replica_name(spec, replica);
        let mut body = container_config(spec, replica, &shared.settings.executor.docker, grace);
        let options = CreateContainerOptions { name: Some(name.clone()), ..Default::default() };
        let _start = shared.starts.acquire().await;
        made_in(shared.permitted()?, &mut body.labels);
        let create = |engine: bollard::Docker| async move { engine.create_container(Some(options), body).await };
        let created = shared.engine.call("create container", create).await?;
        made.notify_one();
        shared.permitted()?;
        shared.engine.call("start container", |engine| async move { engine.start_container(&created.id, None).await }).await?;
        info!(version = %spec.version, execution = spec.fingerprint.short(), container = name, "container started");
        Ok(())
    }

    /// Fills the volume of an execution, and takes away what says that it is not filled.
    async fn fill(&self, spec: &ExecutionSpec) -> Result<(), EngineError> {
        self.shared.filler.fill(&self.shared, spec).await?;
        let name = filling_name(spec);
        match self.remove_volume(&name).await {
            Err(EngineError::Missing { .. }) => Ok(()),
            removed => removed,
        }
    }

    async fn remove_volume(&self, name: &str) -> Result<(), EngineError> {
        self.shared.permitted()?;
        let remove = |engine: bollard::Docker| async move { engine.remove_volume(name, None::<RemoveVolumeOptions>).await };
        self.shared.engine.call("remove volume", remove).await
    }

    /// Makes a volume; one that is there stays as it is.
    async fn volume(&self, mut volume: VolumeCreateRequest) -> Result<(), EngineError> {
        made_in(self.shared.permitted()?, &mut volume.labels);
        self.shared.engine.call("create volume", |engine| async move { engine.create_volume(volume).await }).await?;
        Ok(())
    }

    /// Sees to it that the engine has the image.
    async fn image(&self) -> Result<(), EngineError> {
        let docker = &self.shared.settings.executor.docker;
        let image = docker.image.as_str();
        if docker.pull != PullPolicy::Always {
            match self.shared.engine.call("inspect image", |engine| async move { engine.inspect_image(image).await }).await {
                Ok(_) => return Ok(()),
                Err(EngineError::Missing { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let failed = |message: String| EngineError::Image { image: image.to_owned(), message };
        if docker.pull == PullPolicy::Never {
            return Err(failed("the engine does not have it, and executor.docker.pull is never".into()));
        }
        let credentials = docker.registry.password.as_ref().map(|password| DockerCredentials {
            username: docker.registry.username.clone(),
            password: Some(password.expose().to_owned()),
            serveraddress: docker.registry.server.clone(),
            ..Default::default()
        });
        let options = CreateImageOptions { from_image: Some(image.to_owned()), ..Default::default() };
        let pull = |engine: bollard::Docker| async move {
            engine.create_image(Some(options), None, credentials).try_for_each(|_| async { Ok(()) }).await
        };
        match self.shared.engine.call_for("pull image", PULL, pull).await {
            Err(EngineError::Missing { message, .. } | EngineError::Refused { message, .. }) => Err(failed(message)),
            pulled => pulled,
        }
    }

    /// Asks a container whether it is ready, as its own health check does; sooner than the engine would.
    async fn probe(&self, id: &str) -> Result<bool, EngineError> {
        let engine = &self.shared.engine;
        let options = CreateExecOptions { cmd: Some(vec![config::BINARY, "probe"]), ..Default::default() };
        let probe = match engine.call("probe container", |engine| async move { engine.create_exec(id, options).await }).await {
            Ok(probe) => probe.id,
            // It does not run at the moment.
            Err(EngineError::Conflict { .. }) => return Ok(false),
            Err(error) => return Err(error),
        };
        let (probe, detached) = (&probe, StartExecOptions { detach: true, ..Default::default() });
        match engine.call("probe container", |engine| async move { engine.start_exec(probe, Some(detached)).await.map(|_| ()) }).await {
            Err(EngineError::Conflict { .. } | EngineError::Refused { .. }) => return Ok(false),
            started => started?,
        }
        for _ in 0..PROBE_LOOKS {
            tokio::time::sleep(PROBE_LOOK).await;
            let looked = engine.call("probe container", |engine| async move { engine.inspect_exec(probe).await }).await?;
            if looked.running != Some(true) {
                return Ok(looked.exit_code == Some(0));
            }
        }
        Ok(false)
    }
}
