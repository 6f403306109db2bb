//! Asks for more messages: four batches ahead while more is known to wait, a few while messages come now and then, one while
//! none do; never more than the consumer's share, the process's budget and this pipeline's own bounds allow; nothing at all
//! while what is held cannot be written. Part of the core.
//!
//! Where messages flow, requests are brief: they end by themselves soon after a stop. Where none do, a request lasts long,
//! so that a thousand idle pipelines cost nothing, and asks for one message: the first that comes uses it up, and no long
//! request is ever out while messages flow. (One for more messages would be: a trickle takes a minute to use it up, and
//! taking it back in the middle of a flow costs redeliveries.)

use super::Core;
use super::types::{Effect, MS, Nanos, Now, SECOND, Target};
use crate::pipeline::backoff::Backoff;
use std::time::Duration;

/// Messages that a pipeline asks for while none are known to wait.
const FEW: u64 = 256;
/// Messages asked for at once, at most; a source has no room for more.
const MOST: u64 = 8192;
/// How long a brief request may wait at the server.
pub const FLOW_EXPIRES: Nanos = SECOND;
/// How long after its last message a pipeline counts as idle.
const IDLE_AFTER: Nanos = 5 * SECOND;
/// Bytes that are asked for while none are known to wait; the source raises it to one message of the largest size.
const FEW_BYTES: u64 = 1 << 20;
/// How long after the last message that had others behind it a pipeline counts as busy.
const BUSY: Nanos = 2 * SECOND;
/// How soon and how seldom a pipeline looks whether the process's budget has room again.
const BUDGET_AGAIN: (Nanos, Nanos) = (50 * MS, SECOND);
/// How often one batch is fetched past those that wait aside.
const RELIEF: Nanos = 30 * SECOND;

const REFUSED: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
const GAP: Backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(2));
/// The consumer is there, but not for pull requests.
const GONE: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));

/// What is known about pulling.
#[derive(Debug)]
pub(super) struct Pulls {
    /// How many waited behind the last message.
    pending: u64,
    busy_until: Nanos,
    pub(super) last_at: Option<Nanos>,
    /// When the first request was made.
    first_at: Option<Nanos>,
    /// Whether the last request lasts long.
    lasting: bool,
    next_at: Nanos,
    gaps: u32,
    refusals: u32,
    there: bool,
    /// How often the consumer was gone since it last brought something.
    goings: u32,
    /// Since when the process's budget has been all that keeps it from pulling.
    starved: Option<Nanos>,
    /// When one batch may be fetched although too many wait aside; 0 while they are not too many.
    relief_at: Nanos,
}

impl Pulls {
    pub(super) fn new() -> Self {
        Self {
            pending: 0,
            busy_until: 0,
            last_at: None,
            first_at: None,
            lasting: false,
            next_at: 0,
            gaps: 0,
            refusals: 0,
            there: true,
            goings: 0,
            starved: None,
            relief_at: 0,
        }
    }

    pub(super) fn delivered(&mut self, pending: u64, now: Nanos) {
        self.pending = pending;
        self.last_at = Some(now);
        self.gaps = 0;
        self.refusals = 0;
        self.goings = 0;
        if pending > 0 {
            self.busy_until = now + BUSY;
        }
    }

    /// What was known of the stream is not so any more.
    pub(super) fn forget(&mut self) {
        self.pending = 0;
        self.relief_at = 0;
    }

    /// The first time at once, then with growing pauses until a message comes.
    pub(super) fn gap(&mut self, now: Nanos) {
        let pause = if self.gaps == 0 { Duration::ZERO } else { GAP.delay(self.gaps, 1.0) };
        self.gaps += 1;
        self.next_at = self.next_at.max(now + nanos(pause));
    }

    pub(super) fn refused(&mut self, now: Nanos, random: f64) {
        self.refusals += 1;
        self.next_at = now + nanos(REFUSED.delay(self.refusals, random));
    }

    pub(super) fn consumer(&mut self, there: bool, now: Nanos) {
        if there && !self.there {
            // The first time at once: it was made anew.
            let pause = if self.goings < 2 { Duration::ZERO } else { GONE.delay(self.goings - 1, 1.0) };
            self.next_at = now + nanos(pause);
        }
        self.goings += u32::from(!there && self.there);
        self.there = there;
    }

    /// Whether the last message said that more wait.
    pub(super) fn more_pending(&self) -> bool {
        self.pending > 0
    }

