//! The plan as sentences, and as a walk that always ends where it was to go.

use super::super::manifests::manifests;
use super::super::manifests::tests::{content, kubernetes, spec};
use super::super::seen::{OwnFiles, OwnPod, Placed};
use super::*;
use crate::pipeline::instance::{Instance, InstanceState};

fn render(spec: &ExecutionSpec) -> Manifests {
    manifests(spec, &kubernetes(), &content())
}

fn next(spec: &ExecutionSpec, seen: &Seen) -> Next {
    let manifests = render(spec);
    let rendered = Rendered { spec, manifests: &manifests, autoscaled: false };
    plan(&Want::Run(Box::new(spec.clone())), Some(&rendered), seen)
}

fn pod(spec: &ExecutionSpec, ending: bool) -> OwnPod {
    OwnPod {
        uid: String::new(),
        instance: Instance {
            name: format!("p-{}", spec.fingerprint.short()),
            fingerprint: spec.fingerprint.clone(),
            state: InstanceState::Running,
            since: None,
            restarts: 0,
            exit_code: None,
        },
        target: target_hash(spec),
        ending,
        stray: None,
        unschedulable: None,
        waiting: None,
        out_of_memory: false,
        not_begun: None,
        created: None,
    }
}

/// As a cluster shows an execution that runs, settled.
fn running(spec: &ExecutionSpec) -> Seen {
    let mut seen = Seen::default();
    take(&Step::Create, spec, &mut seen);
    take(&Step::Files, spec, &mut seen);
    take(&Step::Scale(spec.replicas), spec, &mut seen);
    settle(&mut seen);
    seen
}

/// What a step comes to.
fn take(step: &Step, spec: &ExecutionSpec, seen: &mut Seen) {
    let manifests = render(spec);
    match step {
        Step::Create | Step::Apply => {
            let old = seen.deployment.as_ref().map(|old| old.replicas);
            seen.deployment = Some(Placed {
                name: "d".into(),
                uid: "u".into(),
                resource_version: "1".into(),
                fingerprint: spec.fingerprint.clone(),
                target: target_hash(spec),
                replicas: old.unwrap_or(spec.replicas),
                deleting: false,
                epoch: None,
                settled: false,
                failure: None,
                raw: serde_json::to_value(&manifests.deployment).unwrap(),
            });
        }
        Step::Files => {
            let name = manifests.settings.metadata.name.clone().unwrap();
            seen.files.retain(|files| files.name != name);
            let raw = serde_json::to_value(&manifests.settings).unwrap();
            seen.files.push(OwnFiles { name, fingerprint: spec.fingerprint.clone(), spec: Some(spec.clone()), raw });
        }
        Step::Scale(replicas) => {
            let deployment = seen.deployment.as_mut().unwrap();
            (deployment.replicas, deployment.settled) = (*replicas, false);
        }
        Step::Delete => seen.deployment.as_mut().unwrap().deleting = true,
        Step::RemoveFiles(name) => seen.files.retain(|files| files.name != *name),
        Step::RemoveSet(set) => seen.stray_sets.retain(|other| other != set),
        Step::RemovePod(stray) => seen.pods.retain(|pod| pod.stray.as_ref() != Some(stray)),
    }
}

/// What a cluster does by itself, with time.
fn settle(seen: &mut Seen) {
    match &mut seen.deployment {
        Some(deployment) if deployment.deleting => (seen.deployment, seen.pods) = (None, strays_of(seen)),
        Some(deployment) => {
            // Sets are adopted, and so are pods that fit the template.
            seen.stray_sets.clear();
            seen.pods.retain(|pod| pod.stray.is_some() && pod.instance.fingerprint != deployment.fingerprint);
            let like = seen.files.iter().find(|files| files.fingerprint == deployment.fingerprint).and_then(|files| files.spec.clone());
            seen.pods.extend(like.iter().flat_map(|spec| vec![pod(spec, false); deployment.replicas as usize]));
            deployment.settled = true;
        }
        None if seen.stray_sets.is_empty() => seen.pods = strays_of(seen),
        None => {}
    }
}

fn strays_of(seen: &Seen) -> Vec<OwnPod> {
    seen.pods.iter().filter(|pod| pod.stray.is_some()).cloned().collect()
}

/// What somebody leaves who deletes the Deployment with `--cascade=orphan`; its replica set too, where `bare`.
fn orphaned(mut seen: Seen, bare: bool) -> Seen {
    let Some(deployment) = seen.deployment.take() else { return seen };
    let stray = |name: String| Stray { name, uid: "u".into(), resource_version: "1".into(), target: deployment.target.clone() };
    match bare {
        true => seen.pods.iter_mut().for_each(|pod| pod.stray = Some(stray(pod.instance.name.clone()))),
        false => seen.stray_sets = vec![stray("set".into())],
    }
    seen
}

