//! Plans against a model of an engine: from any state they end in what is wanted, and never on the way do two targets
//! run at once, nor does what runs end before what follows it is ready.

use super::*;
use crate::pipeline::instance::Instance;
use proptest::prelude::*;

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn spec(version: &str, collection: &str, replicas: u32) -> ExecutionSpec {
    let spec: ExecutionSpec = serde_json::from_value(serde_json::json!({
        "schema": 1, "installation": uuid::Uuid::nil(), "namespace": "alpha", "id": "metrics", "version": version, "digest": "SHA-256=abc",
        "stream": "s", "consumer": "default", "target": {"hosts": ["db:27017"], "database": "example", "collection": collection},
        "replicas": replicas, "proven": false, "settings_digest": "s", "fingerprint": ""
    }))
    .unwrap();
    spec.seal("")
}

fn container(spec: &ExecutionSpec, replica: Option<u32>, state: State) -> Container {
    let id = format!("{}-{}-{replica:?}", spec.version, spec.target.collection);
    Container {
        id: id.clone(),
        pipeline: spec.id.clone(),
        fingerprint: spec.fingerprint.clone(),
        target: target_hash(spec),
        replica,
        instance: Instance { name: id, fingerprint: spec.fingerprint.clone(), state, since: None, restarts: 0, exit_code: None },
        out_of_memory: false,
        error: String::new(),
        finished: None,
        edited: None,
        spec: None,
    }
}

/// What an engine would have.
struct Model {
    containers: Vec<Container>,
    volumes: Vec<OwnVolume>,
    ready: HashSet<String>,
    /// Whether probes succeed.
    healthy: bool,
}

impl Model {
    fn new(containers: Vec<Container>) -> Self {
        let volumes = containers
            .iter()
            .map(|one| OwnVolume {
                name: one.fingerprint.0.clone(),
                pipeline: one.pipeline.clone(),
                fingerprint: one.fingerprint.clone(),
                filling: false,
            })
            .collect();
        Self { containers, volumes, ready: HashSet::new(), healthy: true }
    }

    fn next(&self, want: &Want) -> Next {
        plan(want, &self.containers, &self.volumes, &self.ready, NOW)
    }

    fn find(&mut self, id: &str) -> &mut Container {
        self.containers.iter_mut().find(|one| one.id == id).unwrap()
    }

    fn take(&mut self, step: &Step, spec: &ExecutionSpec) {
        match step {
            Step::Create(replica) => {
                let volume = OwnVolume {
                    name: spec.fingerprint.0.clone(),
                    pipeline: spec.id.clone(),
                    fingerprint: spec.fingerprint.clone(),
                    filling: false,
                };
                self.volumes.retain(|other| *other != volume);
                self.volumes.push(volume);
                assert!(!self.containers.iter().any(|one| one.fingerprint == spec.fingerprint && one.replica == Some(*replica)), "twice");
                self.containers.push(container(spec, Some(*replica), State::Starting));
            }
            Step::Start(id) => {
                let one = self.find(id);
                assert!(!one.instance.state.is_live(), "started although it runs");
                one.instance.state = State::Starting;
            }
            Step::Unpause(id) => self.find(id).instance.state = State::Running,
            Step::Probe(id) => {
                if self.healthy {
                    self.ready.insert(id.clone());
                }
            }
            Step::Stop(id) => {
                let one = self.find(id);
                assert!(one.instance.state.is_live() && one.instance.state != State::Frozen, "an engine does not stop that");
                one.instance.state = State::Stopped;
            }
            Step::Remove(id) => {
                assert!(!self.find(id).instance.state.is_live(), "an engine does not remove what runs");
                self.containers.retain(|one| one.id != *id);
            }
            Step::RemoveVolume(name) => {
                assert!(!self.containers.iter().any(|one| one.fingerprint.0 == *name), "an engine does not remove what is in use");
                self.volumes.retain(|volume| volume.name != *name);
            }
        }
    }

    fn live(&self) -> Vec<&Container> {
        self.containers.iter().filter(|one| one.instance.state.is_live() && one.instance.state != State::Frozen).collect()
    }
}

fn state() -> impl Strategy<Value = State> {
    prop::sample::select(vec![
        State::Created,
        State::Starting,
        State::Running,
        State::Unhealthy,
        State::Restarting,
        State::Frozen,
        State::Stopped,
        State::Dead,
    ])
}

fn any_containers() -> impl Strategy<Value = Vec<Container>> {
    let one = (prop::sample::select(vec!["1", "2", "3"]), prop::option::of(0u32..4), state(), any::<bool>(), any::<bool>()).prop_map(
        |(version, replica, state, edited, misconfigured)| {
            // Versions 1 and 2 have one target, 3 has another.
            let spec = spec(version, if version == "3" { "b" } else { "a" }, 1);
            // What only carries files never runs.
            let mut one = container(&spec, replica, if replica.is_none() { State::Created } else { state });
            one.edited = edited.then_some("memory");
            if misconfigured && matches!(state, State::Stopped | State::Restarting) {
                one.instance.exit_code = Some(super::super::seen::MISCONFIGURED);
            }
            one
        },
    );
    prop::collection::vec(one, 0..6).prop_map(|mut all| {
        all.sort_by(|a, b| a.id.cmp(&b.id));
        all.dedup_by(|a, b| a.id == b.id);
        // Never made so by us.
        let first = all.iter().find(|one| one.instance.state.is_live()).map(|one| one.target.clone());
        all.retain(|one| !one.instance.state.is_live() || Some(&one.target) == first.as_ref());
        all
    })
}

