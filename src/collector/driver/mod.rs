//! Drives the core: carries out its effects, feeds back what happened.
//!
//! One task per pipeline and, beside it, one short-lived task for each insert, look-up and question. What always holds:
//! the loop never waits for the database; a source never ends it; nothing runs on a timer of its own but the next deadline,
//! so that an idle pipeline costs next to nothing. Called by the executor.

mod arrive;
mod carry;
mod doubles;
mod gate;
mod happen;
mod keeping;
mod odd;
mod slots;
mod standing;
mod supervise;
mod suspects;
mod watchdog;
mod words;
mod work;

use super::classify::Class;
use super::core::{Arrival, Batches, Core, Effect, Event, Limits, Nanos, Now, SECOND};
use super::dead_letters::DeadLetters;
use super::former::Formers;
use super::identity::Identities;
use super::sink::{Collection, MAX_COMMAND_BYTES, Seat};
use super::source::{Delivery, Source, SourceEvent};
use super::{Deps, ExecutionState, Job};
use crate::pipeline::backoff::Backoff;
use crate::pipeline::report::{ExecutionPhase, StreamRole};
use crate::pipeline::status::Reason;
use async_nats::Subject;
use keeping::Keeper;
use odd::Odd;
use slots::Slots;
use std::sync::Arc;
use std::time::{Duration, Instant};
use supervise::Supervision;
use suspects::Suspects;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use words::{Showing, Words};
use work::Done;

/// Messages taken from the source in one go.
const AT_ONCE: usize = 1024;
/// What a command has besides its documents, at most.
const COMMAND_REST: u64 = 4096;
/// What a consumer is taken for until it has said what it is: the server's defaults.
const UNKNOWN_LIMITS: Limits = Limits { ack_wait: 30 * SECOND, max_ack_pending: 1000, live: 1, max_batch: 0 };

/// Why a collector ended.
#[derive(Debug, thiserror::Error)]
pub enum CollectorError {}

impl CollectorError {
    /// Whether starting it again can help.
    pub fn retry(&self) -> bool {
        match *self {}
    }
}

/// Marks the execution as ended, however it ends.
struct Ending(Arc<ExecutionState>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.gone();
    }
}

/// Runs until `stop`, then writes what it holds within `job.shutdown_grace` and returns. `live` says how many
/// executions share the durable, for the effective batch.
pub fn run(
    job: Job,
    deps: Deps,
    state: Arc<ExecutionState>,
    live: watch::Receiver<u32>,
    stop: CancellationToken,
) -> impl Future<Output = Result<(), CollectorError>> + Send {
    // A future keeps room for everything that ever was in it, next to what it was moved to: thousands of idle pipelines pay
    // for that, so what is large is boxed at once.
    let work = Box::new((job, deps));
    async move {
        let _ending = Ending(state.clone());
        let Some(source) = Box::pin(subscribe(&work.0, &work.1, &state, &stop)).await else { return Ok(()) };
        let mut driver = Driver::new(*work, state, source, *live.borrow());
        info!("collector started");
        driver.run(live, stop).await;
        let totals = driver.core.totals();
        info!(received = driver.received, written = totals.written, dead_lettered = totals.dead_lettered, "collector stopped");
        Ok(())
    }
}

/// The source; `None` where it was stopped before there was one.
async fn subscribe(job: &Job, deps: &Deps, state: &ExecutionState, stop: &CancellationToken) -> Option<Source> {
    let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    let mut failures = 0;
    while !stop.is_cancelled() {
        let error = match Source::open(deps.nats.clone(), &job.stream, &job.consumer).await {
            Ok(source) => return Some(source),
            Err(error) => error,
        };
        failures += 1;
        warn!(%error, "cannot subscribe");
        let trouble = crate::pipeline::report::Trouble::new(Reason::NatsUnavailable, &error.message);
        state.show(ExecutionPhase::Starting, vec![trouble]);
        tokio::select! {
            () = tokio::time::sleep(backoff.delay(failures, rand::random())) => {}
            () = stop.cancelled() => {}
        }
    }
    None
}

