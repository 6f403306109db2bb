//! The permissions that `sluice doctor --permissions` prints, given to a nats-server with accounts, TLS and passwords
//! and to a database with roles: everything works with exactly those, and each of them is used.

use crate::support::{Docker, Mongo, Nats, Process, Run, Sluice, certificate, eventually, skipped};
use bson::{Document, doc};
use sluice::settings::{NatsSettings, Secret, Settings, TlsSettings};
use sluice::store::Store;
use sluice::transfer::{Message, Registration, Transfer};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

pub const SOON: Duration = Duration::from_secs(40);
pub const ROLES: [&str; 3] = ["editor", "producer", "controller,execution"];

/// The inboxes of those who ask for states and log lines: of a producer, of the editor.
const ASKING: &str = "_INBOX, _INBOX_editor";

/// The user of a role: letters only.
pub fn user(role: &str) -> String {
    role.replace(',', "")
}

pub fn inbox(role: &str) -> String {
    format!("_INBOX_{}", user(role))
}

/// What `sluice doctor --permissions` prints for a role, without any server.
fn printed(role: &str, format: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_sluice"))
        .args(["doctor", "--permissions", role, "--database", "stage", "--output", format])
        .envs([("SLUICE_NAMESPACE", "perms"), ("SLUICE_NATS_INBOX_PREFIX", &inbox(role)), ("SLUICE_NATS_ANSWER_INBOXES", ASKING)])
        .current_dir(std::env::temp_dir())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The block for nats-server, as it is printed.
fn block(role: &str) -> String {
    let printed = printed(role, "table");
    let (_, block) = printed.split_once("permissions: {\n").unwrap();
    let (block, _) = block.split_once("\n}").unwrap();
    format!("permissions: {{\n{block}\n}}")
}

/// The subjects that a role may publish to and subscribe to.
pub fn subjects(role: &str) -> BTreeMap<&'static str, BTreeSet<String>> {
    let printed: serde_json::Value = serde_json::from_str(&printed(role, "json")).unwrap();
    let of = |verb: &str| {
        let list = printed["nats"][verb].as_array().unwrap();
        list.iter().map(|grant| grant["subject"].as_str().unwrap().to_owned()).collect()
    };
    BTreeMap::from([("PUB", of("publish")), ("SUB", of("subscribe"))])
}

/// A nats-server with an account whose users have what is printed, and one user of this test's own.
pub async fn guarded_nats(roles: &[&str]) -> Nats {
    let users: Vec<String> =
        roles.iter().map(|role| format!("{{user: {u}, password: {u}, {block}}}", u = user(role), block = block(role))).collect();
    let [cert, key] = ["server.pem", "server-key.pem"].map(certificate);
    Nats::start_with(&format!(
        "trace: true\nmax_payload: 65536\ntls {{ cert_file: {cert:?}, key_file: {key:?} }}\n\
         accounts {{ SLUICE {{ jetstream: enabled, users: [{}, {{user: test, password: test}}] }} }}\n",
        users.join(",\n")
    ))
    .await
}

pub async fn client(nats: &Nats, user: &str, inbox: &str) -> async_nats::Client {
    let options = async_nats::ConnectOptions::with_user_and_password(user.into(), user.into()).custom_inbox_prefix(inbox);
    options.require_tls(true).add_root_certificates(certificate("ca.pem")).connect(nats.url()).await.unwrap()
}

pub fn env(role: &str) -> Vec<(String, String)> {
    let ca = certificate("ca.pem").display().to_string();
    let pairs = [
        ("SLUICE_NATS_USER", user(role)),
        ("SLUICE_NATS_PASSWORD", user(role)),
        ("SLUICE_NATS_INBOX_PREFIX", inbox(role)),
        ("SLUICE_NATS_ANSWER_INBOXES", ASKING.to_owned()),
        ("SLUICE_NATS_TLS_REQUIRED", "true".into()),
        ("SLUICE_NATS_TLS_CA_FILE", ca),
    ];
    pairs.map(|(name, value)| (name.to_owned(), value)).into()
}

