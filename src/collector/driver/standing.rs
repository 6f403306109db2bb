//! A time-series pipeline's place in the ledger: asks for the page, plays the part that follows from it, has suspects resolved and
//! repaired. Part of the driver.
//!
//! What always holds: the core hears of a part only after the answer that it follows from; an answer of another term, or of another
//! stream's page, changes nothing.

use super::Driver;
use super::work::{self, Done};
use crate::collector::classify::Class;
use crate::collector::core::{Entry, Event, GroupId, Nanos, Outcome, Part};
use crate::collector::ledger::{self, Answer, Ask, Keeper, Key, Standing};
use crate::collector::repair::{Repair, Suspect};
use crate::collector::sink::CommandFailure;
use crate::pipeline::backoff::Backoff;
use crate::pipeline::report::StreamRole;
use crate::pipeline::status::Reason;
use std::time::{Duration, Instant};
use tracing::{info, warn};
use uuid::Uuid;

/// How long giving the page back may take at the end: who stands by would find out by itself.
const RELEASE: Duration = Duration::from_secs(3);
/// After a look at the records that failed.
const REPAIR_AGAIN: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));

/// What is known of the page.
#[derive(Debug)]
pub(super) struct Place {
    me: Uuid,
    keeper: Keeper,
    repair: Repair,
    /// When the records are looked at next; `None`: not before something is recorded.
    repair_at: Option<Instant>,
    repairing: bool,
    repair_failures: u32,
}

impl Place {
    /// The database could not be asked for a while.
    pub(super) fn blind(&mut self) {
        self.keeper.blind();
    }
}

impl Driver {
    /// Whether there is a ledger, as far as is known.
    pub(super) fn one_reads(&self) -> bool {
        self.job.output.time_series.is_some() && self.role != Some(StreamRole::AtLeastOnce)
    }

    /// Whether this execution has to wait for the ledger before it can be said to run.
    pub(super) fn stands_nowhere(&self) -> bool {
        self.one_reads() && self.place.as_ref().is_none_or(|place| place.keeper.term().is_none() && !place.keeper.heard())
    }

    /// Finds its page as soon as stream and collection are known, and asks what is due.
    pub(super) fn stand(&mut self) {
        if self.job.output.time_series.is_none() {
            return;
        }
        let Some(collection) = &self.collection else { return };
        let Some(measurements) = collection.measurements() else {
            if self.role != Some(StreamRole::AtLeastOnce) {
                info!("the server cannot delete single measurements: they are stored at least once");
                // Should it be able to later, a place is taken anew.
                self.place = None;
                self.plays(Part::Unguarded, StreamRole::AtLeastOnce);
            }
            return;
        };
        let Some(delivered) = self.supervision.delivered else { return };
        let created_ns = self.supervision.stream_created_ns;
        if self.place.as_ref().is_none_or(|place| place.keeper.key().created_ns != created_ns) {
            let key = Key { stream: self.job.stream.clone(), created_ns, collection: collection.name().to_owned() };
            let me = Uuid::now_v7();
            let lease = ledger::lease(Duration::from_nanos(self.core.limits().ack_wait));
            let keeper = Keeper::new(me, key.clone(), self.job.version.as_str(), lease, ledger::known_at_first(delivered));
            let repair = Repair { ledger: collection.ledger(key), measurements };
            self.place = Some(Place { me, keeper, repair, repair_at: None, repairing: false, repair_failures: 0 });
            self.plays(Part::StandBy, StreamRole::Standby);
        }
        self.ask_the_ledger();
    }

    fn ask_the_ledger(&mut self) {
        let now = self.now().at;
        if self.shut.is_some() {
            return;
        }
        let Some(place) = &mut self.place else { return };
        // Who is leaving takes nothing over, and gives its page back in the end.
        if !(self.stopping && place.keeper.term().is_none())
            && let Some(ask) = place.keeper.next(now)
        {
            let (me, ledger) = (place.me, place.repair.ledger.clone());
            let work = async move {
                let answer = match &ask {
                    Ask::Read => ledger.read().await.map(Answer::Page),
                    Ask::Take { from, to } => ledger.take(from.as_ref(), to).await.map(Answer::Written),
                    Ask::Renew { term } => ledger.renew(*term).await.map(Answer::Written),
                };
                Done::Kept(me, answer)
            };
            work::begin(&mut self.work, work, move || Done::Kept(me, Err(work::panicked("the ledger"))));
        }
        if !place.repairing && place.keeper.term().is_some() && place.repair_at.is_some_and(|at| Instant::now() >= at) {
            self.repair(false);
        }
    }

