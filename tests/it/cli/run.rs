//! `run` as a process: its logs, its signals, its exit codes.

use super::{Cli, stderr};
use crate::support::{Nats, http_get};
use serde_json::Value;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};

fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

#[tokio::test]
async fn run_logs_json_off_a_terminal_and_ends_with_0_on_either_signal() {
    require!("nats-server");
    let nats = Nats::start().await;
    let cli = Cli::new(&nats.url());
    for signal in ["-TERM", "-INT"] {
        let mut child = cli.command(&["run", "--set", "http.listen=127.0.0.1:0"]).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        while json(&lines.next_line().await.unwrap().expect("it runs"))["message"] != "controller started" {}
        let pid = child.id().unwrap().to_string();
        assert!(std::process::Command::new("kill").args([signal, &pid]).status().unwrap().success());
        while let Some(line) = lines.next_line().await.unwrap() {
            json(&line);
        }
        let ended = tokio::time::timeout(Duration::from_secs(20), child.wait()).await.unwrap().unwrap();
        assert_eq!(ended.code(), Some(0), "{signal}");
    }
}

#[tokio::test]
async fn an_http_address_that_is_taken_ends_run_with_1_and_a_last_line_of_json() {
    require!("nats-server");
    let nats = Nats::start().await;
    let cli = Cli::new(&nats.url());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let output = cli.run(&["run", "--set", &format!("http.listen={address}")]).await;
    assert_eq!(output.status.code(), Some(1));
    let last = json(stderr(&output).lines().last().unwrap());
    let error = last["error"].as_str().unwrap();
    assert!(error.contains(&address.to_string()) && error.contains("http.listen"), "{error}");
}

#[tokio::test]
async fn a_secret_stands_in_no_output_of_any_command() {
    require!("nats-server");
    let nats = Nats::start_with("authorization: {user: a, password: right}\n").await;
    let cli = Cli::new(&nats.url());
    let secrets = ["nats.user=a", "nats.password=canary-p", "mongodb.connections.default.password=canary-m", "http.token=canary-t"];
    let set: Vec<&str> = secrets.iter().flat_map(|secret| ["--set", secret]).collect();
    let trace = ["--set", "log.level=trace,async_nats=trace,mongodb=trace", "--set", "mongodb.connections.default.username=m"];
    for command in [&["list"] as &[&str], &["status", "metrics"], &["run", "--set", "http.listen=off"]] {
        let output = cli.run(&[command, &set, &trace].concat()).await;
        assert_eq!(output.status.code(), Some(1), "{command:?}: {}", stderr(&output));
        let all = stderr(&output) + &String::from_utf8_lossy(&output.stdout);
        assert!(all.to_lowercase().contains("authorization") && !all.contains("canary"), "{command:?}: {all}");
    }
}

#[tokio::test]
async fn run_listens_beyond_this_machine_only_with_a_token_and_asks_for_it() {
    require!("nats-server");
    let nats = Nats::start().await;
    let cli = Cli::new(&nats.url());
    for listen in ["http.listen=0.0.0.0:0", "http.listen='[::]:0'"] {
        let error = cli.fails(3, &["run", "--set", listen]).await;
        assert!(error.contains("no token is set") && error.contains("http.token_file"), "{error}");
    }
    let empty = cli.file("empty", "\n");
    cli.fails(3, &["run", "--set", "http.listen=0.0.0.0:0", "--set", &format!("http.token_file={empty}")]).await;
    let token = format!("http.token_file={}", cli.file("token", "canary-token\n"));
    let mut child = cli.command(&["run", "--set", "http.listen=0.0.0.0:0", "--set", &token]).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let port = loop {
        let line = json(&lines.next_line().await.unwrap().expect("it runs"));
        if line["message"] == "http listening" {
            break line["address"].as_str().unwrap().rsplit(':').next().unwrap().to_owned();
        }
    };
    let base = format!("http://127.0.0.1:{port}");
    let code = async |path: &str, token| http_get(&base, path, token).await.unwrap().0;
    assert_eq!(code("/health/live", None).await, 200);
    for path in ["/metrics", "/api/v1/pipelines", "/api/v1/pipelines/metrics", "/api/v1/executions"] {
        assert_eq!(code(path, None).await, 401, "{path}");
        assert_ne!(code(path, Some("canary-token")).await, 401, "{path}");
    }
}
