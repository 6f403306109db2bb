//! Looks at the engine: what it has of a pipeline, or of all. Each look is as fresh as if it were made alone; those that are
//! wanted at the same moment, as when a hundred pipelines start, share what lists everything.
//!
//! Volumes change only by who drives a pipeline. What a driver of this process has seen to be settled, in the time for which
//! this controller decides, is therefore not listed again for whoever only observes; drivers and resyncs always look.

use super::Shared;
use super::seen::{self, Container, OwnVolume};
use super::together::{Answers, Together};
use crate::executor::driver::Want;
use crate::executor::error::BackendError;
use crate::executor::names::{ID, INSTALLATION};
use crate::pipeline::id::PipelineId;
use crate::pipeline::spec::Fingerprint;
use bollard::models::{ContainerSummary, VolumeListResponse};
use bollard::query_parameters::{ListContainersOptions, ListVolumesOptions};
use futures_util::{StreamExt, TryStreamExt, stream};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Containers that are looked at at the same time.
const AT_ONCE: usize = 8;

/// Who wants to look.
pub struct Looks {
    containers: Together<Option<PipelineId>, Arc<Vec<ContainerSummary>>>,
    volumes: Together<Option<PipelineId>, Arc<VolumeListResponse>>,
    image: Together<(), ()>,
    /// The one execution that is all that there is of a pipeline, its volume filled; and who decided when that was seen.
    settled: Mutex<HashMap<PipelineId, (Option<u64>, Fingerprint)>>,
}

impl Default for Looks {
    fn default() -> Self {
        Self {
            containers: Together::new(usize::MAX),
            volumes: Together::new(usize::MAX),
            image: Together::new(usize::MAX),
            settled: Mutex::default(),
        }
    }
}

impl Shared {
    /// The containers of `id`, as the engine shows them.
    pub async fn containers(&self, id: &PipelineId) -> Result<Vec<Container>, BackendError> {
        self.inspected(Some(id)).await
    }

    /// The volumes of `id`.
    pub async fn volumes(&self, id: &PipelineId) -> Result<Vec<OwnVolume>, BackendError> {
        let all = self.listed_volumes(Some(id)).await?;
        Ok(all.into_iter().filter(|volume| volume.pipeline == *id).collect())
    }

    /// Everything of this installation.
    pub async fn all(&self) -> Result<HashMap<PipelineId, (Vec<Container>, Vec<OwnVolume>)>, BackendError> {
        let (containers, volumes) = tokio::try_join!(self.inspected(None), self.listed_volumes(None))?;
        Ok(seen::by_pipeline(containers, volumes))
    }

    /// Notes what a driver has seen, which is about to take steps or has none left to take.
    pub fn note(&self, id: &PipelineId, steps: bool, containers: &[Container], volumes: &[OwnVolume]) {
        let only = (!steps).then(|| seen::settled(containers, volumes)).flatten();
        let mut settled = self.settled();
        match (only, self.permitted()) {
            (Some(fingerprint), Ok(epoch)) => settled.insert(id.clone(), (epoch, fingerprint.clone())),
            _ => settled.remove(id),
        };
    }

    /// Whether the volumes of a pipeline that has these containers can say nothing that is not known: a driver makes it run, or
    /// has seen it settled.
    pub fn is_settled(&self, id: &PipelineId, containers: &[Container]) -> bool {
        if matches!(self.drivers.at_work(id), (Some(Want::Run(_)), _)) {
            return true;
        }
        let settled = self.settled();
        let Some((epoch, fingerprint)) = settled.get(id) else { return false };
        let only = !containers.is_empty() && containers.iter().all(|one| one.fingerprint == *fingerprint);
        only && self.permitted().is_ok_and(|now| now == *epoch)
    }

    fn settled(&self) -> MutexGuard<'_, HashMap<PipelineId, (Option<u64>, Fingerprint)>> {
        self.looks.settled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Errors: the engine does not have the image ([`BackendError::Missing`]).
    pub async fn has_image(&self) -> Result<(), BackendError> {
        let image = self.settings.executor.docker.image.as_str();
        let call = |_, answers: Answers<()>| async move {
            let inspected = self.engine.call("inspect image", |engine| async move { engine.inspect_image(image).await }).await;
            answers.all(&inspected.map(|_| ()));
        };
        self.looks.image.ask((), call).await
    }

    async fn inspected(&self, id: Option<&PipelineId>) -> Result<Vec<Container>, BackendError> {
        let call = |asked: Vec<Option<PipelineId>>, answers: Answers<_>| async move {
            let options = ListContainersOptions { all: true, filters: Some(self.labels(&asked)), ..Default::default() };
            let listed = self.engine.call("list containers", |engine| async move { engine.list_containers(Some(options)).await }).await;
            answers.all(&listed.map(Arc::new));
        };
        let listed = self.looks.containers.ask(id.cloned(), call).await?;
        let is_meant = |one: &&ContainerSummary| id.is_none_or(|id| label(one.labels.as_ref(), ID) == Some(id.as_str()));
        let ids: Vec<_> = listed.iter().filter(is_meant).filter_map(|one| one.id.clone()).collect();
        let looked = ids.into_iter().map(|container| async move {
            let looked = self.engine.call("inspect container", |engine| async move { engine.inspect_container(&container, None).await });
            match looked.await {
                Ok(raw) => Ok(Some(raw)),
                // Gone since it was listed.
                Err(BackendError::Missing { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        });
        let raw: Vec<_> = stream::iter(looked).buffer_unordered(AT_ONCE).try_collect().await?;
        let executor = &self.settings.executor;
        let read = |raw| seen::container(&raw, self.installation, &executor.docker, executor.shutdown_grace);
        // What carries files right now is nobody's business, and goes by itself.
        let carries = |one: &Container| one.replica.is_none() && self.filler.uses(&one.instance.name);
        let mut containers: Vec<_> = raw.into_iter().flatten().filter_map(read).filter(|one| !carries(one)).collect();
        containers.sort_by(|a, b| a.instance.name.cmp(&b.instance.name));
        Ok(containers)
    }

    async fn listed_volumes(&self, id: Option<&PipelineId>) -> Result<Vec<OwnVolume>, BackendError> {
        let call = |asked: Vec<Option<PipelineId>>, answers: Answers<_>| async move {
            let options = ListVolumesOptions { filters: Some(self.labels(&asked)) };
            let listed = self.engine.call("list volumes", |engine| async move { engine.list_volumes(Some(options)).await }).await;
            answers.all(&listed.map(Arc::new));
        };
        let listed = self.looks.volumes.ask(id.cloned(), call).await?;
        Ok(listed.volumes.iter().flatten().filter_map(|raw| seen::volume(raw, self.installation)).collect())
    }

    /// What is listed for those that ask: of one pipeline only its own, of several all of the installation.
    fn labels(&self, asked: &[Option<PipelineId>]) -> HashMap<String, Vec<String>> {
        let mut labels = vec![format!("{INSTALLATION}={}", self.installation)];
        if let Some((Some(first), others)) = asked.split_first()
            && others.iter().all(|other| other.as_ref() == Some(first))
        {
            labels.push(format!("{ID}={first}"));
        }
        HashMap::from([("label".to_owned(), labels)])
    }
}

fn label<'a>(labels: Option<&'a HashMap<String, String>>, name: &str) -> Option<&'a str> {
    labels?.get(name).map(String::as_str)
}
