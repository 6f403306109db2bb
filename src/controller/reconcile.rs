//! `reconcile(id)`: read, plan, act, until nothing is left to do; then write the status.
//!
//! As the holder it decides and acts; as any other controller it only acts on what is admitted. Every pass reads the
//! world anew, so a step that changed nothing, or that somebody else did first, is simply not planned again.

use super::Controller;
use super::conditions::{Facts, conditions};
use super::desire::{Desire, Finding};
use super::fitness::{advice_on, advice_on_dead_letters, fit_to_read, left_over, replaced, unfit, waits_for};
use super::seen::Seen;
use super::written::{shown, summary, worth_writing};
use crate::executor::{ExecutorError, Observed};
use crate::pipeline::backoff::Backoff;
use crate::pipeline::config::OnDelete;
use crate::pipeline::history::remembered;
use crate::pipeline::id::PipelineId;
use crate::pipeline::plan::{Action, Deliveries, LOOK_AGAIN, Pause, Role, Stream, Wish, needs_stream, plan};
use crate::pipeline::report::ExecutionPhase;
use crate::pipeline::spec::ExecutionSpec;
use crate::pipeline::status::{Kept, ObservedSummary, Phase, PipelineStatus, Reason};
use crate::store::{PipelineConsumer, PipelineStream, StatusRecord, StoreError, StoreErrorKind, error::Unfit};
use crate::telemetry::metrics::ReconcileResult;
use jiff::Timestamp;
use std::sync::Arc;
use std::time::Duration;
use tracing::{debug, warn};

/// Whatever heals is found within 30 s, what it takes to act included.
const RETRY: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(15));
/// More passes than any plan needs; beyond it something changes as fast as we act.
pub(super) const PASSES: usize = 16;
/// How soon an execution that is starting is looked at again; doubled each time, up to about a second. Its event, which
/// is only a hint, comes long before.
const STARTING: Duration = Duration::from_millis(250);
/// How soon a holder whose lease is not trusted looks again.
const UNTRUSTED: Duration = Duration::from_millis(500);

/// How a reconcile ended.
pub(super) enum Outcome {
    /// Nothing is left to do.
    Converged,
    /// Something has to happen first.
    Again(Duration),
}

/// Why a reconcile, or a step of it, failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// NATS.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The backend.
    #[error("{0}")]
    Executor(#[from] ExecutorError),
    /// The lease ran out in the middle: another controller decides.
    #[error("the lease is not held any more")]
    NotHolder,
    /// The pipeline itself is at fault: the status says so.
    #[error("{}", .0.message)]
    Finding(Finding),
}

impl Controller {
    /// Reconciles `id` and puts it back into the queue where it has to be looked at again.
    pub(super) async fn reconcile_and_requeue(&self, id: &PipelineId) {
        let result = match self.reconcile(id).await {
            Ok(Outcome::Converged) => {
                self.recall(id, |memory| memory.failures = 0);
                ReconcileResult::Converged
            }
            Ok(Outcome::Again(delay)) => {
                self.recall(id, |memory| memory.failures = 0);
                self.queue.add_after(id.clone(), delay);
                ReconcileResult::Progressed
            }
            Err(error) => {
                let mut failures = 0;
                self.remember(id, |memory| {
                    memory.failures += 1;
                    memory.stale = true;
                    failures = memory.failures;
                });
                let delay = RETRY.delay(failures, rand::random());
                warn!(pipeline = %id, %error, failures, "reconcile failed and is tried again");
                self.queue.add_after(id.clone(), delay);
                ReconcileResult::Failed
            }
        };
        self.deps.metrics.reconciled(result);
    }

