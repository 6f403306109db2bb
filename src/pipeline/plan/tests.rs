//! The plan against a small model of the world: every wish converges from every state, and a second look does nothing.

use super::*;
use crate::pipeline::id::VersionName;
use crate::pipeline::spec::Target;
use proptest::prelude::*;

mod kinds;
mod switches;

const BUCKET_STREAM: Timestamp = Timestamp::UNIX_EPOCH;

fn spec(version: u8, collection: &str) -> ExecutionSpec {
    let like = crate::pipeline::spec::tests::spec();
    let target = Target { collection: collection.into(), ..like.target };
    let version = VersionName::parse(&version.to_string()).unwrap();
    ExecutionSpec { digest: format!("SHA-256={version}"), version, target, ..like }.seal("")
}

/// The world with what a pass changes in it.
#[derive(Debug, Clone)]
struct Model {
    world: World,
    kept: Kept,
    now: Timestamp,
    stored: u64,
    destroyed: u64,
    forgotten: bool,
}

impl Model {
    fn apply(&mut self, action: &Action) {
        let world = &mut self.world;
        match action {
            Action::EnsureStream(_) => {
                let stream = world.stream.get_or_insert(stream(0));
                stream.durable = true;
                stream.deliveries.get_or_insert(IDLE);
                self.kept.stream_created = Some(stream.created);
            }
            Action::EnsureDurable => world.stream.as_mut().unwrap().durable = true,
            Action::Admit(admission) => {
                world.known = true;
                world.admitted.phase = admission.phase;
                world.admitted.spec = admission.spec.clone();
                self.kept.moves = admission.moves.clone();
                match admission.drain {
                    DrainMark::Begin => self.kept.drain_started = self.kept.drain_started.or(Some(BUCKET_STREAM)),
                    DrainMark::Leave => {}
                    DrainMark::Clear => self.kept.drain_started = None,
                }
            }
            Action::Pause => self.deliveries().pause = Pause::Left(PAUSE),
            Action::Resume => {
                self.kept.moves.paused = false;
                if world.stream.as_ref().and_then(|stream| stream.deliveries).is_some_and(|deliveries| deliveries.pause.ours()) {
                    self.deliveries().pause = Pause::Off;
                }
            }
            Action::Ensure(spec) => {
                world.execution = Some(Execution { fingerprint: spec.fingerprint.clone(), running: true, replicas: None });
                world.live = 1;
                self.pulls(1);
            }
            Action::Stop => {
                if let Some(execution) = &mut world.execution {
                    execution.running = false;
                }
                world.live = 0;
                self.pulls(0);
            }
            Action::Destroy => {
                world.execution = None;
                world.live = 0;
                self.pulls(0);
            }
            Action::MoveSubjects => world.stream.as_mut().unwrap().closed = true,
            Action::RestoreSubjects => world.stream.as_mut().unwrap().closed = false,
            Action::DeleteStream => {
                // Into an open stream somebody publishes at the very last moment.
                let stream = world.stream.take().unwrap();
                self.destroyed += stream.messages + u64::from(!stream.closed);
            }
            Action::Forget => self.forgotten = true,
            Action::Wait(_) => {
                self.pass_time(Duration::from_secs(20));
                let world = &mut self.world;
                // Meanwhile a running execution writes what waits, and other processes' executions end.
                let runs = world.execution.as_ref().is_some_and(|execution| execution.running);
                if let (true, Some(stream)) = (runs, world.stream.as_mut().filter(|stream| stream.durable)) {
                    let written = stream.messages.min(100);
                    stream.messages -= written;
                    stream.first += written;
                    stream.first_time = stream.first_time.filter(|_| stream.messages > 0);
                    self.stored += written;
                }
                if !runs {
                    world.live = 0;
                }
            }
        }
    }

    fn deliveries(&mut self) -> &mut Deliveries {
        self.world.stream.as_mut().unwrap().deliveries.as_mut().unwrap()
    }

