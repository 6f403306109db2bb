//! A target change, one step a pass. Part of the plan.
//!
//! ```text
//! admit switch ▶ pause the consumer ▶ stop ▶ nothing runs, nothing is unacknowledged, no pull waits ▶ admit run ▶ resume
//! ```
//!
//! Whatever the old execution was given it writes and acknowledges before it ends, so that most changes leave nothing to
//! look up. What a dead one held stays unacknowledged while the consumer is paused: it is waited for until its lease, and an
//! insert that began in it, must be over. Then the stream's last sequence is noted ([`Moves::arrive`]), before anything
//! published later can be delivered. A pause lasts [`PAUSE`] and is renewed only here, so that it ends by itself where
//! everybody dies; [`Moves::paused`] makes whoever finds the change over (done, taken back, paused, deleted) resume.
//! Without the right or a server to pause, the same steps are taken: nobody who is known pulls meanwhile.

use super::{Action, Admission, DrainMark, LOOK_AGAIN, Phase, Stream, World, act};
use crate::pipeline::moves::{Moves, Tape};
use crate::pipeline::spec::ExecutionSpec;
use crate::pipeline::status::Kept;
use jiff::Timestamp;
use std::time::Duration;

/// How long the consumer is paused at once. A longer pause is somebody else's, and left alone.
pub const PAUSE: Duration = Duration::from_secs(60);
/// A pause is renewed when less than this is left of it.
const RENEW: Duration = Duration::from_secs(30);
/// Pull requests end within a minute, also those of a process that is suspended.
const PULLS_END: Duration = Duration::from_secs(65);

/// What a durable is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deliveries {
    /// `ack_wait`.
    pub ack_wait: Duration,
    /// Messages delivered and not acknowledged.
    pub unacknowledged: u64,
    /// Pull requests that wait at the server.
    pub pulls: u64,
    /// Whether it is paused.
    pub pause: Pause,
}

/// Whether a durable is paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    /// It is not.
    Off,
    /// It is not, and cannot be: an old server, or no permission.
    Impossible,
    /// For so long from now on.
    Left(Duration),
}

impl Pause {
    /// Whether it is one that a target change may have made, and so may end.
    pub fn ours(self) -> bool {
        matches!(self, Self::Left(left) if left <= PAUSE)
    }
}

/// What [`Moves::arrive`] needs of `stream`.
pub(super) fn tape(stream: &Stream) -> Tape {
    let ack_wait = stream.deliveries.map_or(Duration::ZERO, |deliveries| deliveries.ack_wait);
    Tape { created: stream.created, first: stream.first, first_time: stream.first_time, last: stream.last, ack_wait }
}

/// The next step towards `spec`, whose target is another one than the pipeline's home.
pub(super) fn switch(spec: &ExecutionSpec, world: &World, stream: &Stream, kept: &Kept, now: Timestamp) -> Vec<Action> {
    let (moves, admitted) = (&kept.moves, &world.admitted);
    let (Phase::Switch, Some(since)) = (admitted.phase, moves.since) else {
        // What ran goes on should the wish vanish in the middle; what was paused does not.
        let ran = matches!(admitted.phase, Phase::Run | Phase::Drain | Phase::Switch);
        return admission(Phase::Switch, admitted.spec.clone().filter(|_| ran), moves.begun(admitted.spec.as_ref(), now));
    };
    // Another stream's messages are others: nothing of the old one is ever delivered to the new execution.
    let same_stream = moves.home(admitted.spec.as_ref()).is_none_or(|home| home.stream == spec.stream);
    let deliveries = stream.deliveries.filter(|_| same_stream);
    match deliveries.map(|deliveries| deliveries.pause) {
        Some(Pause::Off) => return vec![Action::Pause],
        Some(Pause::Left(left)) if left < RENEW => return vec![Action::Pause],
        _ => {}
    }
    let steps = act(world);
    if !steps.is_empty() {
        return steps;
    }
    let waits = deliveries.is_some_and(|deliveries| in_flight(deliveries, now.duration_since(since).unsigned_abs()));
    if world.live > 0 || waits {
        return vec![Action::Wait(LOOK_AGAIN)];
    }
    let next = moves.arrive(spec, admitted.spec.as_ref(), &world.given_up, &tape(stream), now);
    admission(Phase::Run, Some(next.fill(spec)), next)
}

/// Whether something that was delivered, or may yet be by a pull of before, is worth waiting for.
fn in_flight(deliveries: Deliveries, elapsed: Duration) -> bool {
    let leases_end = deliveries.ack_wait.saturating_mul(2);
    (deliveries.unacknowledged > 0 && elapsed < leases_end) || (deliveries.pulls > 0 && elapsed < leases_end.max(PULLS_END))
}

fn admission(phase: Phase, spec: Option<ExecutionSpec>, moves: Moves) -> Vec<Action> {
    vec![Action::Admit(Box::new(Admission { phase, spec, drain: DrainMark::Clear, moves }))]
}
