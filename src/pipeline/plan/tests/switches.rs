//! Target changes in the model: whatever is wished in between, and wherever a controller dies, each message ends up in
//! exactly one target, and nobody forgets to resume the consumer.

use super::*;
use crate::pipeline::moves::Delivered;
use std::collections::BTreeSet;

/// A message in the stream, and the collections that hold its document.
#[derive(Debug, Clone, Default)]
struct Message {
    stored: BTreeSet<String>,
    /// Delivered and not acknowledged: its owner is dead.
    leased: bool,
}

/// The model with messages and what executions do with them.
struct Life {
    model: Model,
    /// What the execution was started as, what it is told of previous targets included.
    started: ExecutionSpec,
    messages: Vec<Message>,
    done: Vec<Message>,
}

impl Life {
    fn new() -> Self {
        let mut model = running(0);
        model.kept.moves = model.kept.moves.arrive(&spec(1, "c"), None, &[], &switch::tape(&stream(0)), BUCKET_STREAM);
        Self { model, started: spec(1, "c"), messages: Vec::new(), done: Vec::new() }
    }

    /// What is true of the stream follows from its messages.
    fn look(&mut self) {
        let (done, waiting) = (self.done.len() as u64, self.messages.len() as u64);
        let now = self.model.now;
        if let Some(stream) = &mut self.model.world.stream {
            (stream.messages, stream.first, stream.last) = (waiting, done + 1, done + waiting);
            stream.first_time = (waiting > 0).then_some(now);
            let deliveries = stream.deliveries.as_mut().unwrap();
            deliveries.unacknowledged = self.messages.iter().filter(|message| message.leased).count() as u64;
        }
    }

    /// The execution that runs, if any, takes one message and may die before it acknowledges it.
    fn work(&mut self, dies: bool) {
        let world = &self.model.world;
        let runs = world.execution.as_ref().filter(|execution| execution.running);
        let deliveries = world.stream.as_ref().unwrap().deliveries.unwrap();
        let (Some(_), false) = (runs, matches!(deliveries.pause, Pause::Left(_))) else { return };
        let spec = &self.started;
        // Redelivery: sooner or later another gets what a dead one held.
        let Some(mut message) = (!self.messages.is_empty()).then(|| self.messages.remove(0)) else { return };
        let told = Delivered { sequence: self.done.len() as u64 + 1, published_ns: u64::MAX, again: message.leased, has_id: false };
        let looked_up = spec.previous.iter().filter(|previous| previous.concerns(told));
        let found = looked_up.into_iter().any(|previous| message.stored.contains(&previous.place.target.collection));
        if !found {
            message.stored.insert(spec.target.collection.clone());
        }
        message.leased = dies;
        if dies {
            self.messages.insert(0, message)
        } else {
            self.done.push(message)
        }
        self.look();
    }

    fn pass(&mut self, wish: &Wish) -> bool {
        // The number of changes is in the wish, as the holder computes it from the status.
        let wish = match wish {
            Wish::Run(spec) => {
                let moves = self.model.kept.moves.number_for(&spec.target, self.model.world.admitted.spec.as_ref(), &[]);
                Wish::Run(Box::new(ExecutionSpec { moves, ..(**spec).clone() }.seal("")))
            }
            other => other.clone(),
        };
        let steps = self.model.plan(&wish);
        for step in &steps {
            if let Action::Ensure(spec) = step {
                let old = self.model.world.execution.as_ref().filter(|old| old.running && old.fingerprint != spec.fingerprint);
                assert!(old.is_none() || self.started.target == spec.target, "two targets overlap");
                self.started = (**spec).clone();
            }
            if *step != Action::Wait(LOOK_AGAIN) {
                self.model.apply(step);
            } else {
                self.model.pass_time(Duration::from_secs(10));
            }
        }
        self.look();
        steps.iter().all(|step| matches!(step, Action::Wait(time) if *time != LOOK_AGAIN))
    }
}

fn wishes() -> impl Strategy<Value = Wish> {
    prop_oneof![
        6 => (0u8..3).prop_map(|n| Wish::Run(Box::new(spec(n + 1, ["c", "d", "e"][n as usize])))),
        1 => Just(Wish::Paused),
        1 => Just(Wish::Draft),
        1 => Just(Wish::Unfit),
        1 => Just(Wish::Unknown),
    ]
}

