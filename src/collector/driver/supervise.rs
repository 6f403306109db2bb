//! Looks after the consumer and the collection: asked at the start, after every doubt, and again and again. Part of the
//! driver.

use super::watchdog::{Verdict, Watchdog};
use super::work::{self, Done, Tail, Witness};
use super::{Driver, nanos};
use crate::collector::classify::Class;
use crate::collector::core::{Event, Limits, Target};
use crate::collector::identity::Identities;
use crate::collector::sink::{Age, Collection, OpenError};
use crate::collector::source::{ConsumerFacts, Glance, SourceError, SourceErrorKind};
use crate::pipeline::backoff::{Backoff, jittered};
use crate::pipeline::report::{EffectiveLimits, StreamRole};
use crate::pipeline::status::Reason;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tracing::{info, warn};

/// How often consumer and stream are looked at.
const RESYNC: Duration = Duration::from_secs(30);
/// How often the stream alone is looked at while nothing happens: what is published there and does not arrive has to be
/// found within a minute. Whatever does arrive after a longer silence than [`RESYNC`] is a reason to look at once.
const GLANCE: Duration = Duration::from_secs(42);
/// Each look at both is followed by so many at the stream alone.
const GLANCES: u32 = 1;
/// How often a normal collection is looked at; a time-series collection, which comes back as a normal one when it was
/// dropped, as often as the consumer.
const NORMAL_RESYNC: Duration = Duration::from_secs(300);
/// The same, at most, where markers do not come back.
const ASK_MUTE: Duration = Duration::from_secs(2);
/// How soon a durable that is stuck is looked at again.
const STUCK_AGAIN: Duration = Duration::from_secs(2);
const ASK: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
const OPEN: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(3));
const OPEN_REFUSED: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(15));

/// When to ask what.
#[derive(Debug)]
pub(super) struct Supervision {
    asking: bool,
    ask_at: Instant,
    ask_failures: u32,
    /// When the last answer came.
    asked: Option<Instant>,
    /// How many times the stream alone is to be asked before the consumer is, too.
    glances: u32,
    /// How often the stream had lost what was delivered from it.
    pub(super) lost_tails: u64,
    watchdog: Watchdog,
    /// Set by a doubt that came while a question was under way: its answer may be older than the doubt.
    doubted: bool,
    /// The highest sequence seen when the question was asked: an intact stream's last one is no lower.
    asked_above: u64,
    /// How often stream or consumer were gone since a pull request worked.
    pub(super) goings: u32,
    /// The most bytes of one pull request and the longest that it may wait; 0: no limit.
    pub(super) pull_limits: (u64, Duration),
    opening: bool,
    open_at: Instant,
    open_failures: u32,
    open_every: Duration,
    /// When the stream was created; 0 before that is known.
    pub(super) stream_created_ns: u64,
    /// The highest sequence that the durable has ever delivered, as it says; `None` before that is known.
    pub(super) delivered: Option<u64>,
}

impl Supervision {
    pub(super) fn new(time_series: bool) -> Self {
        let now = Instant::now();
        Self {
            asking: false,
            ask_at: now,
            ask_failures: 0,
            asked: None,
            glances: 0,
            lost_tails: 0,
            watchdog: Watchdog::default(),
            doubted: false,
            asked_above: 0,
            goings: 0,
            pull_limits: (0, Duration::ZERO),
            opening: false,
            open_at: now,
            open_failures: 0,
            open_every: if time_series { RESYNC } else { NORMAL_RESYNC },
            stream_created_ns: 0,
            delivered: None,
        }
    }

    /// Something failed: ask before the next turn.
    pub(super) fn ask_soon(&mut self) {
        self.ask_at = self.ask_at.min(Instant::now() + ASK.first);
    }

    /// Something differs from what is known.
    pub(super) fn ask_at_once(&mut self) {
        self.glances = 0;
        self.ask_at = Instant::now();
    }

    /// Something arrived: what was last heard of the consumer must not be as old as it may be while nothing does.
    pub(super) fn stirred(&mut self) {
        if self.asked.is_some_and(|asked| asked.elapsed() > RESYNC) {
            self.asked = None;
            self.ask_at = Instant::now();
        }
    }

    /// Whether the collection could not be opened when it was asked for last.
    pub(super) fn open_failed(&self) -> bool {
        self.open_failures > 0
    }

