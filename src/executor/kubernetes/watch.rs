//! What runs beside the verbs: hints from a watch on our Deployments and pods, and the taking over of what an earlier
//! holder of the lease left.
//!
//! A watch that ends is made anew, and lists everything first, so that what happened meanwhile is hinted at too. What is
//! missed all the same, the controller's resync finds.

use super::Shared;
use crate::executor::driver::listen_for_ever;
use crate::executor::error::BackendError;
use crate::executor::names::{ID, INSTALLATION};
use crate::pipeline::id::PipelineId;
use futures_util::{Stream, TryStreamExt, stream};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{self, Event, watcher};
use std::sync::Arc;
use std::time::Duration;
use tracing::{info, warn};

/// How often it is looked whether this controller has become the holder; and tried again where that cannot be written.
const LOOK: Duration = Duration::from_millis(500);

/// How often it is looked whether secrets have changed.
const REFRESH: Duration = Duration::from_secs(3);

/// Listens for ever; ended by being dropped.
pub async fn listen(shared: Arc<Shared>) {
    listen_for_ever("the cluster", || once(shared.clone())).await;
}

async fn once(shared: Arc<Shared>) -> Result<(), String> {
    let text = |error: BackendError| error.to_string();
    let config = || watcher::Config::default().labels(&format!("{INSTALLATION}={}", shared.installation));
    let deployments = shared.cluster.api::<PartialObjectMeta<Deployment>>().await.map_err(text)?;
    let pods = shared.cluster.api::<PartialObjectMeta<Pod>>().await.map_err(text)?;
    let mut changes = stream::select(ids(watcher(deployments, config())), ids(watcher(pods, config())));
    // Anything may have happened while nobody watched.
    shared.drivers.ids().iter().for_each(|id| shared.drivers.hint(id));
    while let Some(id) = changes.try_next().await.map_err(|error| error.to_string())? {
        if let Some(id) = id {
            shared.drivers.hint(&id);
        }
    }
    Ok(())
}

/// The pipelines of what changed.
fn ids<K: ResourceExt + Send>(
    events: impl Stream<Item = Result<Event<K>, watcher::Error>> + Send,
) -> std::pin::Pin<Box<impl Stream<Item = Result<Option<PipelineId>, watcher::Error>>>> {
    Box::pin(events.map_ok(|event| match event {
        Event::Apply(object) | Event::InitApply(object) | Event::Delete(object) => {
            object.labels().get(ID).and_then(|id| PipelineId::parse(id).ok())
        }
        Event::Init | Event::InitDone => None,
    }))
}

/// Takes over what there is whenever this controller becomes the holder: the epoch on every Deployment then says so, and
/// nothing that an earlier holder still has on its way can be carried out. Rolls nothing.
pub async fn take_over(shared: Arc<Shared>) {
    let (mut taken, mut failed) = (None, false);
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(epoch) = shared.cluster.term().ok().map(|term| term.epoch).filter(|epoch| *epoch > 0 && taken != Some(*epoch)) else {
            continue;
        };
        match shared.take_all_over().await {
            Ok(()) => {
                (taken, failed) = (Some(epoch), false);
                info!(epoch, "what runs in the cluster is taken over");
            }
            Err(BackendError::NotPermitted) => {}
            Err(error) => {
                if !failed {
                    warn!(%error, "what runs in the cluster cannot be taken over yet");
                }
                failed = true;
            }
        }
    }
}

/// Writes secrets anew whenever they have changed, and whenever this controller becomes the holder: they may have changed
/// while there was none. Where all come from Secrets of the operator's own, there is nothing to write.
pub async fn refresh(shared: Arc<Shared>) {
    let (mut written, mut failed) = (None, false);
    loop {
        tokio::time::sleep(REFRESH).await;
        let (Ok(term), Ok(digest)) = (shared.cluster.term(), shared.secrets_digest()) else { continue };
        if written == Some((term.epoch, digest)) {
            continue;
        }
        match shared.refresh_secrets().await {
            Ok(()) => (written, failed) = (Some((term.epoch, digest)), false),
            Err(BackendError::NotPermitted) => {}
            Err(error) => {
                if !failed {
                    warn!(%error, "secrets of what runs cannot be written yet");
                }
                failed = true;
            }
        }
    }
}