proptest! {
    #[test]
    fn whatever_is_wished_in_the_middle_and_whoever_dies_each_message_is_in_exactly_one_target(
        lives in prop::collection::vec((wishes(), prop::collection::vec((0u8..4, any::<bool>(), 0u64..100), 0..12)), 1..7),
        last in 0u8..3,
        pausable in any::<bool>(),
    ) {
        let mut life = Life::new();
        if !pausable {
            life.model.deliveries().pause = Pause::Impossible;
        }
        for (wish, passes) in &lives {
            for (published, dies, away) in passes {
                (0..*published).for_each(|_| life.messages.push(Message::default()));
                life.look();
                life.work(*dies);
                life.pass(wish);
                if *dies {
                    // Nobody holds the lease for a while, and what runs goes on.
                    life.model.pass_time(Duration::from_secs(*away));
                }
            }
        }
        let wish = Wish::Run(Box::new(spec(last + 1, ["c", "d", "e"][last as usize])));
        let mut passes = 0;
        while !life.pass(&wish) {
            passes += 1;
            prop_assert!(passes < 64, "no end in sight: {:?}", life.model);
        }
        prop_assert!(!life.model.paused(), "the consumer was never resumed: {:?}", life.model);
        while !life.messages.is_empty() {
            life.work(false);
        }
        for message in &life.done {
            prop_assert_eq!(message.stored.len(), 1, "{:?}", message);
        }
        for _ in 0..20 {
            life.pass(&wish);
        }
        prop_assert!(life.model.world.admitted.spec.as_ref().unwrap().previous.is_empty(), "never forgotten: {:?}", life.model.kept.moves);
        prop_assert!(life.model.plan(&wish).is_empty() || life.model.kept.moves.count > 0);
    }
}

fn unacknowledged(messages: u64) -> Model {
    let mut model = running(messages);
    model.deliveries().unacknowledged = messages;
    model
}

#[test]
fn a_change_pauses_first_waits_for_what_is_in_flight_and_resumes_last() {
    let mut model = unacknowledged(0);
    let wish = Wish::Run(Box::new(ExecutionSpec { moves: 1, ..spec(2, "other") }.seal("")));
    let mut said = Vec::new();
    for _ in 0..7 {
        let steps = model.plan(&wish);
        for step in &steps {
            said.push(match step {
                Action::Admit(admission) => format!("{:?}", admission.phase),
                Action::Ensure(spec) => spec.target.collection.clone(),
                step => format!("{step:?}"),
            });
            model.apply(step);
        }
    }
    assert_eq!(said[..7], ["Switch", "Pause", "Stop", "Run", "Resume", "other", "Wait(15s)"]);
}

#[test]
fn a_dead_owner_is_waited_for_twice_its_lease_and_no_longer() {
    let mut model = unacknowledged(5);
    let wish = Wish::Run(Box::new(spec(2, "other")));
    let begun = model.now;
    while model.world.admitted.phase != Phase::Run || model.world.admitted.spec.as_ref().unwrap().target.collection != "other" {
        for step in model.plan(&wish) {
            model.apply(&step);
        }
        assert!(model.now.duration_since(begun).as_secs() <= 60 + 20);
        let phase = model.world.admitted.phase;
        assert!(
            phase != Phase::Switch || matches!(model.deliveries().pause, Pause::Left(_)) || !model.kept.moves.paused || model.now == begun
        );
    }
    assert!(model.now.duration_since(begun).as_secs() >= 60);
    let previous = &model.world.admitted.spec.as_ref().unwrap().previous;
    assert_eq!((previous.len(), previous[0].up_to), (1, 5), "what lies there is looked up");
}

#[test]
fn somebody_elses_pause_is_left_alone() {
    let mut model = unacknowledged(0);
    model.deliveries().pause = Pause::Left(Duration::from_secs(36_000));
    let wish = Wish::Run(Box::new(spec(2, "other")));
    for _ in 0..12 {
        let steps = model.plan(&wish);
        assert!(!steps.contains(&Action::Pause));
        steps.iter().for_each(|step| model.apply(step));
    }
    assert!(matches!(model.deliveries().pause, Pause::Left(left) if left > PAUSE));
    assert!(!model.kept.moves.paused);
}

#[test]
fn a_change_taken_back_in_the_middle_leaves_nothing_behind() {
    for back in [Wish::Run(Box::new(spec(1, "c"))), Wish::Paused, Wish::Draft, Wish::Unfit] {
        let mut model = unacknowledged(3);
        for _ in 0..3 {
            model.plan(&Wish::Run(Box::new(spec(2, "other")))).iter().for_each(|step| model.apply(step));
        }
        assert!(model.world.admitted.phase == Phase::Switch && model.paused());
        model.converge(&back);
        assert!(!model.paused() && model.kept.moves.since.is_none() && model.kept.moves.previous.is_empty(), "{back:?}");
        assert_eq!(model.kept.moves.home.as_ref().unwrap().place.target.collection, "c");
    }
}

#[test]
fn a_pipeline_that_is_deleted_in_the_middle_drains_into_the_old_target() {
    let mut model = unacknowledged(3);
    for _ in 0..3 {
        model.plan(&Wish::Run(Box::new(spec(2, "other")))).iter().for_each(|step| model.apply(step));
    }
    for _ in 0..4 {
        model.plan(&Wish::Deleted).iter().for_each(|step| model.apply(step));
    }
    assert_eq!(model.world.admitted.spec.as_ref().unwrap().target.collection, "c");
    model.converge(&Wish::Deleted);
    assert!(model.forgotten && model.destroyed == 0 && model.stored == 3);
}