/// A command of the binary as one of the roles.
pub async fn as_role(dir: PathBuf, role: &str, arguments: &[&str]) -> String {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_sluice"));
    command.args(arguments).envs(env(role)).env("SLUICE_SETTINGS", dir.join("sluice.yml")).current_dir(&dir);
    let output = command.kill_on_drop(true).output().await.unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "sluice {arguments:?} as {role}: {}{stdout}", String::from_utf8_lossy(&output.stderr));
    stdout
}

fn matches(pattern: &str, subject: &str) -> bool {
    let (mut pattern, mut subject) = (pattern.split('.'), subject.split('.'));
    loop {
        match (pattern.next(), subject.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some(p), Some(s)) if p == "*" || p == s => {}
            _ => return false,
        }
    }
}

/// What each user has published and subscribed to, from the server's own trace.
fn used(nats: &Nats) -> BTreeMap<String, BTreeSet<(String, String)>> {
    let log = std::fs::read_to_string(nats.dir.join("nats.log")).unwrap();
    let mut used: BTreeMap<String, BTreeSet<(String, String)>> = BTreeMap::new();
    for line in log.lines().filter(|line| line.contains("[TRC]")) {
        let Some((who, operation)) = line.split_once(" <<- [") else { continue };
        let Some((_, user)) = who.split_once("\"SLUICE/user:") else { continue };
        let user: String = user.chars().take_while(|c| c.is_ascii_alphanumeric()).collect();
        let words: Vec<&str> = operation.split([' ', ']']).collect();
        let verb = words[0].trim_start_matches('H');
        if ["PUB", "SUB"].contains(&verb) {
            used.entry(user).or_default().insert((verb.to_owned(), words[1].to_owned()));
        }
    }
    used
}

/// Granted, and not used below: what takes a fault that is not caused here.
const IN_TROUBLE_ONLY: [(&str, &str); 3] = [
    // A dead letter that is there already, since its acknowledgement was lost; a stream that may have lost its tail.
    ("controller,execution", "$JS.API.STREAM.MSG.GET.*"),
    // A stream of several copies, which takes several servers.
    ("controller,execution", "$JS.API.STREAM.PURGE.*"),
    // Who asks from another account, which there is none of here.
    ("controller,execution", "_R_.>"),
];

/// Makes the role that is printed for MongoDB, for two databases, and a user who has it.
async fn grant(mongo: &Mongo, role: &str, user: &str) -> mongodb::Client {
    let printed: serde_json::Value = serde_json::from_str(&printed(role, "json")).unwrap();
    let admin = mongo.client().await;
    let mut roles = Vec::new();
    for database in [mongo.database(), "stage"] {
        let privileges = printed["mongodb"][0]["privileges"].as_array().unwrap().iter().map(|privilege| {
            let actions: Vec<String> = serde_json::from_value(privilege["actions"].clone()).unwrap();
            doc! {"resource": {"db": database, "collection": privilege["collection"].as_str().unwrap()}, "actions": actions}
        });
        let role = doc! {"createRole": user, "privileges": privileges.collect::<Vec<_>>(), "roles": Vec::<Document>::new()};
        admin.database(database).run_command(role).await.unwrap();
        roles.push(doc! {"role": user, "db": database});
    }
    admin.database("admin").run_command(doc! {"createUser": user, "pwd": user, "roles": roles}).await.unwrap();
    admin
}

