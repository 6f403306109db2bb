//! `sluice execute` as a process of its own, on real servers: what a container runs.
//!
//! A controller publishes the pipeline first, so that the spec is the one that the holder admitted.

use crate::support::{Mongo, Nats, Process, Run, Sluice, eventually, http_get, temp_dir};
use async_nats::jetstream;
use bson::doc;
use futures_util::{StreamExt, stream};
use serde_json::Value;
use std::{ops::Range, path::PathBuf, process::Command, time::Duration};

const SOON: Duration = Duration::from_secs(30);
const LONG: Duration = Duration::from_secs(120);

/// Servers, and a controller that publishes.
struct Stage {
    nats: Nats,
    mongo: Mongo,
    controller: Sluice,
}

impl Stage {
    async fn set() -> Self {
        let (nats, mongo) = (Nats::start().await, Mongo::start_durable().await);
        let controller = Sluice::start(&nats, &mongo).await;
        Self { nats, mongo, controller }
    }

    /// Publishes `metrics` and returns the spec that was admitted.
    async fn publish(&self) -> Value {
        let file = self.controller.dir.join("metrics.yml");
        let config = "schema: 1\ninput:\n  nats_jetstream: {max_ack_pending: 1000}\noutput:\n  mongodb:\n    collection: metrics\n    \
                      batching: {count: 1000, period: 1s, linger: 20ms}\n";
        std::fs::write(&file, config).unwrap();
        self.controller.cli_ok(&["publish", "metrics", "-f", &file.display().to_string(), "--wait"]).await;
        self.status().await["admitted"]["spec"].clone()
    }

    /// The same, and the controller ends: what runs then is the execution alone.
    async fn published_and_left(&mut self) -> Value {
        let spec = self.publish().await;
        assert!(self.controller.sigterm().await.success());
        spec
    }

    async fn status(&self) -> Value {
        serde_json::from_str(&self.controller.get("/api/v1/pipelines/metrics").await.1).unwrap()
    }

    fn execute(&self, spec: &Value) -> Executing {
        Executing::start(&self.controller, spec, |command| command)
    }

    async fn send(&self, numbers: Range<i64>) {
        let jetstream = self.nats.jetstream().await;
        let sends = numbers.map(|n| {
            let (jetstream, payload) = (&jetstream, doc! {"n": n}.to_vec().unwrap());
            async move { jetstream.publish("alpha.metrics", payload.into()).await.unwrap().await.unwrap() }
        });
        stream::iter(sends).buffer_unordered(500).collect::<Vec<_>>().await;
    }

    async fn exactly(&self, numbers: Range<i64>) {
        let wanted = u64::try_from(numbers.end - numbers.start).unwrap();
        eventually("all documents are there", LONG, || async { self.mongo.count("metrics").await >= wanted }).await;
        let mut found: Vec<_> = self.mongo.documents("metrics").await.iter().map(|document| document.get_i64("n").unwrap()).collect();
        found.sort_unstable();
        assert_eq!(found, numbers.collect::<Vec<_>>());
    }

    /// Messages in the stream, and those that somebody holds.
    async fn left(&self) -> (u64, usize) {
        let jetstream: jetstream::Context = self.nats.jetstream().await;
        let stream = jetstream.get_stream("alpha_metrics").await.unwrap();
        let info = stream.consumer_info("default").await.unwrap();
        (stream.get_info().await.unwrap().state.messages, info.num_ack_pending)
    }
}

/// A running `sluice execute`.
struct Executing {
    process: Process,
    log: PathBuf,
    _temp: tempfile::TempDir,
}

