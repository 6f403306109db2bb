//! `deploy/compose.yml` as far as it can be checked without a registry: what it names is there, its settings are settings that
//! load, what stands twice agrees; and its services run on a real engine, as it says and on its own network, with programs of
//! this machine in place of the images of others.

use crate::support::{Docker, eventually, temp_dir, tool};
use serde_json::Value;
use sluice::settings::load::load;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(120);

fn compose() -> Value {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/compose.yml")).unwrap();
    serde_yaml::from_str(&text).unwrap()
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

#[test]
fn the_settings_within_the_compose_file_load_without_a_doubt() {
    let compose = compose();
    let settings = compose["configs"]["settings"]["content"].as_str().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("sluice.yml");
    std::fs::write(&file, settings).unwrap();
    let loaded = load(Some(&file), &[], &[]).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(loaded.warnings, []);
    // Services are reached by their names, on a network that executions join too.
    let services = &compose["services"];
    assert_eq!(loaded.settings.nats.urls, ["nats://nats:4222"]);
    assert_eq!(loaded.settings.mongodb.connections["default"].hosts(), ["mongodb:27017"]);
    let network = compose["networks"]["pipelines"]["name"].as_str().unwrap();
    let documents: Value = serde_yaml::from_str(settings).unwrap();
    let docker = &documents["executor"]["docker"];
    assert_eq!(docker["network"], network);
    for name in ["nats", "mongodb", "controller"] {
        assert_eq!(texts(&services[name]["networks"]), ["pipelines"], "{name}");
    }
    // One image for the controller and for what it starts, of this very version.
    let image = concat!("sluice:", env!("CARGO_PKG_VERSION"));
    assert_eq!((services["controller"]["image"].as_str(), docker["image"].as_str()), (Some(image), Some(image)));
    let socket = docker["host"].as_str().unwrap().strip_prefix("unix://").unwrap();
    assert!(texts(&services["controller"]["volumes"]).iter().any(|volume| volume.split(':').nth(1) == Some(socket)));
    assert_eq!(services["controller"]["configs"][0]["target"], "/etc/sluice/sluice.yml");
}

#[test]
fn only_the_controller_and_the_proxy_get_the_engines_socket_and_the_controller_is_hardened() {
    let compose = compose();
    for (name, service) in compose["services"].as_object().unwrap() {
        let has_socket = texts(&service["volumes"]).iter().any(|volume| volume.contains("docker.sock"));
        assert_eq!(has_socket, ["controller", "socket-proxy"].contains(&name.as_str()), "{name}");
        assert!(service["privileged"].is_null() && service["network_mode"].is_null() && service["ports"].is_null(), "{name}");
        let (_, tag) = service["image"].as_str().unwrap().rsplit_once(':').unwrap();
        assert!(tag != "latest", "{name}");
        for network in texts(&service["networks"]) {
            assert!(compose["networks"].get(network).is_some(), "{name}: {network}");
        }
        for volume in texts(&service["volumes"]) {
            let source = volume.split(':').next().unwrap();
            assert!(source.starts_with('/') || compose["volumes"].get(source).is_some(), "{name}: {volume}");
        }
    }
    let controller = &compose["services"]["controller"];
    assert_eq!(controller["read_only"], true);
    assert_eq!(texts(&controller["cap_drop"]), ["ALL"]);
    assert_eq!(texts(&controller["security_opt"]), ["no-new-privileges"]);
    // Longer than an execution may take to write what it holds.
    assert_eq!(controller["stop_grace_period"], "40s");
    assert_eq!(compose["services"]["socket-proxy"]["profiles"][0], "proxy");
}

/// What `docker run` is told for a service, as `docker compose` would: a key that is not known here is one that nothing shows.
fn flags(name: &str, service: &Value, network: &str, socket: &str, settings: &Path) -> Vec<String> {
    let group = std::fs::metadata(socket).unwrap().gid();
    let mut flags = vec![format!("--name={name}"), format!("--network={network}"), format!("--network-alias={name}")];
    for (key, value) in service.as_object().unwrap() {
        let text = value.as_str().unwrap_or_default();
        match key.as_str() {
            "image" | "command" | "depends_on" | "networks" => {}
            // Of a shell that the image of others has.
            "healthcheck" => assert_eq!(name, "mongodb"),
            "volumes" => {
                flags.extend(
                    texts(value)
                        .iter()
                        .map(|volume| format!("--volume={}", volume.replace("/var/run/docker.sock:", &format!("{socket}:")))),
                );
            }
            "configs" => flags.push(format!("--volume={}:{}:ro", settings.display(), value[0]["target"].as_str().unwrap())),
            "group_add" => flags.extend(texts(value).iter().map(|group_of| {
                assert_eq!(*group_of, "${DOCKER_GROUP:-999}");
                format!("--group-add={group}")
            })),
            "read_only" => flags.push("--read-only".into()),
            "cap_drop" => flags.extend(texts(value).iter().map(|name| format!("--cap-drop={name}"))),
            "security_opt" => flags.extend(texts(value).iter().map(|option| format!("--security-opt={option}"))),
            "pids_limit" => flags.push(format!("--pids-limit={value}")),
            "mem_limit" => flags.push(format!("--memory={text}")),
            "stop_grace_period" => flags.push(format!("--stop-timeout={}", text.strip_suffix('s').unwrap())),
            "restart" => flags.push(format!("--restart={text}")),
            other => panic!("{name}: nobody knows here what {other} is"),
        }
    }
    flags
}

/// Makes an image of a program of this machine, with its libraries.
async fn stand_in(docker: &Docker, program: &Path, image: &str) {
    let dir = temp_dir("stand-in");
    let (tree, tar) = (dir.path().join("tree"), dir.path().join("tree.tar"));
    let stage = concat!(env!("CARGO_MANIFEST_DIR"), "/executor-image/stage.sh");
    assert!(Command::new("sh").arg(stage).arg(program).arg(&tree).status().unwrap().success());
    assert!(Command::new("tar").arg("-C").arg(&tree).arg("-cf").arg(&tar).arg(".").status().unwrap().success());
    docker.cli(&["import", "--change", "ENTRYPOINT [\"/usr/bin/sluice\"]", &tar.display().to_string(), image]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_compose_file_describes_runs_a_pipeline_on_a_real_engine() {
    require!("docker", "nats-server", "database");
    if Docker::shared().await.host().is_none() {
        // Its names are those of whoever uses it.
        return;
    }
    let docker = Docker::own(&[]).await;
    let (compose, dir) = (compose(), temp_dir("compose"));
    let services = &compose["services"];
    let socket = docker.host().unwrap().strip_prefix("unix://").unwrap();
    let network = compose["networks"]["pipelines"]["name"].as_str().unwrap();
    docker.cli(&["network", "create", network]).await;
    docker.cli(&["tag", &docker.image().await, services["controller"]["image"].as_str().unwrap()]).await;
    for (service, program) in [("nats", "nats-server"), ("mongodb", "database")] {
        stand_in(&docker, Path::new(&tool(program).unwrap()), services[service]["image"].as_str().unwrap()).await;
    }
    // What stands in for the database is a server alone.
    let settings = compose["configs"]["settings"]["content"].as_str().unwrap().replace("replicaSet=rs0", "directConnection=true");
    let file = dir.path().join("sluice.yml");
    std::fs::write(&file, settings).unwrap();
    let run = async |name: &str, command: Vec<&str>| {
        let service = &services[name];
        let flags = flags(name, service, network, socket, &file);
        let words = ["run", "--detach"].into_iter().chain(flags.iter().map(String::as_str));
        docker.cli(&words.chain([service["image"].as_str().unwrap()]).chain(command).collect::<Vec<_>>()).await;
    };
    run("nats", texts(&services["nats"]["command"])).await;
    run("mongodb", vec!["--host", "0.0.0.0", "--storage-path", "/data/db", "--cache-size", "256M"]).await;
    run("controller", texts(&services["controller"]["command"])).await;
    eventually("the controller is ready", LONG, || async {
        docker.try_cli(&["exec", "controller", "/usr/bin/sluice", "probe"]).await.status.success()
    })
    .await;

    // Somebody on that machine publishes a pipeline, as its entry and by the address of NATS.
    let address = docker.cli(&["inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", "nats"]).await;
    let (pipeline, person) = (dir.path().join("metrics.yml"), dir.path().join("person.yml"));
    std::fs::write(&pipeline, "schema: 1\noutput:\n  mongodb: {collection: metrics}\n").unwrap();
    std::fs::write(&person, format!("namespace: sluice\nnats: {{urls: ['nats://{address}:4222']}}\n")).unwrap();
    let sluice = async |arguments: &[&str]| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_sluice"));
        let output = command.arg("--settings").arg(&person).args(arguments).output().await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    sluice(&["publish", "metrics", "-f", &pipeline.display().to_string(), "--wait=9m"]).await;
    let listed = docker.cli(&["exec", "controller", "/usr/bin/sluice", "list"]).await;
    assert!(listed.contains("metrics"), "{listed}");
    let executions = ["ps", "--format", "{{.Names}} {{.Networks}} {{.Image}}", "--filter", "label=sluice/id=metrics"];
    let execution = docker.cli(&executions).await;
    assert!(execution.contains(network) && execution.lines().count() == 1, "{execution}");
    sluice(&["delete", "metrics", "--wait=9m"]).await;
    eventually("nothing of it is left", LONG, || async { docker.cli(&executions).await.is_empty() }).await;
    // Stopped as it says, and gracefully.
    docker.cli(&["stop", "controller"]).await;
    assert_eq!(docker.cli(&["inspect", "--format", "{{.State.ExitCode}}", "controller"]).await, "0");
}
