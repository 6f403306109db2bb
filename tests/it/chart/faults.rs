//! The whole, installed from the chart into a cluster of its own, while parts of it are killed: each document is stored once,
//! what is withdrawn leaves nothing, and the service account has used all that it may.

use super::installed::{Release, SOON};
use crate::support::{Cluster, Component, eventually};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;

/// Documents in all, and of each of the parts that are sent while something happens.
const ALL: i64 = 100_000;
const PART: i64 = ALL / 5;
/// What bears the label of the pipeline.
const OURS: &str = "sluice/id=metrics";

fn config(count: u32) -> String {
    format!("schema: 1\noutput:\n  mongodb:\n    collection: metrics\n    batching: {{count: {count}, period: 1s, linger: 20ms}}\n")
}

/// `(resource, verb)` of each request that the account was allowed. Applying is a patch; where that makes something new, the
/// API server asks for `create` too.
fn used(audit: &str, account: &str) -> BTreeSet<(String, String)> {
    let events = audit.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let code = |event: &Value| event["responseStatus"]["code"].as_u64().unwrap_or(403);
    let own = events.filter(|event| event["user"]["username"] == account && ![401, 403].contains(&code(event)));
    own.flat_map(|event| {
        let object = &event["objectRef"];
        let resource = object["resource"].as_str().unwrap_or_default();
        let resource = object["subresource"].as_str().map_or(resource.to_owned(), |sub| format!("{resource}/{sub}"));
        let verb = event["verb"].as_str().unwrap_or_default().to_owned();
        let made = (verb == "patch" && code(&event) == 201).then(|| (resource.clone(), "create".to_owned()));
        made.into_iter().chain([(resource, verb)])
    })
    .collect()
}

/// `(resource, verb)` of each right that the role gives.
fn granted(role: &Value) -> BTreeSet<(String, String)> {
    let all = |rule: &Value, field: &str| -> Vec<String> { serde_json::from_value(rule[field].clone()).unwrap() };
    let rules = role["rules"].as_array().unwrap();
    let rights = rules.iter().flat_map(|rule| {
        all(rule, "resources")
            .into_iter()
            .flat_map(move |resource| all(rule, "verbs").into_iter().map(move |verb| (resource.clone(), verb)))
    });
    rights.collect()
}