proptest! {
    #[test]
    fn from_any_state_a_plan_ends_in_what_is_wanted(containers in any_containers(), version in prop::sample::select(vec!["1", "2", "3"]), replicas in 1u32..4) {
        let spec = spec(version, if version == "3" { "b" } else { "a" }, replicas);
        let want = Want::Run(Box::new(spec.clone()));
        let mut model = Model::new(containers);
        for _ in 0..20 {
            let next = model.next(&want);
            if next == Next::default() {
                break;
            }
            let before: HashSet<_> = model.live().iter().filter(|one| one.fingerprint != spec.fingerprint && one.target == target_hash(&spec)).map(|one| one.id.clone()).collect();
            for step in &next.steps {
                model.take(step, &spec);
                let live = model.live();
                prop_assert!(live.iter().all(|one| one.target == live[0].target), "two targets: {live:?}");
            }
            let after: HashSet<_> = model.live().iter().map(|one| one.id.clone()).collect();
            if !before.is_subset(&after) {
                let followers = model.containers.iter().filter(|one| one.fingerprint == spec.fingerprint);
                prop_assert!(followers.clone().count() == replicas as usize && followers.into_iter().all(|one| model.ready.contains(&one.id)), "ended too early");
            }
        }
        prop_assert_eq!(model.next(&want), Next::default());
        prop_assert!(model.containers.iter().all(|one| one.fingerprint == spec.fingerprint && one.instance.state.is_live() && one.edited.is_none()));
        prop_assert_eq!(model.containers.len(), replicas as usize);
        prop_assert!(model.volumes.iter().all(|volume| volume.fingerprint == spec.fingerprint));
    }

    #[test]
    fn from_any_state_nothing_runs_and_then_nothing_is_left(containers in any_containers()) {
        let mut model = Model::new(containers);
        for want in [Want::Stopped, Want::Gone] {
            for _ in 0..10 {
                for step in model.next(&want).steps {
                    model.take(&step, &spec("1", "a", 1));
                }
            }
            prop_assert_eq!(model.next(&want), Next::default());
            prop_assert!(model.containers.iter().all(|one| !one.instance.state.is_live() && one.replica.is_some()));
        }
        prop_assert!(model.containers.is_empty() && model.volumes.is_empty());
    }
}

#[test]
fn a_version_that_never_gets_ready_leaves_the_one_before_running() {
    let (old, new) = (spec("1", "a", 1), spec("2", "a", 1));
    let mut model = Model::new(vec![container(&old, Some(0), State::Running)]);
    model.healthy = false;
    let want = Want::Run(Box::new(new.clone()));
    for _ in 0..20 {
        for step in model.next(&want).steps {
            model.take(&step, &new);
        }
    }
    assert_eq!(model.live().len(), 2);
    assert!(model.next(&want).again.is_some());
    let back = Want::Run(Box::new(old.clone()));
    model.healthy = true;
    for _ in 0..20 {
        for step in model.next(&back).steps {
            model.take(&step, &old);
        }
    }
    assert_eq!(model.containers.len(), 1);
}

#[test]
fn what_a_restart_cannot_help_is_left_alone_for_a_minute() {
    let spec = spec("1", "a", 1);
    let want = Want::Run(Box::new(spec.clone()));
    let mut one = container(&spec, Some(0), State::Stopped);
    one.instance.exit_code = Some(super::super::seen::MISCONFIGURED);
    one.finished = Some(NOW);
    let at = |seconds: u64| plan(&want, &[one.clone()], &[], &HashSet::new(), NOW + Duration::from_secs(seconds));
    assert_eq!(at(20), Next { steps: vec![], again: Some(Duration::from_secs(40)) });
    assert_eq!(at(60).steps, [Step::Start(one.id.clone())]);
}

#[test]
fn only_what_is_all_that_there_is_with_its_volume_filled_is_settled() {
    use super::super::seen::settled;
    let (one, two) = (spec("1", "a", 1), spec("2", "a", 1));
    let model = Model::new(vec![container(&one, Some(0), State::Running), container(&one, Some(1), State::Stopped)]);
    assert_eq!(settled(&model.containers, &model.volumes), Some(&one.fingerprint));
    assert_eq!(settled(&[], &model.volumes), None, "volumes alone are to be removed");
    let mut filling = model.volumes.clone();
    filling[0].filling = true;
    assert_eq!(settled(&model.containers, &filling), None);
    let both = Model::new(vec![container(&one, Some(0), State::Running), container(&two, Some(0), State::Running)]);
    assert_eq!(settled(&both.containers, &[]), None);
    assert_eq!(settled(&model.containers, &both.volumes), None, "a volume of an earlier one is left");
    assert_eq!(settled(&[container(&one, None, State::Created)], &[]), None, "what carries files goes");
}
