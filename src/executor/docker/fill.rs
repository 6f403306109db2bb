//! Puts settings and secrets into volumes, through a container that is never started: an engine writes into no memory file
//! system and through no read-only mount, and takes as long for one file as for a hundred.
//!
//! ```text
//! fill(spec) ─▶ together with all that wait: make the carrier with a mount for each volume ▸ upload one archive
//!               ▸ answer each ▸ remove the carrier
//! ```
//!
//! One pipeline waits for nobody; a hundred that start at once share a few carriers. The carrier bears the labels of the first
//! pipeline in it, so that one that a dead controller left is found and removed like anything else. Called by drivers.

use super::config::{FILES, loader_config, loader_name, made_in};
use super::together::{Answers, Together};
use super::{Shared, files};
use crate::executor::error::BackendError;
use crate::pipeline::spec::ExecutionSpec;
use bollard::query_parameters::{CreateContainerOptions, RemoveContainerOptions, UploadToContainerOptions};
use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tracing::{debug, warn};

/// Volumes that one carrier fills at most: mounts cost an engine something too.
const MOST: usize = 16;

/// Fills volumes.
pub struct Filler {
    together: Together<ExecutionSpec, ()>,
    /// The names of carriers that are at work.
    carriers: Mutex<HashSet<String>>,
}

impl Default for Filler {
    fn default() -> Self {
        Self { together: Together::new(MOST), carriers: Mutex::default() }
    }
}

impl Filler {
    /// Puts the files of an execution into its volume, which is there. Who fills others too at that moment does it together with
    /// them.
    pub async fn fill(&self, shared: &Shared, spec: &ExecutionSpec) -> Result<(), BackendError> {
        let carry = |specs: Vec<ExecutionSpec>, answers: Answers<()>| async move {
            let Some(name) = specs.first().map(loader_name) else { return };
            self.carriers().insert(name.clone());
            carry(shared, &name, &specs, answers).await;
            self.carriers().remove(&name);
        };
        self.together.ask(spec.clone(), carry).await
    }

    /// Whether the container of this name carries files right now.
    pub fn uses(&self, name: &str) -> bool {
        self.carriers().contains(name)
    }

    fn carriers(&self) -> MutexGuard<'_, HashSet<String>> {
        self.carriers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Fills the volumes of a batch and answers each.
async fn carry(shared: &Shared, name: &str, batch: &[ExecutionSpec], answers: Answers<()>) {
    let (filled, carrier) = match make(shared, name, batch).await {
        Ok(carrier) => (upload(shared, &carrier, batch.len()).await, Some(carrier)),
        Err(error) => (Err(error), None),
    };
    debug!(volumes = batch.len(), ok = filled.is_ok(), "volumes filled");
    answers.all(&filled);
    let Some(carrier) = carrier else { return };
    let options = RemoveContainerOptions { force: true, ..Default::default() };
    let remove = |engine: bollard::Docker| async move { engine.remove_container(&carrier, Some(options)).await };
    if let Err(error) = shared.engine.call("remove container", remove).await {
        warn!(container = name, %error, "what carried files could not be removed, and is removed later");
    }
}

async fn make(shared: &Shared, name: &str, batch: &[ExecutionSpec]) -> Result<String, BackendError> {
    let gone = BackendError::Refused { what: "fill volume", message: "there is none".into() };
    let mut body = loader_config(batch.first().ok_or(gone)?, batch.iter(), &shared.settings.executor.docker);
    made_in(shared.permitted()?, &mut body.labels);
    let options = CreateContainerOptions { name: Some(name.to_owned()), ..Default::default() };
    let create = |engine: bollard::Docker| async move { engine.create_container(Some(options), body).await };
    Ok(shared.engine.call("create container", create).await?.id)
}

async fn upload(shared: &Shared, carrier: &str, copies: usize) -> Result<(), BackendError> {
    let body = bollard::body_full(files::archive(&shared.settings, copies)?.into());
    let options = UploadToContainerOptions { path: FILES.into(), ..Default::default() };
    shared.permitted()?;
    let upload = |engine: bollard::Docker| async move { engine.upload_to_container(carrier, Some(options), body).await };
    shared.engine.call("upload settings", upload).await
}
