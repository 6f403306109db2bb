//! The plan against a small model of the world: every wish converges from every state, and a second look does nothing.

use super::*;
use crate::pipeline::id::{Namespace, PipelineId, VersionName};
use crate::pipeline::spec::Target;
use proptest::prelude::*;

const BUCKET_STREAM: Timestamp = Timestamp::UNIX_EPOCH;

fn spec(version: u8, collection: &str) -> ExecutionSpec {
    ExecutionSpec {
        schema: 1,
        installation: uuid::Uuid::nil(),
        namespace: Namespace::parse("alpha").unwrap(),
        id: PipelineId::parse("metrics").unwrap(),
        version: VersionName::parse(&format!("{version}")).unwrap(),
        digest: format!("SHA-256={version}"),
        stream: "alpha_metrics".into(),
        consumer: "default".into(),
        target: Target { hosts: vec!["h".into()], database: "d".into(), collection: collection.into() },
        connection: "default".into(),
        series: None,
        moves: 0,
        previous: Vec::new(),
        replicas: 1,
        proven: false,
        settings_digest: String::new(),
        fingerprint: Fingerprint(String::new()),
    }
    .seal("")
}

/// The world with what a pass changes in it.
#[derive(Debug, Clone)]
struct Model {
    world: World,
    kept: Kept,
    stored: u64,
    destroyed: u64,
    forgotten: bool,
}

impl Model {
    fn apply(&mut self, action: &Action) {
        let world = &mut self.world;
        match action {
            Action::EnsureStream(_) => {
                let stream = world.stream.get_or_insert(Stream {
                    created: BUCKET_STREAM,
                    closed: false,
                    messages: 0,
                    deletable: true,
                    durable: true,
                });
                stream.durable = true;
                self.kept.stream_created = Some(stream.created);
            }
            Action::EnsureDurable => world.stream.as_mut().unwrap().durable = true,
            Action::Admit(admission) => {
                world.known = true;
                world.admitted.phase = admission.phase;
                world.admitted.spec = admission.spec.clone();
                match admission.drain {
                    DrainMark::Begin => self.kept.drain_started = self.kept.drain_started.or(Some(BUCKET_STREAM)),
                    DrainMark::Leave => {}
                    DrainMark::Clear => self.kept.drain_started = None,
                }
            }
            Action::Ensure(spec) => {
                world.execution = Some(Execution { fingerprint: spec.fingerprint.clone(), running: true });
                world.live = 1;
            }
            Action::Stop => {
                if let Some(execution) = &mut world.execution {
                    execution.running = false;
                }
                world.live = 0;
            }
            Action::Destroy => {
                world.execution = None;
                world.live = 0;
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
                // Meanwhile a running execution writes what waits, and other processes' executions end.
                let runs = world.execution.as_ref().is_some_and(|execution| execution.running);
                if let (true, Some(stream)) = (runs, world.stream.as_mut().filter(|stream| stream.durable)) {
                    let written = stream.messages.min(100);
                    stream.messages -= written;
                    self.stored += written;
                }
                if !runs {
                    world.live = 0;
                }
            }
        }
    }

    /// Runs passes until nothing is left to do; the number of passes.
    fn converge(&mut self, wish: &Wish) -> usize {
        for pass in 0..64 {
            let steps = plan(wish, &self.world, &self.kept, Role::Holder);
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
    let stream = prop::option::of((any::<bool>(), 0u64..500, any::<bool>(), any::<bool>(), any::<bool>()));
    let execution = prop::option::of((0u8..3, any::<bool>()));
    let on_delete = prop_oneof![Just(OnDelete::Drain), Just(OnDelete::Delete), Just(OnDelete::Keep)];
    let known = prop::bool::weighted(0.8);
    (phase, stream, execution, 0u32..3, on_delete, any::<bool>(), known).prop_map(
        |(phase, stream, execution, live, on_delete, draining, known)| Model {
            world: World {
                known,
                admitted: if known {
                    Admitted { phase, spec: Some(spec(1, "old")), live_executions: 1 }
                } else {
                    Admitted { phase: Phase::Absent, spec: None, live_executions: 0 }
                },
                execution: execution.map(|(version, running)| Execution { fingerprint: spec(version, "old").fingerprint, running }),
                live,
                elsewhere: false,
                stream: stream.map(|(closed, messages, deletable, durable, same)| Stream {
                    created: if same { BUCKET_STREAM } else { Timestamp::MAX },
                    closed,
                    messages,
                    deletable,
                    durable,
                }),
            },
            kept: if known {
                Kept { stream_created: Some(BUCKET_STREAM), on_delete, drain_started: draining.then_some(BUCKET_STREAM), ..Kept::default() }
            } else {
                Kept::default()
            },
            stored: 0,
            destroyed: 0,
            forgotten: false,
        },
    )
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
            prop_assert!(plan(&wish, &model.world, &model.kept, Role::Holder).is_empty());
        }
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
                prop_assert_eq!(model.world.execution.clone(), Some(Execution { fingerprint: spec.fingerprint, running: true }));
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
        for step in plan(&wish, &model.world, &model.kept, Role::Runner) {
            prop_assert!(matches!(step, Action::Ensure(_) | Action::Stop | Action::Destroy), "{:?}", step);
        }
    }
}