fn elsewhere() -> ExecutionSpec {
    let mut other = spec();
    other.target.collection = "others".into();
    other.seal("")
}

fn newer() -> ExecutionSpec {
    ExecutionSpec { digest: "SHA-256=other".into(), ..spec() }.seal("")
}

#[test]
fn nothing_becomes_a_deployment_with_its_files_and_what_is_as_wanted_stays() {
    assert_eq!(next(&spec(), &Seen::default()).steps, [Step::Create, Step::Files]);
    assert_eq!(next(&spec(), &running(&spec())), Next::default());
}

#[test]
fn another_version_is_applied_over_the_old_whose_files_go_when_its_pods_have() {
    let mut seen = running(&spec());
    assert_eq!(next(&newer(), &seen).steps, [Step::Files, Step::Apply]);
    take(&Step::Files, &newer(), &mut seen);
    take(&Step::Apply, &newer(), &mut seen);
    assert_eq!(next(&newer(), &seen), WAIT, "while the cluster rolls");
    settle(&mut seen);
    seen.pods.push(pod(&spec(), true));
    assert_eq!(next(&newer(), &seen), WAIT, "while the last of the old ends");
    settle(&mut seen);
    let [Step::RemoveFiles(name)] = &next(&newer(), &seen).steps[..] else { panic!("{:?}", next(&newer(), &seen)) };
    assert!(name.ends_with(spec().fingerprint.short()));
}

#[test]
fn another_target_begins_only_when_no_pod_of_the_old_is_left() {
    let mut seen = running(&spec());
    assert_eq!(next(&elsewhere(), &seen).steps, [Step::Scale(0)]);
    take(&Step::Scale(0), &spec(), &mut seen);
    assert_eq!(next(&elsewhere(), &seen), WAIT);
    settle(&mut seen);
    assert_eq!(next(&elsewhere(), &seen).steps, [Step::Files, Step::Apply, Step::Scale(2)]);
    // Somebody deleted the Deployment in the middle: its pods are still there.
    let ending = Seen { deployment: None, ..running(&spec()) };
    assert_eq!(next(&elsewhere(), &ending), WAIT);
}

#[test]
fn what_lost_its_owner_is_adopted_where_it_is_to_run_and_removed_where_nothing_would() {
    for bare in [false, true] {
        let seen = orphaned(running(&spec()), bare);
        assert_eq!(next(&spec(), &seen).steps, [Step::Create, Step::Files], "which adopts them");
        assert_eq!(next(&newer(), &seen).steps, [Step::Create, Step::Files]);
        for removed in [next(&elsewhere(), &seen), plan(&Want::Stopped, None, &seen), plan(&Want::Gone, None, &seen)] {
            let right = |step: &Step| matches!((step, bare), (Step::RemoveSet(_), false) | (Step::RemovePod(_), true));
            assert!(removed.waits && !removed.steps.is_empty() && removed.steps.iter().all(right), "{removed:?}");
        }
    }
    // One of another version, beside a Deployment that does not adopt it.
    let mut seen = running(&newer());
    seen.pods.push(orphaned(running(&spec()), true).pods.remove(0));
    assert!(matches!(&next(&newer(), &seen).steps[..], [Step::RemovePod(_)]));
    seen.deployment.as_mut().unwrap().settled = false;
    assert_eq!(next(&newer(), &seen), WAIT, "not before there is another");
    // Sets are asked for only where the answer counts.
    let (run, gone) = (Want::Run(Box::new(spec())), Want::Gone);
    let orphans = orphaned(running(&spec()), false);
    assert!(!needs_stray_sets(&run, &orphans) && needs_stray_sets(&gone, &orphans) && !needs_stray_sets(&gone, &running(&spec())));
    assert!(needs_stray_sets(&Want::Run(Box::new(elsewhere())), &orphans));
}

#[test]
fn stopping_keeps_all_but_the_pods_and_starting_again_brings_its_files_anew() {
    let mut seen = running(&spec());
    let stop = |seen: &Seen| plan(&Want::Stopped, None, seen);
    assert_eq!(stop(&seen).steps, [Step::Scale(0)]);
    take(&Step::Scale(0), &spec(), &mut seen);
    assert_eq!(stop(&seen), WAIT);
    settle(&mut seen);
    assert_eq!(stop(&seen), Next::default());
    assert_eq!(next(&spec(), &seen).steps, [Step::Files, Step::Scale(2)]);
}

