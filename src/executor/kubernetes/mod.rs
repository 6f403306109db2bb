//! The Kubernetes backend: one Deployment for each pipeline, applied on the server, and kept right by the cluster itself.
//!
//! ```text
//! ensure · stop · destroy ──▶ what is wanted ──▶ a driver for the pipeline ─┐ look ▸ plan (pure) ▸ render (pure) ▸ apply
//!                                                       ▲                   └─ until there is nothing to do; then it ends
//! watch on Deployments and pods ──▶ hint and poke ──────┘
//! list · observe ──▶ Deployments, pods, ConfigMaps by label (pure)
//! the lease changes hands ──▶ the new holder's epoch onto every Deployment: what the old one had on its way is refused
//! ```
//!
//! What always holds: only what bears the labels of this installation is touched, and an object of the same name that does
//! not is refused; what has lost its owner (`--cascade=orphan`) is adopted or removed. Each change asks first whether this controller may still make it, and is based on the version of the
//! object that was looked at. Fields that another field manager holds are reported as a conflict, never taken, but for 0
//! replicas. Within a target a rolling update leaves no gap; two targets never overlap. What runs outlives the controller.
//!
//! All controllers of a namespace must use the same cluster and namespace in it.

mod cluster;
mod ended;
pub mod manifests;
mod observe;
mod plan;
mod seen;
mod watch;
mod work;

use super::driver::{Drivers, Want};
use super::error::BackendError;
use super::{BoxFuture, Executor, ExecutorError, Observed, Permit};
use crate::executor::names::{ID, INSTALLATION};
use crate::pipeline::id::PipelineId;
use crate::pipeline::logs::LogLine;
use crate::pipeline::report::Trouble;
use crate::pipeline::spec::ExecutionSpec;
use crate::pipeline::status::Reason;
use crate::settings::{FileContent, Settings};
use cluster::{Cluster, Object};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Event, Pod};
use kube::api::{Api, ListParams};
use manifests::{Content, Manifests, manifests};
use seen::{OwnPod, Seen, Stray};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::broadcast;
use tokio::task::JoinHandle;
use tracing::debug;
use work::Working;

/// The Kubernetes backend.
pub struct KubernetesExecutor {
    shared: Arc<Shared>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// What drivers, watch and verbs share.
struct Shared {
    cluster: Cluster,
    settings: Arc<Settings>,
    installation: uuid::Uuid,
    drivers: Arc<Drivers>,
}

impl KubernetesExecutor {
    /// A backend in the cluster that `settings` name, for what bears the label of `installation`. Needs a runtime.
    pub fn new(settings: Arc<Settings>, installation: uuid::Uuid) -> Self {
        let cluster = Cluster::new(settings.executor.kubernetes.clone());
        let shared = Arc::new(Shared { cluster, settings, installation, drivers: Arc::default() });
        let tasks = vec![
            tokio::spawn(watch::listen(shared.clone())),
            tokio::spawn(watch::take_over(shared.clone())),
            tokio::spawn(watch::refresh(shared.clone())),
        ];
        Self { shared, tasks: Mutex::new(tasks) }
    }

    fn want(&self, id: &PipelineId, want: Want) {
        let shared = &self.shared;
        shared.drivers.want(id, want, || Working { shared: shared.clone(), id: id.clone() });
    }

    fn end(&self) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).drain(..).for_each(|task| task.abort());
        self.shared.drivers.clear();
    }
}

impl Drop for KubernetesExecutor {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    /// What there is of `id`, or of all pipelines.
    async fn look(&self, id: Option<&PipelineId>) -> Result<HashMap<PipelineId, Seen>, BackendError> {
        let (deployments, pods, files) = tokio::try_join!(
            self.listed::<Deployment>("list deployments", id),
            self.listed::<Pod>("list pods", id),
            self.listed::<ConfigMap>("list settings", id)
        )?;
        Ok(seen::by_pipeline(self.installation, &deployments, &pods, &files, Timestamp::now()))
    }

    async fn look_at(&self, id: &PipelineId) -> Result<Seen, BackendError> {
        Ok(self.look(Some(id)).await?.remove(id).unwrap_or_default())
    }

    async fn listed<K: Object>(&self, what: &'static str, id: Option<&PipelineId>) -> Result<Vec<K>, BackendError> {
        let parameters = self.labelled(id);
        let listed = self.cluster.ask(what, |api: Api<K>| async move { api.list(&parameters).await }).await?;
        Ok(listed.items)
    }

    /// The replica sets of `id` that nobody controls.
    async fn stray_sets(&self, id: &PipelineId) -> Result<Vec<Stray>, BackendError> {
        let parameters = self.labelled(Some(id));
        let list = |api: Api<ReplicaSet>| async move { api.list_metadata(&parameters).await };
        let sets = self.cluster.ask("list replica sets", list).await?;
        Ok(sets.items.iter().filter_map(|set| seen::stray(&set.metadata)).collect())
    }

    fn labelled(&self, id: Option<&PipelineId>) -> ListParams {
        let installation = format!("{INSTALLATION}={}", self.installation);
        ListParams::default().labels(&id.map_or(installation.clone(), |id| format!("{installation},{ID}={id}")))
    }

