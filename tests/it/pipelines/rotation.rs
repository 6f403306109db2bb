//! Passwords, keys, certificates and tokens that change while everything runs: they are read again, nothing is restarted,
//! and until the right ones are there the cause is told.

use super::*;
use crate::support::{certificate, http_get, skipped};
use std::path::{Path, PathBuf};

/// A client with `options`, to publish with.
async fn producer(nats: &Nats, options: async_nats::ConnectOptions) -> jetstream::Context {
    jetstream::new(options.connect(nats.url()).await.unwrap())
}

async fn publish(producer: &jetstream::Context, numbers: Range<i64>) {
    send_all(producer, "alpha.metrics", numbers, |n| doc! {"n": n}, &AtomicI64::new(0)).await;
}

fn password(password: &str) -> async_nats::ConnectOptions {
    async_nats::ConnectOptions::with_user_and_password("sluice".into(), password.into())
}

/// As Kubernetes changes a mounted Secret: by a link that is swapped.
fn swap(directory: &Path, files: &[(&str, &str)]) {
    let version = format!("..{}", uuid::Uuid::new_v4());
    std::fs::create_dir_all(directory.join(&version)).unwrap();
    for (name, text) in files {
        std::fs::write(directory.join(&version).join(name), text).unwrap();
        if !directory.join(name).exists() {
            let _ = std::fs::remove_file(directory.join(name));
            std::os::unix::fs::symlink(format!("..data/{name}"), directory.join(name)).unwrap();
        }
    }
    std::os::unix::fs::symlink(&version, directory.join("..new")).unwrap();
    std::fs::rename(directory.join("..new"), directory.join("..data")).unwrap();
}

async fn check(sluice: &Sluice, name: &str) -> (u16, String) {
    let Ok((code, body)) = http_get(&sluice.http_url().unwrap(), "/health/ready", Some("first")).await else { return (0, String::new()) };
    let health: Value = serde_json::from_str(&body).unwrap();
    let check = health["checks"].as_array().unwrap().iter().find(|check| check["name"] == name);
    (code, check.map(|check| check["message"].as_str().unwrap().to_owned()).unwrap_or_default())
}

