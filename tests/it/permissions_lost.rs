//! Rights that are taken away while everything runs: what the server does not permit any more is said, with its subject.

use crate::permissions::{ROLES, SOON, as_role, env, guarded_nats};
use crate::support::{Mongo, Run, eventually};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_taken_away_is_the_pipelines_condition_and_an_editors_own_is_a_refusal_at_once() {
    require!("nats-server", "database");
    let (nats, mongo) = (guarded_nats(&ROLES).await, Mongo::start().await);
    let role = "controller,execution";
    let run = Run { env: env(role), namespace: "perms".into(), ..Run::new(&nats, &mongo) };
    let sluice = run.start().await;
    let config = "schema: 1\noutput: {mongodb: {collection: metrics, batching: {linger: 20ms}}}\n";
    std::fs::write(sluice.dir.join("one.yml"), config).unwrap();
    as_role(sluice.dir.clone(), "editor", &["publish", "metrics", "-f", "one.yml", "--wait"]).await;
    nats.reconfigure("\"$JS.API.CONSUMER.MSG.NEXT.*.default\"", "\"nothing\"");
    nats.reload().await;
    eventually("the status names the subject", SOON, || async {
        let (_, body) = sluice.get("/api/v1/pipelines/metrics").await;
        body.contains("\"NotPermitted\"") && body.contains("$JS.API.CONSUMER.MSG.NEXT.perms_metrics.default")
    })
    .await;

    nats.reconfigure("\"$JS.API.STREAM.MSG.GET.KV_perms\"", "\"nothing\"");
    nats.reload().await;
    let begun = std::time::Instant::now();
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_sluice"));
    command.args(["list"]).envs(env("editor")).env("SLUICE_SETTINGS", sluice.dir.join("sluice.yml")).current_dir(&sluice.dir);
    let output = command.kill_on_drop(true).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(8), "{said}");
    assert!(said.contains("$JS.API.STREAM.MSG.GET.KV_perms") && said.contains("doctor --permissions editor"), "{said}");
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
}
