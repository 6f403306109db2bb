//! The last log lines of containers that have ended, as their nodes kept them: of pods that are there and whose container
//! was started again, or waits for it. What runs answers for itself; what a Deployment gave up has no log any more.
//! Called for `sluice logs`; bounded in lines and bytes.

use super::Shared;
use super::manifests::CONTAINER;
use super::seen::OwnPod;
use crate::executor::error::BackendError;
use crate::executor::kept_log::{MOST_BYTES, MOST_LINES, line, newest};
use crate::pipeline::id::PipelineId;
use crate::pipeline::instance::InstanceState;
use crate::pipeline::logs::LogLine;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, LogParams};
use std::collections::VecDeque;

/// The lines of what has ended of `id`, oldest first; at most `last` of each container, 0 for all that is kept.
pub async fn logs(shared: &Shared, id: &PipelineId, last: u32) -> Result<Vec<LogLine>, BackendError> {
    let seen = shared.look_at(id).await?;
    let ended = |pod: &&OwnPod| pod.instance.restarts > 0 || pod.instance.exit_code.is_some();
    let pods: Vec<_> = seen.pods.iter().filter(ended).collect();
    let most = MOST_BYTES / pods.len().max(1);
    let mut all = Vec::new();
    for pod in pods {
        match read(shared, pod, most).await {
            Ok(lines) => all.extend(newest(lines, last)),
            // Gone since it was listed, or its log is.
            Err(BackendError::Missing { .. } | BackendError::Refused { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    all.sort_by_key(|line| line.timestamp);
    Ok(all)
}

async fn read(shared: &Shared, pod: &OwnPod, most: usize) -> Result<VecDeque<LogLine>, BackendError> {
    let name = pod.instance.name.as_str();
    let runs = matches!(pod.instance.state, InstanceState::Running | InstanceState::Starting | InstanceState::Unhealthy);
    let parameters = LogParams {
        container: Some(CONTAINER.into()),
        // What it writes now it says itself.
        previous: runs,
        tail_lines: i64::try_from(MOST_LINES).ok(),
        timestamps: true,
        ..Default::default()
    };
    let text = shared.cluster.ask("read logs", |api: Api<Pod>| async move { api.logs(name, &parameters).await }).await?;
    let mut lines = VecDeque::new();
    let mut bytes = 0;
    for one in text.lines().rev() {
        bytes += one.len();
        if bytes > most {
            break;
        }
        if let Some(line) = line(one, "pod", name) {
            lines.push_front(line);
        }
    }
    Ok(lines)
}
