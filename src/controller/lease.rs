//! Keeps the lease of the namespace: takes it where nobody has it, renews it, gives it back, and answers at any moment
//! whether this controller may decide.
//!
//! What always holds: [`Holding::epoch`] answers only while the lease is valid, counted from before the last renewal was
//! sent, and while the keeper's own clock ticks. A process that was stopped and woken finds a gap between two ticks and
//! decides nothing until a renewal, a compare-and-set, has shown that nobody took over meanwhile. A machine that slept
//! shows it by its two clocks: the monotonic one stood still, the other did not.

use crate::executor::BoxFuture;
use crate::store::{Lease, LeaseHolder, Store, StoreError, StoreErrorKind, lease::LEASE_RENEW};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

const TICK: Duration = Duration::from_millis(250);
/// After a longer gap between two ticks nothing remembered is trusted.
const GAP: Duration = Duration::from_secs(1);
/// How often a controller that stands by looks whether the lease is free.
const LOOK: Duration = Duration::from_millis(500);
/// The longest call for a lease; it lies well inside its validity.
const CALL: Duration = Duration::from_secs(2);

/// A moment by both clocks.
#[derive(Debug, Clone, Copy)]
struct Moment {
    monotonic: Instant,
    wall: SystemTime,
}

impl Moment {
    fn now() -> Self {
        Self { monotonic: Instant::now(), wall: SystemTime::now() }
    }

    /// Whether too much lies between two moments, or one clock says so while the other does not.
    fn gap(self, now: Self) -> bool {
        let monotonic = now.monotonic.saturating_duration_since(self.monotonic);
        let wall = match now.wall.duration_since(self.wall) {
            Ok(forward) => forward.abs_diff(monotonic),
            Err(backward) => backward.duration() + monotonic,
        };
        monotonic > GAP || wall > GAP
    }
}

/// Whether this controller holds the lease; shared by everything that decides.
pub struct Holding {
    state: Mutex<State>,
    changed: watch::Sender<bool>,
}

struct State {
    lease: Option<Lease>,
    trusted: bool,
    /// How many gaps there were: a renewal that was sent before one proves nothing after it.
    gaps: u64,
    last_tick: Moment,
    /// The other controller that was last seen to hold the lease.
    other: Option<LeaseHolder>,
    /// When anybody was last known to hold it.
    held: Instant,
}

impl Default for Holding {
    fn default() -> Self {
        let state = State { lease: None, trusted: false, gaps: 0, last_tick: Moment::now(), other: None, held: Instant::now() };
        Self { state: Mutex::new(state), changed: watch::channel(false).0 }
    }
}

impl Holding {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The fencing epoch and how long it may be used, where this controller may decide now.
    pub fn epoch(&self) -> Option<(u64, Duration)> {
        let now = Moment::now();
        let state = self.state();
        let lease = state.lease.as_ref().filter(|lease| lease.valid(now.monotonic))?;
        let trusted = state.trusted && !state.last_tick.gap(now);
        trusted.then(|| (lease.epoch, lease.remaining(now.monotonic)))
    }

    /// Whether this controller has a lease that has not run out, be it trusted or not: without trust it may not decide,
    /// and need not behave as if another did.
    pub fn nominal(&self) -> bool {
        self.state().lease.as_ref().is_some_and(|lease| lease.valid(Instant::now()))
    }

    /// The executor kind of the other controller that was last seen to hold the lease.
    pub fn holders_kind(&self) -> Option<String> {
        self.state().other.as_ref().map(|other| other.executor.clone())
    }

    /// Takes note of another controller that holds the lease.
    pub fn seen(&self, other: LeaseHolder) {
        self.state().other = Some(other);
    }

    /// Who decides, for people, and how long ago anybody was last known to.
    pub fn decider(&self) -> (String, Duration) {
        let nominal = self.nominal();
        let state = self.state();
        let who = match (&state.lease, &state.other) {
            (Some(lease), _) if nominal => format!("this controller decides, epoch {}", lease.epoch),
            (_, Some(other)) => {
                format!("{} on {} decides for executor {}, epoch {}", other.process, other.host, other.executor, other.epoch)
            }
            _ => "nobody decides yet".to_owned(),
        };
        (who, if nominal { Duration::ZERO } else { state.held.elapsed() })
    }

    /// Drops the lease without a word: somebody with a newer epoch was seen.
    pub fn lost(&self) {
        self.state().lease = None;
        self.changed.send_replace(false);
    }

    /// Changes whenever the lease is taken or lost.
    pub fn subscribe(&self) -> watch::Receiver<bool> {
        self.changed.subscribe()
    }

    /// Notes that the keeper's clock ticks; whether there was a gap before.
    fn tick(&self, now: Moment) -> (Option<Lease>, bool) {
        let mut state = self.state();
        let gap = state.last_tick.gap(now);
        state.last_tick = now;
        state.trusted &= !gap;
        state.gaps += u64::from(gap);
        if let Some(lease) = state.lease.clone().filter(|lease| lease.valid(now.monotonic)) {
            state.held = now.monotonic;
            return (Some(lease), gap);
        }
        (state.lease.clone(), gap)
    }

    fn gaps(&self) -> u64 {
        self.state().gaps
    }

    fn trusted(&self) -> bool {
        self.state().trusted
    }
}

impl State {
    /// Takes a lease in that was acquired or renewed by a call sent after `gaps` gaps.
    fn hold(&mut self, lease: Lease, gaps: u64) {
        self.trusted = self.gaps == gaps;
        self.lease = Some(lease);
    }
}