/// What the loop woke up for.
enum Woken {
    Source(SourceEvent),
    Done(Done),
    Live(u32),
    LiveEnded,
    Gate,
    Stop,
    Time,
}

/// One pipeline's collector.
struct Driver {
    job: Job,
    deps: Deps,
    state: Arc<ExecutionState>,
    source: Source,
    core: Core,
    slots: Slots,
    /// What all times count from.
    zero: Instant,
    effects: Vec<Effect>,
    work: JoinSet<Done>,
    /// `None` while it is not certain which stream messages come from.
    identities: Option<Identities>,
    /// Messages that arrived meanwhile; counted by the budget.
    early: Vec<Delivery>,
    /// Messages that are compared with the stream; counted by the budget.
    suspects: Suspects,
    /// The consumer's last delivery, and the highest sequence of the stream that was seen.
    last_delivery: u64,
    highest: u64,
    /// The highest sequence that came while it was certain which stream that is, and when its message was published.
    youngest: (u64, u64),
    /// Messages of pulls that are decided, not yet sent.
    unsent: u64,
    /// Messages behind the last delivery, and those that other executions held when asked.
    pending: u64,
    elsewhere: u64,
    /// How many executions share the durable.
    live: u32,
    /// Of a time-series pipeline: its place in the ledger, and what follows from it.
    place: Option<standing::Place>,
    role: Option<StreamRole>,
    /// Dead letters that an earlier delivery had stored.
    buried_before: u64,
    collection: Option<Collection>,
    keeper: Keeper,
    /// The place at the client's gate; why it is shut, where it is, and how many turns there were.
    seat: Seat,
    shut: Option<Class>,
    turns: u64,
    letters: DeadLetters,
    formers: Formers,
    supervision: Supervision,
    words: Words,
    odd: Odd,
    showing: Showing,
    received: u64,
    redelivered: u64,
    shown: super::core::Totals,
    stopping: bool,
    finished: bool,
    /// Until when nothing is taken from the source.
    rest_until: Option<Instant>,
    /// Scratch, kept for their memory.
    arrivals: Vec<Arrival>,
    replies: Vec<Subject>,
}

impl Driver {
    fn new((job, deps): (Job, Deps), state: Arc<ExecutionState>, source: Source, live: u32) -> Box<Self> {
        let batching = &job.output.batching;
        let batches = Batches {
            count: batching.count,
            bytes: batching.byte_size.min(MAX_COMMAND_BYTES as u64 - COMMAND_REST),
            period: nanos(batching.period),
            linger: nanos(batching.linger),
            max_in_flight: job.output.max_in_flight.max(1),
            first_half_only: job.output.time_series.is_some(),
        };
        let limits = Limits { live: live.max(1), ..UNKNOWN_LIMITS };
        let letters = DeadLetters::new(deps.nats.clone(), &job.dead_letter_stream, &job.dead_letter_prefix, &job.dead_letter_objects);
        let core = Core::new(batches, limits, job.proven, rand::random());
        state.listens(source.signs_of_life());
        Box::new(Self {
            formers: Formers::new(deps.previous.clone()),
            core: if batches.first_half_only { core.with_series() } else { core },
            supervision: Supervision::new(job.output.time_series.is_some()),
            job,
            seat: deps.database.seat(),
            shut: None,
            turns: 0,
            deps,
            state,
            source,
            slots: Slots::default(),
            zero: Instant::now(),
            effects: Vec::new(),
            work: JoinSet::new(),
            identities: None,
            early: Vec::new(),
            suspects: Suspects::default(),
            last_delivery: 0,
            highest: 0,
            youngest: (0, 0),
            unsent: 0,
            pending: 0,
            elsewhere: 0,
            live: live.max(1),
            place: None,
            role: None,
            buried_before: 0,
            collection: None,
            keeper: Keeper::new(),
            letters,
            words: Words::default(),
            odd: Odd::default(),
            showing: Showing::default(),
            received: 0,
            redelivered: 0,
            shown: super::core::Totals::default(),
            stopping: false,
            finished: false,
            rest_until: None,
            arrivals: Vec::new(),
            replies: Vec::new(),
        })
    }