    fn pulls(&mut self, pulls: u64) {
        if let Some(deliveries) = self.world.stream.as_mut().and_then(|stream| stream.deliveries.as_mut()) {
            deliveries.pulls = pulls;
        }
    }

    /// A pause runs out by itself.
    fn pass_time(&mut self, time: Duration) {
        self.now = self.now.saturating_add(time).unwrap();
        let deliveries = self.world.stream.as_mut().and_then(|stream| stream.deliveries.as_mut());
        if let Some(Deliveries { pause, .. }) = deliveries
            && let Pause::Left(left) = *pause
        {
            *pause = if left > time { Pause::Left(left - time) } else { Pause::Off };
        }
    }

    fn plan(&self, wish: &Wish) -> Vec<Action> {
        plan(wish, &self.world, &self.kept, Role::Holder, self.now)
    }

    /// Whether the consumer is paused by us, or may be as far as the status knows.
    fn paused(&self) -> bool {
        let deliveries = self.world.stream.as_ref().and_then(|stream| stream.deliveries);
        self.kept.moves.paused || deliveries.is_some_and(|deliveries| deliveries.pause.ours())
    }

    /// Runs passes until nothing is left to do; the number of passes.
    fn converge(&mut self, wish: &Wish) -> usize {
        for pass in 0..64 {
            let steps = self.plan(wish);
            if steps.is_empty() || self.forgotten {
                return pass;
            }
            steps.iter().for_each(|step| self.apply(step));
        }
        panic!("no end in sight: {self:?} for {wish:?}");
    }
}

fn models() -> impl Strategy<Value = Model> {
    let phase = prop_oneof![Just(Phase::Run), Just(Phase::Switch), Just(Phase::Stopped), Just(Phase::Drain), Just(Phase::Absent)];
    let pause = prop_oneof![
        3 => Just(Pause::Off),
        1 => Just(Pause::Impossible),
        1 => Just(Pause::Left(Duration::from_secs(20))),
        1 => Just(Pause::Left(Duration::from_secs(36_000))),
    ];
    let deliveries = (0u64..3, pause);
    let stream = prop::option::of((any::<bool>(), 0u64..500, any::<bool>(), any::<bool>(), any::<bool>(), deliveries));
    let switching = (any::<bool>(), any::<bool>());
    let execution = prop::option::of((0u8..3, any::<bool>()));
    let on_delete = prop_oneof![Just(OnDelete::Drain), Just(OnDelete::Delete), Just(OnDelete::Keep)];
    let known = prop::bool::weighted(0.8);
    (phase, stream, execution, 0u32..3, on_delete, any::<bool>(), known, switching).prop_map(
        |(phase, stream, execution, live, on_delete, draining, known, (since, paused))| Model {
            world: World {
                known,
                admitted: if known {
                    Admitted { phase, spec: Some(spec(1, "old")), live_executions: 1 }
                } else {
                    Admitted { phase: Phase::Absent, spec: None, live_executions: 0 }
                },
                execution: execution.map(|(version, running)| Execution {
                    fingerprint: spec(version, "old").fingerprint,
                    running,
                    replicas: None,
                }),
                live,
                elsewhere: false,
                stream: stream.map(|(closed, messages, deletable, durable, same, (unacknowledged, pause))| Stream {
                    created: if same { BUCKET_STREAM } else { Timestamp::MAX },
                    closed,
                    deletable,
                    durable,
                    deliveries: durable.then_some(Deliveries { unacknowledged, pause, ..IDLE }),
                    ..self::stream(messages)
                }),
                given_up: Vec::new(),
            },
            kept: if known {
                Kept {
                    stream_created: Some(BUCKET_STREAM),
                    on_delete,
                    drain_started: draining.then_some(BUCKET_STREAM),
                    moves: Moves { since: since.then_some(BUCKET_STREAM), paused, ..Moves::default() },
                    ..Kept::default()
                }
            } else {
                Kept::default()
            },
            now: BUCKET_STREAM,
            stored: 0,
            destroyed: 0,
            forgotten: false,
        },
    )
}

