//! The image that executions run in: small, the same whenever it is built, hardened; and the test engine itself.

use crate::support::{Docker, Mongo, Nats, Sluice, eventually, random_name, temp_dir};
use bson::doc;
use futures_util::{StreamExt, stream};
use serde_json::Value;
use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command, time::Duration};

/// The binary that these tests were built with.
const BINARY: &str = env!("CARGO_BIN_EXE_sluice");
const LONG: Duration = Duration::from_secs(120);

/// Builds the image, of `binary` or as `make image` does, and returns its id.
fn build(docker: &Docker, name: &str, binary: Option<&str>) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/local/image.sh");
    let mut command = Command::new("bash");
    command.args([script, "--name", name]);
    command.args(binary.iter().flat_map(|binary| ["--binary", binary]));
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
    let first = build(&docker, &name, Some(BINARY));
    docker.cli(&["rmi", &name]).await;
    assert_eq!(build(&docker, &name, Some(BINARY)), first);
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

/// What a container needs beside its spec: the settings that a controller has, and a secret, readable by the user inside.
fn mounted(controller: &Sluice, canary: &str, dir: &Path) {
    let settings = fs::read_to_string(controller.dir.join("sluice.yml")).unwrap();
    let settings = settings.replace("listen: '127.0.0.1:0'", "listen: '127.0.0.1:8080', token_file: token");
    assert!(settings.contains("token_file"), "{settings}");
    for (name, text) in [("sluice.yml", settings.as_str()), ("token", canary)] {
        fs::write(dir.join(name), text).unwrap();
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o444)).unwrap();
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hardened_container_of_the_image_runs_a_pipeline_and_drains_when_it_is_stopped() {
    require!("docker", "nats-server", "database");
    let docker = Docker::shared().await;
    let image = docker.image().await;
    let (nats, mongo) = (Nats::start_on(docker.gateway()).await, Mongo::start_on(docker.gateway()).await);
    let mut controller = Sluice::start(&nats, &mongo).await;
    let file = controller.dir.join("metrics.yml");
    fs::write(&file, "schema: 1\noutput:\n  mongodb:\n    collection: metrics\n    batching: {count: 500, linger: 20ms}\n").unwrap();
    controller.cli_ok(&["publish", "metrics", "-f", &file.display().to_string(), "--wait"]).await;
    let status: Value = serde_json::from_str(&controller.get("/api/v1/pipelines/metrics").await.1).unwrap();
    assert!(controller.sigterm().await.success());
    let spec = &status["admitted"]["spec"];

    let (dir, canary, name) = (temp_dir("container"), "canary-51b2c7", random_name("sluice-image"));
    mounted(&controller, canary, dir.path());
    let label = format!("sluice-test={name}");
    let _cleaning = docker.clean(&label);
    let mut run: Vec<String> =
        ["run", "--detach", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"].map(Into::into).into();
    run.extend(["--pids-limit=64", "--memory=256m", "--user=65532:65532", "--health-interval=1s"].map(Into::into));
    run.extend([format!("--name={name}"), format!("--label={label}"), format!("--env=SLUICE_SPEC={spec}")]);
    run.extend([format!("--volume={}:/etc/sluice:ro", dir.path().display()), image, "execute".into()]);
    run.extend(["id", "version", "digest", "fingerprint"].map(|field| format!("--{field}={}", spec[field].as_str().unwrap())));
    docker.cli(&run.iter().map(String::as_str).collect::<Vec<_>>()).await;

    eventually("the container is healthy", LONG, || async {
        docker.cli(&["inspect", "--format", "{{.State.Health.Status}}", &name]).await == "healthy"
    })
    .await;
    let jetstream = nats.jetstream().await;
    let sends = (0..5_000_i64).map(|n| {
        let (jetstream, payload) = (&jetstream, doc! {"n": n}.to_vec().unwrap());
        async move { jetstream.publish("alpha.metrics", payload.into()).await.unwrap().await.unwrap() }
    });
    stream::iter(sends).buffer_unordered(500).collect::<Vec<_>>().await;
    eventually("documents arrive", LONG, || async { mongo.count("metrics").await > 0 }).await;
    docker.cli(&["stop", "--time=60", &name]).await;
    let inspected = docker.cli(&["inspect", &name]).await;
    let container: Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!(container[0]["State"]["ExitCode"], 0, "{}", docker.cli(&["logs", &name]).await);
    assert!(!inspected.contains(canary), "a secret is in what inspect shows");
    let stream = jetstream.get_stream("alpha_metrics").await.unwrap();
    let held = stream.consumer_info("default").await.unwrap().num_ack_pending;
    let waiting = stream.get_info().await.unwrap().state.messages;
    assert_eq!((held, mongo.count("metrics").await + waiting), (0, 5_000));
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
    // The binary that people get is a release build, whose image `make image` bounds; what comes beside it is bounded here.
    let files =
        Command::new("find").args([".", "-type", "f", "!", "-name", "sluice", "-printf", "%s\n"]).current_dir(&tree).output().unwrap();
    let beside: u64 = String::from_utf8(files.stdout).unwrap().lines().map(|size| size.parse::<u64>().unwrap()).sum();
    assert!(beside < 5_000_000, "{beside} bytes beside the binary:\n{listed}");
    let script = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/local/image.sh")).unwrap();
    assert!(script.contains("MOST=25000000\n"));
}

/// A tree with what a compiler's base has for the Dockerfile's own commands: a shell and its tools, from this machine. In place of
/// cargo stands a script that looks at what it is given and "compiles" a program that this machine has.
const STAND_IN: &str = r#"
set -eu
tree=$1
mkdir -p "$tree/usr/bin" "$tree/usr/lib" "$tree/usr/lib64" "$tree/etc/ssl/certs" "$tree/tmp"
for link in bin lib lib64; do ln -s "usr/$link" "$tree/$link"; done
for tool in sh bash cp mkdir find chmod grep dirname strip ldd cat echo; do
  program=$(PATH=/usr/bin:/bin type -P "$tool")
  cp -L "$program" "$tree/usr/bin/$tool"
  ldd "$program" 2>/dev/null | grep -o '/[^ ]*' | while read -r library; do
    mkdir -p "$tree$(dirname "$library")"
    cp -L "$library" "$tree$library"
  done
done
cp -L /etc/ssl/certs/ca-certificates.crt "$tree/etc/ssl/certs/"
cat >"$tree/usr/bin/cargo" <<'CARGO'
#!/bin/sh
[ "$*" = "build --release --locked --bin sluice" ] && [ -f Cargo.lock ] && [ -f src/main.rs ] && [ ! -e target ] && [ ! -e .git ] || exit 1
mkdir -p target/release
cp /usr/bin/echo target/release/sluice
CARGO
chmod 755 "$tree/usr/bin/cargo"
"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_stage_that_compiles_makes_the_image_where_its_bases_can_be_had_and_twice_the_same() {
    require!("docker");
    if Docker::shared().await.host().is_none() {
        // The bases' names are given to stand-ins, which nobody else's engine may keep.
        return;
    }
    let (docker, dir) = (Docker::own(&[]).await, temp_dir("bases"));
    let dockerfile = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/executor-image/Dockerfile")).unwrap();
    for (argument, script) in [("RUST", STAND_IN), ("BASE", "mkdir -p $1/etc")] {
        let (tree, tar) = (dir.path().join(argument), dir.path().join(format!("{argument}.tar")));
        assert!(Command::new("bash").args(["-c", script, "stand-in"]).arg(&tree).status().unwrap().success());
        assert!(Command::new("tar").arg("-C").arg(&tree).arg("-cf").arg(&tar).arg(".").status().unwrap().success());
        let name = dockerfile.lines().find_map(|line| line.strip_prefix(&format!("ARG {argument}="))).unwrap();
        docker.cli(&["import", &tar.display().to_string(), name]).await;
    }
    let name = "sluice:compiled";
    let made = build(&docker, name, None);
    assert_eq!(docker.cli(&["run", "--rm", "--read-only", "--cap-drop=ALL", name, "compiled"]).await, "compiled");
    let inspected: Value = serde_json::from_str(&docker.cli(&["image", "inspect", name]).await).unwrap();
    let config = &inspected[0]["Config"];
    assert_eq!((&config["User"], &config["Entrypoint"][0]), (&"65532:65532".into(), &"/usr/bin/sluice".into()));
    assert_eq!(config["Labels"]["org.opencontainers.image.version"], env!("CARGO_PKG_VERSION"));
    docker.cli(&["rmi", name]).await;
    assert_eq!(build(&docker, name, None), made);
}

