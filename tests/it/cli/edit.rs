//! Edits of entries: publish, pause, draft, rollback, delete.

use super::{CONFIG, Cli, entries, entry};
use crate::support::Nats;
use async_nats::jetstream::kv;
use futures_util::StreamExt;
use sha2::{Digest, Sha256};

fn digest8(config: &str) -> String {
    sluice::pipeline::spec::hex(&Sha256::digest(config)[..4])
}

#[tokio::test]
async fn publish_stores_an_immutable_object_and_names_it_in_the_entry() {
    require!("nats-server");
    let nats = Nats::start().await;
    let cli = Cli::installed(&nats).await;
    let file = cli.file("metrics.yml", CONFIG);
    let version = format!("1-{}", digest8(CONFIG));
    let done = cli.json(&["publish", "metrics", "-f", &file, "--name", "Metrics", "--replicas", "2"]).await;
    assert_eq!((done["version"].as_str(), done["status"].as_str()), (Some(version.as_str()), Some("published")));
    let found = entry(&nats, "metrics").await;
    assert_eq!((found["status"].as_str(), found["version"].as_str()), (Some("published"), Some(version.as_str())));
    assert_eq!((found["name"].as_str(), found["replicas"].as_u64()), (Some("Metrics"), Some(2)));
    assert!(found["author"].as_str().unwrap().contains('@'));
    let objects = nats.jetstream().await.get_object_store("alpha-configs").await.unwrap();
    let info = objects.info(format!("metrics/{version}")).await.unwrap();
    assert_eq!((info.size, info.digest.as_deref()), (CONFIG.len(), found["digest"].as_str()));
}

#[tokio::test]
async fn the_same_config_again_is_the_same_version_and_another_one_the_next() {
    require!("nats-server");
    let nats = Nats::start().await;
    let cli = Cli::installed(&nats).await;
    let (one, two) = (cli.file("1.yml", CONFIG), cli.file("2.yml", format!("{CONFIG}    max_in_flight: 4\n")));
    let version = async |file: &str| cli.json(&["publish", "metrics", "-f", file]).await["version"].as_str().unwrap().to_owned();
    let first = version(&one).await;
    assert_eq!(version(&one).await, first);
    let second = version(&two).await;
    assert!(second.starts_with("2-"), "{second}");
    assert!(version(&one).await.starts_with("3-"), "going back by publishing is a version of its own");
}