    async fn run(&mut self, mut live: watch::Receiver<u32>, stop: CancellationToken) {
        let mut live_ended = false;
        let sleep = tokio::time::sleep(Duration::ZERO);
        tokio::pin!(sleep);
        // Stream, durable and target are asked for at once; the first pull follows as soon as the target is known to be good.
        self.feed(Event::Tick);
        self.hear_the_gate();
        self.act().await;
        self.supervise();
        while !self.finished {
            let deadline = self.rest_until.map_or(self.next_deadline(), |rest| rest.min(self.next_deadline())).into();
            if sleep.deadline() != deadline {
                sleep.as_mut().reset(deadline);
            }
            let woken = tokio::select! {
                event = self.source.next(AT_ONCE), if self.rest_until.is_none() => Woken::Source(event),
                Some(Ok(done)) = self.work.join_next(), if !self.work.is_empty() => Woken::Done(done),
                changed = live.changed(), if !live_ended => {
                    if changed.is_ok() { Woken::Live(*live.borrow_and_update()) } else { Woken::LiveEnded }
                }
                () = self.seat.changed() => Woken::Gate,
                () = stop.cancelled(), if !self.stopping => Woken::Stop,
                () = &mut sleep => Woken::Time,
            };
            // Work that is done may want messages at once, and a rest that is over is over.
            if self.rest_until.is_some_and(|rest| matches!(woken, Woken::Done(_) | Woken::Gate | Woken::Stop) || Instant::now() >= rest) {
                self.rest_until = None;
            }
            match woken {
                Woken::Source(event) => self.source_says(event),
                Woken::Done(done) => self.work_done(done),
                Woken::Live(live) => {
                    self.live = live.max(1);
                    self.limit(self.core.limits());
                }
                Woken::LiveEnded => live_ended = true,
                Woken::Gate => self.hear_the_gate(),
                Woken::Stop => {
                    self.stopping = true;
                    let deadline = self.now().at + nanos(self.job.shutdown_grace);
                    self.feed(Event::Stop(deadline));
                }
                Woken::Time => self.feed(Event::Tick),
            }
            self.act().await;
            self.supervise();
            self.look_after_the_collection();
            self.stand();
            self.act().await;
            self.speak_at_the_gate();
            self.show();
        }
    }

    /// Carries out what is due. Boxed while there is anything: an idle pipeline has no room for it.
    async fn act(&mut self) {
        if !self.effects.is_empty() {
            Box::pin(self.carry_out()).await;
        }
    }

    /// Hands an event to the core; its effects wait for [`Self::carry_out`].
    fn feed(&mut self, event: Event<'_>) {
        let (now, before) = (self.now(), self.effects.len());
        self.core.on(event, now, &mut self.effects);
        for effect in &self.effects[before..] {
            if let Effect::Pull { batch, .. } = effect {
                self.unsent += batch;
            }
        }
    }

    fn now(&self) -> Now {
        let outstanding = self.source.outstanding() + self.unsent + self.early.len() as u64 + self.suspects.messages;
        Now { at: nanos(self.zero.elapsed()), free: self.deps.budget.free(), outstanding }
    }

    fn next_deadline(&self) -> Instant {
        let own = self.supervision.next_deadline(self.shut.is_some());
        let own = self.keeper.deadline().map_or(own, |keeper| own.min(keeper));
        let own = self.unless_shut(self.standing_deadline()).map_or(own, |standing| own.min(standing));
        match self.core.next_deadline() {
            Nanos::MAX => own,
            at => own.min(self.zero + Duration::from_nanos(at)),
        }
    }
}

/// However it ends, by a panic too: others of this process can use what it held, and nothing waits here any more.
impl Drop for Driver {
    fn drop(&mut self) {
        let early: u64 = self.early.iter().map(|delivery| delivery.bytes).sum();
        self.deps.budget.give(self.slots.bytes() + early + self.suspects.bytes);
        self.deps.metrics.in_flight.set(0);
        self.deps.metrics.lag.set(0);
        self.deps.metrics.oldest.set(0.0);
    }
}

/// Saturates after 584 years.
fn nanos(duration: Duration) -> Nanos {
    Nanos::try_from(duration.as_nanos()).unwrap_or(Nanos::MAX / 4)
}