    /// When the ledger is to be looked at next.
    pub(super) fn standing_deadline(&self) -> Option<Instant> {
        let place = self.place.as_ref()?;
        let leaving = self.stopping && place.keeper.term().is_none();
        let keeper = match place.keeper.due() {
            Nanos::MAX => None,
            due => (!leaving).then(|| self.zero + Duration::from_nanos(due)),
        };
        let repair = place.repair_at.filter(|_| !place.repairing && place.keeper.term().is_some());
        keeper.into_iter().chain(repair).min()
    }

    fn plays(&mut self, part: Part, role: StreamRole) {
        self.role = Some(role);
        self.state.show_role(role);
        self.feed(Event::Part(part));
        // Whoever reads alone has all of the durable.
        self.limit(self.core.limits());
    }

    pub(super) fn kept(&mut self, me: Uuid, answer: Result<Answer, CommandFailure>) {
        let now = self.now().at;
        if self.place.as_ref().is_none_or(|place| place.me != me) {
            return;
        }
        let answer = match answer {
            Ok(answer) => {
                self.seat.answered(false);
                self.words.ledger = None;
                answer
            }
            Err(failure) => {
                self.seat.failed(&failure);
                self.ledger_failed(&failure);
                Answer::Failed
            }
        };
        if self.place.as_mut().is_some_and(|place| place.keeper.answered(answer, now)) {
            self.take_part();
        }
    }

    /// Plays the part that the ledger gives.
    fn take_part(&mut self) {
        match self.place.as_ref().map(|place| place.keeper.standing()) {
            Some(Standing::Owner { term, known }) => {
                info!(term, known, "this execution reads the stream");
                self.plays(Part::Active { known }, StreamRole::Active);
                self.repair(true);
            }
            Some(Standing::StandBy) => {
                info!("another execution reads the stream, this one stands by");
                self.plays(Part::StandBy, StreamRole::Standby);
            }
            None => {}
        }
    }

    fn ledger_failed(&mut self, failure: &CommandFailure) {
        let class = work::class_of(failure);
        let reason = if class == Class::Transient { Reason::DatabaseUnavailable } else { Reason::DatabaseRefuses };
        if self.words.ledger.is_none() {
            warn!(error = %failure, "the ledger cannot be read or written");
        }
        self.words.ledger = Some((reason, format!("{}: {}", ledger::COLLECTION, failure.told())));
    }

    pub(super) fn reserve(&mut self, upto: u64) {
        let Some((place, term)) = self.place.as_ref().and_then(|place| Some((place, place.keeper.term()?))) else { return };
        let (me, ledger) = (place.me, place.repair.ledger.clone());
        let work = async move { Done::Reserved(me, term, ledger.reserve(term, upto).await) };
        work::begin(&mut self.work, work, move || Done::Reserved(me, term, Err(work::panicked("the ledger"))));
    }

    pub(super) fn reserved(&mut self, me: Uuid, term: u64, answer: Result<bool, CommandFailure>) {
        let now = self.now().at;
        let ours = |place: &&mut Place| place.me == me && place.keeper.term() == Some(term);
        let Some(place) = self.place.as_mut().filter(ours) else { return };
        match answer {
            Ok(true) => {
                place.keeper.wrote(term, now);
                self.words.ledger = None;
                self.feed(Event::Reserved(None));
            }
            Ok(false) => {
                place.keeper.lost(term, now);
                self.take_part();
            }
            Err(failure) => {
                self.ledger_failed(&failure);
                let class = self.command_failed(&failure);
                self.feed(Event::Reserved(Some(class)));
            }
        }
    }