    /// When something is to be asked; far away while everything is being asked. `shut`: the database is not asked.
    pub(super) fn next_deadline(&self, shut: bool) -> Instant {
        let far = Instant::now() + RESYNC;
        let ask = if self.asking { far } else { self.ask_at };
        ask.min(if self.opening || shut { far } else { self.open_at })
    }
}

impl Driver {
    /// Asks what is due.
    pub(super) fn supervise(&mut self) {
        let now = Instant::now();
        if !self.supervision.asking && now >= self.supervision.ask_at {
            self.supervision.asking = true;
            self.supervision.doubted = false;
            self.supervision.asked_above = self.highest;
            // A tail that was lost is found by its last message that came here: whatever has its sequence now, if anything
            // has, was published at another time.
            let witness = if self.identities.is_none() { self.witness() } else { None };
            let question = self.source.inspector();
            if self.supervision.glances > 0 && self.identities.is_some() && self.core.in_hand() == 0 {
                self.supervision.glances -= 1;
                let work = async move { Done::Glanced(work::glance(question).await) };
                work::begin(&mut self.work, work, || Done::Glanced(Err(work::asking_panicked())));
            } else {
                let work = async move { Done::Asked(work::ask(question, witness).await) };
                work::begin(&mut self.work, work, || Done::Asked(Err(work::asking_panicked())));
            }
        }
        if !self.supervision.opening && now >= self.supervision.open_at && self.shut.is_none() {
            self.supervision.opening = true;
            // After a bad answer, one that was asked for since.
            let age = if self.supervision.open_failures > 0 { Age::Anew } else { Age::Recent };
            let (database, target, output) = (self.deps.database.clone(), self.job.target.clone(), self.job.output.clone());
            let work = async move { Done::Opened(Collection::open(database, &target, &output, age).await) };
            work::begin(&mut self.work, work, || Done::Opened(Err(work::panicked("opening the collection").into())));
        }
    }

    /// The youngest message that is held, else the youngest that came.
    fn witness(&self) -> Option<Witness> {
        let held = self.slots.youngest().map(|(sequence, published_ns)| Witness { sequence, published_ns, held: true });
        let (sequence, published_ns) = self.youngest;
        held.or_else(|| (sequence > 0).then_some(Witness { sequence, published_ns, held: false }))
    }

    /// Perhaps the stream is another one now: what arrives waits for the answer.
    pub(super) fn doubt_stream(&mut self) {
        self.identities = None;
        self.supervision.doubted = true;
        self.supervision.ask_at = Instant::now();
    }

    /// Whatever is not as it was is looked at closely.
    pub(super) fn stream_says(&mut self, answer: Result<Glance, SourceError>) {
        self.supervision.asking = false;
        let same = |glance: &Glance| {
            let Glance { created_ns, last_sequence, messages } = *glance;
            messages == 0 && created_ns == self.supervision.stream_created_ns && last_sequence >= self.supervision.asked_above
        };
        if answer.as_ref().is_ok_and(same) && !self.supervision.doubted {
            self.supervision.ask_at = Instant::now() + jittered(GLANCE, rand::random());
        } else {
            self.supervision.glances = 0;
            self.supervision.ask_at = Instant::now();
        }
    }

