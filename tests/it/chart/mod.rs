//! `deploy/kubernetes`: the chart as text, by the real helm; and installed into a real cluster.
//!
//! What renders is held against what the program itself says of its settings, and against the plain manifests, which are
//! the chart's defaults.

mod faults;
mod installed;

use crate::support::{temp_dir, tool};
use serde_json::Value;
use sluice::settings::load::load;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// What `deploy/kubernetes/chart/values.yaml` offers and the defaults leave out.
const EVERYTHING: &str = "
imagePullSecrets: [{name: registry}]
secrets: [{name: nats, secret: sluice-nats}, {name: mongodb, secret: sluice-mongodb}]
http: {port: 9090, healthPort: 9091, token: {secret: sluice-http, key: bearer}}
priorityClassName: important
nodeSelector: {disktype: ssd}
tolerations: [{key: dedicated, operator: Equal, value: sluice, effect: NoSchedule}]
affinity: {nodeAffinity: {}}
podAnnotations: {example.com/a: b}
podLabels: {team: core}
serviceAccount: {create: true, name: mine, annotations: {example.com/role: r}}
podDisruptionBudget: {maxUnavailable: 50%}
networkPolicy: {natsPorts: [4222, 4223], ingressFrom: [{namespaceSelector: {matchLabels: {name: monitoring}}}]}
serviceMonitor: {enabled: true, interval: 15s, labels: {release: prometheus}}
";

fn place(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(path)
}

/// The real helm; `home` keeps what it notes.
fn helm(home: &Path) -> Command {
    let mut command = Command::new(tool("helm").expect("helm"));
    for variable in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        command.env(variable, home.join(variable));
    }
    command.stdin(Stdio::null());
    command
}

fn run(arguments: &[&str], values: &str) -> Output {
    let home = temp_dir("helm");
    let file = home.path().join("values.yml");
    std::fs::write(&file, values).unwrap();
    helm(home.path()).args(arguments).arg(place("kubernetes/chart")).arg("--values").arg(&file).output().unwrap()
}

/// The documents of a release `sluice` in the namespace `pipes`.
fn rendered(values: &str) -> Vec<Value> {
    let output = run(&["template", "sluice", "--namespace", "pipes"], values);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    documents(&String::from_utf8(output.stdout).unwrap())
}

fn documents(text: &str) -> Vec<Value> {
    let documents = text.split("\n---\n").map(|document| serde_yaml::from_str(document).unwrap());
    documents.filter(|document: &Value| !document.is_null()).collect()
}

fn of_kind<'a>(documents: &'a [Value], kind: &str) -> &'a Value {
    documents.iter().find(|document| document["kind"] == kind).unwrap_or_else(|| panic!("no {kind}"))
}

#[test]
fn the_plain_manifests_are_what_the_chart_renders() {
    require!("helm");
    let output = Command::new("bash").arg(place("local/manifests.sh")).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let committed = std::fs::read_to_string(place("kubernetes/sluice.yaml")).unwrap();
    assert!(String::from_utf8(output.stdout).unwrap() == committed, "run `make manifests`: the chart renders something else");
}

