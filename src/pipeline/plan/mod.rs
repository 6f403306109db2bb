//! The plan: from what is wished, what is there and what was kept, the next steps. Pure; the controller's `reconcile`
//! carries the steps out and asks again until there are none.
//!
//! One next step a pass, and progress is read from the stream, the executions and the status, never from memory: a
//! controller that dies between two steps is followed by one that goes on with the next.
//!
//! ```text
//! wish Run      stream ▶ admit run ▶ ensure                    (another target: `switch`)
//! wish Paused   admit stopped ▶ stop
//! wish Draft    admit absent ▶ destroy
//! wish Deleted  admit drain ▶ move subjects ▶ run until empty ▶ admit absent ▶ destroy ▶ delete stream ▶ forget
//!               not running: admit absent ▶ destroy ▶ stream empty: move subjects ▶ still empty: delete stream, else restore
//! wish Unfit    what is admitted goes on; a drain is cancelled, and so is a target change
//! wish Unknown  what is admitted goes on; a target change is cancelled
//! any           a consumer that was paused for a target change that is over: resume
//! ```

mod switch;

pub use switch::{Deliveries, PAUSE, Pause};

use super::config::OnDelete;
use super::moves::Moves;
use super::spec::{ExecutionSpec, Fingerprint};
use super::status::{Admitted, Kept, Phase};
use jiff::Timestamp;
use std::time::Duration;

#[cfg(test)]
mod tests;

/// How soon a drain, a switch or a deletion is looked at again.
pub const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// How soon it is looked again whether a previous target can be forgotten.
const SETTLES: Duration = Duration::from_secs(15);

/// What the entry, its config and the settings ask for, once both were read and checked.
#[derive(Debug, Clone, PartialEq)]
pub enum Wish {
    /// Run exactly this.
    Run(Box<ExecutionSpec>),
    /// Stop and keep.
    Paused,
    /// Leave no trace of an execution; the stream stays.
    Draft,
    /// The key has a marker, in the very bucket that the status recorded.
    Deleted,
    /// There is an entry, but it is unreadable or its version is not fit to run.
    Unfit,
    /// Nothing can be said: the entry is gone without a marker that counts.
    Unknown,
}

/// What is there.
#[derive(Debug, Clone, PartialEq)]
pub struct World {
    /// Whether there is a status in which something was admitted: else `admitted` says nothing.
    pub known: bool,
    /// What the status says is admitted.
    pub admitted: Admitted,
    /// What this controller's executor has.
    pub execution: Option<Execution>,
    /// Live executions in all processes, by their reports, the own ones included.
    pub live: u32,
    /// Whether another process runs what is admitted.
    pub elsewhere: bool,
    /// The pipeline's stream; `None` where there is none. Only looked at where [`needs_stream`] says so.
    pub stream: Option<Stream>,
    /// The previous targets that the entry gives up: what may lie there is not looked up any more.
    pub given_up: Vec<String>,
}

/// What this controller's executor has for the pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Execution {
    /// What it was started as.
    pub fingerprint: Fingerprint,
    /// Whether it runs.
    pub running: bool,
    /// How many replicas there are, where the executor has them.
    pub replicas: Option<u32>,
}

/// What the plan needs to know of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    /// When it was created: another time means another stream.
    pub created: Timestamp,
    /// Whether it listens on `{ns}-closed.{id}` only.
    pub closed: bool,
    /// Messages in it.
    pub messages: u64,
    /// Whether we may delete it: it has the pipeline's own name, or our metadata.
    pub deletable: bool,
    /// Whether its durable is there and, where it is ours, as the config wants it.
    pub durable: bool,
    /// The sequence of its first message, or the next one where it is empty.
    pub first: u64,
    /// When its first message was published; `None` where it is empty.
    pub first_time: Option<Timestamp>,
    /// Its last sequence.
    pub last: u64,
    /// What its durable is doing, where there is one.
    pub deliveries: Option<Deliveries>,
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Decides what is admitted, and acts on it.
    Holder,
    /// Only acts on what is admitted.
    Runner,
    /// The holder's executor is of another kind: starts nothing, and ends what it runs once that kind runs it.
    StandBy,
    /// Executions are the same for all controllers, and the holder alone acts on them.
    Looker,
}

/// One step.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Create the stream and the durable where they are missing.
    EnsureStream(Box<ExecutionSpec>),
    /// Create the durable on the stream that is there.
    EnsureDurable,
    /// Write into the status what executors are to do.
    Admit(Box<Admission>),
    /// Pause the consumer, or go on with its pause, for [`PAUSE`].
    Pause,
    /// End a pause of ours, and note that it is over.
    Resume,
    /// Make the executor run exactly this.
    Ensure(Box<ExecutionSpec>),
    /// Make the executor stop and keep.
    Stop,
    /// Make the executor leave nothing.
    Destroy,
    /// Make the stream listen on `{ns}-closed.{id}` only, so that a racing publish fails at its publisher.
    MoveSubjects,
    /// Make the stream listen on what it listened on before.
    RestoreSubjects,
    /// Check entry, subjects and emptiness once more, then delete the stream.
    DeleteStream,
    /// Remove the status: nothing is left of the pipeline.
    Forget,
    /// Look again after this time: something else has to happen first.
    Wait(Duration),
}

