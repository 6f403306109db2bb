//! Carries secrets that have changed into the volumes of what runs, where executions read them again by themselves: nothing is
//! restarted. Secrets that lie on the engine's own machine (`secrets.host_dir`) change there.
//!
//! What always holds: a driver does it, so that no volume is filled that another step removes meanwhile. Whoever is unhealthy gets
//! its secrets anew too, since they may have changed while no controller was there.

use super::seen::Container;
use super::work::Working;
use super::{Shared, files};
use crate::executor::driver::Want;
use crate::pipeline::id::PipelineId;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tracing::{debug, info};

/// How often it is looked whether anything has changed.
const LOOK: Duration = Duration::from_secs(3);

/// Looks for ever; ended by being dropped.
pub async fn keep(shared: Arc<Shared>) {
    let mut carried = files::digest(&shared.settings).ok();
    loop {
        tokio::time::sleep(LOOK).await;
        // A file that is being replaced is looked at again.
        let Ok(now) = files::digest(&shared.settings) else { continue };
        // Who does not decide leaves it to the one that does, which sees the same files.
        if carried == Some(now) || shared.permitted().is_err() {
            continue;
        }
        match shared.all().await {
            Ok(all) => {
                info!(pipelines = all.len(), "secrets have changed and are carried to what runs");
                all.iter().for_each(|(id, (containers, _))| shared.refresh(id, containers.iter()));
                carried = Some(now);
            }
            Err(error) => debug!(%error, "what runs could not be listed, to carry secrets to it"),
        }
    }
}

impl Shared {
    /// Has secrets carried to those of `containers` that are live.
    pub fn refresh<'a>(self: &Arc<Self>, id: &PipelineId, containers: impl Iterator<Item = &'a Container>) {
        if self.settings.executor.docker.secrets_dir.is_some() {
            return;
        }
        let live = containers.filter(|one| one.instance.state.is_live());
        let specs: BTreeMap<_, _> = live.filter_map(|one| Some((one.fingerprint.0.as_str(), one.spec.as_ref()?))).collect();
        // While two run, a driver is at work, and the newer one is what goes on.
        if let Some(spec) = specs.into_values().next() {
            self.drivers.want_if_idle(id, Want::Refreshed(spec.clone()), || Working::new(self.clone(), id.clone()));
        }
    }
}