#[test]
fn the_chart_has_no_fault_that_helm_knows_and_is_of_this_version() {
    require!("helm");
    for values in ["", EVERYTHING] {
        let output = run(&["lint", "--strict"], values);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
    let chart: Value = serde_yaml::from_str(&std::fs::read_to_string(place("kubernetes/chart/Chart.yaml")).unwrap()).unwrap();
    assert_eq!(
        (chart["version"].as_str(), chart["appVersion"].as_str()),
        (Some(env!("CARGO_PKG_VERSION")), Some(env!("CARGO_PKG_VERSION")))
    );
}

#[test]
fn the_service_monitor_is_one_to_the_operator_that_reads_it() {
    require!("helm", "servicemonitor");
    let known = |monitor: &Value| {
        let mut command = Command::new(tool("servicemonitor").unwrap());
        let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(monitor.to_string().as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    let mut monitor = of_kind(&rendered(EVERYTHING), "ServiceMonitor").clone();
    let output = known(&monitor);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    monitor["spec"]["endpoints"][0]["authorisation"] = Value::Null;
    let output = known(&monitor);
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("authorisation"), "{output:?}");
}

#[test]
fn values_that_mean_nothing_or_would_weaken_it_are_refused_by_their_name() {
    require!("helm");
    for (values, named) in [
        ("replica: 3", "replica"),
        ("replicas: many", "replicas"),
        ("image: {tag: [1]}", "tag"),
        ("secrets: [{name: http, secret: a}]", "secrets"),
        ("secrets: [{secret: a}]", "name"),
        ("settings: {namespace: a-b}", "namespace"),
        ("settings: {http: {listen: '0.0.0.0:80'}}", "listen"),
        ("http: {port: 80}", "port"),
        ("settings: {http: {health_listen: '0.0.0.0:9000'}}", "health_listen"),
        ("http: {token: {key: a}}", "key"),
        ("networkPolicy: {natsPorts: ['4222']}", "natsPorts"),
        ("settings: {executor: {kind: docker}}", "kind"),
        ("serviceMonitor: {enabled: true}", "http.token.secret"),
    ] {
        let output = run(&["template", "sluice"], values);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(named), "{values}: {said}");
    }
}

#[test]
fn the_settings_within_the_chart_load_without_a_doubt() {
    require!("helm");
    for values in ["", EVERYTHING] {
        let documents = rendered(values);
        let settings = of_kind(&documents, "ConfigMap")["data"]["sluice.yml"].as_str().unwrap();
        let directory = temp_dir("settings");
        std::fs::write(directory.path().join("sluice.yml"), settings).unwrap();
        std::fs::create_dir_all(directory.path().join("secrets/http")).unwrap();
        let token = directory.path().join("secrets/http/bearer");
        std::fs::write(&token, "0123456789abcdef0123456789abcdef").unwrap();
        std::fs::set_permissions(&token, std::os::unix::fs::PermissionsExt::from_mode(0o440)).unwrap();
        let loaded = load(Some(&directory.path().join("sluice.yml")), &[], &[]).unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(loaded.warnings, [], "{settings}");
        let deployment = of_kind(&documents, "Deployment");
        let grace = deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"].as_u64().unwrap();
        assert!(grace > loaded.settings.executor.shutdown_grace.as_secs() + 5, "time to write what is held, and to end");
    }
}

#[test]
fn rights_are_granted_where_they_are_needed_and_in_this_namespace_only() {
    require!("helm");
    let kinds = |values: &str| {
        let documents = rendered(values);
        let kinds: Vec<_> = documents.iter().map(|document| document["kind"].as_str().unwrap().to_owned()).collect();
        let mounted = of_kind(&documents, "Deployment")["spec"]["template"]["spec"]["automountServiceAccountToken"] == true;
        let granted = ["Role", "RoleBinding"].map(|kind| kinds.iter().any(|other| other == kind));
        assert!(!kinds.iter().any(|kind| kind.starts_with("ClusterRole")));
        (mounted, granted[0] && granted[1])
    };
    assert_eq!(kinds("settings: {executor: {kind: in_process}}"), (false, false));
    assert_eq!(kinds("settings: {executor: {kind: kubernetes}}"), (true, true));
    assert_eq!(kinds("settings: {executor: {kind: in_process, retire: [kubernetes]}}"), (true, true));
    let documents = rendered("{settings: {executor: {kind: kubernetes}}, rbac: {secrets: false}}");
    let rules = of_kind(&documents, "Role")["rules"].as_array().unwrap();
    assert!(rules.iter().all(|rule| rule["resources"] != serde_json::json!(["secrets"])));
    let wide = |rule: &&Value| ["verbs", "resources", "apiGroups"].iter().any(|field| rule[field].to_string().contains('*'));
    assert_eq!(rules.iter().find(wide), None);
    // Executions run the image that their controller does.
    let settings: Value = serde_yaml::from_str(of_kind(&documents, "ConfigMap")["data"]["sluice.yml"].as_str().unwrap()).unwrap();
    assert_eq!(settings["executor"]["kubernetes"]["image"], concat!("sluice:", env!("CARGO_PKG_VERSION")));
}

#[test]
fn everything_that_can_be_chosen_arrives_where_it_belongs() {
    require!("helm");
    let documents = rendered(EVERYTHING);
    let kinds = ["ServiceAccount", "Service", "ServiceMonitor", "PodDisruptionBudget", "NetworkPolicy"];
    for kind in kinds {
        assert_eq!(of_kind(&documents, kind)["metadata"]["namespace"], "pipes");
    }
    let pod = &of_kind(&documents, "Deployment")["spec"]["template"];
    assert_eq!(pod["metadata"]["labels"]["team"], "core");
    assert_eq!(pod["metadata"]["annotations"]["example.com/a"], "b");
    let spec = &pod["spec"];
    assert_eq!(
        (&spec["serviceAccountName"], &spec["priorityClassName"], &spec["nodeSelector"]["disktype"], &spec["tolerations"][0]["key"]),
        (&"mine".into(), &"important".into(), &"ssd".into(), &"dedicated".into())
    );
    let container = &spec["containers"][0];
    assert_eq!((&container["ports"][0]["containerPort"], &container["ports"][1]["containerPort"]), (&9091.into(), &9090.into()));
    let mounts: Vec<_> = container["volumeMounts"].as_array().unwrap().iter().map(|mount| mount["mountPath"].as_str().unwrap()).collect();
    let secrets = ["/etc/sluice/secrets/nats", "/etc/sluice/secrets/mongodb", "/etc/sluice/secrets/http"];
    assert_eq!(mounts, [&["/etc/sluice/sluice.yml"][..], &secrets].concat());
    assert_eq!(of_kind(&documents, "ServiceMonitor")["spec"]["endpoints"][0]["authorization"]["credentials"]["key"], "bearer");
    assert_eq!(of_kind(&documents, "PodDisruptionBudget")["spec"]["maxUnavailable"], "50%");
    // Without a token nobody outside the pod is answered but for health, so there is nothing to send anybody to.
    let least = rendered("");
    assert!(least.iter().all(|document| document["kind"] != "Service"));
    let ports = &of_kind(&least, "Deployment")["spec"]["template"]["spec"]["containers"][0]["ports"];
    assert_eq!(ports.as_array().unwrap().iter().map(|port| &port["name"]).collect::<Vec<_>>(), ["health"]);
}
