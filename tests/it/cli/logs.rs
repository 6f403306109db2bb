//! `sluice logs`: what processes remember of a pipeline, asked over NATS from wherever a person is.

use super::{CONFIG, Cli};
use crate::support::{Mongo, Nats, Sluice, eventually};
use serde_json::Value;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};

const LONG: Duration = Duration::from_secs(60);

fn lines(output: &str) -> Vec<Value> {
    output.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_lines_of_a_pipeline_come_from_the_process_that_runs_it_and_go_on_as_they_are_written() {
    require!("nats-server", "database");
    let (nats, mongo) = (Nats::start().await, Mongo::start().await);
    let _controller = Sluice::start(&nats, &mongo).await;
    // From elsewhere: nothing but the address of NATS.
    let cli = Cli::installed(&nats).await;
    let file = cli.file("metrics.yml", CONFIG);
    cli.ok(&["publish", "metrics", "-f", &file, "--wait"]).await;
    let said = lines(&cli.ok(&["logs", "metrics", "--output", "json"]).await);
    for message in ["admitted", "execution started", "collector started"] {
        assert!(said.iter().any(|line| line["message"] == message && line["pipeline"] == "metrics"), "{message}: {said:?}");
    }
    assert!(said.iter().all(|line| line["host"].is_string() && line["timestamp"].is_string()), "{said:?}");
    assert_eq!(lines(&cli.ok(&["logs", "metrics", "-n", "2", "--output", "json"]).await).len(), 2);
    let text = cli.ok(&["logs", "metrics"]).await;
    assert!(text.lines().any(|line| line.contains(" | ") && line.contains("collector started")), "{text}");

    let mut following = cli.command(&["logs", "metrics", "--follow", "-n", "1"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut read = BufReader::new(following.stdout.take().unwrap()).lines();
    read.next_line().await.unwrap().unwrap();
    cli.ok(&["pause", "metrics"]).await;
    let stopped = async {
        let mut seen = Vec::new();
        while let Some(line) = read.next_line().await.unwrap() {
            assert!(!seen.contains(&line), "{line} twice");
            if line.contains("collector stopped") {
                return;
            }
            seen.push(line);
        }
    };
    tokio::time::timeout(LONG, stopped).await.expect("what comes is shown");
    following.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_of_what_nobody_knows_are_no_success_and_logs_that_nobody_has_are_no_failure() {
    require!("nats-server");
    let nats = Nats::start().await;
    let cli = Cli::installed(&nats).await;
    let file = cli.file("metrics.yml", CONFIG);
    cli.ok(&["publish", "metrics", "-f", &file]).await;
    let output = cli.run(&["logs", "metrics"]).await;
    assert!(output.status.success() && output.stdout.is_empty());
    assert!(super::stderr(&output).contains("no process has a line"), "{}", super::stderr(&output));
    let said = cli.fails(4, &["logs", "other"]).await;
    assert!(said.contains("no pipeline 'other'"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_has_lost_nats_for_a_while_answers_again() {
    require!("nats-server", "database");
    let (mut nats, mongo) = (Nats::start().await, Mongo::start().await);
    let _controller = Sluice::start(&nats, &mongo).await;
    let cli = Cli::installed(&nats).await;
    let file = cli.file("metrics.yml", CONFIG);
    cli.ok(&["publish", "metrics", "-f", &file, "--wait"]).await;
    nats.kill9();
    nats.restart().await;
    let answers = || async { !cli.run(&["logs", "metrics"]).await.stdout.is_empty() };
    eventually("it answers again", LONG, answers).await;
}
