//! What there is of a pipeline, as the backend and the reports say: what a plan and a status are made of.

use super::Controller;
use super::desire::Finding;
use super::reconcile::Failure;
use crate::executor::Observed;
use crate::pipeline::id::PipelineId;
use crate::pipeline::instance::Instance;
use crate::pipeline::plan::{Execution, Stream, World};
use crate::pipeline::report::{ExecutionPhase, ExecutionReport};
use crate::pipeline::status::{Admitted, Phase, PipelineStatus};
use std::time::Instant;

/// What is there, and what is said of it.
pub(super) struct Seen {
    pub world: World,
    /// All live executions, the own one included.
    pub reports: Vec<ExecutionReport>,
    /// The containers, where there are any.
    pub instances: Vec<Instance>,
    /// What the backend itself sees in the way.
    pub troubles: Vec<Finding>,
    /// Whether the own execution is starting without trouble.
    pub starting: bool,
}

impl Controller {
    /// What is there, and what all live executions report.
    pub(super) async fn world(&self, id: &PipelineId, status: Option<&PipelineStatus>, stream: Option<Stream>) -> Result<Seen, Failure> {
        let observed = self.deps.executor.observe(id).await?;
        Ok(self.seen(id, status, stream, observed))
    }

    /// The same with what the backend said, or did not.
    pub(super) fn seen(
        &self,
        id: &PipelineId,
        status: Option<&PipelineStatus>,
        stream: Option<Stream>,
        observed: Option<Observed>,
    ) -> Seen {
        let mut reports = self.peers.of(id, self.process);
        let admitted = status.map_or(Admitted { phase: Phase::Absent, spec: None, live_executions: 0 }, |status| status.admitted.clone());
        let right = |report: &ExecutionReport| admitted.spec.as_ref().is_some_and(|spec| spec.fingerprint == report.fingerprint);
        let elsewhere = reports.iter().any(|report| report.phase == ExecutionPhase::Running && right(report));
        let own = observed.as_ref().map_or(&[][..], |observed| &observed.reports);
        // Others' executions say themselves when they have started.
        let starting = own.iter().any(|own| own.phase == ExecutionPhase::Starting && own.troubles.is_empty());
        reports.extend(own.iter().cloned());
        let recorded = status.map_or(0, |status| status.admitted.live_executions);
        let live = self.peers.live(reports.len(), recorded, Instant::now());
        let known = status.is_some_and(|status| !status.kept.undecided);
        let (mut instances, mut troubles) = (Vec::new(), Vec::new());
        let execution = observed.map(|observed| {
            instances = observed.instances;
            troubles = observed.troubles.into_iter().map(|trouble| Finding::new(trouble.reason, trouble.message)).collect();
            Execution { fingerprint: observed.fingerprint, running: observed.running, replicas: observed.replicas }
        });
        Seen {
            world: World { known, admitted, execution, live, elsewhere, stream, given_up: Vec::new() },
            reports,
            instances,
            troubles,
            starting,
        }
    }
}
