//! What `executor.docker` takes and refuses, and how it reads Docker's own variables.

use crate::settings::load::{Loaded, load};
use std::path::Path;

fn loaded(yaml: &str, env: &[(&str, &str)]) -> Result<Loaded, String> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("sluice.yml");
    std::fs::write(&file, yaml).unwrap();
    let env: Vec<_> = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    load(Some(&file), &env, &[]).map_err(|problems| problems.to_string())
}

/// Settings of an engine whose containers reach everything.
const REACHED: &str = "nats: {urls: [nats://nats:4222]}\nmongodb: {connections: {default: {url: 'mongodb://db'}}}\n";

fn docker(section: &str) -> Result<Loaded, String> {
    loaded(&format!("{REACHED}executor: {{kind: docker, docker: {{{section}}}}}\n"), &[])
}

#[test]
fn dockers_own_variables_name_the_engine_where_the_settings_do_not() {
    let certificates = tempfile::tempdir().unwrap();
    for file in ["ca.pem", "cert.pem", "key.pem"] {
        std::fs::write(certificates.path().join(file), "x").unwrap();
    }
    let directory = certificates.path().to_str().unwrap();
    let remote = [("DOCKER_HOST", "tcp://engine:2376"), ("DOCKER_TLS_VERIFY", "1"), ("DOCKER_CERT_PATH", directory)];
    let means = format!("{REACHED}executor: {{kind: docker}}\n");
    let found = loaded(&means, &remote).unwrap().settings.executor.docker;
    assert_eq!(found.host, "tcp://engine:2376");
    let files = [&found.tls.ca_file, &found.tls.cert_file, &found.tls.key_file];
    let names = files.map(|file| file.as_deref().and_then(Path::file_name).unwrap().to_str().unwrap());
    assert_eq!(names, ["ca.pem", "cert.pem", "key.pem"]);
    // Without a word of TLS there is none, which is said.
    let plain = loaded(&means, &remote[..1]).unwrap();
    assert!(plain.settings.executor.docker.tls.ca_file.is_none());
    assert!(plain.warnings.iter().any(|warning| warning.message.contains("is root on that machine")), "{:?}", plain.warnings);
    // Certificates that nobody asked for are not taken, and ~/.docker is where they are by default.
    let home = [("DOCKER_HOST", "tcp://engine:2376"), ("DOCKER_TLS_VERIFY", "1"), ("HOME", directory)];
    assert!(loaded(&means, &home).unwrap_err().contains(".docker/ca.pem"));
    // What the settings say goes before, and whose settings mean no engine are not concerned.
    let named = format!("{REACHED}executor: {{kind: docker, docker: {{host: 'unix:///own.sock'}}}}\n");
    assert_eq!(loaded(&named, &remote).unwrap().settings.executor.docker.host, "unix:///own.sock");
    assert_eq!(loaded("executor: {kind: in_process}\n", &remote).unwrap().settings.executor.docker.host, "unix:///var/run/docker.sock");
    let retired = "executor: {kind: in_process, retire: [docker]}\n";
    assert_eq!(loaded(retired, &remote).unwrap().settings.executor.docker.host, "tcp://engine:2376");
    assert_eq!(loaded(&means, &[]).unwrap().settings.executor.docker.host, "unix:///var/run/docker.sock");
}

#[test]
fn addresses_that_mean_the_container_itself_are_refused_unless_it_shares_the_engines_network() {
    let kind = |docker: &str| loaded(&format!("executor: {{kind: docker, docker: {{{docker}}}}}\n"), &[]);
    let refused = kind("").unwrap_err();
    for field in ["executor.docker.execution.nats.urls", "executor.docker.execution.mongodb.connections.default.hosts"] {
        assert!(refused.contains(field), "{refused}");
    }
    kind("network: host").unwrap();
    let hosts = "mongodb: {connections: {default: {hosts: ['host.docker.internal:27017']}}}";
    kind(&format!("execution: {{nats: {{urls: ['nats://host.docker.internal']}}, {hosts}}}")).unwrap();
    assert!(kind(&format!("execution: {{nats: {{urls: ['nats://[::1]']}}, {hosts}}}")).unwrap_err().contains("the container itself"));
    assert!(docker("execution: {mongodb: {connections: {other: {hosts: [a]}}}}").unwrap_err().contains("names the connection 'other'"));
}

#[test]
fn what_would_weaken_a_container_or_is_no_value_is_refused_with_a_remedy() {
    for (section, what) in [
        ("user: '0:0'", "never run as root"),
        ("user: '0'", "never run as root"),
        ("user: root", "is no user"),
        ("network: none", "is no network"),
        ("network: 'a b'", "is no network"),
        ("network: 'container:other'", "is no network"),
        ("image: 'a b'", "is no name of an image"),
        ("host: 'ssh://engine'", "is no address of an engine"),
        ("host: 'unix://relative'", "is no address of an engine"),
        ("secrets: {host_dir: relative}", "is no absolute path"),
        ("secrets: {host_dir: '/a:/b'}", "is no absolute path"),
        ("extra_hosts: [host]", "is no host"),
        ("dns: [ns.example]", "is no address"),
        ("registry: {username: me}", "username needs a password"),
        ("cpus: many", "is no number of processors"),
        ("memory: 1MiB", "memory"),
        ("pids: 1", "pids"),
        ("parallel: 0", "parallel"),
        ("privileged: true", "privileged"),
        ("cap_add: [SYS_ADMIN]", "cap_add"),
        ("execution: {nats: {urls: ['nats://me:word@h']}}", "credentials do not belong here"),
    ] {
        let refused = docker(section).expect_err(section);
        assert!(refused.contains(what) && !refused.contains("word@"), "{section}: {refused}");
    }
}
