//! What one execution shows of itself while it runs: phase, counters, troubles, the times of its last pull and write.
//! Written by the driver, by batch; read by reports, health, metrics and state requests.

use crate::pipeline::report::{Counters, EffectiveLimits, ExecutionPhase, StreamRole, Trouble};
use crate::pipeline::status::Reason;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What changes seldom.
#[derive(Debug, Default)]
struct Shown {
    phase: Option<ExecutionPhase>,
    troubles: Vec<Trouble>,
    limits: EffectiveLimits,
    role: Option<StreamRole>,
    advice: Vec<Trouble>,
    /// When the server last said anything about pull requests.
    signs: Option<Arc<AtomicU64>>,
}

/// The live state of one execution; shared and cheap to read.
#[derive(Debug, Default)]
pub struct ExecutionState {
    shown: Mutex<Shown>,
    received: AtomicU64,
    written: AtomicU64,
    duplicates: AtomicU64,
    dead_lettered: AtomicU64,
    redelivered: AtomicU64,
    expired: AtomicU64,
    buffered: AtomicU64,
    lost_tails: AtomicU64,
    unreadable_headers: AtomicU64,
    proven: AtomicBool,
    last_pull_ms: AtomicU64,
    last_write_ms: AtomicU64,
    /// Since when something has been held without a pause.
    held_since_ms: AtomicU64,
    waiting: AtomicU64,
    oldest_ms: AtomicU64,
}

impl ExecutionState {
    /// What it is doing; [`ExecutionPhase::Starting`] until it says otherwise.
    pub fn phase(&self) -> ExecutionPhase {
        self.shown().phase.unwrap_or(ExecutionPhase::Starting)
    }

    /// Counters since it started.
    pub fn counters(&self) -> Counters {
        Counters {
            received: self.received.load(Relaxed),
            written: self.written.load(Relaxed),
            duplicates: self.duplicates.load(Relaxed),
            dead_lettered: self.dead_lettered.load(Relaxed),
            redelivered: self.redelivered.load(Relaxed),
            expired: self.expired.load(Relaxed),
            buffered: self.buffered.load(Relaxed),
            lost_tails: self.lost_tails.load(Relaxed),
            unreadable_headers: self.unreadable_headers.load(Relaxed),
        }
    }

    /// Why it does not make progress; empty where it does.
    pub fn troubles(&self) -> Vec<Trouble> {
        self.shown().troubles.clone()
    }

    /// What is doubtful but keeps nothing from making progress.
    pub fn advice(&self) -> Vec<Trouble> {
        self.shown().advice.clone()
    }

    /// Limits in force.
    pub fn limits(&self) -> EffectiveLimits {
        self.shown().limits
    }

    /// Its part in reading the stream, of a time-series pipeline that knows it.
    pub fn role(&self) -> Option<StreamRole> {
        self.shown().role
    }

    /// Whether its config has ever stored a document.
    pub fn proven(&self) -> bool {
        self.proven.load(Relaxed)
    }

    /// Milliseconds since the epoch of the last sign of life of a pull (an end, a message, a heartbeat) and of the last
    /// confirmed write, or of when what is held began to be, if that is later; 0 for never.
    pub fn last_activity(&self) -> (u64, u64) {
        let heard = self.shown().signs.as_ref().map_or(0, |signs| signs.load(Relaxed));
        let wrote = self.last_write_ms.load(Relaxed).max(self.held_since_ms.load(Relaxed));
        (self.last_pull_ms.load(Relaxed).max(heard), wrote)
    }

    /// Takes the clock of the source's signs of life.
    pub(super) fn listens(&self, signs: Arc<AtomicU64>) {
        self.shown().signs = Some(signs);
    }

    /// Messages in the stream that are not acknowledged, as of the last look at the consumer.
    pub fn waiting(&self) -> u64 {
        self.waiting.load(Relaxed)
    }

    /// The age of the oldest message without an acknowledgement, as of the last look at the stream; `None` where there
    /// is none.
    pub fn oldest(&self) -> Option<Duration> {
        match self.oldest_ms.load(Relaxed) {
            0 => None,
            age => Some(Duration::from_millis(age)),
        }
    }

    /// The execution has ended: nothing is held, nothing is in the way any more. Counters stay.
    pub fn gone(&self) {
        let mut shown = self.shown();
        shown.phase = Some(ExecutionPhase::Stopped);
        shown.troubles.clear();
        self.buffered.store(0, Relaxed);
    }

    pub(super) fn show(&self, phase: ExecutionPhase, troubles: Vec<Trouble>) {
        let mut shown = self.shown();
        shown.phase = Some(phase);
        shown.troubles = troubles;
    }

    /// Says `advice` in the place of what was advised for this reason.
    pub(super) fn advise(&self, reason: Reason, advice: Vec<Trouble>) {
        let mut shown = self.shown();
        shown.advice.retain(|other| other.reason != reason);
        shown.advice.extend(advice);
    }

    pub(super) fn show_role(&self, role: StreamRole) {
        self.shown().role = Some(role);
    }

    pub(super) fn show_limits(&self, limits: EffectiveLimits) {
        self.shown().limits = limits;
    }

    pub(super) fn show_waiting(&self, messages: u64) {
        self.waiting.store(messages, Relaxed);
    }

    pub(super) fn show_oldest(&self, age: Option<Duration>) {
        let age = age.map_or(0, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX).max(1));
        self.oldest_ms.store(age, Relaxed);
    }

    pub(super) fn count(&self, counters: Counters, proven: bool) {
        self.received.store(counters.received, Relaxed);
        self.written.store(counters.written, Relaxed);
        self.duplicates.store(counters.duplicates, Relaxed);
        self.dead_lettered.store(counters.dead_lettered, Relaxed);
        self.redelivered.store(counters.redelivered, Relaxed);
        self.expired.store(counters.expired, Relaxed);
        self.lost_tails.store(counters.lost_tails, Relaxed);
        self.unreadable_headers.store(counters.unreadable_headers, Relaxed);
        if self.buffered.swap(counters.buffered, Relaxed) == 0 && counters.buffered > 0 {
            self.held_since_ms.store(now_ms(), Relaxed);
        }
        self.proven.store(proven, Relaxed);
    }

    pub(super) fn pulled(&self) {
        self.last_pull_ms.store(now_ms(), Relaxed);
    }

    pub(super) fn wrote(&self) {
        self.last_write_ms.store(now_ms(), Relaxed);
    }

    fn shown(&self) -> MutexGuard<'_, Shown> {
        // Plain data: what a panicking writer left is still readable.
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
