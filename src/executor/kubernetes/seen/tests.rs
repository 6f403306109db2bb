//! Objects as a cluster answers them, read.

use super::*;
use serde_json::json;

fn pods(raw: Value) -> Vec<OwnPod> {
    let mut raw = raw;
    raw["metadata"] = json!({"name": "p", "uid": "u", "labels": {
        "sluice/installation": uuid::Uuid::nil(), "sluice/id": "a", "sluice/fingerprint": "f", "sluice/target": "t"
    }, "creationTimestamp": "2026-01-01T00:00:00Z"});
    let raw: Pod = serde_json::from_value(raw).unwrap();
    let now = "2026-01-01T00:01:00Z".parse().unwrap();
    by_pipeline(uuid::Uuid::nil(), &[], &[raw], &[], now).remove(&PipelineId::parse("a").unwrap()).unwrap_or_default().pods
}

fn one(status: Value) -> OwnPod {
    pods(json!({"status": status})).remove(0)
}

fn container(state: Value, last: Value, ready: bool) -> OwnPod {
    let container = json!({
        "name": "sluice", "state": state, "lastState": last, "ready": ready, "restartCount": 2, "image": "i", "imageID": "i"
    });
    one(json!({"phase": "Running", "containerStatuses": [container]}))
}

#[test]
fn a_pod_is_what_its_container_does() {
    let at = |second: u32| json!({"running": {"startedAt": format!("2026-01-01T00:00:{second:02}Z")}});
    assert_eq!(container(at(1), json!({}), true).instance.state, InstanceState::Running);
    assert_eq!(container(at(50), json!({}), false).instance.state, InstanceState::Starting);
    assert_eq!(container(at(1), json!({}), false).instance.state, InstanceState::Unhealthy);
    let looping = container(
        json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}),
        json!({"terminated": {"exitCode": 137, "reason": "OOMKilled", "finishedAt": "2026-01-01T00:00:30Z"}}),
        false,
    );
    assert_eq!((looping.instance.state, looping.instance.exit_code), (InstanceState::Restarting, Some(137)));
    assert!(looping.out_of_memory && looping.instance.restarts == 2);
    let not_begun = json!({"terminated": {"exitCode": 128, "reason": "StartError", "message": "no such file"}});
    let not_begun = container(json!({"waiting": {"reason": "CrashLoopBackOff"}}), not_begun, false);
    assert_eq!(not_begun.not_begun.as_deref(), Some("no such file"));
    let again = container(at(50), json!({"terminated": {"exitCode": 1}}), true);
    assert_eq!((again.instance.state, again.instance.exit_code), (InstanceState::Running, None), "what is over is over");
    assert_eq!(one(json!({"phase": "Failed", "reason": "Evicted"})).instance.state, InstanceState::Dead);
    let waiting = one(json!({"phase": "Pending", "conditions": [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes are available"}
    ]}));
    assert_eq!((waiting.instance.state, waiting.unschedulable.as_deref()), (InstanceState::Created, Some("0/1 nodes are available")));
}

#[test]
fn what_bears_another_installation_or_no_label_of_ours_is_not_seen() {
    let labelled = |labels: Value| -> Deployment { serde_json::from_value(json!({"metadata": {"name": "d", "labels": labels}})).unwrap() };
    let strangers = [
        labelled(json!({})),
        labelled(json!({"sluice/id": "a"})),
        labelled(json!({"sluice/installation": uuid::Uuid::max(), "sluice/id": "a"})),
        labelled(json!({"sluice/installation": uuid::Uuid::nil(), "sluice/id": "states"})),
    ];
    assert!(by_pipeline(uuid::Uuid::nil(), &strangers, &[], &[], Timestamp::UNIX_EPOCH).is_empty());
}

#[test]
fn a_deployment_is_settled_when_all_its_replicas_are_of_its_template_and_available() {
    let settled = |generation: i64, status: Value| {
        let labels = json!({"sluice/installation": uuid::Uuid::nil(), "sluice/id": "a"});
        let raw: Deployment = serde_json::from_value(json!({
            "metadata": {"name": "d", "generation": generation, "labels": labels},
            "spec": {"replicas": 2, "selector": {}, "template": {}}, "status": status
        }))
        .unwrap();
        placed(&raw).settled
    };
    let status =
        |updated: u32, all: u32| json!({"observedGeneration": 1, "replicas": all, "updatedReplicas": updated, "availableReplicas": 2});
    assert!(settled(1, status(2, 2)));
    assert!(!settled(2, status(2, 2)), "not looked at by the cluster yet");
    assert!(!settled(1, status(1, 2)) && !settled(1, status(2, 3)) && !settled(1, json!({"observedGeneration": 1})));
}
