//! Answers requests for log lines: every controller with its own, the holder also with those of executions that have ended
//! outside of this process. Spawned by the controller.

use super::Controller;
use crate::executor::answers::answer_logs;
use crate::store::logs::Answering;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tracing::debug;

impl Controller {
    /// Answers until `stop`.
    pub(super) async fn answer_logs(self: Arc<Self>, stop: CancellationToken) {
        let answering = Answering { process: self.process, host: self.host.clone() };
        let logs = self.deps.store.logs.clone();
        let ended = move |id: crate::pipeline::id::PipelineId, last| {
            let controller = self.clone();
            Box::pin(async move {
                if controller.holding.epoch().is_none() {
                    return Vec::new();
                }
                match controller.deps.executor.ended_logs(&id, last).await {
                    Ok(lines) => lines,
                    Err(error) => {
                        debug!(pipeline = %id, %error, "logs of what has ended could not be read");
                        Vec::new()
                    }
                }
            }) as crate::executor::BoxFuture<'static, _>
        };
        answer_logs(logs, None, answering, ended, stop).await;
    }
}