    pub(super) fn consumer_says(&mut self, answer: Result<(ConsumerFacts, Tail), SourceError>) {
        self.supervision.asking = false;
        let (facts, tail) = match answer {
            Ok(answer) => answer,
            Err(error) => {
                self.supervision.ask_failures += 1;
                self.supervision.ask_at = Instant::now() + ASK.delay(self.supervision.ask_failures, rand::random());
                self.source_trouble(&error);
                if error.kind == SourceErrorKind::NotFound {
                    self.identities = None;
                    self.feed(Event::Consumer(false));
                }
                return;
            }
        };
        self.supervision.ask_failures = 0;
        if self.supervision.doubted {
            // The doubt is younger than the question: `ask_at` is due.
            return;
        }
        if let Some(why) = facts.unfit {
            return self.distrust(why);
        }
        // Without markers only answers say how late what arrives can be.
        let idle = facts.num_pending == 0 && facts.num_ack_pending == 0 && self.core.in_hand() == 0;
        let again = match (self.source.mute(), idle) {
            (true, _) => ASK_MUTE.min(facts.ack_wait / 8),
            (false, true) => jittered(GLANCE, rand::random()),
            (false, false) => jittered(RESYNC, rand::random()),
        };
        self.supervision.glances = if idle && !self.source.mute() { GLANCES } else { 0 };
        self.supervision.asked = Some(Instant::now());
        let again = self.watch_over(&facts).map_or(again, |sooner| again.min(sooner));
        self.supervision.ask_at = Instant::now() + again;
        self.same_stream(&facts, tail);
        if self.words.source.take().is_some() {
            info!("stream and consumer answer");
        }
        self.pending = facts.num_pending;
        let held = self.core.in_hand() + self.early.len() as u64;
        self.supervision.delivered = Some(facts.delivered_sequence);
        self.elsewhere =
            if self.live > 1 || self.role == Some(StreamRole::Standby) { facts.num_ack_pending.saturating_sub(held) } else { 0 };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let oldest = (facts.first_published_ns > 0).then(|| now.saturating_sub(Duration::from_nanos(facts.first_published_ns)));
        self.deps.metrics.oldest.set(oldest.unwrap_or_default().as_secs_f64());
        self.state.show_oldest(oldest);
        self.supervision.pull_limits = (u64::try_from(facts.max_bytes).unwrap_or(0), facts.max_expires);
        self.limit(Limits {
            ack_wait: nanos(facts.ack_wait),
            max_ack_pending: facts.max_ack_pending,
            live: self.live,
            max_batch: u64::try_from(facts.max_batch).unwrap_or(0),
        });
        self.feed(Event::Consumer(true));
        self.identities = Some(Identities::new(&self.job.stream, facts.stream_created_ns));
        self.drop_late();
        let early = std::mem::take(&mut self.early);
        if early.is_empty() {
            // Those that were late counted as outstanding until now: the core may want others in their place.
            self.feed(Event::Tick);
        } else {
            self.take_in(early);
        }
    }

    /// What the durable hands out may not be settled: nothing more is asked for, and of what came nothing is settled any more,
    /// until the durable is mended. What is held is delivered again.
    fn distrust(&mut self, why: String) {
        if self.words.source.as_ref().is_none_or(|(reason, _)| *reason != Reason::ConsumerUnusable) {
            warn!(why, "the durable cannot be used");
        }
        self.words.source = Some((Reason::ConsumerUnusable, why));
        self.supervision.glances = 0;
        self.supervision.ask_at = Instant::now() + STUCK_AGAIN;
        self.identities = None;
        let early = std::mem::take(&mut self.early);
        self.deps.budget.give(early.iter().map(|delivery| delivery.bytes).sum());
        self.feed(Event::Consumer(false));
    }

    /// Says why a durable brings nothing, and makes requests anew where that may help; how soon to look again.
    fn watch_over(&mut self, facts: &ConsumerFacts) -> Option<Duration> {
        let asks = self.source.outstanding() > 0;
        let (stuck, sooner) = match self.supervision.watchdog.look(facts, asks, self.received, Instant::now()) {
            Verdict::Fine => (None, None),
            Verdict::Odd(soon) => (self.words.stuck.take(), Some(soon)),
            Verdict::Stuck(why, anew) => {
                if anew {
                    self.source.forget_requests();
                    self.feed(Event::Gap);
                }
                (Some(why), Some(STUCK_AGAIN))
            }
        };
        if let Some(why) = stuck.as_ref().filter(|_| self.words.stuck.is_none()) {
            warn!(why, "the durable is stuck");
        }
        self.words.stuck = stuck;
        sooner
    }