    pub(super) fn resolve(&mut self, group: GroupId) {
        let suspects = self.suspects(self.core.entries(group));
        let Some(place) = &mut self.place else {
            self.feed(Event::Resolved(group, Outcome::Failed(Class::Transient)));
            return;
        };
        // Sooner where others are recorded already.
        let first = Instant::now() + 2 * Duration::from_nanos(self.core.limits().ack_wait);
        place.repair_at = Some(place.repair_at.map_or(first, |at| at.min(first)));
        let repair = place.repair.clone();
        let work = async move { Done::Resolved(group, repair.resolve(&suspects).await) };
        work::begin(&mut self.work, work, move || Done::Resolved(group, Err(work::panicked("the look-up of suspects"))));
    }

    /// Sees to measurements whose insert was answered too late.
    pub(super) fn late(&mut self, entries: &[Entry]) {
        let suspects = self.suspects(entries);
        let Some(place) = &self.place else { return };
        let repair = place.repair.clone();
        let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let work = async move {
            let mut failures = 0;
            // As long as the process lives: nobody else knows of them.
            while let Err(error) = repair.late(&suspects).await {
                failures += 1;
                warn!(%error, "measurements that were answered late could not be looked at");
                tokio::time::sleep(backoff.delay(failures, rand::random())).await;
            }
            Done::Looked
        };
        work::begin(&mut self.work, work, || Done::Looked);
    }

    fn suspects(&self, entries: &[Entry]) -> Vec<Suspect> {
        let suspect = |entry: &Entry| {
            let slot = self.slots.get(entry.slot)?;
            Some(Suspect { payload: slot.delivery.message.payload.clone(), id: slot.id })
        };
        entries.iter().filter_map(suspect).collect()
    }

    fn repair(&mut self, all: bool) {
        let wait = Duration::from_nanos(self.core.limits().ack_wait);
        let Some(place) = self.place.as_mut().filter(|place| !place.repairing) else { return };
        place.repairing = true;
        let (me, repair) = (place.me, place.repair.clone());
        let work = async move { Done::Repaired(me, repair.pass(all, wait).await) };
        work::begin(&mut self.work, work, move || Done::Repaired(me, Err(work::panicked("the repair"))));
    }

    pub(super) fn repaired(&mut self, me: Uuid, again: Result<Option<Duration>, CommandFailure>) {
        let Some(place) = self.place.as_mut().filter(|place| place.me == me) else { return };
        place.repairing = false;
        let pause = match again {
            Ok(again) => {
                place.repair_failures = 0;
                again.map(|again| again.max(Duration::from_millis(100)))
            }
            Err(error) => {
                place.repair_failures += 1;
                tracing::debug!(%error, "the records of suspects could not be looked at");
                Some(REPAIR_AGAIN.delay(place.repair_failures, rand::random()))
            }
        };
        // What was recorded meanwhile has its time already.
        let next = pause.map(|pause| Instant::now() + pause);
        place.repair_at = match (place.repair_at.filter(|at| *at > Instant::now()), next) {
            (Some(at), Some(next)) => Some(at.min(next)),
            (at, next) => at.or(next),
        };
    }

    /// Gives the page back, so that who stands by follows at once.
    pub(super) async fn give_back_page(&mut self) {
        let Some((place, term)) = self.place.as_ref().and_then(|place| Some((place, place.keeper.term()?))) else { return };
        let release = place.repair.ledger.release(term, self.core.inserted_upto());
        match tokio::time::timeout(RELEASE, release).await {
            Ok(Ok(_)) => {}
            // Its lease ends by itself.
            Ok(Err(error)) => tracing::debug!(%error, "the page of the ledger could not be given back"),
            Err(_) => tracing::debug!("the page of the ledger could not be given back in time"),
        }
    }

    /// How many executions share the durable, as far as batches are concerned.
    pub(super) fn sharing(&self, live: u32) -> u32 {
        if self.one_reads() { 1 } else { live.max(1) }
    }

    /// How long the server has for an insert.
    pub(super) fn write_limit(&self) -> Duration {
        Duration::from_nanos(self.core.write_limit())
    }
}