/// What is to be admitted.
#[derive(Debug, Clone, PartialEq)]
pub struct Admission {
    /// The phase.
    pub phase: Phase,
    /// The spec, where there is one to run or to keep.
    pub spec: Option<ExecutionSpec>,
    /// Sets, keeps or clears the beginning of the drain.
    pub drain: DrainMark,
    /// The target changes from now on.
    pub moves: Moves,
}

/// What an admission does to `kept.drain_started`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrainMark {
    /// Set it to now where it is not set.
    Begin,
    /// Leave it.
    Leave,
    /// Clear it.
    Clear,
}

/// Whether planning `wish` needs to know the stream.
pub fn needs_stream(wish: &Wish, role: Role) -> bool {
    role == Role::Holder && *wish != Wish::Unknown
}

/// The next steps; none means that all is as it should be.
pub fn plan(wish: &Wish, world: &World, kept: &Kept, role: Role, now: Timestamp) -> Vec<Action> {
    match role {
        Role::Holder => {}
        Role::Runner => return act(world),
        Role::StandBy => return stand_by(world),
        Role::Looker => return vec![],
    }
    if kept.moves.paused && world.admitted.phase != Phase::Switch && needs_stream(wish, role) {
        return vec![Action::Resume];
    }
    match wish {
        Wish::Unknown => switch_back(world, kept).unwrap_or_else(|| act(world)),
        Wish::Deleted => deleted(world, kept),
        Wish::Unfit => reopen(world).unwrap_or_else(|| unfit(world, kept)),
        Wish::Run(spec) => reopen(world).unwrap_or_else(|| run(spec, world, kept, now)),
        Wish::Paused => reopen(world).unwrap_or_else(|| match world.admitted.phase {
            Phase::Run | Phase::Switch | Phase::Drain => admit(Phase::Stopped, world.admitted.spec.clone(), DrainMark::Clear, world, kept),
            // What runs anywhere although the status was lost is stopped, and kept.
            _ if !world.known => admit(Phase::Stopped, None, DrainMark::Clear, world, kept),
            Phase::Stopped | Phase::Absent => act(world),
        }),
        Wish::Draft => reopen(world).unwrap_or_else(|| match world.admitted.phase {
            Phase::Absent if world.known => act(world),
            _ => admit(Phase::Absent, None, DrainMark::Clear, world, kept),
        }),
    }
}

/// What the executor must do for what is admitted.
fn act(world: &World) -> Vec<Action> {
    if !world.known {
        return vec![];
    }
    let execution = world.execution.as_ref();
    match (world.admitted.phase, &world.admitted.spec) {
        (Phase::Run | Phase::Drain, Some(spec)) => {
            let enough = |replicas: Option<u32>| replicas.is_none_or(|replicas| replicas == spec.replicas.max(1));
            let right = execution
                .is_some_and(|execution| execution.running && execution.fingerprint == spec.fingerprint && enough(execution.replicas));
            if right { vec![] } else { vec![Action::Ensure(Box::new(spec.clone()))] }
        }
        (Phase::Run | Phase::Drain, None) => vec![],
        (Phase::Switch | Phase::Stopped, _) if execution.is_some_and(|execution| execution.running) => vec![Action::Stop],
        (Phase::Switch | Phase::Stopped, _) => vec![],
        (Phase::Absent, _) if execution.is_some() => vec![Action::Destroy],
        (Phase::Absent, _) => vec![],
    }
}

/// What a controller does whose executor is of another kind than the holder's: what it started before goes on until the
/// holder's kind runs it, and ends earlier where it would end anyway.
fn stand_by(world: &World) -> Vec<Action> {
    let Some(execution) = world.execution.as_ref().filter(|_| world.known) else { return vec![] };
    match world.admitted.phase {
        Phase::Run | Phase::Drain if !world.elsewhere => vec![],
        Phase::Run | Phase::Drain | Phase::Absent => vec![Action::Destroy],
        Phase::Switch | Phase::Stopped if execution.running => vec![Action::Stop],
        Phase::Switch | Phase::Stopped => vec![],
    }
}

fn run(spec: &ExecutionSpec, world: &World, kept: &Kept, now: Timestamp) -> Vec<Action> {
    let Some(stream) = world.stream.as_ref().filter(|stream| stream.durable) else {
        return vec![Action::EnsureStream(Box::new(spec.clone()))];
    };
    let admitted = &world.admitted;
    let home = kept.moves.home(admitted.spec.as_ref());
    // Two targets never overlap: each document ends up in exactly one of them.
    if home.is_some_and(|home| home.place.target != spec.target) {
        return switch::switch(spec, world, stream, kept, now);
    }
    let next = kept.moves.arrive(spec, admitted.spec.as_ref(), &world.given_up, &switch::tape(stream), now);
    let spec = next.fill(spec);
    if admitted.phase != Phase::Run || admitted.spec.as_ref() != Some(&spec) || next != kept.moves {
        return vec![Action::Admit(Box::new(Admission { phase: Phase::Run, spec: Some(spec), drain: DrainMark::Clear, moves: next }))];
    }
    let steps = act(world);
    if steps.is_empty() && !spec.previous.is_empty() { vec![Action::Wait(SETTLES)] } else { steps }
}

