//! Takes the steps of a plan for one pipeline: each change asks for the lease first, and is based on what was looked at.
//!
//! Three field managers, so that each part is set without the others being known: `sluice` (the Deployment and its files),
//! `sluice-scale` (the number of replicas) and `sluice-epoch` (which holder took it over). A field that somebody else has
//! set otherwise is a conflict, which is reported and not fought; only 0 replicas are forced, since what is not to run
//! must not.

use super::Shared;
use super::cluster::Object;
use super::manifests::{MANAGER, Manifests, owner, owner_of_secret};
use super::plan::{LOOK_AGAIN, Next, Rendered, Step, needs_stray_sets, plan};
use super::seen::{Placed, Seen, Stray};
use crate::executor::BoxFuture;
use crate::executor::driver::{Pass, Want, Work};
use crate::executor::error::BackendError;
use crate::executor::names::{EPOCH, INSTALLATION, pipeline_name};
use crate::pipeline::id::PipelineId;
use crate::pipeline::spec::ExecutionSpec;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, DeleteParams, Preconditions, PropagationPolicy};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tracing::{debug, info};

/// The field manager of the number of replicas.
const SCALE_MANAGER: &str = "sluice-scale";
/// The field manager of the epoch.
const EPOCH_MANAGER: &str = "sluice-epoch";
/// How soon something is looked at again that was changed between look and step.
const AT_ONCE: Duration = Duration::from_millis(50);

/// The work on one pipeline.
pub struct Working {
    /// What all share.
    pub shared: Arc<Shared>,
    /// The pipeline.
    pub id: PipelineId,
}

impl Work for Working {
    fn pass<'a>(&'a mut self, want: &'a Want) -> BoxFuture<'a, Result<Pass, BackendError>> {
        Box::pin(async move {
            match self.once(want).await {
                Err(BackendError::Stale { what, message }) => {
                    debug!(what, message, "changed since it was looked at");
                    Ok(Pass::Wait(AT_ONCE))
                }
                passed => passed,
            }
        })
    }
}

/// A Deployment as it was last seen or written.
struct Current {
    uid: String,
    resource_version: String,
}

impl Working {
    async fn once(&self, want: &Want) -> Result<Pass, BackendError> {
        self.shared.cluster.term()?;
        let mut seen = self.shared.look_at(&self.id).await?;
        if needs_stray_sets(want, &seen) {
            seen.stray_sets = self.shared.stray_sets(&self.id).await?;
        }
        let rendered = match want {
            Want::Run(spec) => Some((spec.as_ref(), self.shared.render(spec, self.shared.read_content()?))),
            Want::Stopped | Want::Gone | Want::Refreshed(_) => None,
        };
        let autoscaled = self.shared.settings.executor.kubernetes.autoscaled;
        let wanted = rendered.as_ref().map(|(spec, manifests)| Rendered { spec, manifests, autoscaled });
        let Next { steps, waits } = plan(want, wanted.as_ref(), &seen);
        debug!(?steps, waits, "planned");
        let mut current = seen.deployment.as_ref().map(Current::of);
        if !steps.is_empty()
            && let Some(placed) = &seen.deployment
        {
            current = self.shared.take_over(placed).await?.or(current);
        }
        for step in &steps {
            self.take(step, rendered.as_ref(), &seen, &mut current).await?;
        }
        Ok(match (waits, steps.is_empty()) {
            (true, _) => Pass::Wait(LOOK_AGAIN),
            (false, true) => Pass::Done,
            (false, false) => Pass::Again,
        })
    }

