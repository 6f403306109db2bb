//! `deploy/compose.yml` as far as it can be checked without its images: it parses, what it names is there, its settings are
//! settings that load, and what stands twice agrees.

use serde_json::Value;
use sluice::settings::load::load;
use std::path::Path;

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