/// What a cluster has left on this machine.
fn traces(dir: &Path, bridge: &str) -> Vec<String> {
    let mut traces = Vec::new();
    let name = dir.to_str().unwrap();
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    traces.extend(mounts.lines().filter(|line| line.contains(name)).map(str::to_owned));
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        traces.extend(line.contains(name).then_some(line));
    }
    let groups = std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|group| group.path().join(bridge));
    let places = [dir.to_owned(), Path::new("/sys/class/net").join(bridge), Path::new("/sys/fs/cgroup").join(bridge)];
    traces.extend(groups.chain(places).filter(|place| place.exists()).map(|place| place.display().to_string()));
    traces
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_documents_arrive_exactly_once_while_parts_of_the_cluster_are_killed() {
    require!("nats-server", "database", "helm", "kubernetes");
    if !Cluster::may_be_own() {
        return;
    }
    let cluster = Cluster::own().await;
    let release = Release::prepare(cluster.clone()).await;
    let namespace = &release.namespace;
    // A secret of the settings, which executions get too.
    namespace.kubectl(&["create", "secret", "generic", "sluice-http", "--from-literal=token=a-token-of-some-length-for-this-test"]).await;
    release.helm("install", json!({"http": {"token": {"secret": "sluice-http"}}})).await;
    release.publish("metrics", &config(1000)).await;
    let send = async |part: i64| {
        release.send("metrics", part * PART..(part + 1) * PART).await;
    };
    let stored = async |part: i64| {
        let least = u64::try_from(part * PART).unwrap();
        eventually("documents go on being stored", SOON, || async { release.mongo.count("metrics").await >= least }).await;
    };

    // Another version.
    let publish = async || release.publish("metrics", &config(500)).await;
    tokio::join!(send(0), publish());
    // The pod of the execution, deleted by force; and a container that dies, whose last lines are kept.
    let force = ["--force", "--grace-period=0", "--wait=false", "--ignore-not-found"];
    let delete = async || {
        let deleted = namespace.kubectl(&[&["delete", "pods", "--selector", OURS], &force[..]].concat()).await;
        assert!(deleted.contains("deleted"), "{deleted}");
    };
    tokio::join!(send(1), delete());
    stored(2).await;
    let pod = release.pod().await;
    namespace.signal(&pod, "KILL").await;
    eventually("the last lines of the container that died are shown", SOON, || async {
        release.operator.cli_ok(&["logs", "metrics"]).await.contains(&format!("pod={pod}"))
    })
    .await;
    // Who decides.
    let leader = release.follows(|holder| async move { namespace.signal(&holder.pod, "KILL").await });
    let ((), took) = tokio::join!(send(2), leader);
    assert!(took <= 15_000, "taken over after {took} ms");
    release.both().await;
    // Who answers, and who runs pods: what runs goes on without them, and with them something can be changed again.
    for (part, component) in [(3, Component::ApiServer), (4, Component::Kubelet)] {
        cluster.kill9(component);
        send(part).await;
        stored(part + 1).await;
        if component == Component::ApiServer {
            release.says("the cluster is said to be away", |status| status.contains("EngineUnavailable")).await;
        }
        cluster.restart().await;
        release.publish("metrics", &config(600 + u32::try_from(part).unwrap())).await;
    }
    release.exactly("metrics", 0..ALL).await;
    release.says("all is well again", |status| !status.contains("EngineUnavailable") && status.contains("AsDesired")).await;

    // What it needs is taken away: its pod does not start, the cluster's events say why, and a new start brings it back.
    namespace.kubectl(&["delete", "secrets", "--selector", OURS]).await;
    delete().await;
    release.says("the missing Secret is said", |status| status.contains("FailedMount")).await;
    release.operator.cli_ok(&["pause", "metrics", "--wait"]).await;
    release.operator.cli_ok(&["publish", "metrics", "--wait"]).await;
    // What lost its owner: a pod that somebody took out of its set, and the set of a Deployment that is gone.
    let lost = release.pod().await;
    namespace.kubectl(&["label", "pod", &lost, "pod-template-hash-"]).await;
    eventually("another pod runs alone", SOON, || async { release.pods().await.iter().all(|pod| *pod != lost) }).await;
    release.operator.cli_ok(&["pause", "metrics", "--wait"]).await;
    namespace.kubectl(&["delete", "deployments", "--selector", OURS, "--cascade=orphan"]).await;

    // Withdrawn, it leaves nothing; nor does one that runs.
    for publish in [false, true] {
        if publish {
            release.operator.cli_ok(&["publish", "metrics", "--wait"]).await;
        }
        release.operator.cli_ok(&["draft", "metrics", "--wait"]).await;
        let kinds = "deployments,replicasets,pods,configmaps,secrets";
        eventually("nothing of the execution is left", SOON, || async {
            namespace.kubectl(&["get", kinds, "--selector", OURS, "-o", "name"]).await.is_empty()
        })
        .await;
    }
    release.exactly("metrics", 0..ALL).await;

    // Everything granted was needed.
    let account = format!("system:serviceaccount:{}:sluice", namespace.name());
    let used = used(&cluster.audit().unwrap(), &account);
    let granted = granted(&namespace.get(&["role", "sluice"]).await);
    let unused: Vec<_> = granted.difference(&used).collect();
    assert!(unused.is_empty(), "granted and not used: {unused:?}; used: {used:?}");

    let (dir, bridge) = cluster.places();
    drop(release);
    drop(cluster);
    assert_eq!(traces(&dir, &bridge), Vec::<String>::new());
}

#[test]
fn what_is_not_allowed_does_not_count_as_used() {
    let line = |verb: &str, code: u32| {
        let object = json!({"resource": "pods", "subresource": "log"});
        json!({"user": {"username": "a"}, "verb": verb, "objectRef": object, "responseStatus": {"code": code}}).to_string()
    };
    let right = |verb: &str| ("pods/log".to_owned(), verb.to_owned());
    let audit = [line("get", 404), line("delete", 403), line("patch", 200)].join("\n");
    assert_eq!(used(&audit, "a"), BTreeSet::from([right("get"), right("patch")]));
    assert_eq!(used(&line("patch", 201), "a"), BTreeSet::from([right("create"), right("patch")]));
    assert!(used(&audit, "b").is_empty());
}