    /// What executions find, the names of their secret files alone.
    fn content(&self) -> Content {
        let kubernetes = &self.settings.executor.kubernetes;
        let files = self.settings.execution_files(Path::new(manifests::SECRETS), kubernetes.memory);
        let secrets = files.secrets.into_iter().map(|file| (file.name, Vec::new())).collect();
        Content { settings: files.settings, secrets, grace: self.settings.executor.shutdown_grace }
    }

    /// A digest of the secrets that executions find.
    fn secrets_digest(&self) -> Result<[u8; 32], BackendError> {
        let mut hash = Sha256::new();
        for (name, content) in self.read_content()?.secrets {
            for field in [name.as_bytes(), &content] {
                hash.update((field.len() as u64).to_be_bytes());
                hash.update(field);
            }
        }
        Ok(hash.finalize().into())
    }

    /// What executions find. Errors: a certificate that the settings name cannot be read.
    fn read_content(&self) -> Result<Content, BackendError> {
        let kubernetes = &self.settings.executor.kubernetes;
        let files = self.settings.execution_files(Path::new(manifests::SECRETS), kubernetes.memory);
        let mut secrets = BTreeMap::new();
        for file in files.secrets {
            let bytes = match file.content {
                // Nobody here needs to know it.
                _ if kubernetes.secrets.contains_key(&file.name) => Vec::new(),
                FileContent::Secret(secret) => secret.expose().as_bytes().to_vec(),
                FileContent::CopyOf(path) => std::fs::read(&path)
                    .map_err(|error| BackendError::File { path: path.display().to_string(), message: error.to_string() })?,
            };
            secrets.insert(file.name, bytes);
        }
        Ok(Content { settings: files.settings, secrets, grace: self.settings.executor.shutdown_grace })
    }

    fn render(&self, spec: &ExecutionSpec, content: Content) -> Manifests {
        manifests(spec, &self.settings.executor.kubernetes, &content)
    }

    fn observed(&self, id: &PipelineId, seen: &Seen) -> Option<Observed> {
        let (want, troubles) = self.drivers.at_work(id);
        let autoscaled = self.settings.executor.kubernetes.autoscaled;
        observe::observed(id, seen, want.as_ref(), troubles, autoscaled, |spec| Some(self.render(spec, self.content())))
    }

    /// What the cluster's events say of pods whose container does not get made.
    async fn explain(&self, seen: &Seen) -> Vec<Trouble> {
        let mut troubles = Vec::new();
        for OwnPod { uid, instance, .. } in observe::unexplained(seen, Timestamp::now()) {
            let parameters = ListParams::default().fields(&format!("involvedObject.uid={uid},type=Warning"));
            match self.cluster.ask("list events", |api: Api<Event>| async move { api.list(&parameters).await }).await {
                Ok(events) => {
                    let newest = events.items.into_iter().max_by_key(|event| event.last_timestamp.as_ref().map(|time| time.0));
                    troubles.extend(newest.map(|event| {
                        let (reason, message) = (event.reason.unwrap_or_default(), event.message.unwrap_or_default());
                        let message = format!("pod {} cannot be started: {reason}: {message}", instance.name);
                        Trouble::new(Reason::EngineRefuses, &message)
                    }));
                }
                // Without the right to read them there is only less to say.
                Err(error) => debug!(%error, "events could not be read"),
            }
        }
        troubles
    }
}

impl Executor for KubernetesExecutor {
    fn ensure<'a>(&'a self, spec: &'a ExecutionSpec) -> BoxFuture<'a, Result<(), ExecutorError>> {
        self.want(&spec.id, Want::Run(Box::new(spec.clone())));
        Box::pin(async { Ok(()) })
    }

    fn stop<'a>(&'a self, id: &'a PipelineId) -> BoxFuture<'a, Result<(), ExecutorError>> {
        self.want(id, Want::Stopped);
        Box::pin(async { Ok(()) })
    }

    fn destroy<'a>(&'a self, id: &'a PipelineId) -> BoxFuture<'a, Result<(), ExecutorError>> {
        self.want(id, Want::Gone);
        Box::pin(async { Ok(()) })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Observed>, ExecutorError>> {
        Box::pin(async {
            let mut all = self.shared.look(None).await?;
            for id in self.shared.drivers.ids() {
                all.entry(id).or_default();
            }
            Ok(all.iter().filter_map(|(id, seen)| self.shared.observed(id, seen)).collect())
        })
    }

    fn observe<'a>(&'a self, id: &'a PipelineId) -> BoxFuture<'a, Result<Option<Observed>, ExecutorError>> {
        Box::pin(async move {
            let seen = self.shared.look_at(id).await?;
            let explained = self.shared.explain(&seen).await;
            let mut observed = self.shared.observed(id, &seen);
            if let Some(observed) = &mut observed {
                observed.troubles.extend(explained);
            }
            Ok(observed)
        })
    }

    fn share(&self, _id: &PipelineId, _live: u32) {
        // Executions watch their own status.
    }

    fn events(&self) -> broadcast::Receiver<PipelineId> {
        self.shared.drivers.events()
    }

    fn shared(&self) -> bool {
        true
    }

    fn permit(&self, permit: Permit) {
        self.shared.cluster.set_permit(permit);
    }

    fn ended_logs<'a>(&'a self, id: &'a PipelineId, last: u32) -> BoxFuture<'a, Result<Vec<LogLine>, ExecutorError>> {
        Box::pin(async move { Ok(ended::logs(&self.shared, id, last).await?) })
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        // The pods outlive this process.
        self.end();
        Box::pin(async {})
    }
}