fn variables(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| (format!("SLUICE_{name}"), (*value).to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_that_change_on_the_servers_and_in_their_files_are_used_without_a_restart_and_the_cause_is_told_until_then() {
    require!("nats-server", "database");
    let nats = Nats::start_with("authorization { user: sluice, password: first }\n").await;
    let Some(mongo) = Mongo::start_guarded("first").await else {
        return skipped("users and certificates are set up for secantusd-rs only");
    };
    let secrets = crate::support::temp_dir("secrets");
    let file = |name: &str| secrets.path().join(name).display().to_string();
    swap(secrets.path(), &[("nats", "first"), ("mongodb", "first\n")]);
    let run = Run {
        mongo_url: mongo.url_of("x", "x").replace("x:x@", "").replace("authSource=admin&", ""),
        env: variables(&[
            ("NATS_USER", "sluice"),
            ("NATS_PASSWORD_FILE", &file("nats")),
            ("MONGODB_CONNECTIONS_DEFAULT_USERNAME", "sluice"),
            ("MONGODB_CONNECTIONS_DEFAULT_PASSWORD_FILE", &file("mongodb")),
        ]),
        ..Run::new(&nats, &mongo)
    };
    let sluice = run.start().await;
    let mut stage = Stage { nats, mongo, sluice };
    stage.publish_plain("metrics").await;
    publish(&producer(&stage.nats, password("first")).await, 0..100).await;
    stage.exactly("metrics", 0..100).await;

    stage.nats.reconfigure("password: first", "password: second");
    stage.nats.restart().await;
    eventually("health says that NATS refuses the credentials", SOON, || async {
        let (code, nats) = check(&stage.sluice, "nats").await;
        code == 503 && nats.contains("refuses the credentials") && nats.contains("read again")
    })
    .await;
    assert_eq!(stage.sluice.get("/health/live").await.0, 200, "no restart is needed");
    swap(secrets.path(), &[("nats", "second"), ("mongodb", "first")]);
    stage.sluice.wait_ready().await;
    publish(&producer(&stage.nats, password("second")).await, 100..200).await;
    stage.exactly("metrics", 0..200).await;

    let admin = stage.mongo.client().await.database("admin");
    admin.run_command(doc! {"updateUser": "sluice", "pwd": "third"}).await.unwrap();
    // Connections that are there stay what they were.
    stage.mongo.restart().await;
    publish(&producer(&stage.nats, password("second")).await, 200..300).await;
    stage.says("metrics", "Progressing", false, "DatabaseRefuses").await;
    swap(secrets.path(), &[("nats", "second"), ("mongodb", "third")]);
    stage.exactly("metrics", 0..300).await;
    stage.says("metrics", "Progressing", true, "AsDesired").await;
    let log = stage.sluice.log();
    assert!(log.contains("secrets have changed") && log.contains(&file("mongodb")), "{log}");
    for secret in ["second", "third"] {
        assert!(!log.contains(secret), "a secret is logged");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_nkey_and_certificates_that_change_are_used_without_a_restart() {
    require!("nats-server", "database");
    let (one, two) = (nkeys::KeyPair::new_user(), nkeys::KeyPair::new_user());
    let [cert, key] = ["server.pem", "server-key.pem"].map(certificate);
    let tls = format!("tls {{ cert_file: {cert:?}, key_file: {key:?} }}");
    let nats = Nats::start_with(&format!("{tls}\nauthorization {{ users: [{{nkey: {}}}] }}\n", one.public_key())).await;
    let Some(mongo) = Mongo::start_guarded("word").await else {
        return skipped("users and certificates are set up for secantusd-rs only");
    };
    let secrets = crate::support::temp_dir("secrets");
    let file = |name: &str| secrets.path().join(name);
    let copy = |from: PathBuf, to: &str| std::fs::copy(from, file(to)).unwrap();
    std::fs::write(file("nkey"), one.seed().unwrap()).unwrap();
    copy(certificate("ca.pem"), "nats-ca");
    copy(certificate("ca.pem"), "mongodb-ca");
    let ca = certificate("ca.pem").display().to_string().replace('/', "%2F");
    let run = Run {
        mongo_url: mongo.url_of("sluice", "word").replace(&format!("&tls=true&tlsCAFile={ca}"), ""),
        env: variables(&[
            ("NATS_NKEY_FILE", &file("nkey").display().to_string()),
            ("NATS_TLS_CA_FILE", &file("nats-ca").display().to_string()),
            ("MONGODB_CONNECTIONS_DEFAULT_TLS_CA_FILE", &file("mongodb-ca").display().to_string()),
            ("MONGODB_CONNECTIONS_DEFAULT_TLS_REQUIRED", "true"),
        ]),
        ..Run::new(&nats, &mongo)
    };
    let sluice = run.start().await;
    let mut stage = Stage { nats, mongo, sluice };
    stage.publish_plain("metrics").await;
    let options = |key: &nkeys::KeyPair| {
        async_nats::ConnectOptions::with_nkey(key.seed().unwrap()).require_tls(true).add_root_certificates(certificate("ca.pem"))
    };
    publish(&producer(&stage.nats, options(&one)).await, 0..50).await;
    stage.exactly("metrics", 0..50).await;

    // Another authority than the one that signed the servers' certificates.
    copy(certificate("server.pem"), "nats-ca");
    copy(certificate("server.pem"), "mongodb-ca");
    stage.nats.reconfigure(&one.public_key(), &two.public_key());
    stage.nats.restart().await;
    eventually("health tells of the certificate", SOON, || async { check(&stage.sluice, "nats").await.1.contains("certificate") }).await;
    copy(certificate("ca.pem"), "nats-ca");
    eventually("health tells of the key", SOON, || async { check(&stage.sluice, "nats").await.1.contains("refuses the credentials") })
        .await;
    std::fs::write(file("nkey"), two.seed().unwrap()).unwrap();
    stage.sluice.wait_ready().await;
    // MongoDB's client reads its file when it is made: what it read goes on until it is refused.
    publish(&producer(&stage.nats, options(&two)).await, 50..100).await;
    stage.exactly("metrics", 0..100).await;
    copy(certificate("ca.pem"), "mongodb-ca");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_reads_secrets_token_and_log_level_again_and_names_the_rest_and_other_signals_change_nothing() {
    require!("nats-server", "database");
    let (nats, mongo) = (Nats::start().await, Mongo::start().await);
    let secrets = crate::support::temp_dir("secrets");
    let token = secrets.path().join("token");
    std::fs::write(&token, "first").unwrap();
    let run = Run {
        env: variables(&[("HTTP_TOKEN_FILE", &token.display().to_string())]),
        extra: "limits: {memory: 64MiB}".into(),
        ..Run::new(&nats, &mongo)
    };
    let mut stage = Stage { sluice: run.start().await, nats, mongo };
    stage.publish_plain("metrics").await;
    for signal in ["USR1", "USR2", "ALRM", "PIPE", "VTALRM", "PROF", "40"] {
        stage.sluice.signal(signal);
    }
    stage.send("alpha.metrics", 0..50).await;
    stage.exactly("metrics", 0..50).await;

    let settings = stage.sluice.dir.join("sluice.yml");
    let text = std::fs::read_to_string(&settings).unwrap();
    assert!(text.contains("info,sluice=debug") && text.contains("64MiB"));
    std::fs::write(&settings, text.replace("info,sluice=debug", "info").replace("64MiB", "65MiB")).unwrap();
    std::fs::write(&token, "other").unwrap();
    stage.sluice.signal("HUP");
    let line = || stage.sluice.log().lines().find(|line| line.contains("settings reloaded")).map(str::to_owned);
    eventually("it says what it took", SOON, || async { line().is_some() }).await;
    let line: Value = serde_json::from_str(&line().unwrap()).unwrap();
    // The file may have been found to be another one a moment before.
    assert!(line["files"] == token.display().to_string().as_str() || stage.sluice.log().contains("secrets have changed"), "{line}");
    assert_eq!((line["taken"].as_str(), line["needs_restart"].as_str()), (Some("log.level"), Some("limits.memory")));
    let code = async |token| http_get(&stage.sluice.http_url().unwrap(), "/metrics", Some(token)).await.unwrap().0;
    assert_eq!((code("first").await, code("other").await), (401, 200));
    let logged = stage.sluice.log().len();
    stage.send("alpha.metrics", 50..100).await;
    stage.exactly("metrics", 0..100).await;
    assert!(!stage.sluice.log()[logged..].contains("\"DEBUG\""), "{}", &stage.sluice.log()[logged..]);

    // What is not valid any more changes nothing.
    std::fs::write(&settings, "nonsense: true").unwrap();
    stage.sluice.signal("HUP");
    eventually("it says so", SOON, || async { stage.sluice.log().contains("settings are not valid any more") }).await;
    stage.send("alpha.metrics", 100..150).await;
    stage.exactly("metrics", 0..150).await;
    std::fs::write(&settings, text).unwrap();
    assert!(stage.sluice.sigterm().await.success());
}
