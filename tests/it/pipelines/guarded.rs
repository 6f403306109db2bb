//! Servers that ask for a password and for TLS, from end to end.

use super::*;
use crate::support::{certificate, skipped};

const PASSWORD: &str = "right";

/// A nats-server that takes clients over TLS with a password only.
async fn guarded_nats() -> Nats {
    let [cert, key] = ["server.pem", "server-key.pem"].map(certificate);
    let tls = format!("tls {{ cert_file: {cert:?}, key_file: {key:?} }}");
    Nats::start_with(&format!("{tls}\nauthorization {{ user: sluice, password: {PASSWORD} }}\n")).await
}

async fn producer(nats: &Nats) -> jetstream::Context {
    let options = async_nats::ConnectOptions::with_user_and_password("sluice".into(), PASSWORD.into());
    let client = options.require_tls(true).add_root_certificates(certificate("ca.pem")).connect(nats.url()).await.unwrap();
    jetstream::new(client)
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_arrive_over_tls_with_passwords_and_a_password_that_is_refused_waits_until_it_is_right() {
    require!("nats-server", "database");
    let nats = guarded_nats().await;
    let Some(mongo) = Mongo::start_guarded("another").await else {
        return skipped("users and certificates are set up for secantusd-rs only");
    };
    let env = [("SLUICE_NATS_USER", "sluice"), ("SLUICE_NATS_PASSWORD", PASSWORD)];
    let tls = |name: &str, value: String| format!("nats.tls.{name}={value}");
    let run = Run {
        mongo_url: mongo.url_of("sluice", PASSWORD),
        set: vec![tls("required", "true".into()), tls("ca_file", certificate("ca.pem").display().to_string())],
        env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        ..Run::new(&nats, &mongo)
    };
    let sluice = run.start().await;
    let stage = Stage { nats, mongo, sluice };
    let file = stage.config_file("metrics", &plain("metrics"));
    // The commands read the settings' file and the environment, not the arguments of `run`.
    let ca = format!("nats.tls.ca_file={}", certificate("ca.pem").display());
    let tls = ["--set", "nats.tls.required=true", "--set", &ca];
    stage.sluice.cli_ok(&[&["publish", "metrics", "-f", file.as_str()][..], &tls].concat()).await;
    stage.says("metrics", "Ready", false, "DatabaseRefuses").await;
    let producer = producer(&stage.nats).await;
    send_all(&producer, "alpha.metrics", 0..500, |n| doc! {"n": n}, &AtomicI64::new(0)).await;
    let admin = stage.mongo.client().await.database("admin");
    admin.run_command(mongodb::bson::doc! {"updateUser": "sluice", "pwd": PASSWORD}).await.unwrap();
    stage.exactly("metrics", 0..500).await;
    stage.says("metrics", "Ready", true, "AsDesired").await;
    stage.says("metrics", "Progressing", true, "AsDesired").await;
}