#[tokio::test]
async fn a_racing_edit_exits_5_and_undoes_nothing() {
    require!("nats-server");
    let nats = Nats::start().await;
    let cli = Cli::installed(&nats).await;
    cli.ok(&["publish", "metrics", "-f", &cli.file("metrics.yml", CONFIG)]).await;
    let client = nats.client().await;
    let bucket = entries(&nats).await;
    // Somebody else edits just after the command has read the entry: its read is the first request for that bucket. On a
    // busy machine the other edit can come too late, so again until it does not.
    for flight in 2..30 {
        let mut reads = client.subscribe("$JS.API.>").await.unwrap();
        client.flush().await.unwrap();
        let racing = async {
            while let Some(request) = reads.next().await {
                if request.subject.contains("KV_alpha") && request.subject.contains("GET") {
                    break;
                }
            }
            bucket.put("metrics", r#"{"schema":1,"status":"draft"}"#.into()).await.unwrap();
        };
        let other = cli.file("other.yml", format!("{CONFIG}    max_in_flight: {flight}\n"));
        let (output, ()) = tokio::join!(async { cli.run(&["publish", "metrics", "-f", &other]).await }, racing);
        if output.status.success() {
            continue;
        }
        let error = super::stderr(&output);
        assert!(output.status.code() == Some(5) && error.contains("edited by somebody else"), "{error}");
        assert_eq!(entry(&nats, "metrics").await["status"], "draft");
        return;
    }
    panic!("no edit ever came in between");
}

#[tokio::test]
async fn pause_draft_and_publish_change_the_status_alone() {
    require!("nats-server");
    let nats = Nats::start().await;
    let cli = Cli::installed(&nats).await;
    let file = cli.file("metrics.yml", CONFIG);
    cli.ok(&["publish", "metrics", "-f", &file, "--description", "all of them"]).await;
    let before = entry(&nats, "metrics").await;
    for (command, status) in [("pause", "paused"), ("draft", "draft"), ("publish", "published")] {
        let done = cli.json(&[command, "metrics"]).await;
        assert_eq!((done["status"].as_str(), &done["version"]), (Some(status), &before["version"]));
        let mut after = entry(&nats, "metrics").await;
        assert_eq!(after["status"], status);
        after["status"] = before["status"].clone();
        assert_eq!(after, before);
    }
}

#[tokio::test]
async fn fields_that_we_do_not_know_survive_our_edits() {
    require!("nats-server");
    let nats = Nats::start().await;
    let cli = Cli::installed(&nats).await;
    cli.ok(&["publish", "metrics", "-f", &cli.file("metrics.yml", CONFIG)]).await;
    let mut theirs = entry(&nats, "metrics").await;
    theirs["x-team"] = serde_json::json!({"on": "call"});
    entries(&nats).await.put("metrics", theirs.to_string().into()).await.unwrap();
    cli.ok(&["pause", "metrics"]).await;
    assert_eq!(entry(&nats, "metrics").await["x-team"]["on"], "call");
}

#[tokio::test]
async fn rollback_goes_back_step_by_step_or_to_the_version_named() {
    require!("nats-server");
    let nats = Nats::start().await;
    let cli = Cli::installed(&nats).await;
    let mut versions = Vec::new();
    for flight in 1..=3 {
        let file = cli.file("metrics.yml", format!("{CONFIG}    max_in_flight: {flight}\n"));
        let done = cli.json(&["publish", "metrics", "-f", &file]).await;
        versions.push(done["version"].as_str().unwrap().to_owned());
    }
    for expected in [&versions[1], &versions[0]] {
        assert_eq!(cli.json(&["rollback", "metrics"]).await["version"], **expected);
        assert_eq!(entry(&nats, "metrics").await["version"], **expected);
    }
    assert!(cli.fails(4, &["rollback", "metrics"]).await.contains("no earlier version"));
    assert_eq!(cli.json(&["rollback", "metrics", &versions[2]]).await["version"], versions[2]);
    let error = cli.fails(4, &["rollback", "metrics", "9-00000000"]).await;
    assert!(error.contains("is not stored") && error.contains(&versions[0]), "{error}");
}

#[tokio::test]
async fn delete_leaves_a_marker_and_nothing_else() {
    require!("nats-server");
    let nats = Nats::start().await;
    let cli = Cli::installed(&nats).await;
    cli.ok(&["publish", "metrics", "-f", &cli.file("metrics.yml", CONFIG)]).await;
    assert_eq!(cli.json(&["delete", "metrics", "--yes"]).await["status"], "deleted");
    let last = entries(&nats).await.entry("metrics").await.unwrap().unwrap();
    assert_eq!(last.operation, kv::Operation::Delete);
    cli.fails(4, &["pause", "metrics"]).await;
    cli.fails(4, &["delete", "metrics", "--yes"]).await;
    assert_eq!(cli.json(&["publish", "metrics"]).await["status"], "published", "its stored versions are still there");
}

#[tokio::test]
async fn delete_confirms_the_end_of_a_pipeline_whose_entry_went_missing() {
    require!("nats-server");
    let nats = Nats::start().await;
    let cli = Cli::installed(&nats).await;
    cli.ok(&["publish", "other", "-f", &cli.file("metrics.yml", CONFIG)]).await;
    super::status::put_status(&nats, "metrics", 4, "run").await;
    cli.ok(&["delete", "metrics", "--yes"]).await;
    let last = entries(&nats).await.entry("metrics").await.unwrap().unwrap();
    assert_eq!(last.operation, kv::Operation::Delete);
}

#[tokio::test]
async fn what_is_not_there_exits_4_and_an_invalid_config_3_before_anything_is_written() {
    require!("nats-server");
    let nats = Nats::start().await;
    let cli = Cli::installed(&nats).await;
    for args in [["pause", "metrics"], ["draft", "metrics"], ["delete", "metrics"], ["rollback", "metrics"], ["publish", "metrics"]] {
        assert!(cli.fails(4, &args).await.contains("'metrics'"));
    }
    let bad = cli.file("bad.yml", "schema: 1\noutput:\n  mongodb:\n    colection: x\n");
    assert!(cli.fails(3, &["publish", "other", "-f", &bad]).await.contains("bad.yml:4:5: error"));
    assert!(entries(&nats).await.entry("other").await.unwrap().is_none());
}

#[tokio::test]
async fn wait_exits_6_where_nobody_reads_the_entry_and_3_at_once_where_it_cannot_run() {
    require!("nats-server");
    let nats = Nats::start().await;
    let cli = Cli::installed(&nats).await;
    let file = cli.file("metrics.yml", CONFIG);
    let error = cli.fails(6, &["publish", "metrics", "-f", &file, "--wait=200ms"]).await;
    assert!(error.contains("no controller has read the entry"), "{error}");
    // A controller has read it and says why it does not run.
    super::status::put_status(&nats, "metrics", 1, "absent").await;
    let (began, error) = (std::time::Instant::now(), cli.fails(3, &["publish", "metrics", "--wait"]).await);
    assert!(began.elapsed() < std::time::Duration::from_secs(20), "{:?}", began.elapsed());
    assert!(error.contains("UnknownConnection") && error.contains("mongodb.connections"), "{error}");
}

#[tokio::test]
async fn wait_ends_once_the_status_says_that_exactly_this_version_runs() {
    require!("nats-server");
    let nats = Nats::start().await;
    let cli = Cli::installed(&nats).await;
    let file = cli.file("metrics.yml", CONFIG);
    let (done, ()) = tokio::join!(async { cli.json(&["publish", "metrics", "-f", &file, "--wait=20s"]).await }, async {
        crate::support::eventually("the entry is there", std::time::Duration::from_secs(10), || async {
            let Ok(bucket) = nats.jetstream().await.get_key_value("alpha").await else { return false };
            bucket.get("metrics").await.is_ok_and(|value| value.is_some())
        })
        .await;
        super::status::put_status(&nats, "metrics", 1, "run").await;
    });
    assert_eq!(done["revision"], 1);
}
