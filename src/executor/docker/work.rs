//! Takes the steps of a plan for one pipeline, and what they need: image, volume, files. Each change asks first whether this
//! controller may still make it.

use super::Shared;
use super::config::{self, container_config, filling_config, filling_name, made_in, stop_timeout, volume_config};
use super::plan::{Next, Step, plan};
use super::seen::Container;
use crate::executor::BoxFuture;
use crate::executor::driver::{Pass, Want, Work};
use crate::executor::error::BackendError;
use crate::executor::names::replica_name;
use crate::pipeline::id::PipelineId;
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
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tracing::{debug, info};

/// What a pull may take beyond a call's timeout.
const PULL: Duration = Duration::from_secs(600);
/// How often, and how long apart, a probe is asked for its end.
const PROBE_LOOKS: u32 = 60;
const PROBE_LOOK: Duration = Duration::from_millis(100);

/// The work on one pipeline.
pub struct Working {
    shared: Arc<Shared>,
    id: PipelineId,
    /// The containers that have said that they are ready.
    ready: HashSet<String>,
}

impl Work for Working {
    fn pass<'a>(&'a mut self, want: &'a Want) -> BoxFuture<'a, Result<Pass, BackendError>> {
        Box::pin(async move {
            Ok(match self.once(want).await? {
                Next { steps, again: None } if steps.is_empty() => Pass::Done,
                Next { again: None, .. } => Pass::Again,
                Next { again: Some(wait), .. } => Pass::Wait(wait),
            })
        })
    }
}

impl Working {
    /// The work on `id`, which nothing was found out about yet.
    pub fn new(shared: Arc<Shared>, id: PipelineId) -> Self {
        Self { shared, id, ready: HashSet::new() }
    }

    /// Looks, plans, takes the steps; what was planned.
    async fn once(&mut self, want: &Want) -> Result<Next, BackendError> {
        self.shared.permitted()?;
        if let Want::Refreshed(spec) = want {
            return self.refresh(spec).await;
        }
        let (containers, volumes) = tokio::try_join!(self.shared.containers(&self.id), self.shared.volumes(&self.id))?;
        let next = plan(want, &containers, &volumes, &self.ready, Timestamp::now());
        debug!(?next, "planned");
        self.shared.note(&self.id, !next.steps.is_empty(), &containers, &volumes);
        let spec = match want {
            Want::Run(spec) => Some(spec.as_ref()),
            Want::Stopped | Want::Gone | Want::Refreshed(_) => None,
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
                (_, Ok(_) | Err(BackendError::Missing { .. })) => {}
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

    /// Carries the secrets into the volume of what runs, which reads them again by itself.
    async fn refresh(&self, spec: &ExecutionSpec) -> Result<Next, BackendError> {
        let containers = self.shared.containers(&self.id).await?;
        if containers.iter().any(|one| one.fingerprint == spec.fingerprint && one.instance.state.is_live()) {
            self.shared.filler.fill(&self.shared, spec).await?;
            info!(execution = spec.fingerprint.short(), "secrets carried to the running containers");
        }
        Ok(Next::default())
    }

    /// Takes one step; whether it is so, for a probe. Says `made` once a container is there and before it is started.
    async fn take(&self, step: &Step, spec: Option<&ExecutionSpec>, containers: &[Container], made: &Notify) -> Result<bool, BackendError> {
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
    async fn create(&self, spec: &ExecutionSpec, replica: u32, grace: Duration, made: &Notify) -> Result<(), BackendError> {
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
    async fn fill(&self, spec: &ExecutionSpec) -> Result<(), BackendError> {
        self.shared.filler.fill(&self.shared, spec).await?;
        let name = filling_name(spec);
        match self.remove_volume(&name).await {
            Err(BackendError::Missing { .. }) => Ok(()),
            removed => removed,
        }
    }

    async fn remove_volume(&self, name: &str) -> Result<(), BackendError> {
        self.shared.permitted()?;
        let remove = |engine: bollard::Docker| async move { engine.remove_volume(name, None::<RemoveVolumeOptions>).await };
        self.shared.engine.call("remove volume", remove).await
    }

    /// Makes a volume; one that is there stays as it is.
    async fn volume(&self, mut volume: VolumeCreateRequest) -> Result<(), BackendError> {
        made_in(self.shared.permitted()?, &mut volume.labels);
        self.shared.engine.call("create volume", |engine| async move { engine.create_volume(volume).await }).await?;
        Ok(())
    }

    /// Sees to it that the engine has the image.
    async fn image(&self) -> Result<(), BackendError> {
        let docker = &self.shared.settings.executor.docker;
        let image = docker.image.as_str();
        if docker.pull != PullPolicy::Always {
            match self.shared.has_image().await {
                Ok(()) => return Ok(()),
                Err(BackendError::Missing { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let failed = |message: String| BackendError::Image { image: image.to_owned(), message };
        if docker.pull == PullPolicy::Never {
            return Err(failed("the engine does not have it, and executor.docker.pull is never".into()));
        }
        let credentials = docker.registry.password.as_ref().map(|password| DockerCredentials {
            username: docker.registry.username.clone(),
            password: Some(password.expose().to_string()),
            serveraddress: docker.registry.server.clone(),
            ..Default::default()
        });
        let options = CreateImageOptions { from_image: Some(image.to_owned()), ..Default::default() };
        let pull = |engine: bollard::Docker| async move {
            engine.create_image(Some(options), None, credentials).try_for_each(|_| async { Ok(()) }).await
        };
        match self.shared.engine.call_for("pull image", PULL, pull).await {
            Err(BackendError::Missing { message, .. } | BackendError::Refused { message, .. }) => Err(failed(message)),
            pulled => pulled,
        }
    }

    /// Asks a container whether it is ready, as its own health check does; sooner than the engine would.
    async fn probe(&self, id: &str) -> Result<bool, BackendError> {
        let engine = &self.shared.engine;
        let options = CreateExecOptions { cmd: Some(vec![config::BINARY, "probe"]), ..Default::default() };
        let probe = match engine.call("probe container", |engine| async move { engine.create_exec(id, options).await }).await {
            Ok(probe) => probe.id,
            // It does not run at the moment.
            Err(BackendError::Conflict { .. }) => return Ok(false),
            Err(error) => return Err(error),
        };
        let (probe, detached) = (&probe, StartExecOptions { detach: true, ..Default::default() });
        match engine.call("probe container", |engine| async move { engine.start_exec(probe, Some(detached)).await.map(|_| ()) }).await {
            Err(BackendError::Conflict { .. } | BackendError::Refused { .. }) => return Ok(false),
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
