//! Keeps the lease of the namespace: takes it where nobody has it, renews it, gives it back, and answers at any moment
//! whether this controller may decide.
//!
//! What always holds: [`Holding::epoch`] answers only while the lease is valid, counted from before the last renewal was
//! sent, and while the keeper's own clock ticks. A process that was stopped and woken finds a gap between two ticks and
//! decides nothing until a renewal, a compare-and-set, has shown that nobody took over meanwhile.

use crate::store::{Lease, LeaseHolder, LeaseStore, StoreErrorKind, lease::LEASE_RENEW};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

const TICK: Duration = Duration::from_millis(250);
/// After a longer gap between two ticks nothing remembered is trusted.
const GAP: Duration = Duration::from_secs(1);
/// How often a controller that stands by looks whether the lease is free.
const LOOK: Duration = Duration::from_secs(1);
/// The longest call for a lease; it lies well inside its validity.
const CALL: Duration = Duration::from_secs(2);

/// Whether this controller holds the lease; shared by everything that decides.
pub struct Holding {
    state: Mutex<State>,
    changed: watch::Sender<bool>,
}

struct State {
    lease: Option<Lease>,
    trusted: bool,
    last_tick: Instant,
}

impl Default for Holding {
    fn default() -> Self {
        Self { state: Mutex::new(State { lease: None, trusted: false, last_tick: Instant::now() }), changed: watch::channel(false).0 }
    }
}

impl Holding {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The fencing epoch and how long it may be used, where this controller may decide now.
    pub fn epoch(&self) -> Option<(u64, Duration)> {
        let now = Instant::now();
        let state = self.state();
        let lease = state.lease.as_ref().filter(|lease| lease.valid(now))?;
        let ticking = now.saturating_duration_since(state.last_tick) <= GAP;
        (state.trusted && ticking).then(|| (lease.epoch, lease.remaining(now)))
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
}

/// Keeps the lease until `stop`, then gives it back.
pub async fn keep(store: LeaseStore, me: LeaseHolder, holding: Arc<Holding>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut last_call = None::<Instant>;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => break,
        }
        let now = Instant::now();
        let (lease, gap) = {
            let mut state = holding.state();
            let gap = now.saturating_duration_since(state.last_tick) > GAP;
            state.last_tick = now;
            state.trusted &= !gap;
            (state.lease.clone(), gap)
        };
        let since = last_call.map_or(Duration::MAX, |call| now.saturating_duration_since(call));
        match lease {
            Some(lease) if gap || since >= LEASE_RENEW => {
                last_call = Some(now);
                renew(&store, &me, &holding, lease).await;
            }
            Some(_) => {}
            None if since >= LOOK => {
                last_call = Some(now);
                acquire(&store, &me, &holding).await;
            }
            None => {}
        }
    }
    let lease = holding.state().lease.take();
    if let Some(lease) = lease {
        holding.changed.send_replace(false);
        if let Err(error) = store.release(lease).await {
            warn!(%error, "lease could not be given back and runs out by itself");
        } else {
            info!("lease given back");
        }
    }
}

async fn acquire(store: &LeaseStore, me: &LeaseHolder, holding: &Holding) {
    match tokio::time::timeout(CALL, store.acquire(me)).await {
        Ok(Ok(Ok(lease))) => {
            info!(epoch = lease.epoch, "lease acquired");
            let mut state = holding.state();
            state.lease = Some(lease);
            state.trusted = true;
            state.last_tick = Instant::now();
            drop(state);
            holding.changed.send_replace(true);
        }
        Ok(Ok(Err(holder))) => debug!(holder = %holder.process, host = holder.host, executor = holder.executor, "lease is held by another"),
        Ok(Err(error)) => warn!(%error, "lease could not be asked for"),
        Err(_) => warn!("lease could not be asked for in time"),
    }
}

async fn renew(store: &LeaseStore, me: &LeaseHolder, holding: &Holding, mut lease: Lease) {
    let result = tokio::time::timeout(CALL, store.renew(&mut lease, me)).await;
    let now = Instant::now();
    let over = match result {
        Ok(Ok(())) => {
            let mut state = holding.state();
            // A lease that somebody declared lost meanwhile stays lost.
            if state.lease.is_some() {
                state.lease = Some(lease);
                state.trusted = true;
                state.last_tick = now;
            }
            return;
        }
        Ok(Err(error)) if error.kind() == StoreErrorKind::Conflict => {
            warn!("lease was taken by another");
            true
        }
        Ok(Err(error)) => {
            warn!(%error, "lease could not be renewed");
            !lease.valid(now)
        }
        Err(_) => {
            warn!("lease could not be renewed in time");
            !lease.valid(now)
        }
    };
    if over {
        holding.lost();
    }
}