/// The default stage needs bases that only a registry has: what can be said of it without one is said here.
#[test]
fn the_stage_that_compiles_is_made_of_what_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("executor-image/Dockerfile")).unwrap().replace("\\\n", " ");
    let lines: Vec<Vec<&str>> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split_whitespace().collect())
        .filter(|words: &Vec<_>| !words.is_empty())
        .collect();
    let first = lines.iter().position(|words| words[0] == "FROM").unwrap();
    let bases: Vec<(&str, &str)> = lines[..first].iter().map(|words| words[1].split_once('=').unwrap()).collect();
    let (mut stages, mut workdir) = (Vec::new(), "/");
    for words in &lines[first..] {
        match words[..] {
            ["FROM", base] | ["FROM", base, "AS", _] => {
                let argument = base.strip_prefix("${").and_then(|base| base.strip_suffix('}'));
                assert!(base == "scratch" || bases.iter().any(|(name, _)| Some(*name) == argument), "{base}");
                stages.push(words.get(3).copied().unwrap_or_default());
            }
            ["COPY", from, source, _] => {
                let stage = from.strip_prefix("--from=").unwrap();
                assert!(stages.contains(&stage) && source.starts_with('/'), "{words:?}");
            }
            ["WORKDIR", directory] => workdir = directory,
            ["RUN", ..] => {
                assert_eq!((stages.last(), workdir), (Some(&"build"), "/src"), "only what compiles has a shell");
                let command = words[1..].join(" ");
                assert!(command.contains("cargo build --release --locked --bin sluice"), "{command}");
                let script = command.split_whitespace().find(|word| word.ends_with(".sh")).unwrap();
                assert!(root.join(script).exists() && command.contains("target/release/sluice /out"), "{command}");
            }
            ["COPY", ..]
            | ["ARG", ..]
            | ["LABEL", ..]
            | ["ENV", ..]
            | ["USER", ..]
            | ["HEALTHCHECK", ..]
            | ["ENTRYPOINT", ..]
            | ["CMD", ..] => {}
            _ => panic!("what is {words:?}?"),
        }
    }
    assert_eq!(stages, ["prebuilt", "build", ""], "the default is the last one");
    // A compiler that is older than the crate says cannot build it.
    let oldest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let oldest = oldest.lines().find_map(|line| line.strip_prefix("rust-version = ")).unwrap().trim_matches('"').to_owned();
    let (_, rust) = bases.iter().find(|(name, _)| *name == "RUST").unwrap();
    let minor = |version: &str| version.split('.').nth(1).unwrap().parse::<u32>().unwrap();
    assert!(minor(rust.rsplit_once(':').unwrap().1) >= minor(&oldest), "{rust} is older than {oldest}");
}