/// What the server has refused to anybody.
pub fn violations(nats: &Nats) -> BTreeSet<String> {
    let log = std::fs::read_to_string(nats.dir.join("nats.log")).unwrap();
    log.lines().filter_map(|line| line.split_once("Violation").map(|(_, why)| why.to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_works_with_exactly_the_permissions_that_are_printed_and_each_is_used() {
    require!("nats-server", "database");
    let mut nats = guarded_nats(&ROLES).await;
    let Some(mongo) = Mongo::start_guarded("sluice").await else {
        return skipped("users and certificates are set up for secantusd-rs only");
    };
    let admin = grant(&mongo, "controller,execution", "writer").await;
    let role = "controller,execution";
    let run = Run { mongo_url: mongo.url_of("writer", "writer"), env: env(role), namespace: "perms".into(), ..Run::new(&nats, &mongo) };
    let mut sluice = run.start().await;
    let dir = sluice.dir.clone();
    let editor = |arguments: &'static [&'static str]| as_role(dir.clone(), "editor", arguments);
    let config = "schema: 1\noutput: {mongodb: {collection: metrics, batching: {linger: 20ms}}}\n";
    std::fs::write(sluice.dir.join("one.yml"), config).unwrap();
    std::fs::write(sluice.dir.join("two.yml"), config.replace("linger: 20ms", "linger: 10ms")).unwrap();
    std::fs::write(sluice.dir.join("moved.yml"), config.replace("collection: metrics", "database: stage, collection: moved")).unwrap();

    // What an operator and a producer do.
    editor(&["publish", "metrics", "-f", "one.yml", "--wait"]).await;
    let jetstream = async_nats::jetstream::new(client(&nats, "producer", &inbox("producer")).await);
    let send = |from: i32, to: i32| {
        let jetstream = jetstream.clone();
        async move {
            for n in from..to {
                let payload = Message::new(&doc! {"_id": n, "n": n}).unwrap().payload().clone();
                jetstream.publish("perms.metrics", payload).await.unwrap().await.unwrap();
            }
        }
    };
    send(0, 50).await;
    eventually("the first arrive", SOON, || async { mongo.count("metrics").await == 50 }).await;
    // The same `_id` with other fields is looked up, and becomes a dead letter; one that has no room for the headers of a
    // dead letter is put aside by reference.
    for text in ["other".to_owned(), "x".repeat(65_450)] {
        let other = Message::new(&doc! {"_id": 7, "n": text}).unwrap().payload().clone();
        jetstream.publish("perms.metrics", other).await.unwrap().await.unwrap();
    }
    let letters = || async {
        let letters: serde_json::Value = serde_json::from_str(&editor(&["dlq", "list", "metrics", "-o", "json"]).await).unwrap();
        letters.as_array().map(Vec::len).unwrap_or_default()
    };
    eventually("both are dead letters", SOON, || async { letters().await == 2 }).await;
    editor(&["dlq", "show", "metrics", "1"]).await;
    editor(&["dlq", "show", "metrics", "2"]).await;
    editor(&["dlq", "list"]).await;
    editor(&["dlq", "replay", "metrics", "1"]).await;
    eventually("it is refused again", SOON, || async { letters().await == 2 }).await;
    editor(&["dlq", "drop", "metrics", "--yes"]).await;
    assert_eq!(letters().await, 0);
    editor(&["list"]).await;
    editor(&["status", "metrics"]).await;
    editor(&["doctor"]).await;
    editor(&["publish", "metrics", "-f", "two.yml", "--wait"]).await;
    for look in [
        &["history", "metrics"][..],
        &["diff", "metrics"],
        &["config", "versions", "metrics"],
        &["config", "show", "metrics"],
        &["logs", "metrics"],
    ] {
        editor(look).await;
    }
    // Both sides find what is there already, and their watches anew.
    sluice.respawn();
    sluice.wait_ready().await;
    nats.restart().await;
    editor(&["status", "metrics"]).await;
    editor(&["rollback", "metrics", "--wait"]).await;
    editor(&["pause", "metrics"]).await;
    editor(&["publish", "metrics", "--wait"]).await;
    send(50, 100).await;
    eventually("the next arrive", SOON, || async { mongo.count("metrics").await == 100 }).await;
    editor(&["publish", "metrics", "-f", "moved.yml", "--wait"]).await;
    send(100, 120).await;
    let moved = admin.database("stage").collection::<Document>("moved");
    eventually("they arrive in the other database", SOON, || async { moved.count_documents(doc! {}).await.unwrap() == 20 }).await;
    // A time-series pipeline: the ledger, and a collection that is dropped and comes back as a normal one.
    let series = "schema: 1\noutput: {mongodb: {collection: series, time_series: {time_field: ts}, batching: {linger: 20ms}}}\n";
    std::fs::write(sluice.dir.join("series.yml"), series).unwrap();
    editor(&["publish", "series", "-f", "series.yml", "--wait"]).await;
    let measure = |n: i32| {
        let jetstream = jetstream.clone();
        let payload = Message::new(&doc! {"n": n, "ts": bson::DateTime::now()}).unwrap().payload().clone();
        async move { jetstream.publish("perms.series", payload).await.unwrap().await.unwrap() }
    };
    measure(1).await;
    eventually("the measurement arrives", SOON, || async { mongo.count("series").await == 1 }).await;
    admin.database(mongo.database()).collection::<Document>("series").drop().await.unwrap();
    measure(2).await;
    eventually("the next one, too", SOON, || async { mongo.count("series").await == 1 }).await;
    let pages = mongo.documents("sluice_ledger").await;
    assert!(pages.iter().any(|page| page.get_str("stream").is_ok_and(|stream| stream == "perms_series")), "{pages:?}");
    editor(&["delete", "series", "--wait"]).await;
    // What the Go collector's producers do, by a user of their own: a config is derived and stored, the state answered.
    let producer = Transfer::new("perms", client(&nats, "test", "_INBOX").await).await.unwrap();
    producer.add(&Registration { key: "added".into(), collection: "added".into(), ..Registration::default() }).await.unwrap();
    producer.send("added", &doc! {"n": 1}).await.unwrap();
    eventually("it arrives", SOON, || async { mongo.count("added").await == 1 }).await;
    eventually("its state is told", SOON, || async { producer.get("added").await.is_ok_and(|state| state.buffer_size == Some(0)) }).await;
    editor(&["draft", "metrics"]).await;
    editor(&["delete", "metrics", "--wait"]).await;

    // The server refused nothing, and of what was granted nothing is superfluous.
    let refused = violations(&nats);
    assert!(refused.is_empty(), "{refused:#?}");
    let used = used(&nats);
    let mut idle = Vec::new();
    for role in ROLES {
        for (verb, patterns) in subjects(role) {
            let mine = &used[&user(role)];
            let is_used = |pattern: &String| {
                let in_trouble = IN_TROUBLE_ONLY.iter().any(|(whose, begins)| *whose == role && pattern.starts_with(begins));
                in_trouble || mine.iter().any(|(done, subject)| done == verb && matches(pattern, subject))
            };
            idle.extend(patterns.into_iter().filter(|pattern| !is_used(pattern)).map(|pattern| format!("{role} {verb} {pattern}")));
        }
    }
    assert!(idle.is_empty(), "granted, and never used: {idle:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_and_an_execution_of_their_own_work_with_the_permissions_of_their_own() {
    require!("nats-server", "database", "docker");
    let nats = guarded_nats(&["editor", "controller", "execution"]).await;
    let Some(mongo) = Mongo::start_guarded("sluice").await else {
        return skipped("users and certificates are set up for secantusd-rs only");
    };
    grant(&mongo, "controller", "looker").await;
    grant(&mongo, "execution", "writer").await;
    // Its engine has no such image, and what it would start there is started here by hand.
    let docker = Docker::shared().await;
    let _cleaning = docker.clean("sluice/namespace=perms");
    let engine = "executor: {kind: docker, docker: {image: 'sluice-none:none', pull: never, network: host}}";
    let mut env_of_controller = env("controller");
    env_of_controller.extend(docker.host().map(|host| ("DOCKER_HOST".to_owned(), host.to_owned())));
    let run = Run {
        mongo_url: mongo.url_of("looker", "looker"),
        env: env_of_controller,
        extra: engine.into(),
        namespace: "perms".into(),
        ..Run::new(&nats, &mongo)
    };
    let mut controller = run.spawn();
    let dir = controller.dir.clone();
    let editor = |arguments: &'static [&'static str]| as_role(dir.clone(), "editor", arguments);
    let config = "schema: 1\noutput: {mongodb: {collection: metrics, batching: {linger: 20ms}}}\n";
    std::fs::write(dir.join("one.yml"), config).unwrap();
    eventually("the controller holds the lease", SOON, || async { controller.log().contains("lease acquired") }).await;
    editor(&["publish", "metrics", "-f", "one.yml"]).await;
    let admitted = || async {
        let (_, status) = controller.get("/api/v1/pipelines/metrics").await;
        serde_json::from_str::<serde_json::Value>(&status).unwrap_or_default()["admitted"].clone()
    };
    eventually("it is admitted", SOON, || async { admitted().await["phase"] == "run" }).await;
    let spec = admitted().await["spec"].clone();
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
    command
        .arg("execute")
        .args(["id", "version", "digest", "fingerprint"].map(|field| format!("--{field}={}", spec[field].as_str().unwrap())));
    command.envs(env("execution")).env("SLUICE_SPEC", spec.to_string()).env("SLUICE_SETTINGS", dir.join("sluice.yml"));
    command.env("SLUICE_MONGODB_CONNECTIONS_DEFAULT_URL", mongo.url_of("writer", "writer")).env("SLUICE_EXECUTOR_KIND", "in_process");
    let mut execution = Process::start("sluice execute", command, &dir.join("execute.log"));
    let jetstream = async_nats::jetstream::new(client(&nats, "test", "_INBOX").await);
    for n in 0..50 {
        let payload = Message::new(&doc! {"_id": n}).unwrap().payload().clone();
        jetstream.publish("perms.metrics", payload).await.unwrap().await.unwrap();
    }
    eventually("they arrive", SOON, || async { mongo.count("metrics").await == 50 }).await;
    let other = Message::new(&doc! {"_id": 7, "n": "other"}).unwrap().payload().clone();
    jetstream.publish("perms.metrics", other).await.unwrap().await.unwrap();
    eventually("it is a dead letter", SOON, || async { editor(&["dlq", "list", "metrics", "-o", "json"]).await.contains("sequence") })
        .await;
    editor(&["logs", "metrics"]).await;
    editor(&["status", "metrics"]).await;
    editor(&["draft", "metrics"]).await;
    execution.signal("TERM");
    assert!(execution.wait(SOON).await.success(), "{}", execution.log_tail());
    assert!(controller.sigterm().await.success());
    let refused = violations(&nats);
    assert!(refused.is_empty(), "{refused:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_what_is_unsafe_and_fails() {
    require!("nats-server", "database");
    let (nats, mongo) = (Nats::start().await, Mongo::start().await);
    let sluice = Sluice::start(&nats, &mongo).await;
    std::fs::write(sluice.dir.join("one.yml"), "schema: 1\noutput: {mongodb: {collection: metrics}}\n").unwrap();
    sluice.cli_ok(&["publish", "metrics", "-f", "one.yml", "--wait"]).await;
    let shown = sluice.cli_ok(&["doctor"]).await;
    assert!(shown.contains("alpha_metrics") && shown.contains("mongodb default"), "{shown}");
    let jetstream = nats.jetstream().await;
    let mut config = jetstream.get_stream("alpha_metrics").await.unwrap().cached_info().config.clone();
    config.max_age = Duration::from_secs(3600);
    jetstream.update_stream(config).await.unwrap();
    let output = sluice.cli(&["doctor", "--output", "json"]).await;
    assert_eq!(output.status.code(), Some(1));
    let findings: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let wrong: Vec<_> = findings.as_array().unwrap().iter().filter(|finding| finding["verdict"] == "wrong").collect();
    assert_eq!(wrong.len(), 1, "{findings}");
    assert!(wrong[0]["message"].as_str().unwrap().contains("max_age 1h") && !wrong[0]["remedy"].as_str().unwrap().is_empty());
}

/// The store, for one of the roles.
pub async fn store(nats: &Nats, role: &str) -> Store {
    let mut settings = Settings { namespace: "perms".parse().unwrap(), ..Settings::default() };
    settings.nats = nats_settings(nats, &user(role), &inbox(role));
    Store::connect(&settings).await.unwrap()
}

/// How a user connects.
pub fn nats_settings(nats: &Nats, user: &str, inbox: &str) -> NatsSettings {
    NatsSettings {
        urls: vec![nats.url()],
        user: Some(user.to_owned()),
        password: Some(Secret::new(user)),
        inbox_prefix: inbox.to_owned(),
        tls: TlsSettings { required: true, ca_file: Some(certificate("ca.pem")), ..TlsSettings::default() },
        ..Settings::default().nats
    }
}
