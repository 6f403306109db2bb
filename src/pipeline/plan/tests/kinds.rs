//! A controller whose executor is of another kind than the holder's.

use super::*;

#[test]
fn a_controller_of_another_kind_ends_what_it_runs_only_once_the_holders_kind_runs_it() {
    let mut world = running(5).world;
    let steps = |world: &World| plan(&Wish::Unknown, world, &Kept::default(), Role::StandBy, BUCKET_STREAM);
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
        assert!(plan(&Wish::Unknown, &running(5).world, &Kept::default(), Role::Looker, BUCKET_STREAM).is_empty());
    }
}