    async fn take(
        &self,
        step: &Step,
        rendered: Option<&(&ExecutionSpec, Manifests)>,
        seen: &Seen,
        current: &mut Option<Current>,
    ) -> Result<(), BackendError> {
        let cluster = &self.shared.cluster;
        let name = &pipeline_name(self.shared.installation, &self.id);
        match (step, rendered, current.as_ref()) {
            (Step::Create, Some((spec, manifests)), _) => {
                self.refuse_foreign::<Deployment>("Deployment", name).await?;
                self.refuse_foreign_files(manifests).await?;
                let made: Deployment = cluster.apply("apply the deployment", MANAGER, false, name, &manifests.deployment).await?;
                let uid = made.metadata.uid.clone().unwrap_or_default();
                if !self.shared.settings.executor.kubernetes.autoscaled {
                    // Said even where it is the default: who sets another number is then in conflict with us.
                    let replicas = spec.replicas.max(1);
                    let body = scaled(json!({"name": name, "uid": uid}), replicas);
                    let _: Deployment = cluster.apply("scale the deployment", SCALE_MANAGER, false, name, &body).await?;
                }
                *current = Some(Current::of_object(&made.metadata));
                self.shared.stamp(name, &uid).await?;
                info!(version = %spec.version, execution = spec.fingerprint.short(), deployment = name, "deployment created");
            }
            (Step::Apply, Some((spec, manifests)), Some(Current { resource_version, .. })) => {
                let mut deployment = manifests.deployment.clone();
                deployment.metadata.resource_version = Some(resource_version.clone());
                let made: Deployment = cluster.apply("apply the deployment", MANAGER, false, name, &deployment).await?;
                *current = Some(Current::of_object(&made.metadata));
                info!(version = %spec.version, execution = spec.fingerprint.short(), deployment = name, "deployment applied");
            }
            (Step::Files, Some((_, manifests)), Some(current)) => self.files(manifests, seen, name, &current.uid).await?,
            (Step::Scale(replicas), _, Some(Current { resource_version, .. })) => {
                let body = scaled(json!({"name": name, "resourceVersion": resource_version}), *replicas);
                let made: Deployment = cluster.apply("scale the deployment", SCALE_MANAGER, *replicas == 0, name, &body).await?;
                *current = Some(Current::of_object(&made.metadata));
                info!(deployment = name, replicas, "deployment scaled");
            }
            (Step::Delete, _, Some(Current { uid, resource_version })) => {
                let parameters = DeleteParams {
                    propagation_policy: Some(PropagationPolicy::Foreground),
                    preconditions: Some(only(uid, resource_version)),
                    ..Default::default()
                };
                let delete = |api: Api<Deployment>| async move { api.delete(name, &parameters).await };
                gone(cluster.change("delete the deployment", delete).await)?;
                info!(deployment = name, "deployment deleted");
            }
            (Step::RemoveFiles(files), ..) => {
                let delete = |api: Api<ConfigMap>| async move { api.delete(files, &DeleteParams::background()).await };
                gone(cluster.change("delete settings", delete).await)?;
            }
            (Step::RemoveSet(set), ..) => self.remove::<ReplicaSet>("delete a replica set without an owner", set).await?,
            (Step::RemovePod(pod), ..) => self.remove::<Pod>("delete a pod without an owner", pod).await?,
            // What is planned only where the other is there.
            (Step::Create | Step::Apply, None, _) | (Step::Apply | Step::Files | Step::Scale(_) | Step::Delete, ..) => {}
        }
        Ok(())
    }

    /// Deletes what nobody controls, as it was seen: one that was adopted since stays.
    async fn remove<K: Object>(&self, what: &'static str, stray: &Stray) -> Result<(), BackendError> {
        let name = stray.name.as_str();
        let parameters = DeleteParams { preconditions: Some(only(&stray.uid, &stray.resource_version)), ..DeleteParams::background() };
        let delete = |api: Api<K>| async move { api.delete(name, &parameters).await };
        gone(self.shared.cluster.change(what, delete).await)?;
        info!(name, "object without an owner deleted");
        Ok(())
    }

    /// Applies settings and spec, and the secrets, which go with them.
    async fn files(&self, manifests: &Manifests, seen: &Seen, deployment: &str, uid: &str) -> Result<(), BackendError> {
        let cluster = &self.shared.cluster;
        let mut settings = manifests.settings.clone();
        settings.metadata.owner_references = Some(vec![owner(deployment, uid)]);
        let name = &settings.metadata.name.clone().unwrap_or_default();
        if !seen.files.iter().any(|files| files.name == *name) {
            self.refuse_foreign_files(manifests).await?;
        }
        let made: ConfigMap = cluster.apply("apply settings", MANAGER, false, name, &settings).await?;
        let Some(mut secret) = manifests.secret.clone() else { return Ok(()) };
        secret.metadata.owner_references = Some(vec![owner_of_secret(name, &made.metadata.uid.unwrap_or_default())]);
        // Kept from whatever shows what is sent.
        let _: Secret = cluster.apply("apply secrets", MANAGER, false, name, &Unshown(secret)).await?;
        Ok(())
    }