impl Executing {
    /// Starts one with the controller's settings, as an executor would.
    fn start(controller: &Sluice, spec: &Value, change: impl FnOnce(&mut Command) -> &mut Command) -> Self {
        let temp = temp_dir("execute");
        let log = temp.path().join("execute.log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
        let text = |field: &str| spec[field].as_str().unwrap().to_owned();
        command.arg("execute");
        for field in ["id", "version", "digest", "fingerprint"] {
            command.arg(format!("--{field}={}", text(field)));
        }
        command.env("SLUICE_SETTINGS", controller.dir.join("sluice.yml")).env("SLUICE_SPEC", spec.to_string()).current_dir(temp.path());
        change(&mut command);
        Self { process: Process::start("sluice execute", command, &log), log, _temp: temp }
    }

    fn address(&self) -> Option<String> {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let line = log.lines().find(|line| line.contains("http listening"))?;
        let port: String = line.split_once("127.0.0.1:")?.1.chars().take_while(char::is_ascii_digit).collect();
        Some(format!("127.0.0.1:{port}"))
    }

    async fn get(&self, path: &str) -> Option<(u16, String)> {
        http_get(&format!("http://{}", self.address()?), path, None).await.ok()
    }

    async fn ready(&self) {
        eventually("the execution is ready", SOON, || async { matches!(self.get("/health/ready").await, Some((200, _))) }).await;
    }

    async fn report(&self) -> Value {
        let (_, body) = self.get("/api/v1/executions").await.unwrap_or_default();
        serde_json::from_str::<Value>(&body).unwrap_or_default()[0].clone()
    }

    async fn code(&mut self) -> Option<i32> {
        self.process.wait(SOON).await.code()
    }
}

/// `sluice probe`: its exit code and what it says.
async fn probe(address: &str, more: &[&str]) -> (Option<i32>, String) {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_sluice"));
    command.env_remove("SLUICE_SETTINGS").args(["probe", "--address", address]).args(more);
    let output = command.output().await.unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_process_runs_what_was_admitted_and_drains_when_it_is_told_to_stop() {
    require!("nats-server", "database");
    let mut stage = Stage::set().await;
    let spec = stage.published_and_left().await;
    let mut executing = stage.execute(&spec);
    executing.ready().await;
    stage.send(0..2_000).await;
    stage.exactly(0..2_000).await;
    let address = executing.address().unwrap();
    assert_eq!(probe(&address, &[]).await.0, Some(0));
    assert_eq!(probe(&address, &["--live"]).await.0, Some(0));
    let (_, metrics) = executing.get("/metrics").await.unwrap();
    assert!(metrics.contains(r#"pipeline="metrics""#), "{metrics}");
    assert_eq!(executing.report().await["fingerprint"], spec["fingerprint"]);
    let moved = |report: &Value| ["last_write_ms", "last_pull_ms"].iter().all(|field| report[field].as_u64().is_some_and(|at| at > 0));
    eventually("it says when it pulled and wrote", SOON, || async { moved(&executing.report().await) }).await;
    // Nobody but the process itself is there to say what it logged.
    let logs = stage.controller.cli_ok(&["logs", "metrics", "-o", "json"]).await;
    assert!(logs.lines().any(|line| line.contains("collector started")), "{logs}");
    // In the middle of a load: what it has fetched is written and acknowledged before it ends.
    stage.send(2_000..6_000).await;
    executing.process.signal("TERM");
    assert_eq!(executing.code().await, Some(0), "{}", executing.process.log_tail());
    let (messages, held) = stage.left().await;
    assert_eq!(held, 0, "it ended with messages that nobody has");
    assert_eq!(stage.mongo.count("metrics").await + messages, 6_000);
    // Nobody listens any more.
    let (code, said) = probe(&address, &[]).await;
    assert!(code == Some(1) && said.contains("no answer"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_restart_helps_with_ends_the_process_with_a_code_of_its_own() {
    require!("nats-server", "database");
    let mut stage = Stage::set().await;
    let spec = stage.published_and_left().await;
    let with = |field: &str, value: &str| {
        let mut spec = spec.clone();
        spec[field] = value.into();
        spec
    };
    let wrong = "SHA-256=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    for (spec, said) in [(with("digest", wrong), "has the digest"), (with("version", "9-00000000"), "9-00000000")] {
        let mut executing = stage.execute(&spec);
        assert_eq!(executing.code().await, Some(3), "{}", executing.process.log_tail());
        let log = executing.process.log();
        assert!(log.contains(said) && log.contains("a restart does not help"), "{log}");
    }
    let other = with("fingerprint", "f").to_string();
    let changes = [
        ("--fingerprint is", "SLUICE_SPEC", other.as_str()),
        ("SLUICE_SPEC is empty", "SLUICE_SPEC", ""),
        ("is no execution spec", "SLUICE_SPEC", "{}"),
        ("no setting has this name", "SLUICE_NATS_URL", "nats://127.0.0.1:1"),
        ("the namespace alpha", "SLUICE_NAMESPACE", "beta"),
    ];
    for (said, variable, value) in changes {
        let mut executing = Executing::start(&stage.controller, &spec, |command| command.env(variable, value));
        assert_eq!(executing.code().await, Some(3), "{said}: {}", executing.process.log_tail());
        let log = executing.process.log();
        assert!(log.contains(said), "{said}: {log}");
    }
    assert_eq!(stage.left().await.0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_an_execution_process_loses_nothing_and_doubles_nothing() {
    require!("nats-server", "database");
    let mut stage = Stage::set().await;
    let spec = stage.published_and_left().await;
    let mut executing = stage.execute(&spec);
    for round in 0..4 {
        executing.ready().await;
        stage.send(round * 3_000..(round + 1) * 3_000).await;
        executing.process.kill9();
        executing = stage.execute(&spec);
    }
    stage.exactly(0..12_000).await;
    eventually("nothing is left", LONG, || async { stage.left().await == (0, 0) }).await;
    stage.exactly(0..12_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_holder_counts_an_execution_process_and_its_limits_follow() {
    require!("nats-server", "database");
    let stage = Stage::set().await;
    let spec = stage.publish().await;
    let mut executing = stage.execute(&spec);
    executing.ready().await;
    let counted = |wanted: u64| {
        let stage = &stage;
        async move { stage.status().await["admitted"]["live_executions"] == wanted }
    };
    eventually("two executions are counted", SOON, || counted(2)).await;
    // 1000 for three batches of one, and of two.
    let batch = |wanted: u64| {
        let executing = &executing;
        async move { executing.report().await["limits"]["batch_count"] == wanted }
    };
    eventually("the batch is shared by two", SOON, || batch(166)).await;
    executing.process.signal("TERM");
    assert_eq!(executing.code().await, Some(0));
    eventually("one is counted again", SOON, || counted(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_process_goes_on_when_something_else_is_admitted_and_says_so() {
    require!("nats-server", "database");
    let stage = Stage::set().await;
    let spec = stage.publish().await;
    let executing = stage.execute(&spec);
    executing.ready().await;
    stage.controller.cli_ok(&["pause", "metrics"]).await;
    let says = || async {
        let (code, body) = executing.get("/health/ready").await.unwrap_or_default();
        code == 200 && body.contains("something else is admitted")
    };
    eventually("its health says what is admitted", SOON, says).await;
    stage.send(0..500).await;
    stage.exactly(0..500).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_process_waits_for_nats_and_the_probe_says_what_for() {
    require!("nats-server", "database");
    let mut stage = Stage::set().await;
    let spec = stage.published_and_left().await;
    stage.nats.kill9();
    let mut executing = stage.execute(&spec);
    eventually("it listens", SOON, || async { executing.address().is_some() }).await;
    let address = executing.address().unwrap();
    let (code, said) = probe(&address, &[]).await;
    assert!(code == Some(1) && said.contains("waiting for a connection to NATS"), "{said}");
    assert_eq!(probe(&address, &["--live"]).await.0, Some(0), "no restart helps with that");
    stage.nats.restart().await;
    executing.ready().await;
    assert!(executing.process.ended().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_a_spec_nor_in_what_an_execution_process_says() {
    require!("nats-server", "database");
    let canary = "canary-8c1f0e";
    let (nats, mongo) = (Nats::start_with(&format!("authorization {{ token: {canary} }}\n")).await, Mongo::start_durable().await);
    let token = temp_dir("token").keep().join("token");
    std::fs::write(&token, canary).unwrap();
    let mut run = Run::new(&nats, &mongo);
    run.set = vec![format!("nats.token_file={}", token.display())];
    run.env = vec![("SLUICE_NATS_TOKEN_FILE".into(), token.display().to_string())];
    let mut stage = Stage { controller: run.start().await, nats, mongo };
    let spec = stage.published_and_left().await;
    assert!(!spec.to_string().contains(canary));
    let file = token.clone();
    let mut executing = Executing::start(&stage.controller, &spec, |command| command.env("SLUICE_NATS_TOKEN_FILE", file));
    executing.ready().await;
    let line = std::fs::read(format!("/proc/{}/cmdline", executing.process.pid())).unwrap();
    let environment = std::fs::read(format!("/proc/{}/environ", executing.process.pid())).unwrap();
    let (_, health) = executing.get("/health/ready").await.unwrap();
    executing.process.signal("TERM");
    assert_eq!(executing.code().await, Some(0));
    for (what, text) in [("arguments", &line[..]), ("environment", &environment), ("health", health.as_bytes())] {
        assert!(!String::from_utf8_lossy(text).contains(canary), "the token is in the {what}");
    }
    assert!(!executing.process.log().contains(canary));
    std::fs::remove_dir_all(token.parent().unwrap()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_process_answers_for_the_state_of_its_own_pipeline_alone() {
    require!("nats-server", "database");
    let mut stage = Stage::set().await;
    let spec = stage.published_and_left().await;
    let execution = stage.execute(&spec);
    execution.ready().await;
    let client = stage.nats.client().await;
    let ask = async |id: &'static str, patience: Duration| {
        let request = async_nats::client::Request::new().payload(id.into()).timeout(Some(patience));
        client.send_request("alpha.states".to_owned(), request).await.ok().map(|answer| answer.payload)
    };
    let answer: Value = serde_json::from_slice(&ask("metrics", SOON).await.unwrap()).unwrap();
    assert!(answer["buffer_size"].is_u64() && answer["running"] == true, "{answer}");
    assert_eq!(ask("others", Duration::from_secs(1)).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_still_on_their_way_are_waited_for_and_not_for_ever() {
    require!("nats-server", "database");
    let mut stage = Stage::set().await;
    let spec = stage.published_and_left().await;
    let complete = stage.controller.dir.join("complete");
    let settings = stage.controller.dir.join("later.yml");
    let start = |settings: &std::path::Path| {
        let (complete, settings) = (complete.clone(), settings.to_owned());
        Executing::start(&stage.controller, &spec, |command| command.arg("--await").arg(complete).env("SLUICE_SETTINGS", settings))
    };
    let mut forgotten = start(&settings);
    assert_eq!(forgotten.process.wait(SOON).await.code(), Some(4), "who is told to read nothing before reads nothing");
    let waiting = start(&settings);
    std::fs::copy(stage.controller.dir.join("sluice.yml"), &settings).unwrap();
    std::fs::write(&complete, "").unwrap();
    waiting.ready().await;
}