/// What ran before a target change goes on where nothing says any more where to.
fn switch_back(world: &World, kept: &Kept) -> Option<Vec<Action>> {
    let spec = world.admitted.spec.clone().filter(|_| world.known && world.admitted.phase == Phase::Switch)?;
    Some(admit(Phase::Run, Some(spec), DrainMark::Leave, world, kept))
}

/// Opens a stream that was moved aside: the entry is there. Whatever the status says, since it may have been lost.
fn reopen(world: &World) -> Option<Vec<Action>> {
    let stream = world.stream.as_ref()?;
    (stream.closed && stream.deletable).then(|| vec![Action::RestoreSubjects])
}

/// The entry is there and cannot be followed: what was admitted before any drain goes on.
fn unfit(world: &World, kept: &Kept) -> Vec<Action> {
    let admitted = &world.admitted;
    if kept.drain_started.is_some() || admitted.phase == Phase::Drain {
        let phase = match admitted.phase {
            Phase::Drain | Phase::Absent | Phase::Switch if admitted.spec.is_some() => Phase::Run,
            Phase::Drain => Phase::Absent,
            phase => phase,
        };
        return admit(phase, admitted.spec.clone(), DrainMark::Clear, world, kept);
    }
    if let Some(steps) = switch_back(world, kept) {
        return steps;
    }
    match &world.stream {
        Some(stream) if world.known && admitted.phase == Phase::Run && admitted.spec.is_some() && !stream.durable => {
            vec![Action::EnsureDurable]
        }
        _ => act(world),
    }
}

fn deleted(world: &World, kept: &Kept) -> Vec<Action> {
    let stream = world.stream.as_ref().filter(|stream| stream.deletable && Some(stream.created) == kept.stream_created);
    let phase = world.admitted.phase;
    let draining = kept.drain_started.is_some();
    match (kept.on_delete, stream) {
        (OnDelete::Keep, Some(stream)) if stream.closed => vec![Action::RestoreSubjects],
        (OnDelete::Keep, _) | (_, None) => gone(world, kept, vec![Action::Forget]),
        (OnDelete::Delete, Some(_)) => gone(world, kept, vec![Action::DeleteStream]),
        (OnDelete::Drain, Some(stream)) if !draining => match phase {
            Phase::Run | Phase::Drain => admit(Phase::Drain, world.admitted.spec.clone(), DrainMark::Begin, world, kept),
            // Into the old target: the new one has not begun.
            Phase::Switch if world.admitted.spec.is_some() => {
                admit(Phase::Drain, world.admitted.spec.clone(), DrainMark::Begin, world, kept)
            }
            // Closed first, since a publish may be acknowledged between any look and the deletion. What nobody was
            // writing is not written now, and not destroyed either: then the stream opens again and stays.
            Phase::Switch | Phase::Stopped | Phase::Absent => gone(
                world,
                kept,
                match (stream.closed, stream.messages) {
                    (true, 0) => vec![Action::DeleteStream],
                    (true, _) => vec![Action::RestoreSubjects],
                    (false, 0) => vec![Action::MoveSubjects],
                    (false, _) => vec![],
                },
            ),
        },
        (OnDelete::Drain, Some(stream)) if !stream.closed => vec![Action::MoveSubjects],
        (OnDelete::Drain, Some(stream)) if stream.messages > 0 => match phase {
            Phase::Drain if !stream.durable => vec![Action::EnsureDurable],
            Phase::Drain => {
                let mut steps = act(world);
                steps.push(Action::Wait(LOOK_AGAIN));
                steps
            }
            _ => admit(Phase::Drain, world.admitted.spec.clone(), DrainMark::Leave, world, kept),
        },
        (OnDelete::Drain, Some(_)) => gone(world, kept, vec![Action::DeleteStream]),
    }
}

/// Absent first, everywhere; then `last`.
fn gone(world: &World, kept: &Kept, last: Vec<Action>) -> Vec<Action> {
    if world.admitted.phase != Phase::Absent || !world.known {
        // The spec is kept until the stream is gone: a drain that has to go on needs it.
        return admit(Phase::Absent, world.admitted.spec.clone(), DrainMark::Leave, world, kept);
    }
    let steps = act(world);
    if !steps.is_empty() {
        steps
    } else if world.live > 0 {
        vec![Action::Wait(LOOK_AGAIN)]
    } else {
        last
    }
}

/// Admits something that is no target change; one that was under way ends here.
fn admit(phase: Phase, spec: Option<ExecutionSpec>, drain: DrainMark, world: &World, kept: &Kept) -> Vec<Action> {
    let moves = kept.moves.ended(world.admitted.spec.as_ref());
    vec![Action::Admit(Box::new(Admission { phase, spec, drain, moves }))]
}
