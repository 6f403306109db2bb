//! A secret of the settings appears nowhere: no log line, error, status, metric or JSON output, whatever goes wrong.

use crate::support::{Mongo, Nats, Proxy, Run, Sluice, eventually};
use std::time::Duration;

const CANARY: &str = "canary7f3a";
const SOON: Duration = Duration::from_secs(30);

fn assert_silent(what: &str, text: &str) {
    let line = text.lines().find(|line| line.contains(CANARY));
    assert!(line.is_none(), "{what} holds a secret: {}", line.unwrap_or_default());
}

/// What every command and every path shows, and all that was logged.
async fn assert_all_silent(sluice: &Sluice) {
    let commands: [&[&str]; 7] = [
        &["list"],
        &["list", "-o", "json"],
        &["status"],
        &["status", "-o", "json"],
        &["status", "metrics"],
        &["dlq", "list", "metrics"],
        &["publish", "metrics", "--wait=3s"],
    ];
    for command in commands {
        let output = sluice.cli(command).await;
        assert_silent(&format!("{command:?}"), &String::from_utf8_lossy(&output.stdout));
        assert_silent(&format!("{command:?}"), &String::from_utf8_lossy(&output.stderr));
    }
    if let Some(url) = sluice.http_url() {
        for path in ["/metrics", "/health/live", "/health/ready", "/api/v1/pipelines", "/api/v1/executions"] {
            // Asked with a wrong token and with the right one.
            for token in ["wrong", &format!("{CANARY}-http")] {
                // A process that NATS refuses ends, and its listener with it.
                if let Ok((_, body)) = crate::support::http_get(&url, path, Some(token)).await {
                    assert_silent(path, &body);
                }
            }
        }
    }
    assert_silent("the log", &sluice.log());
}

fn run(nats: &Nats, mongo_url: String, password: &str) -> Run {
    let token = format!("{CANARY}-http");
    // Variables, so that they hold for every command.
    let env = [
        ("SLUICE_NATS_USER", "a"),
        ("SLUICE_NATS_PASSWORD", password),
        ("SLUICE_HTTP_TOKEN", &token),
        ("SLUICE_LOG_LEVEL", "trace,mongodb=trace,async_nats=trace,hyper=info"),
    ];
    Run {
        namespace: "alpha".into(),
        nats_url: nats.url(),
        mongo_url,
        database: "example".into(),
        extra: String::new(),
        set: Vec::new(),
        env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
    }
}

async fn guarded(password: &str) -> Nats {
    Nats::start_with(&format!("authorization: {{user: a, password: '{password}'}}\n")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_told_where_everything_works() {
    require!("nats-server", "database");
    let password = format!("{CANARY}-nats");
    let (nats, mongo) = (guarded(&password).await, Mongo::start().await);
    let mut sluice = run(&nats, mongo.url(), &password).start().await;
    let file = sluice.dir.join("metrics.yml");
    std::fs::write(&file, "schema: 1\noutput: {mongodb: {collection: metrics}}\n").unwrap();
    sluice.cli_ok(&["publish", "metrics", "-f", file.to_str().unwrap(), "--wait"]).await;
    assert_all_silent(&sluice).await;
    sluice.sigterm().await;
    assert_silent("the log to its end", &sluice.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_told_where_mongodb_takes_no_such_password() {
    require!("nats-server", "database");
    let password = format!("{CANARY}-nats");
    let (nats, mongo) = (guarded(&password).await, Mongo::start().await);
    let hangs_up = Proxy::start(mongo.port()).await;
    hangs_up.cut();
    for url in [
        // A server that knows no such user, one that is not there, and one that hangs up; secrets in the url itself.
        mongo.url().replace("mongodb://", &format!("mongodb://u:{CANARY}-mongo@")) + "&authSource=admin",
        format!("mongodb://u:{CANARY}-mongo@127.0.0.1:1/?directConnection=true"),
        format!("mongodb://u:{CANARY}-mongo@{}/?directConnection=true", hangs_up.address()),
    ] {
        let sluice = run(&nats, url, &password).start().await;
        let file = sluice.dir.join("metrics.yml");
        std::fs::write(&file, "schema: 1\noutput: {mongodb: {collection: metrics}}\n").unwrap();
        let output = sluice.cli(&["publish", "metrics", "-f", file.to_str().unwrap(), "--wait=7s"]).await;
        assert!(matches!(output.status.code(), Some(0 | 3 | 6)), "{output:?}");
        assert_all_silent(&sluice).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_told_where_nats_takes_no_such_password() {
    require!("nats-server", "database");
    let (nats, mongo) = (guarded("another").await, Mongo::start().await);
    let mut sluice = run(&nats, mongo.url(), &format!("{CANARY}-nats")).spawn();
    eventually("it has said so", SOON, || async { sluice.log().to_lowercase().contains("authorization") }).await;
    assert_all_silent(&sluice).await;
    if sluice.ended().is_none() {
        sluice.sigterm().await;
    }
    assert_silent("the log to its end", &sluice.log());
}