    async fn reconcile(&self, id: &PipelineId) -> Result<Outcome, Failure> {
        let role = self.role();
        let known = self.memory().get(id).and_then(|memory| memory.record().cloned());
        let mut record = self.status_of(id).await?;
        if role != Role::Holder && self.holding.nominal() {
            // The lease is ours and not trusted at the moment: a renewal is on its way, and nobody else decides.
            return Ok(Outcome::Again(UNTRUSTED));
        }
        if let (None, Some(lost), Role::Holder) = (&record, known, role) {
            // Somebody deleted it. What deletion will need, and what is proven, nobody else knows.
            warn!(pipeline = %id, "the status is gone and is written again as it was");
            self.memory().note(id, Some(lost.clone()));
            record = Some(self.put_status(lost.status.clone(), None).await?);
        }
        if record.is_none() {
            match self.end_forgotten(id, role).await {
                // A backend that is away keeps nobody from being told so.
                Err(Failure::Executor(_)) => {}
                ended => ended?,
            }
        }
        if role != Role::Holder {
            return self.follow(id, record.as_deref(), role).await;
        }
        let desire = self.desire(id, record.as_deref().map(|record| &record.status)).await?;
        if record.is_none() && (matches!(desire.wish, Wish::Deleted) || desire.summary.status == "absent") {
            // Nothing was ever admitted, and nothing is to be.
            return self.orphan(id).await;
        }
        let mut pass = Pass { id, desire, failure: None, stream: None, looked: false, left: None, seen: None, wait: None, engine: None };
        let mut forgotten = false;
        for _ in 0..PASSES {
            match self.pass(&mut pass, &mut record).await {
                Ok(Step::Done) => break,
                Ok(Step::Forgotten) => {
                    forgotten = true;
                    break;
                }
                Ok(Step::Acted) => {}
                Err(Failure::Finding(finding)) => {
                    pass.failure = Some(finding);
                    break;
                }
                // What is known is said; what there is to do waits until the backend answers.
                Err(Failure::Executor(error)) => {
                    pass.engine = Some(error);
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        if forgotten {
            return Ok(Outcome::Converged);
        }
        let starting = self.write_status(&mut pass, record).await?;
        if let Some(error) = pass.engine {
            return Err(Failure::Executor(error));
        }
        let mut starts = 0;
        self.remember(id, |memory| {
            memory.reconciled = Some(pass.desire.summary.revision);
            memory.starting = if starting { memory.starting.saturating_add(1) } else { 0 };
            starts = memory.starting;
        });
        let starting = starting.then(|| STARTING.saturating_mul(1 << (starts.saturating_sub(1)).min(2)));
        Ok(match pass.wait.into_iter().chain(starting).min() {
            Some(delay) => Outcome::Again(delay),
            None if pass.failure.is_some() => Outcome::Again(RETRY.cap),
            None => Outcome::Converged,
        })
    }

    /// Looks, plans and takes the next step.
    async fn pass(&self, pass: &mut Pass<'_>, record: &mut Option<Arc<StatusRecord>>) -> Result<Step, Failure> {
        let id = pass.id;
        (pass.wait, pass.seen) = (None, None);
        let mut kept = record.as_deref().map(|record| record.status.kept.clone()).unwrap_or_default();
        if pass.desire.discards {
            // Only for this marker: an entry that is put again means what its config says.
            kept.on_delete = OnDelete::Delete;
        }
        let looked = std::mem::take(&mut pass.looked);
        if !looked {
            pass.stream = if needs_stream(&pass.desire.wish, Role::Holder) {
                self.observe_stream(id, &pass.desire, record.as_deref()).await?
            } else {
                None
            };
        }
        let stream = pass.stream.clone();
        if let (Wish::Run(_), Some(stream)) = (&pass.desire.wish, &stream) {
            fit_to_read(stream)?;
        }
        let facts = stream.as_ref().map(|stream| self.stream_facts(id, stream, &pass.desire));
        let observed = self.deps.executor.observe(id).await?;
        let mut world = self.seen(id, record.as_deref().map(|record| &record.status), facts, observed.clone()).world;
        world.given_up.clone_from(&pass.desire.given_up);
        let steps = plan(&pass.desire.wish, &world, &kept, Role::Holder, Timestamp::now());
        debug!(?steps, "planned");
        if looked && !steps.iter().all(|step| matches!(step, Action::Ensure(_))) {
            // Anything else is planned on a look of its own.
            return Ok(Step::Acted);
        }
        if steps.is_empty() {
            pass.left = left_over(&pass.desire.wish, stream.as_ref(), &kept);
            pass.seen = Some(observed);
            return Ok(Step::Done);
        }
        for step in &steps {
            match step {
                Action::Wait(delay) => pass.wait = Some(*delay),
                Action::Forget => {
                    if let Some(finding) = replaced(stream.as_ref(), &kept) {
                        pass.left = Some(finding);
                        return Ok(Step::Done);
                    }
                    self.forget(id, record.as_deref()).await?;
                    return Ok(Step::Forgotten);
                }
                step => self.take(step, pass, record, stream.as_ref()).await?,
            }
        }
        // To run changes nothing that was looked at: it is begun, and found to be all there is to do, on the same look.
        let begins = |step: &Action| match step {
            Action::Admit(admission) => admission.phase == Phase::Run,
            step => matches!(step, Action::Ensure(_)),
        };
        pass.looked = steps.iter().all(begins);
        if self.under_way(id, &steps).await? {
            pass.wait = pass.wait.or(Some(LOOK_AGAIN));
        }
        Ok(if pass.wait.is_some() { Step::Done } else { Step::Acted })
    }

    /// The pipeline's stream: the one its config names, else the one that was recorded.
    async fn observe_stream(
        &self,
        id: &PipelineId,
        desire: &Desire,
        record: Option<&StatusRecord>,
    ) -> Result<Option<PipelineStream>, Failure> {
        let names = &self.deps.store.names;
        let kept = record.map(|record| &record.status.kept);
        let (stream, consumer) = match &desire.wish {
            Wish::Run(spec) => (spec.stream.clone(), spec.consumer.clone()),
            _ => {
                let spec = record.and_then(|record| record.status.admitted.spec.as_ref());
                let stream = kept.and_then(|kept| kept.stream.clone()).unwrap_or_else(|| names.stream(id));
                (stream, spec.map_or_else(|| names.consumer(), |spec| spec.consumer.clone()))
            }
        };
        match self.deps.store.streams.observe(id, &stream, &consumer).await {
            // Somebody else's stream is no reason to hold on to what is ours.
            Err(error) if error.kind() == StoreErrorKind::Unfit(Unfit::Foreign) && !matches!(desire.wish, Wish::Run(_)) => Ok(None),
            // Nor is one that may not be looked at a reason not to pause.
            Err(error) if error.kind() == StoreErrorKind::Refused && !matches!(desire.wish, Wish::Run(_) | Wish::Deleted) => Ok(None),
            other => other.map_err(unfit),
        }
    }

    fn stream_facts(&self, id: &PipelineId, stream: &PipelineStream, desire: &Desire) -> Stream {
        let names = &self.deps.store.names;
        let deliveries = |live: &PipelineConsumer| Deliveries {
            ack_wait: live.ack_wait,
            unacknowledged: live.ack_pending,
            pulls: live.waiting,
            pause: match live.paused {
                Some(left) => Pause::Left(left),
                None if self.can_pause(id) => Pause::Off,
                None => Pause::Impossible,
            },
        };
        let wanted = desire.create.as_ref().map(|(_, consumer)| consumer);
        let right = |live: &PipelineConsumer| !live.ours || wanted.is_none_or(|wanted| live.is_as(wanted));
        Stream {
            created: stream.created,
            closed: stream.subjects == [names.closed(id)],
            messages: stream.messages,
            deletable: stream.ours || stream.name == names.stream(id),
            durable: stream.consumer.as_ref().is_some_and(right),
            first: stream.first_sequence,
            first_time: stream.first_time,
            last: stream.last_sequence,
            deliveries: stream.consumer.as_ref().map(deliveries),
        }
    }

    /// Writes the status where it says something new; whether an execution is still starting.
    async fn write_status(&self, pass: &mut Pass<'_>, record: Option<Arc<StatusRecord>>) -> Result<bool, Failure> {
        let now = Timestamp::now();
        let old = record.as_deref().map(|record| &record.status);
        let looked = match pass.seen.take() {
            Some(observed) => Ok(observed),
            None => self.deps.executor.observe(pass.id).await,
        };
        let pass = &*pass;
        let (observed, engine) = match looked {
            Ok(observed) => (observed, pass.engine.as_ref().map(|error| Finding::new(error.reason, error.message.clone()))),
            Err(error) => (None, Some(Finding::new(error.reason, error.message))),
        };
        let Seen { world, reports, mut instances, mut troubles, starting } = self.seen(pass.id, old, None, observed);
        if let Some(engine) = engine {
            // What was seen last, until there is an answer.
            instances = old.map(|status| status.observed.instances.clone()).unwrap_or_default();
            troubles.insert(0, engine);
        }
        // A first status that nothing was admitted for stops nothing that runs.
        let mut kept = old.map_or_else(|| Kept { undecided: true, ..Kept::default() }, |status| status.kept.clone());
        self.keep(&mut kept, pass);
        let closed = self.deps.store.names.closed(pass.id);
        let open = pass.stream.as_ref().filter(|stream| stream.subjects != [closed.as_str()]);
        if let (Wish::Run(_), Some(stream), None) = (&pass.desire.wish, open, &pass.failure) {
            kept.stream_created = Some(stream.created);
            kept.subjects.clone_from(&stream.subjects);
        }
        for report in &reports {
            let spec = world.admitted.spec.as_ref().filter(|spec| spec.fingerprint == report.fingerprint && report.proven);
            if let Some(spec) = spec.filter(|spec| !kept.proven.contains(&spec.digest)) {
                kept.proven.push(spec.digest.clone());
            }
        }
        let runs = |spec: &&ExecutionSpec| {
            reports.iter().any(|report| report.fingerprint == spec.fingerprint && report.phase == ExecutionPhase::Running)
        };
        if let Some(spec) = world.admitted.spec.as_ref().filter(runs) {
            kept.ran = Some(spec.clone());
        }
        let excess = kept.proven.len().saturating_sub(8);
        kept.proven.drain(..excess);
        let mut advice = pass.stream.as_ref().map(|stream| advice_on(stream, &pass.desire)).unwrap_or_default();
        if let Wish::Run(_) | Wish::Paused = &pass.desire.wish {
            advice.extend(advice_on_dead_letters(&self.deps.store.names.dead_letters(), &self.unsafe_letters()));
        }
        advice.extend(self.note_stream(pass.id, &mut kept, pass.desire.summary.revision));
        let switching = (world.admitted.phase == Phase::Switch).then(|| waits_for(pass.stream.as_ref(), world.live));
        if switching.is_some() && !self.can_pause(pass.id) {
            advice.push(Finding::new(Reason::ConsumerNotPaused, "the durable could not be paused for a change of the target"));
        }
        let facts = Facts {
            desire: &pass.desire,
            failure: pass.failure.as_ref(),
            advice: &advice,
            phase: world.admitted.phase,
            kept: &kept,
            switching: switching.as_deref(),
            left: pass.left.as_ref(),
            reports: &reports,
            troubles: &troubles,
            now,
        };
        let mut admitted = world.admitted.clone();
        admitted.live_executions = world.live;
        let (before, history) = old.map_or((&[][..], &[][..]), |status| (&status.conditions, &status.history));
        let conditions = conditions(&facts, before);
        let status = PipelineStatus {
            schema: 1,
            id: pass.id.clone(),
            epoch: old.map_or(0, |status| status.epoch),
            updated: old.map_or(now, |status| status.updated),
            desired: pass.desire.summary.clone(),
            history: remembered(history, before, &conditions, now),
            conditions,
            observed: ObservedSummary { instances: shown(instances), ..summary(&reports) },
            admitted,
            kept,
        };
        self.deps.executor.share(pass.id, status.admitted.live_executions);
        // What was admitted a moment ago and has only begun says soon how it goes: one write for both.
        let soon = starting
            && pass.failure.is_none()
            && old.is_some_and(|old| old.conditions.is_empty() && old.kept == status.kept)
            && self.memory().get(pass.id).is_none_or(|memory| memory.starting == 0);
        if !soon && worth_writing(old, &status, now) {
            self.put_status(status, record.as_deref()).await?;
        }
        Ok(starting)
    }
}

/// One reconcile's working state.
pub(super) struct Pass<'a> {
    pub id: &'a PipelineId,
    pub desire: Desire,
    /// What the last step ran into.
    pub failure: Option<Finding>,
    /// The stream as it was last seen.
    pub stream: Option<PipelineStream>,
    /// Whether the next step may be planned on that.
    pub looked: bool,
    /// What deletion left, and why.
    pub left: Option<Finding>,
    /// What the backend has, where the last look found nothing to do: nothing was asked of it since.
    pub seen: Option<Option<Observed>>,
    /// When to look again.
    pub wait: Option<Duration>,
    /// Why the backend could not be asked.
    pub engine: Option<ExecutorError>,
}

enum Step {
    Done,
    Acted,
    Forgotten,
}