const IDLE: Deliveries = Deliveries { ack_wait: Duration::from_secs(30), unacknowledged: 0, pulls: 0, pause: Pause::Off };

fn stream(messages: u64) -> Stream {
    Stream {
        created: BUCKET_STREAM,
        closed: false,
        messages,
        deletable: true,
        durable: true,
        first: 1,
        first_time: (messages > 0).then_some(BUCKET_STREAM),
        last: messages,
        deliveries: Some(IDLE),
    }
}

proptest! {
    #[test]
    fn every_wish_converges_from_every_state_and_a_second_look_does_nothing(mut model in models(), wish in 0usize..6) {
        let wish = [Wish::Run(Box::new(spec(2, "new"))), Wish::Paused, Wish::Draft, Wish::Deleted, Wish::Unfit, Wish::Unknown][wish].clone();
        let before = model.clone();
        let waiting = model.world.stream.as_ref().map_or(0, |stream| stream.messages);
        let draining = model.kept.drain_started.is_some();
        let on_delete = model.kept.on_delete;
        model.converge(&wish);
        if !model.forgotten {
            prop_assert!(model.plan(&wish).is_empty());
        }
        prop_assert!(model.forgotten || wish == Wish::Unknown || !model.paused() || before.paused() && !before.kept.moves.paused);
        if on_delete != OnDelete::Delete || wish != Wish::Deleted {
            prop_assert_eq!(model.destroyed, 0, "{:?}", model);
        }
        if !before.world.known && matches!(wish, Wish::Unfit | Wish::Unknown) {
            prop_assert_eq!(&model.world.execution, &before.world.execution, "what runs goes on although its status was lost");
        }
        if !matches!(wish, Wish::Deleted | Wish::Unknown) {
            prop_assert!(model.world.stream.as_ref().is_none_or(|stream| !stream.closed || !stream.deletable), "left closed: {:?}", model);
        }
        match wish {
            Wish::Run(spec) => {
                prop_assert_eq!(model.world.execution.clone(), Some(Execution { fingerprint: spec.fingerprint, running: true, replicas: None }));
                let stream = model.world.stream.clone().unwrap();
                prop_assert!(stream.durable);
            }
            Wish::Paused => prop_assert!(!model.world.execution.as_ref().is_some_and(|execution| execution.running)),
            Wish::Draft => prop_assert!(model.world.execution.is_none() && model.world.admitted.spec.is_none() | (model.world.admitted.phase == Phase::Absent)),
            Wish::Deleted => prop_assert!(model.world.execution.is_none()),
            Wish::Unfit => prop_assert!(!model.forgotten && model.kept.drain_started.is_none() && model.world.admitted.phase != Phase::Drain),
            Wish::Unknown => prop_assert!(!model.forgotten && (waiting == 0 || model.world.stream.is_some()) && draining == model.kept.drain_started.is_some()),
        }
    }

    #[test]
    fn a_runner_never_decides(model in models(), wish in 0usize..5) {
        let wish = [Wish::Paused, Wish::Draft, Wish::Deleted, Wish::Unfit, Wish::Unknown][wish].clone();
        for step in plan(&wish, &model.world, &model.kept, Role::Runner, BUCKET_STREAM) {
            prop_assert!(matches!(step, Action::Ensure(_) | Action::Stop | Action::Destroy), "{:?}", step);
        }
    }
}

fn running(messages: u64) -> Model {
    let spec = spec(1, "c");
    Model {
        world: World {
            execution: Some(Execution { fingerprint: spec.fingerprint.clone(), running: true, replicas: None }),
            admitted: Admitted { phase: Phase::Run, spec: Some(spec), live_executions: 1 },
            live: 1,
            elsewhere: false,
            known: true,
            stream: Some(Stream { deliveries: Some(Deliveries { pulls: 1, ..IDLE }), ..stream(messages) }),
            given_up: Vec::new(),
        },
        now: BUCKET_STREAM,
        kept: Kept { stream_created: Some(BUCKET_STREAM), ..Kept::default() },
        stored: 0,
        destroyed: 0,
        forgotten: false,
    }
}