#[test]
fn what_somebody_changed_or_removed_is_applied_again_and_what_they_added_stays() {
    let changed = |pointer: &str, value: serde_json::Value| {
        let mut seen = running(&spec());
        *seen.deployment.as_mut().unwrap().raw.pointer_mut(pointer).unwrap() = value;
        next(&spec(), &seen).steps
    };
    assert_eq!(changed("/spec/template/spec/containers/0/image", "other".into()), [Step::Apply]);
    assert_eq!(changed("/metadata/labels/sluice~1version", "other".into()), [Step::Apply]);
    assert_eq!(changed("/spec/template/spec/containers/0/args", serde_json::json!(["execute"])), [Step::Apply]);
    let mut added = running(&spec());
    let raw = &mut added.deployment.as_mut().unwrap().raw;
    raw["metadata"]["labels"]["theirs"] = "x".into();
    raw["spec"]["template"]["spec"]["containers"].as_array_mut().unwrap().push(serde_json::json!({"name": "sidecar"}));
    assert_eq!(next(&spec(), &added), Next::default());
    let no_files = Seen { files: Vec::new(), ..running(&spec()) };
    assert_eq!(next(&spec(), &no_files).steps, [Step::Files]);
    let proven = ExecutionSpec { proven: true, ..spec() };
    assert_eq!(next(&proven, &running(&spec())).steps, [Step::Files], "no pod is restarted for it");
    let scaled = ExecutionSpec { replicas: 3, ..spec() };
    assert_eq!(next(&scaled, &running(&spec())).steps, [Step::Files, Step::Scale(3)]);
}

#[test]
fn an_autoscaler_is_left_to_itself_but_for_stopping_and_starting() {
    let manifests = render(&spec());
    let spec = spec();
    let rendered = Rendered { spec: &spec, manifests: &manifests, autoscaled: true };
    let next = |seen: &Seen| plan(&Want::Run(Box::new(spec.clone())), Some(&rendered), seen);
    let mut seen = running(&spec);
    seen.deployment.as_mut().unwrap().replicas = 7;
    assert_eq!(next(&seen), Next::default());
    seen.deployment.as_mut().unwrap().replicas = 0;
    assert_eq!(next(&seen).steps, [Step::Files, Step::Scale(1)]);
}

#[test]
fn destroying_deletes_the_deployment_first_and_then_what_is_left() {
    let gone = |seen: &Seen| plan(&Want::Gone, None, seen);
    let mut seen = running(&spec());
    assert_eq!(gone(&seen).steps, [Step::Delete]);
    take(&Step::Delete, &spec(), &mut seen);
    assert_eq!(gone(&seen), WAIT);
    settle(&mut seen);
    assert!(matches!(&gone(&seen).steps[..], [Step::RemoveFiles(_)]));
    assert_eq!(gone(&Seen::default()), Next::default());
}

proptest::proptest! {
    /// From anywhere, towards anything, and whoever takes the Deployment away meanwhile: the walk ends, two targets never
    /// overlap on the way, and at its end nothing is to do.
    #[test]
    fn every_walk_ends_and_two_targets_never_overlap(
        from in 0..5_usize, to in 0..5_usize, lost in proptest::option::of(proptest::bool::ANY),
        early in proptest::collection::vec(proptest::bool::ANY, 64),
    ) {
        let wants = [Want::Run(Box::new(spec())), Want::Run(Box::new(newer())), Want::Run(Box::new(elsewhere())), Want::Stopped, Want::Gone];
        let mut seen = Seen::default();
        for want in [&wants[0], &wants[from], &wants[to]] {
            let mut done = false;
            if let Some(bare) = lost {
                seen = orphaned(seen, bare);
            }
            for early in early.iter().cycle().take(200) {
                let next = match want {
                    Want::Run(spec) => next(spec, &seen),
                    _ => plan(want, None, &seen),
                };
                if next == Next::default() {
                    done = true;
                    break;
                }
                let like = match want { Want::Run(spec) => spec.as_ref().clone(), _ => spec() };
                for step in &next.steps {
                    take(step, &like, &mut seen);
                }
                if *early || next.waits {
                    settle(&mut seen);
                }
                let targets: std::collections::HashSet<_> = seen.pods.iter().map(|pod| &pod.target).collect();
                proptest::prop_assert!(targets.len() <= 1);
                if let Some(deployment) = seen.deployment.as_ref().filter(|deployment| deployment.replicas > 0) {
                    proptest::prop_assert!(seen.pods.iter().all(|pod| pod.target == deployment.target));
                }
            }
            proptest::prop_assert!(done, "{:?} from {:?}", want, seen);
        }
    }
}
