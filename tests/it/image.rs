//! The image that executions run in: small, the same whenever it is built, hardened; and the test engine itself.

use crate::support::{Docker, temp_dir};
use serde_json::Value;
use std::process::Command;

/// Builds the image of this very binary and returns its id.
fn build(docker: &Docker, name: &str) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/local/image.sh");
    let mut command = Command::new("bash");
    command.args([script, "--binary", env!("CARGO_BIN_EXE_sluice"), "--name", name]);
    command.envs(docker.host().iter().map(|host| ("DOCKER_HOST", host)));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().split(' ').nth(1).unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_builds_of_the_image_are_the_same_image() {
    require!("docker");
    let docker = Docker::shared().await;
    let name = format!("sluice:twice-{}", std::process::id());
    let first = build(&docker, &name);
    docker.cli(&["rmi", &name]).await;
    assert_eq!(build(&docker, &name), first);
    let inspected: Value = serde_json::from_str(&docker.cli(&["image", "inspect", &name]).await).unwrap();
    docker.cli(&["rmi", &name]).await;
    let config = &inspected[0]["Config"];
    let label = |name: &str| config["Labels"][format!("org.opencontainers.image.{name}")].as_str().unwrap_or_default().to_owned();
    assert_eq!(label("version"), env!("CARGO_PKG_VERSION"));
    assert!(!label("revision").is_empty() && !label("source").is_empty(), "{config}");
    assert_eq!(config["User"], "65532:65532");
    assert_eq!(config["Healthcheck"]["Test"], serde_json::json!(["CMD", "/usr/bin/sluice", "probe"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_image_runs_without_root_without_capabilities_and_on_a_read_only_disk() {
    require!("docker");
    let docker = Docker::shared().await;
    let image = docker.image().await;
    let hardened =
        ["run", "--rm", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--pids-limit=64", &image, "--version"];
    assert_eq!(docker.cli(&hardened).await, format!("sluice {}", env!("CARGO_PKG_VERSION")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_of_a_tests_own_survives_a_kill_and_goes_with_its_handle() {
    require!("docker");
    let shared = Docker::shared().await;
    if shared.host().is_none() {
        // Only where the tests may start engines at all.
        return;
    }
    let own = Docker::own(&[]).await;
    assert_ne!(own.gateway(), shared.gateway());
    own.kill9();
    assert!(!own.try_cli(&["version"]).await.status.success());
    own.restart().await;
    own.cli(&["version"]).await;
    own.stop().await;
    own.restart().await;
    let socket = own.host().unwrap().strip_prefix("unix://").unwrap().to_owned();
    assert!(std::path::Path::new(&socket).exists());
    drop(own);
    assert!(!std::path::Path::new(&socket).exists());
}

#[test]
fn both_ends_of_the_dockerfile_make_the_same_image() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/executor-image/Dockerfile")).unwrap();
    let ends: Vec<String> = text
        .split("\nFROM ")
        .filter(|stage| stage.contains("ENTRYPOINT"))
        .map(|stage| stage[stage.find("ARG VERSION").unwrap()..].trim().to_owned())
        .collect();
    assert_eq!(ends.len(), 2, "{text}");
    assert_eq!(ends[0], ends[1]);
    // A base without an exact version is another image tomorrow.
    let pinned = text.lines().filter(|line| line.starts_with("ARG RUST=")).all(|line| line.contains(":1.") && !line.contains("latest"));
    assert!(pinned, "{text}");
    assert!(text.lines().all(|line| !line.starts_with("# syntax=")), "that would be pulled");
}

#[test]
fn what_the_image_holds_is_staged_with_modes_that_no_umask_changes() {
    let (dir, root) = (temp_dir("stage"), concat!(env!("CARGO_MANIFEST_DIR"), "/executor-image"));
    let tree = dir.path().join("tree");
    let stage = format!("umask 077; sh {root}/stage.sh {} {}", env!("CARGO_BIN_EXE_sluice"), tree.display());
    assert!(Command::new("sh").args(["-c", &stage]).status().unwrap().success());
    let listed = Command::new("find").args([".", "-printf", "%m %p\n"]).current_dir(&tree).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    for wanted in ["755 ./usr/bin/sluice", "644 ./etc/ssl/certs/ca-certificates.crt", "644 ./etc/passwd", "755 ./etc/sluice"] {
        assert!(listed.lines().any(|line| line == wanted), "{wanted}: {listed}");
    }
    assert!(listed.lines().all(|line| line.starts_with("755 ") || line.starts_with("644 ")), "{listed}");
}