#[test]
fn a_controller_of_another_kind_ends_what_it_runs_only_once_the_holders_kind_runs_it() {
    let mut world = running(5).world;
    let steps = |world: &World| plan(&Wish::Unknown, world, &Kept::default(), Role::StandBy);
    assert!(steps(&world).is_empty(), "it goes on");
    world.elsewhere = true;
    assert_eq!(steps(&world), [Action::Destroy]);
    world.elsewhere = false;
    for (phase, step) in [(Phase::Stopped, Action::Stop), (Phase::Switch, Action::Stop), (Phase::Absent, Action::Destroy)] {
        world.admitted.phase = phase;
        assert_eq!(steps(&world), [step]);
    }
    for phase in [Phase::Run, Phase::Drain, Phase::Switch, Phase::Stopped, Phase::Absent] {
        let world = World { execution: None, admitted: Admitted { phase, ..world.admitted.clone() }, ..world.clone() };
        assert!(steps(&world).is_empty(), "nothing is started: {phase:?}");
        assert!(plan(&Wish::Unknown, &running(5).world, &Kept::default(), Role::Looker).is_empty());
    }
}

fn running(messages: u64) -> Model {
    let spec = spec(1, "c");
    Model {
        world: World {
            execution: Some(Execution { fingerprint: spec.fingerprint.clone(), running: true }),
            admitted: Admitted { phase: Phase::Run, spec: Some(spec), live_executions: 1 },
            live: 1,
            elsewhere: false,
            known: true,
            stream: Some(Stream { created: BUCKET_STREAM, closed: false, messages, deletable: true, durable: true }),
        },
        kept: Kept { stream_created: Some(BUCKET_STREAM), ..Kept::default() },
        stored: 0,
        destroyed: 0,
        forgotten: false,
    }
}

#[test]
fn a_drain_moves_the_subjects_before_anything_else_and_writes_all_that_waits() {
    let mut model = running(350);
    let first = plan(&Wish::Deleted, &model.world, &model.kept, Role::Holder);
    assert!(matches!(&first[..], [Action::Admit(admission)] if admission.phase == Phase::Drain), "{first:?}");
    first.iter().for_each(|step| model.apply(step));
    let second = plan(&Wish::Deleted, &model.world, &model.kept, Role::Holder);
    assert_eq!(second, vec![Action::MoveSubjects]);
    model.converge(&Wish::Deleted);
    assert!(model.forgotten && model.world.stream.is_none());
    assert_eq!((model.stored, model.destroyed), (350, 0));
}

#[test]
fn a_put_in_the_middle_of_a_drain_restores_the_subjects_and_cancels() {
    let mut model = running(350);
    for _ in 0..4 {
        let steps = plan(&Wish::Deleted, &model.world, &model.kept, Role::Holder);
        steps.iter().for_each(|step| model.apply(step));
    }
    assert!(model.world.stream.as_ref().unwrap().closed);
    model.converge(&Wish::Run(Box::new(spec(1, "c"))));
    assert!(!model.world.stream.as_ref().unwrap().closed && model.kept.drain_started.is_none());
    assert_eq!(model.destroyed, 0);
}

#[test]
fn another_target_starts_only_when_nothing_of_the_old_one_runs() {
    let mut model = running(0);
    let wish = Wish::Run(Box::new(spec(2, "other")));
    for _ in 0..64 {
        let steps = plan(&wish, &model.world, &model.kept, Role::Holder);
        for step in &steps {
            if let Action::Ensure(spec) = step {
                assert_eq!(spec.target.collection, "other");
                assert!(!model.world.execution.as_ref().is_some_and(|execution| execution.running));
            }
            model.apply(step);
        }
        if steps.is_empty() {
            return;
        }
    }
    panic!("no end in sight");
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
        let steps = plan(&Wish::Deleted, &model.world, &model.kept, Role::Holder);
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
        let steps = plan(&Wish::Deleted, &model.world, &model.kept, Role::Holder);
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
        let steps = plan(&Wish::Deleted, &model.world, &model.kept, Role::Holder);
        steps.iter().for_each(|step| model.apply(step));
    }
    model.world.stream.as_mut().unwrap().durable = false;
    model.converge(&Wish::Deleted);
    assert!(model.forgotten);
    assert_eq!((model.stored, model.destroyed), (350, 0));
}