/// What became of a call for the lease.
enum Answer {
    Acquired(Lease),
    HeldBy(LeaseHolder),
    Renewed(Lease),
    NotAcquired(Option<StoreError>),
    NotRenewed(Lease, Option<StoreError>),
}

/// Keeps the lease until `stop`, then gives it back.
pub async fn keep(store: Store, me: LeaseHolder, holding: Arc<Holding>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut last_call = None::<Instant>;
    // The clock ticks on while a call is under way: a slow answer is no gap.
    let mut call: Option<(u64, BoxFuture<'_, Answer>)> = None;
    loop {
        let answered = async {
            match &mut call {
                Some((gaps, answer)) => (*gaps, answer.await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            (gaps, answer) = answered => {
                call = None;
                take(&holding, answer, gaps);
                continue;
            }
            _ = ticks.tick() => {}
            () = stop.cancelled() => break,
        }
        let now = Moment::now();
        let (lease, gap) = holding.tick(now);
        let since = last_call.map_or(Duration::MAX, |call| now.monotonic.saturating_duration_since(call));
        let due = match &lease {
            Some(_) => gap || since >= LEASE_RENEW || !holding.trusted() && since >= LOOK,
            None => since >= LOOK,
        };
        if call.is_none() && due {
            last_call = Some(now.monotonic);
            call = Some((holding.gaps(), Box::pin(ask(&store, &me, lease))));
        }
    }
    drop(call);
    let lease = holding.state().lease.take();
    if let Some(lease) = lease {
        holding.changed.send_replace(false);
        if let Err(error) = store.lease.release(lease).await {
            warn!(%error, "lease could not be given back and runs out by itself");
        } else {
            info!("lease given back");
        }
    }
}

/// Renews `lease`, or asks for one. A bucket that is gone is made again, for the next call.
async fn ask(store: &Store, me: &LeaseHolder, lease: Option<Lease>) -> Answer {
    let answer = match lease {
        Some(mut lease) => match tokio::time::timeout(CALL, store.lease.renew(&mut lease, me)).await {
            Ok(Ok(())) => Answer::Renewed(lease),
            Ok(Err(error)) => Answer::NotRenewed(lease, Some(error)),
            Err(_) => Answer::NotRenewed(lease, None),
        },
        None => match tokio::time::timeout(CALL, store.lease.acquire(me)).await {
            Ok(Ok(Ok(lease))) => Answer::Acquired(lease),
            Ok(Ok(Err(holder))) => Answer::HeldBy(holder),
            Ok(Err(error)) => Answer::NotAcquired(Some(error)),
            Err(_) => Answer::NotAcquired(None),
        },
    };
    if let Answer::NotRenewed(_, Some(error)) | Answer::NotAcquired(Some(error)) = &answer
        && error.kind() == StoreErrorKind::Missing
    {
        warn!("the bucket of the lease is gone and is made again");
        if let Err(error) = store.prepare().await {
            warn!(%error, "what is missing could not be made");
        }
    }
    answer
}

fn take(holding: &Holding, answer: Answer, gaps: u64) {
    match answer {
        Answer::Acquired(lease) => {
            info!(epoch = lease.epoch, "lease acquired");
            holding.state().hold(lease, gaps);
            holding.changed.send_replace(true);
        }
        Answer::HeldBy(holder) => {
            let (other, known) = {
                let mut state = holding.state();
                state.held = Instant::now();
                let known = state.other.replace(holder.clone());
                (known.as_ref() != Some(&holder), known)
            };
            if other {
                debug!(holder = %holder.process, host = holder.host, executor = holder.executor, "lease is held by another");
            }
            if known.is_none_or(|known| known.executor != holder.executor) {
                // This controller's role may be another now.
                holding.changed.send_replace(false);
            }
        }
        Answer::NotAcquired(error) => match error {
            Some(error) => warn!(%error, "lease could not be asked for"),
            None => warn!("lease could not be asked for in time"),
        },
        Answer::Renewed(lease) => {
            let mut state = holding.state();
            // A lease that somebody declared lost meanwhile stays lost.
            if state.lease.is_some() {
                state.hold(lease, gaps);
            }
        }
        Answer::NotRenewed(lease, error) => {
            let over = match error {
                Some(error) if matches!(error.kind(), StoreErrorKind::Conflict | StoreErrorKind::Missing) => {
                    warn!(%error, "lease was taken by another, or its bucket is gone");
                    true
                }
                Some(error) => {
                    warn!(%error, "lease could not be renewed");
                    !lease.valid(Instant::now())
                }
                None => {
                    warn!("lease could not be renewed in time");
                    !lease.valid(Instant::now())
                }
            };
            if over {
                holding.lost();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_of_the_process_and_a_sleep_of_the_machine_are_gaps_and_a_tick_is_none() {
        let begun = Moment::now();
        let after = |monotonic, wall| Moment {
            monotonic: begun.monotonic + Duration::from_millis(monotonic),
            wall: begun.wall + Duration::from_millis(wall),
        };
        assert!(!begun.gap(after(250, 250)));
        assert!(!begun.gap(after(900, 950)));
        assert!(begun.gap(after(1_100, 1_100)), "the process was stopped");
        assert!(begun.gap(after(250, 60_000)), "the machine slept");
        assert!(after(0, 5_000).gap(after(250, 0)), "the clock was set back");
    }
}
