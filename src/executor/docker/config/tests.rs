//! The container's profile, frozen: whoever changes it sees here what becomes weaker.

use super::*;
use crate::pipeline::id::{PipelineId, VersionName};
use crate::pipeline::spec::Target;

fn spec() -> ExecutionSpec {
    serde_json::from_value(serde_json::json!({
        "schema": 1, "installation": uuid::Uuid::nil(), "namespace": "alpha", "id": "Metrics_1", "version": "1-0a0b0c0d", "digest": "SHA-256=abc",
        "stream": "s", "consumer": "default", "target": {"hosts": ["db:27017"], "database": "example", "collection": "metrics"},
        "replicas": 2, "proven": false, "settings_digest": "s", "fingerprint": "27f6712602ad15acc784c61d5cc7d081"
    }))
    .unwrap()
}

fn docker() -> DockerSettings {
    DockerSettings { image: "sluice:1".into(), ..DockerSettings::default() }
}

fn json(body: &ContainerCreateBody) -> serde_json::Value {
    serde_json::to_value(body).unwrap()
}

#[test]
fn the_profile_of_a_container_is_the_one_that_was_reviewed() {
    let mut body = container_config(&spec(), 0, &docker(), Duration::from_secs(25));
    // What a spec holds is its own test's business, and that it comes through is this one's.
    let env = body.env.as_mut().unwrap();
    let carried: Vec<_> = env.extract_if(.., |line| line.starts_with("SLUICE_SPEC=")).collect();
    assert_eq!(serde_json::from_str::<ExecutionSpec>(&carried[0]["SLUICE_SPEC=".len()..]).unwrap(), spec());
    let body = json(&body);
    let golden: serde_json::Value = serde_json::from_str(include_str!("golden.json")).unwrap();
    assert_eq!(body, golden, "{body:#}");
}

#[test]
fn a_container_on_the_engines_own_network_listens_on_an_address_of_its_own() {
    let host = DockerSettings { network: "host".into(), ..docker() };
    let listen = |replica| {
        let env = container_config(&spec(), replica, &host, Duration::from_secs(25)).env.unwrap();
        env.into_iter().find(|line| line.starts_with("SLUICE_HTTP_LISTEN=127.")).unwrap()
    };
    assert_ne!(listen(0), listen(1));
    assert!(!listen(0).contains("127.0.0."));
}

#[test]
fn secrets_of_the_engines_machine_are_mounted_and_only_read() {
    let host = DockerSettings { secrets_dir: Some("/srv/secrets".into()), ..docker() };
    let mounts = container_config(&spec(), 0, &host, Duration::from_secs(25)).host_config.unwrap().mounts.unwrap();
    assert!(mounts.iter().all(|mount| mount.read_only == Some(true)));
    assert_eq!(mounts[1].source.as_deref(), Some("/srv/secrets"));
    assert_eq!(mounts[1].target.as_deref(), secrets_directory(&host).to_str());
}

#[test]
fn no_entry_can_weaken_the_profile() {
    // All that an entry and a config can bring into a spec.
    let hostile = ExecutionSpec {
        id: PipelineId::parse("privileged--network-host").unwrap(),
        version: VersionName::parse("1.--privileged").unwrap(),
        digest: "SHA-256=--cap-add=ALL -v /:/host".into(),
        stream: "--user=0".into(),
        consumer: "--entrypoint=/bin/sh".into(),
        target: Target { hosts: vec![], database: "--pid=host".into(), collection: "$(id)".into() },
        replicas: 1_000,
        ..spec()
    };
    let (mine, theirs) =
        (container_config(&spec(), 0, &docker(), Duration::ZERO), container_config(&hostile, 0, &docker(), Duration::ZERO));
    let without_volume = |body: &ContainerCreateBody| {
        let mut host = body.host_config.clone().unwrap();
        host.mounts.as_mut().unwrap()[0].source = None;
        (host, body.user.clone(), body.entrypoint.clone(), body.image.clone(), body.healthcheck.clone())
    };
    assert_eq!(without_volume(&mine), without_volume(&theirs));
    assert_eq!(theirs.cmd.unwrap().len(), 13, "each value stays one argument");
}

#[test]
fn what_carries_files_reaches_each_volume_and_nothing_else() {
    let other = ExecutionSpec { id: PipelineId::parse("other").unwrap(), ..spec() };
    let body = loader_config(&other, [&other, &spec()].into_iter(), &docker());
    let host = body.host_config.unwrap();
    let mounts: Vec<_> = host.mounts.unwrap().into_iter().map(|mount| (mount.source.unwrap(), mount.target.unwrap())).collect();
    assert_eq!(mounts, [(volume_name(&other), "/etc/sluice/0".to_owned()), (volume_name(&spec()), "/etc/sluice/1".to_owned())]);
    assert_eq!((host.network_mode.as_deref(), body.labels.unwrap()[names::ID].as_str()), (Some("none"), "other"));
}

#[test]
fn what_is_made_says_in_which_epoch_and_counts_as_edited_in_none() {
    let mut body = container_config(&spec(), 0, &docker(), Duration::ZERO);
    made_in(Some(42), &mut body.labels);
    assert_eq!(body.labels.as_ref().unwrap()[names::EPOCH], "42");
    made_in(None, &mut body.labels);
    assert_eq!(body.labels.unwrap()[names::EPOCH], "42", "who is told no epoch takes none away");
}