    /// Errors: settings or secrets would have the name of something that is somebody else's.
    async fn refuse_foreign_files(&self, manifests: &Manifests) -> Result<(), BackendError> {
        let name = &manifests.settings.metadata.name.clone().unwrap_or_default();
        self.refuse_foreign::<ConfigMap>("ConfigMap", name).await?;
        match manifests.secret {
            Some(_) => self.refuse_foreign::<Secret>("Secret", name).await,
            None => Ok(()),
        }
    }

    async fn refuse_foreign<K: Object>(&self, kind: &'static str, name: &str) -> Result<(), BackendError> {
        let look = |api: Api<K>| async move { api.get_metadata_opt(name).await };
        let Some(found) = self.shared.cluster.ask("look whose it is", look).await? else { return Ok(()) };
        let label = found.metadata.labels.as_ref().and_then(|labels| labels.get(INSTALLATION));
        if label.is_some_and(|label| *label == self.shared.installation.to_string()) {
            return Ok(());
        }
        Err(BackendError::Foreign { kind, name: name.to_owned() })
    }
}

/// What a deletion is based on.
fn only(uid: &str, resource_version: &str) -> Preconditions {
    Preconditions { uid: Some(uid.to_owned()), resource_version: Some(resource_version.to_owned()) }
}

/// The part of a Deployment that says how many replicas it has.
fn scaled(metadata: serde_json::Value, replicas: u32) -> serde_json::Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": {"replicas": replicas}})
}

/// What is gone already is as good as deleted.
fn gone<T>(deleted: Result<T, BackendError>) -> Result<(), BackendError> {
    match deleted {
        Ok(_) | Err(BackendError::Missing { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Something that is sent and never shown.
struct Unshown<T>(T);

impl<T> std::fmt::Debug for Unshown<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl<T: serde::Serialize> serde::Serialize for Unshown<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl Current {
    fn of(placed: &Placed) -> Self {
        Self { uid: placed.uid.clone(), resource_version: placed.resource_version.clone() }
    }

    fn of_object(metadata: &ObjectMeta) -> Self {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        Self { uid: text(&metadata.uid), resource_version: text(&metadata.resource_version) }
    }
}

impl Shared {
    /// Writes the epoch of this holder onto a Deployment that bears another: whatever an earlier holder still has on its
    /// way is then based on something that is no more.
    async fn take_over(&self, placed: &Placed) -> Result<Option<Current>, BackendError> {
        let epoch = self.cluster.term()?.epoch;
        if epoch == 0 || placed.epoch.as_deref() == Some(&epoch.to_string()) {
            return Ok(None);
        }
        self.stamp(&placed.name, &placed.uid).await
    }

    async fn stamp(&self, name: &str, uid: &str) -> Result<Option<Current>, BackendError> {
        let epoch = self.cluster.term()?.epoch;
        if epoch == 0 {
            return Ok(None);
        }
        let metadata = json!({"name": name, "uid": uid, "annotations": {EPOCH: epoch.to_string()}});
        let body = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata});
        let made: Deployment = self.cluster.apply("take the deployment over", EPOCH_MANAGER, true, name, &body).await?;
        Ok(Some(Current::of_object(&made.metadata)))
    }

    /// Writes the secrets of what runs as they are now; nodes then bring them to the pods, within about a minute. One whose settings
    /// are gone meanwhile goes with them.
    pub(super) async fn refresh_secrets(&self) -> Result<(), BackendError> {
        let content = self.read_content()?;
        for seen in self.look(None).await?.into_values() {
            let Some(placed) = seen.deployment.as_ref().filter(|placed| !placed.deleting) else { continue };
            let Some(files) = seen.files.iter().find(|files| files.fingerprint == placed.fingerprint) else { continue };
            let (Some(spec), Some(uid)) = (&files.spec, files.raw["metadata"]["uid"].as_str()) else { continue };
            let Some(mut secret) = self.render(spec, content.clone()).secret else { continue };
            secret.metadata.owner_references = Some(vec![owner_of_secret(&files.name, uid)]);
            let _: Secret = self.cluster.apply("apply secrets", MANAGER, false, &files.name, &Unshown(secret)).await?;
        }
        Ok(())
    }

    /// Takes over every Deployment of the installation. Errors: some bear another epoch still.
    pub(super) async fn take_all_over(&self) -> Result<(), BackendError> {
        for seen in self.look(None).await?.into_values() {
            let Some(placed) = seen.deployment.filter(|placed| !placed.deleting) else { continue };
            match self.take_over(&placed).await {
                // Gone, or made anew by this very holder.
                Ok(_) | Err(BackendError::Missing { .. } | BackendError::Stale { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