    /// What is held of a stream that was created anew or lost its tail is forgotten: the sequences by which it would be
    /// acknowledged may be those of other messages now. So it is where that is not certain: what is forgotten is delivered
    /// again if it is still there, and found to be stored.
    ///
    /// A loss is said where nothing else explains what is there: the stream ends before a sequence that it had delivered, or
    /// another message has one.
    fn same_stream(&mut self, facts: &ConsumerFacts, tail: Tail) {
        let known = std::mem::replace(&mut self.supervision.stream_created_ns, facts.stream_created_ns);
        let another = known != facts.stream_created_ns;
        let ends_early = facts.last_sequence < self.supervision.asked_above;
        if known == 0 || (!another && !ends_early && tail == Tail::Sound) {
            return;
        }
        let lost = ends_early || tail == Tail::Lost || self.slots.replaced_by(&self.early);
        self.supervision.delivered = None;
        // Sequences of another stream say nothing about this one.
        self.supervision.lost_tails += u64::from(!another && lost);
        if another || lost {
            warn!(lost, "the stream is another one, or lost messages that were delivered: what is held is forgotten");
        } else {
            info!("what is held may have been acknowledged by another process: it is forgotten, and comes again where it was not");
        }
        (self.highest, self.youngest) = (0, (0, 0));
        let early = std::mem::take(&mut self.early);
        self.deps.budget.give(early.iter().map(|delivery| delivery.bytes).sum());
        self.feed(Event::OtherStream);
    }

    /// How much waits, as far as the last delivery and the last answer say.
    pub(super) fn show_lag(&mut self, held: u64) {
        let waiting = self.pending + self.elsewhere + held;
        self.state.show_waiting(waiting);
        self.deps.metrics.lag.set(i64::try_from(waiting).unwrap_or(i64::MAX));
        if waiting == 0 {
            self.deps.metrics.oldest.set(0.0);
            self.state.show_oldest(None);
        }
    }

    pub(super) fn limit(&mut self, limits: Limits) {
        let limits = Limits { live: self.sharing(self.live), ..limits };
        self.feed(Event::Limits(limits));
        let batch = self.core.batch_count();
        self.state.show_limits(EffectiveLimits {
            batch_count: u32::try_from(batch).unwrap_or(u32::MAX),
            ack_wait_ms: limits.ack_wait / 1_000_000,
            max_ack_pending: limits.max_ack_pending,
            limited: batch < u64::from(self.job.output.batching.count),
        });
    }

    /// The collection is not what it was when it was opened.
    pub(super) fn open_anew(&mut self) {
        self.supervision.open_at = Instant::now();
        // What others were told a moment ago is not so any more.
        self.supervision.open_failures = self.supervision.open_failures.max(1);
    }

    pub(super) fn collection_says(&mut self, answer: Result<Collection, OpenError>) {
        self.supervision.opening = false;
        let now = Instant::now();
        let (target, pause) = match answer {
            Ok(collection) => {
                self.collection = Some(collection);
                self.supervision.open_failures = 0;
                self.words.target = None;
                (Target::Good, jittered(self.supervision.open_every, rand::random()))
            }
            Err(error @ (OpenError::KindDiffers(_) | OpenError::NoSeries(_))) => {
                let differs = matches!(error, OpenError::KindDiffers(_));
                let reason = if differs { Reason::CollectionKindDiffers } else { Reason::TimeSeriesUnsupported };
                self.words.target = Some((reason, error.to_string()));
                self.supervision.open_failures += 1;
                (Target::Bad, OPEN_REFUSED.delay(self.supervision.open_failures, rand::random()))
            }
            Err(OpenError::Failed(failure)) => {
                self.seat.failed(&failure);
                self.supervision.open_failures += 1;
                let transient = work::class_of(&failure) == Class::Transient;
                let backoff = if transient { OPEN } else { OPEN_REFUSED };
                let pause = backoff.delay(self.supervision.open_failures, rand::random());
                if self.collection.is_some() && self.words.target.is_none() {
                    // It was good: inserts find out themselves what they may.
                    self.supervision.open_at = now + pause;
                    return;
                }
                let reason = if transient { Reason::DatabaseUnavailable } else { Reason::DatabaseRefuses };
                self.words.target = Some((reason, failure.told()));
                (Target::Bad, pause)
            }
        };
        self.supervision.open_at = now + pause;
        self.feed(Event::Target(target));
    }

    /// Says what is wrong with NATS.
    pub(super) fn source_trouble(&mut self, error: &SourceError) {
        let reason = match error.kind {
            SourceErrorKind::Disconnected | SourceErrorKind::Timeout | SourceErrorKind::Unavailable => Reason::NatsUnavailable,
            SourceErrorKind::NotFound | SourceErrorKind::Refused => Reason::StreamUnavailable,
        };
        self.words.source = Some((reason, error.message.clone()));
    }
}
