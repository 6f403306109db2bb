//! What the status says of what a cluster shows.

use super::super::manifests::manifests;
use super::super::manifests::tests::{content, kubernetes, spec};
use super::super::seen::{OwnFiles, Placed};
use super::*;
use crate::executor::names::target_hash;
use crate::pipeline::instance::Instance;

fn render(spec: &ExecutionSpec) -> Option<Manifests> {
    Some(manifests(spec, &kubernetes(), &content()))
}

fn pod(state: InstanceState) -> OwnPod {
    let spec = spec();
    OwnPod {
        uid: "u".into(),
        instance: Instance { name: "p".into(), fingerprint: spec.fingerprint.clone(), state, since: None, restarts: 0, exit_code: None },
        target: target_hash(&spec),
        ending: false,
        stray: None,
        unschedulable: None,
        waiting: None,
        out_of_memory: false,
        not_begun: None,
        created: None,
    }
}

fn running() -> Seen {
    let spec = spec();
    let manifests = render(&spec).unwrap();
    let deployment = Placed {
        name: "d".into(),
        uid: "u".into(),
        resource_version: "1".into(),
        fingerprint: spec.fingerprint.clone(),
        target: target_hash(&spec),
        replicas: 2,
        deleting: false,
        epoch: None,
        settled: true,
        failure: None,
        raw: serde_json::to_value(&manifests.deployment).unwrap(),
    };
    let files = OwnFiles {
        name: manifests.settings.metadata.name.clone().unwrap(),
        fingerprint: spec.fingerprint.clone(),
        raw: serde_json::to_value(&manifests.settings).unwrap(),
        spec: Some(spec),
    };
    Seen {
        deployment: Some(deployment),
        pods: vec![pod(InstanceState::Running), pod(InstanceState::Running)],
        files: vec![files],
        stray_sets: Vec::new(),
    }
}

fn seen_as(seen: &Seen, want: Option<&Want>) -> Option<Observed> {
    observed(&spec().id, seen, want, Vec::new(), false, render)
}

#[test]
fn a_fingerprint_is_named_only_where_all_is_as_it_was_made() {
    let good = seen_as(&running(), None).unwrap();
    assert_eq!((good.fingerprint, good.running, good.replicas), (spec().fingerprint, true, Some(2)));
    let named = |change: fn(&mut Seen)| {
        let mut seen = running();
        change(&mut seen);
        seen_as(&seen, None).unwrap().fingerprint == spec().fingerprint
    };
    assert!(!named(|seen| seen.files.clear()));
    assert!(!named(|seen| seen.deployment.as_mut().unwrap().raw["spec"]["template"]["spec"]["containers"][0]["image"] = "x".into()));
    assert!(!named(|seen| seen.deployment.as_mut().unwrap().replicas = 5));
    assert!(!named(|seen| seen.deployment.as_mut().unwrap().deleting = true));
    assert!(!named(|seen| seen.deployment.as_mut().unwrap().settled = false));
    assert!(!named(|seen| seen.deployment = None));
    assert_eq!(seen_as(&Seen::default(), None), None);
}

#[test]
fn what_is_stopped_is_kept_and_what_is_being_brought_about_is_said_to_run() {
    let mut stopped = running();
    stopped.deployment.as_mut().unwrap().replicas = 0;
    assert!(seen_as(&stopped, None).unwrap().running, "while its pods end");
    stopped.pods.clear();
    let kept = seen_as(&stopped, None).unwrap();
    assert_eq!((kept.running, kept.fingerprint), (false, spec().fingerprint));
    let wanted = seen_as(&Seen::default(), Some(&Want::Run(Box::new(spec())))).unwrap();
    assert_eq!((wanted.running, wanted.fingerprint, wanted.replicas), (true, spec().fingerprint, Some(2)));
    assert_eq!(seen_as(&Seen::default(), Some(&Want::Gone)), None);
}

#[test]
fn an_autoscalers_number_is_none_that_could_be_wrong() {
    let seen = observed(&spec().id, &running(), None, Vec::new(), true, render).unwrap();
    assert_eq!((seen.replicas, seen.fingerprint), (None, spec().fingerprint));
}

#[test]
fn every_way_in_which_a_pod_fails_is_a_reason_of_its_own() {
    let reason = |state: InstanceState, change: fn(&mut OwnPod)| {
        let mut pod = pod(state);
        change(&mut pod);
        trouble(&pod).map(|trouble| trouble.reason)
    };
    use InstanceState::{Created, Restarting, Running, Unhealthy};
    assert_eq!(reason(Created, |pod| pod.waiting = Some(("ImagePullBackOff".into(), "m".into()))), Some(Reason::ImageMissing));
    assert_eq!(reason(Created, |pod| pod.waiting = Some(("CreateContainerConfigError".into(), "m".into()))), Some(Reason::EngineRefuses));
    assert_eq!(reason(Created, |pod| pod.waiting = Some(("ContainerCreating".into(), String::new()))), None);
    assert_eq!(reason(Created, |pod| pod.unschedulable = Some("no node".into())), Some(Reason::ExecutionUnschedulable));
    assert_eq!(reason(Restarting, |pod| pod.out_of_memory = true), Some(Reason::ExecutionOutOfMemory));
    assert_eq!(reason(Restarting, |pod| pod.not_begun = Some("no such file".into())), Some(Reason::EngineRefuses));
    assert_eq!(reason(Restarting, |pod| pod.instance.exit_code = Some(3)), Some(Reason::ExecutionMisconfigured));
    assert_eq!(reason(Restarting, |pod| pod.waiting = Some(("CrashLoopBackOff".into(), "m".into()))), Some(Reason::ExecutionFailed));
    assert_eq!(reason(Unhealthy, |_| ()), Some(Reason::ExecutionUnhealthy));
    assert_eq!(reason(Running, |_| ()), None);
    assert_eq!(reason(Unhealthy, |pod| pod.ending = true), None, "what ends is not well for a while");
    let mut quota = running();
    quota.deployment.as_mut().unwrap().failure = Some("exceeded quota".into());
    assert_eq!(seen_as(&quota, None).unwrap().troubles[0].reason, Reason::ExecutionNotAdmitted);
}