#[test]
fn a_drain_moves_the_subjects_before_anything_else_and_writes_all_that_waits() {
    let mut model = running(350);
    let first = model.plan(&Wish::Deleted);
    assert!(matches!(&first[..], [Action::Admit(admission)] if admission.phase == Phase::Drain), "{first:?}");
    first.iter().for_each(|step| model.apply(step));
    let second = model.plan(&Wish::Deleted);
    assert_eq!(second, vec![Action::MoveSubjects]);
    model.converge(&Wish::Deleted);
    assert!(model.forgotten && model.world.stream.is_none());
    assert_eq!((model.stored, model.destroyed), (350, 0));
}

#[test]
fn a_put_in_the_middle_of_a_drain_restores_the_subjects_and_cancels() {
    let mut model = running(350);
    for _ in 0..4 {
        let steps = model.plan(&Wish::Deleted);
        steps.iter().for_each(|step| model.apply(step));
    }
    assert!(model.world.stream.as_ref().unwrap().closed);
    model.converge(&Wish::Run(Box::new(spec(1, "c"))));
    assert!(!model.world.stream.as_ref().unwrap().closed && model.kept.drain_started.is_none());
    assert_eq!(model.destroyed, 0);
}

#[test]
fn a_paused_pipeline_that_is_deleted_keeps_a_stream_that_is_not_empty() {
    let mut model = running(10);
    model.converge(&Wish::Paused);
    model.converge(&Wish::Deleted);
    assert!(!model.forgotten && model.world.stream.is_some() && model.world.execution.is_none());
    let mut empty = running(0);
    empty.converge(&Wish::Paused);
    empty.converge(&Wish::Deleted);
    assert!(empty.forgotten && empty.world.stream.is_none());
}

#[test]
fn what_was_published_before_the_stream_of_a_paused_pipeline_was_closed_is_kept() {
    let mut model = running(0);
    model.converge(&Wish::Paused);
    loop {
        let steps = model.plan(&Wish::Deleted);
        if steps == [Action::MoveSubjects] {
            break;
        }
        assert!(!steps.contains(&Action::DeleteStream), "an open stream is never deleted");
        steps.iter().for_each(|step| model.apply(step));
    }
    // Between the look and the move somebody publishes.
    model.world.stream.as_mut().unwrap().messages = 1;
    model.converge(&Wish::Deleted);
    let stream = model.world.stream.as_ref().unwrap();
    assert!(!model.forgotten && !stream.closed && stream.messages == 1 && model.destroyed == 0);
}

#[test]
fn an_unreadable_entry_in_the_middle_of_a_drain_cancels_it_and_what_ran_goes_on() {
    let mut model = running(350);
    for _ in 0..4 {
        let steps = model.plan(&Wish::Deleted);
        steps.iter().for_each(|step| model.apply(step));
    }
    assert!(model.world.stream.as_ref().unwrap().closed);
    model.converge(&Wish::Unfit);
    assert!(!model.world.stream.as_ref().unwrap().closed && model.kept.drain_started.is_none());
    assert_eq!(model.world.admitted.phase, Phase::Run);
    assert!(model.world.execution.as_ref().is_some_and(|execution| execution.running));
}

#[test]
fn a_drain_whose_durable_was_deleted_goes_on_with_a_new_one() {
    let mut model = running(350);
    for _ in 0..3 {
        let steps = model.plan(&Wish::Deleted);
        steps.iter().for_each(|step| model.apply(step));
    }
    model.world.stream.as_mut().unwrap().durable = false;
    model.converge(&Wish::Deleted);
    assert!(model.forgotten);
    assert_eq!((model.stored, model.destroyed), (350, 0));
}
