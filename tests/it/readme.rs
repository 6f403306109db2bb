//! What README.md says can be done, done: the tour as it is written there, with the real `nats` and `sluice`, and that
//! each command, make target and file it names is there.

use crate::support::{Mongo, Nats, Process, eventually, skipped, temp_dir, tool};
use bson::{Document, doc};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);

fn readme() -> String {
    std::fs::read_to_string(project().join("README.md")).unwrap()
}

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The commands of the tour, in order: what follows each `$ ` of its console blocks, here documents included.
fn tour() -> Vec<String> {
    let readme = readme();
    let (_, tour) = readme.split_once("## A tour in five minutes").unwrap();
    let (tour, _) = tour.split_once("\n## ").unwrap();
    let mut commands: Vec<String> = Vec::new();
    for block in tour.split("```console\n").skip(1) {
        let (block, _) = block.split_once("```").unwrap();
        for line in block.lines() {
            match line.strip_prefix("$ ") {
                Some(command) => commands.push(command.to_owned()),
                None => {
                    let last = commands.last_mut().unwrap();
                    last.push('\n');
                    last.push_str(line);
                }
            }
        }
    }
    commands
}

/// A shell in a directory of its own, where `nats` and `sluice` find the servers of the test.
struct Shell {
    dir: tempfile::TempDir,
    env: Vec<(&'static str, String)>,
}

impl Shell {
    fn new(nats: &Nats, mongo: &Mongo) -> Self {
        let dir = temp_dir("readme");
        let programs = [tool("nats").unwrap(), env!("CARGO_BIN_EXE_sluice").into()];
        let mut path: Vec<_> = programs.iter().map(|program| program.parent().unwrap().to_owned()).collect();
        path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap()));
        let env = vec![
            ("PATH", std::env::join_paths(path).unwrap().into_string().unwrap()),
            ("HOME", dir.path().display().to_string()),
            ("NATS_URL", nats.url()),
            ("SLUICE_NATS_URLS", nats.url()),
            ("SLUICE_MONGODB_CONNECTIONS_DEFAULT_URL", mongo.url()),
            ("SLUICE_HTTP_LISTEN", "127.0.0.1:0".to_owned()),
            // What the tour says to export.
            ("SLUICE_NAMESPACE", "alpha".to_owned()),
        ];
        Self { dir, env }
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new("bash");
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SLUICE_") || name.starts_with("XDG_")) {
            command.env_remove(name);
        }
        command.args(["-euo", "pipefail", "-c", line]).envs(self.env.iter().map(|(k, v)| (k, v))).current_dir(self.dir.path());
        command.stdin(Stdio::null());
        command
    }

    async fn run(&self, line: &str) -> Output {
        let command = tokio::process::Command::from(self.command(line)).kill_on_drop(true).output();
        tokio::time::timeout(Duration::from_secs(90), command).await.unwrap_or_else(|_| panic!("does not end: {line}")).unwrap()
    }

    /// stdout of a command that must succeed.
    async fn ok(&self, line: &str) -> String {
        let output = self.run(line).await;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{line}: {stdout}{}", String::from_utf8_lossy(&output.stderr));
        stdout
    }

    /// Waits until `sluice status metrics` shows this.
    async fn shows(&self, what: &str) {
        let status = "sluice status metrics -o json";
        eventually(what, SOON, || async { String::from_utf8_lossy(&self.run(status).await.stdout).contains(what) }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tour_works_as_it_is_written() {
    require!("nats-server", "database", "nats");
    let (nats, mongo) = (Nats::start().await, Mongo::start().await);
    if !mongo.is_own() {
        return skipped("the tour writes to a database 'example', which the server of SLUICE_TEST_MONGO_URL may have");
    }
    let shell = Shell::new(&nats, &mongo);
    let collection = mongo.client().await.database("example").collection::<Document>("metrics");
    let mut commands = tour().into_iter();
    let mut next = |begins: &str| {
        let command = commands.next().unwrap_or_else(|| panic!("the tour ends before '{begins}'"));
        assert!(command.starts_with(begins), "the tour has another order: {command}");
        command
    };
    let log = shell.dir.path().join("sluice.log");
    let run = Process::start("sluice run", shell.command(&format!("exec {}", next("sluice run"))), &log);
    eventually("it takes the lease", SOON, || async { run.log().contains("lease acquired") }).await;
    shell.ok(&next("cat > metrics.yml")).await;
    shell.ok(&next("nats object put")).await;
    shell.ok(&next("nats kv put")).await;
    shell.ok(&next("echo '{")).await;
    eventually("it has arrived", SOON, || async { collection.count_documents(doc! {"device": "a"}).await.unwrap() == 1 }).await;
    shell.shows("\"state\": \"running\"").await;
    assert!(shell.ok(&next("sluice status")).await.contains("running"));
    let watch = next("sluice status metrics --watch");
    let watched = shell.run(&format!("timeout 3 {watch}")).await;
    assert_eq!(watched.status.code(), Some(124), "it watches until it is ended");
    assert!(String::from_utf8_lossy(&watched.stdout).contains("metrics"));
    shell.ok(&next("nats kv put")).await;
    shell.shows("\"state\": \"stopped\"").await;
    shell.ok(&next("nats kv put")).await;
    shell.shows("\"state\": \"running\"").await;
    shell.ok(&next("sed -i")).await;
    shell.ok(&next("sluice lint metrics.yml && sluice publish")).await;
    shell.ok(&next("sluice rollback")).await;
    shell.shows("\"version\": \"1\"").await;
    shell.ok(&next("nats kv put")).await;
    shell.shows("EntryUnreadable").await;
    let status = shell.ok(&next("sluice status metrics")).await;
    assert!(status.contains("running") && status.contains("EntryUnreadable") && status.contains("->"), "{status}");
    shell.ok(&next("nats kv del")).await;
    let jetstream = nats.jetstream().await;
    eventually("the stream goes", SOON, || async { jetstream.get_stream("alpha_metrics").await.is_err() }).await;
    assert_eq!(commands.next(), None, "the test does not know this command");
    assert_eq!(collection.count_documents(doc! {}).await.unwrap(), 1);
}

#[test]
fn every_command_of_sluice_that_the_readme_names_is_there() {
    let readme = readme();
    let mut named: Vec<&str> = readme
        .split("sluice ")
        .skip(1)
        .zip(readme.split("sluice "))
        .filter(|(_, before)| before.ends_with(['`', '$', ' ', '|', '(']))
        .filter_map(|(after, _)| after.split(|c: char| !c.is_ascii_lowercase() && c != '-').next())
        .filter(|word| !word.is_empty())
        .collect();
    named.sort_unstable();
    named.dedup();
    assert!(named.len() >= 8, "{named:?}");
    for word in named {
        let output = Command::new(env!("CARGO_BIN_EXE_sluice")).args([word, "--help"]).output().unwrap();
        assert!(output.status.success(), "sluice {word}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn every_make_target_that_the_readme_names_is_there() {
    let readme = readme();
    let targets: Vec<&str> =
        readme.split("make ").skip(1).filter_map(|after| after.split(|c: char| !c.is_ascii_lowercase() && c != '-').next()).collect();
    for target in ["demo", "test", "build", "bench", "help"] {
        assert!(targets.contains(&target), "{target} of {targets:?}");
        let output = Command::new("make").args(["-n", target]).current_dir(project()).output().unwrap();
        assert!(output.status.success(), "make {target}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn every_file_that_the_readme_links_is_there() {
    let readme = readme();
    let links: Vec<&str> = readme.split("](").skip(1).filter_map(|after| after.split(')').next()).collect();
    assert!(links.len() > 5, "{links:?}");
    for link in links.iter().filter(|link| !link.starts_with("http")) {
        assert!(project().join(link).exists(), "{link}");
    }
}

/// The notes of the README: what each says by its name.
fn notes(readme: &str) -> BTreeMap<&str, &str> {
    readme.lines().filter_map(|line| line.strip_prefix("[^")?.split_once("]: ")).collect()
}

/// The names of the notes that a text refers to.
fn referred(text: &str) -> Vec<&str> {
    text.split("[^").skip(1).filter_map(|after| after.split_once(']')).map(|(name, _)| name).collect()
}

/// The names of the tests of a file.
fn tests_of(file: &str) -> Vec<String> {
    let source = std::fs::read_to_string(project().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    let (mut names, mut is_test) = (Vec::new(), false);
    for line in source.lines().map(str::trim) {
        is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
        if let Some((_, after)) = line.split_once("fn ").filter(|_| is_test) {
            names.extend(after.split_once('(').map(|(name, _)| name.to_owned()));
            is_test = false;
        }
    }
    names
}

#[test]
fn every_guarantee_names_tests_that_are_there() {
    let readme = readme();
    let (_, section) = readme.split_once("\n## Guarantees\n").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let (promised, _) = section.split_once("**Not promised**").unwrap();
    let (_, promised) = promised.split_once("**Promised**").unwrap();
    let notes = notes(&readme);
    // A sentence ends in a full stop and its notes.
    let sentences = promised.replace('\n', " ");
    let sentences: Vec<_> =
        sentences.split(". ").flat_map(|part| part.split(" - ")).map(str::trim).filter(|part| !part.is_empty()).collect();
    assert!(sentences.len() > 15, "{sentences:?}");
    for sentence in sentences.iter().flat_map(|sentence| sentence.split_inclusive("] ")) {
        assert!(!referred(sentence).is_empty(), "no test shows this: {sentence}");
    }
    for name in referred(section) {
        let note = notes.get(name).unwrap_or_else(|| panic!("there is no note {name}"));
        for place in note.split("; ") {
            let (_, place) = place.split_once("](").unwrap_or_else(|| panic!("{name} links no file: {place}"));
            let (file, named) = place.split_once("): ").unwrap_or_else(|| panic!("{name} names no test: {place}"));
            let (there, named) = (tests_of(file), named.split('`').skip(1).step_by(2).collect::<Vec<_>>());
            assert!(!named.is_empty(), "{name} names no test of {file}");
            for test in named {
                assert!(there.iter().any(|there| there == test), "{file} has no test {test}");
            }
        }
    }
    let used = referred(section);
    assert!(notes.keys().all(|name| used.contains(name)), "notes that nobody refers to: {:?}", notes.keys().collect::<Vec<_>>());
}