    /// Whether the process's budget is all that keeps it from pulling.
    pub(super) fn starved(&self) -> bool {
        self.starved.is_some()
    }

    /// Whether those that wait aside are all that keeps it from pulling freely.
    pub(super) fn blocked_by_aside(&self) -> bool {
        self.relief_at > 0
    }

    pub(super) fn due(&self, now: Nanos) -> Nanos {
        if let Some(since) = self.starved {
            now + (now - since).clamp(BUDGET_AGAIN.0, BUDGET_AGAIN.1)
        } else if self.there && self.next_at > now {
            self.next_at
        } else if self.relief_at > now {
            self.relief_at
        } else {
            Nanos::MAX
        }
    }
}

fn nanos(delay: Duration) -> Nanos {
    Nanos::try_from(delay.as_nanos()).unwrap_or(SECOND)
}

impl Core {
    /// Whether the last request is to last long, rather than [`FLOW_EXPIRES`].
    pub fn pulls_last(&self) -> bool {
        self.pulls.lasting
    }

    /// How many messages this execution may have unacknowledged.
    pub(super) fn share(&self) -> u64 {
        match u64::try_from(self.limits.max_ack_pending) {
            Ok(pending @ 1..) => (pending / u64::from(self.limits.live.max(1))).max(1),
            _ => u64::MAX,
        }
    }

    /// How many bytes this pipeline may hold: its batches under way, and one being filled.
    fn byte_bound(&self) -> u64 {
        self.batches.bytes * u64::from(self.batches.max_in_flight + 2)
    }

    pub(super) fn pull_more(&mut self, now: Now, out: &mut Vec<Effect>) {
        let starved = self.pulls.starved.take();
        let blocked = self.stopping.is_some()
            || !self.pulls.there
            || self.target != Target::Good
            || self.stands_by()
            || !self.breaker.closed()
            || self.burials.failing();
        if blocked || now.at < self.pulls.next_at {
            return;
        }
        let batch = self.batch_count();
        let share = self.share();
        let most = if self.limits.max_batch == 0 { u64::MAX } else { self.limits.max_batch };
        let aside_bytes = self.aside_bytes();
        let full = self.aside >= self.aside_bound() || aside_bytes >= self.byte_bound();
        if full {
            if self.pulls.relief_at == 0 {
                self.pulls.relief_at = now.at + RELIEF;
            }
            let room = now.outstanding == 0 && self.in_hand + batch <= share && now.free > 0;
            if now.at >= self.pulls.relief_at && room {
                self.pulls.relief_at = now.at + RELIEF;
                self.pulls.lasting = false;
                out.push(Effect::Pull { batch: batch.min(most), max_bytes: self.batches.bytes.min(now.free) });
            }
            return;
        }
        self.pulls.relief_at = 0;
        let busy = now.at < self.pulls.busy_until;
        // Of a beginner nobody knows yet whether messages wait for it.
        let beginning = self.pulls.first_at.is_none_or(|first| now.at < first + FLOW_EXPIRES);
        let flowing = beginning || self.pulls.last_at.is_some_and(|last| now.at < last + IDLE_AFTER);
        let window = match (busy, flowing) {
            (true, _) => (4 * batch).min(share).min(MOST),
            (false, true) => FEW.min(batch),
            (false, false) => 1,
        };
        let window = window.min(most.saturating_mul(4));
        if now.outstanding > window / 2 {
            return;
        }
        let moving =
            (batch * u64::from(self.batches.max_in_flight + 5)).saturating_sub((now.outstanding + self.in_hand).saturating_sub(self.aside));
        let room = share.saturating_sub(now.outstanding + self.in_hand).min(moving);
        let wanted = (window - now.outstanding).min(room);
        if wanted < (batch.min(window) / 2).max(1) {
            return;
        }
        let wanted = wanted.min(most);
        let bytes = (4 * self.batches.bytes).min(self.byte_bound().saturating_sub(self.in_hand_bytes.saturating_sub(aside_bytes)));
        if bytes == 0 {
            return;
        }
        if now.free == 0 {
            self.pulls.starved = starved.or(Some(now.at));
            return;
        }
        let max_bytes = if busy { bytes.min(now.free / 2 + 1) } else { FEW_BYTES };
        self.pulls.first_at.get_or_insert(now.at);
        self.pulls.lasting = !flowing;
        out.push(Effect::Pull { batch: wanted, max_bytes });
    }
}
