//! Tasks that must run as long as the controller: one that ends before it is told to, a panic included, ends the process
//! with an error instead of leaving it half dead. Called where the controller starts its tasks.

use super::Controller;
use std::future::Future;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::error;

/// A task that must run for ever has ended by itself; only a restart helps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} ended by itself, which is a fault in sluice; the process ends so that it can be restarted")]
pub struct Died(pub &'static str);

/// What a vital task ends with, and whom it takes along.
pub(super) struct Ends {
    /// Ending is right once this is cancelled.
    pub until: CancellationToken,
    /// Cancelled where it ends earlier.
    pub takes: CancellationToken,
}

impl Controller {
    /// Spawns `task`, which must not end before `ends.until`.
    pub(super) fn vital(
        self: &Arc<Self>,
        tasks: &TaskTracker,
        name: &'static str,
        ends: Ends,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let guard = Guard { controller: self.clone(), name, ends };
        tasks.spawn(async move {
            let _guard = guard;
            task.await;
        });
    }
}

struct Guard {
    controller: Arc<Controller>,
    name: &'static str,
    ends: Ends,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.ends.until.is_cancelled() {
            return;
        }
        error!(task = self.name, "a task that must not end has ended");
        self.controller.dead.get_or_init(|| Died(self.name));
        self.ends.takes.cancel();
    }
}
