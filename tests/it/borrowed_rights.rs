//! Rights that can be borrowed: nats-server checks nobody's rights to the subject that an answer goes to. Each role tries,
//! with exactly the permissions that are printed, to have answers written where it may not write: those of Sluice, and those
//! of the server itself.

use crate::permissions::{SOON, client, guarded_nats, inbox, store, subjects, violations};
use crate::support::{Nats, certificate, eventually};
use async_nats::jetstream::{self, stream};
use async_nats::{Client, Subject};
use futures_util::{FutureExt, StreamExt};
use serde_json::json;
use sluice::executor::answers::{answer_logs, answer_states};
use sluice::pipeline::id::PipelineId;
use sluice::pipeline::logs::{LogLine, LogsRequest};
use sluice::store::logs::Answering;
use sluice::store::{State, Store};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Bytes that an attacker chose: nowhere but where it may write itself.
const CHOSEN: &str = r#"{"status":"paused","chosen":true}"#;
/// Where nobody but a controller may write, an editor's own entries apart.
const TARGETS: [&str; 8] = [
    "$JS.API.STREAM.DELETE.VICTIM",
    "$JS.API.STREAM.PURGE.VICTIM",
    "$JS.API.CONSUMER.DELETE.perms_m.default",
    "$KV.perms.m",
    "$KV.perms-status.m",
    "$KV.perms-lease._holder",
    "perms-dlq.m.chosen",
    "victim.chosen",
];

/// A namespace with a pipeline `m`, and a stream that is none of Sluice's.
async fn scene(nats: &Nats) -> (jetstream::Context, Store) {
    let controller = store(nats, "controller").await;
    controller.prepare().await.unwrap();
    let jetstream = jetstream::new(client(nats, "test", "_INBOX").await);
    let config = |name: &str, subject: &str| stream::Config { name: name.into(), subjects: vec![subject.into()], ..Default::default() };
    jetstream.create_stream(config("VICTIM", "victim.>")).await.unwrap();
    let work_queue = stream::Config { retention: stream::RetentionPolicy::WorkQueue, ..config("perms_m", "perms.m") };
    let stream = jetstream.create_stream(work_queue).await.unwrap();
    let durable = jetstream::consumer::pull::Config { durable_name: Some("default".into()), ..Default::default() };
    stream.create_consumer(durable).await.unwrap();
    for subject in ["victim.a", "victim.b", "perms-dlq.m.a", "$KV.perms.m", "$KV.perms-status.m"] {
        jetstream.publish(subject, r#"{"status":"published"}"#.into()).await.unwrap().await.unwrap();
    }
    (jetstream, controller)
}

/// What lies where nobody was to write: the payloads by subject, of streams that the roles do not write to.
async fn lies(jetstream: &jetstream::Context, streams: &[&str]) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for name in streams {
        let Ok(stream) = jetstream.get_stream(name).await else {
            found.insert((*name).to_owned(), vec!["gone".into()]);
            continue;
        };
        let info = stream.get_info().await.unwrap();
        for sequence in info.state.first_sequence..=info.state.last_sequence {
            if let Ok(message) = stream.get_raw_message(sequence).await {
                found.entry(message.subject.to_string()).or_default().push(String::from_utf8_lossy(&message.payload).into_owned());
            }
        }
    }
    found
}

const GUARDED: [&str; 5] = ["VICTIM", "KV_perms", "KV_perms-status", "KV_perms-lease", "perms-dlq"];

#[tokio::test]
async fn states_and_log_lines_are_answered_to_inboxes_and_to_nothing_else() {
    require!("nats-server");
    let nats = guarded_nats(&["editor", "producer", "controller"]).await;
    let (jetstream, controller) = scene(&nats).await;
    let stop = CancellationToken::new();
    let answering = Answering { process: uuid::Uuid::new_v4(), host: "here".into() };
    let line = |_, _| {
        let line = LogLine::parse(r#"{"timestamp":"2026-01-01T00:00:00Z","level":"INFO","message":"a line"}"#);
        std::future::ready(Vec::from_iter(line)).boxed()
    };
    tokio::spawn(answer_logs(controller.logs.clone(), None, answering, line, stop.clone()));
    let state = |_| std::future::ready(Some(State { buffer_size: 7, running: true })).boxed();
    tokio::spawn(answer_states(controller.states.clone(), state, stop));
    let (producer, editor) = (client(&nats, "producer", &inbox("producer")).await, client(&nats, "editor", &inbox("editor")).await);
    // Who asks with an inbox gets an answer: the default one, and those of the installation's users.
    let other = client(&nats, "test", "_INBOX").await;
    eventually("a state is told", SOON, || async { other.request("perms.states", "m".into()).await.is_ok() }).await;
    let id = PipelineId::parse("m").unwrap();
    let asking = store(&nats, "editor").await;
    eventually("log lines are handed out", SOON, || async {
        let replies = asking.logs.ask(&id, &LogsRequest::default(), Duration::from_millis(500)).await.unwrap();
        replies.iter().any(|reply| !reply.lines.is_empty())
    })
    .await;
    let before = lies(&jetstream, &GUARDED).await;
    for target in TARGETS {
        producer.publish_with_reply("perms.states", target, "m".into()).await.unwrap();
        editor.publish_with_reply("perms-logs.m", target, "{}".into()).await.unwrap();
    }
    // The answers come in the order of the requests.
    producer.flush().await.unwrap();
    editor.flush().await.unwrap();
    other.request("perms.states", "m".into()).await.unwrap();
    asking.logs.ask(&id, &LogsRequest::default(), Duration::from_millis(500)).await.unwrap();
    assert_eq!(lies(&jetstream, &GUARDED).await, before);
    assert_eq!(jetstream.get_stream("VICTIM").await.unwrap().cached_info().state.messages, 2);
}

#[tokio::test]
async fn log_lines_that_a_backend_hands_out_slowly_are_waited_for() {
    require!("nats-server");
    let nats = guarded_nats(&["editor", "controller"]).await;
    let (editor, controller) = (store(&nats, "editor").await, store(&nats, "controller").await);
    let slow = |_, _| {
        let line = LogLine::parse(r#"{"timestamp":"2026-01-01T00:00:00Z","level":"INFO","message":"its last words"}"#);
        // Three times as long as those who ask wait for a first word.
        Box::pin(tokio::time::sleep(Duration::from_millis(1_500)).map(move |()| Vec::from_iter(line))) as _
    };
    let answering = Answering { process: uuid::Uuid::new_v4(), host: "here".into() };
    tokio::spawn(answer_logs(controller.logs.clone(), None, answering, slow, CancellationToken::new()));
    let id = PipelineId::parse("metrics").unwrap();
    let said = async || {
        let replies = editor.logs.ask(&id, &LogsRequest::default(), Duration::from_millis(500)).await.unwrap();
        Vec::from_iter(replies.into_iter().flat_map(|reply| reply.lines).map(|line| line.message))
    };
    eventually("they are there", SOON, || async { said().await == ["its last words"] }).await;
    assert_eq!(violations(&nats), BTreeSet::new());
}

/// A literal subject that a grant covers; `token` for what is free.
fn literal(pattern: &str, token: &str) -> String {
    pattern.split('.').map(|part| if part == "*" || part == ">" { token } else { part }).collect::<Vec<_>>().join(".")
}

/// Every request that `role` may send, with bodies that make the server answer with as little of its own as it can.
fn requests(role: &str, target: &str) -> Vec<(String, String)> {
    let mut requests = Vec::new();
    for pattern in &subjects(role)["PUB"] {
        let streams = ["perms_m", "KV_perms", "KV_perms-status", "OBJ_perms-configs", "OBJ_perms-dlq-payloads", "perms-dlq", "VICTIM"];
        let Some(operation) = pattern.strip_prefix("$JS.API.") else {
            // What is stored: nothing at all, and chosen bytes.
            for token in ["m", "states"] {
                requests.push((literal(pattern, token), String::new()));
                requests.push((literal(pattern, token), CHOSEN.to_owned()));
            }
            continue;
        };
        for stream in streams.iter().filter(|stream| operation.contains(*stream) || operation.split('.').any(|part| part == "*")) {
            let subject = pattern.split('.').map(|part| if part == "*" { *stream } else { part }).collect::<Vec<_>>().join(".");
            for last in ["$O.perms-configs.m", "$O.perms-dlq-payloads.m", "$O.perms-configs.C.m", "$KV.perms.m", "perms.m", "perms-dlq.m.m"]
            {
                requests.push((subject.clone(), json!({ "last_by_subj": last }).to_string()));
            }
            let config = json!({ "name": stream, "deliver_subject": target, "idle_heartbeat": 100_000_000, "ack_policy": "none" });
            requests.push((subject.clone(), json!({ "stream_name": stream, "config": config, "action": "create" }).to_string()));
            requests.push((subject.clone(), json!({ "batch": 1, "no_wait": true }).to_string()));
            requests.push((subject, String::new()));
        }
    }
    requests
}

/// Whatever the role may ask for, with the answer sent to each target. Without what takes a message away, or makes a consumer.
async fn borrow(client: &Client, role: &str, without: &[&str]) {
    for target in TARGETS {
        for (subject, body) in requests(role, target) {
            if without.iter().all(|operation| !subject.contains(operation)) {
                client.publish_with_reply(subject, target, body.into()).await.unwrap();
            }
        }
    }
    client.flush().await.unwrap();
    // What was asked for before is answered before, by the server and by whoever else answers.
    tokio::time::sleep(Duration::from_millis(500)).await;
}

/// What the server says itself: an acknowledgement or an answer of its API, in JSON.
fn is_the_servers(payload: &str) -> bool {
    let answer: serde_json::Value = serde_json::from_str(payload).unwrap_or_default();
    answer["stream"].is_string() || answer["type"].as_str().is_some_and(|kind| kind.starts_with("io.nats.jetstream.api."))
}

#[tokio::test]
async fn no_answer_to_an_editor_or_a_producer_carries_bytes_that_it_chose_or_none_at_all() {
    require!("nats-server");
    for role in ["editor", "producer"] {
        let nats = guarded_nats(&[role, "controller"]).await;
        let (jetstream, _controller) = scene(&nats).await;
        // An editor removes dead letters, and writes entries; it does not need another's answers for that.
        let guarded: &[&str] = if role == "editor" { &["VICTIM", "KV_perms-status", "KV_perms-lease", "perms-dlq"] } else { &GUARDED };
        let before = lies(&jetstream, guarded).await;
        let attacker = client(&nats, role, &inbox(role)).await;
        borrow(&attacker, role, &[]).await;
        assert!(violations(&nats).is_empty(), "it asks for nothing but what it may: {:?}", violations(&nats));
        let after = lies(&jetstream, guarded).await;
        for (subject, payloads) in after {
            let known = before.get(&subject).cloned().unwrap_or_default();
            let new: Vec<_> = payloads.into_iter().filter(|payload| !known.contains(payload)).collect();
            assert!(new.iter().all(|payload| is_the_servers(payload)), "{role} wrote to {subject}: {new:#?}");
        }
        let victim = jetstream.get_stream("VICTIM").await.expect("the stream is there").cached_info().state.clone();
        assert!(victim.messages >= 2 && victim.first_sequence == 1, "{role}: {victim:?}");
        let durable = jetstream.get_stream("perms_m").await.unwrap().consumer_info("default").await;
        assert!(durable.is_ok(), "{role}: the durable is gone");
    }
}

#[tokio::test]
async fn an_execution_writes_its_own_bytes_nowhere_else() {
    require!("nats-server");
    let nats = guarded_nats(&["execution", "controller"]).await;
    let (jetstream, _controller) = scene(&nats).await;
    let before = lies(&jetstream, &["VICTIM", "KV_perms", "KV_perms-status", "KV_perms-lease"]).await;
    let attacker = client(&nats, "execution", &inbox("execution")).await;
    // To pull and to follow are the rights that remain: the empty message which says that nothing is left goes wherever the
    // pull says. The README says so, and that executions are trusted like controllers.
    borrow(&attacker, "execution", &["CONSUMER.MSG.NEXT", "CONSUMER.CREATE"]).await;
    // Nor does it get the right to answer itself anywhere.
    let mut own = attacker.subscribe(format!("{}.own", inbox("execution"))).await.unwrap();
    for target in TARGETS {
        attacker.publish_with_reply(format!("{}.own", inbox("execution")), target, "".into()).await.unwrap();
        let asked = tokio::time::timeout(SOON, own.next()).await.unwrap().unwrap();
        assert_eq!(asked.reply, Some(Subject::from(target)));
        attacker.publish(target, "".into()).await.unwrap();
    }
    attacker.flush().await.unwrap();
    let after = lies(&jetstream, &["VICTIM", "KV_perms", "KV_perms-status", "KV_perms-lease"]).await;
    for (subject, payloads) in after {
        let known = before.get(&subject).cloned().unwrap_or_default();
        let new: Vec<_> = payloads.into_iter().filter(|payload| !known.contains(payload)).collect();
        assert!(new.iter().all(|payload| is_the_servers(payload)), "it wrote to {subject}: {new:#?}");
    }
    assert!(jetstream.get_stream("VICTIM").await.is_ok());
}

/// The accounts of the README: producers in one of their own.
fn accounts_of_the_readme() -> String {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let (_, from) = readme.split_once("<!-- accounts -->").expect("the README has the accounts");
    let (_, from) = from.split_once("```\n").unwrap();
    let (block, _) = from.split_once("```").unwrap();
    block.replace("alpha", "perms")
}

#[tokio::test]
async fn a_producer_in_an_account_of_its_own_reaches_nothing_by_the_answers_to_it() {
    require!("nats-server");
    let [cert, key] = ["server.pem", "server-key.pem"].map(certificate);
    let tls = format!("tls {{ cert_file: {cert:?}, key_file: {key:?} }}\n");
    let nats = Nats::start_with(&format!("{tls}{}", accounts_of_the_readme())).await;
    let jetstream = jetstream::new(client(&nats, "sluice", "_INBOX").await);
    let config = |name: &str, subject: &str| stream::Config { name: name.into(), subjects: vec![subject.into()], ..Default::default() };
    for (name, subject) in [("VICTIM", "victim.>"), ("KV_perms", "$KV.perms.>"), ("perms_m", "perms.m")] {
        jetstream.create_stream(config(name, subject)).await.unwrap();
    }
    let producer = client(&nats, "producer", "_INBOX").await;
    let acknowledged = producer.request("perms.m", "a document".into()).await.unwrap();
    assert!(is_the_servers(&String::from_utf8_lossy(&acknowledged.payload)), "{acknowledged:?}");
    for target in TARGETS {
        producer.publish_with_reply("perms.m", target, CHOSEN.into()).await.unwrap();
        producer.publish_with_reply("$JS.API.STREAM.INFO.VICTIM", target, "".into()).await.unwrap();
    }
    producer.flush().await.unwrap();
    eventually("all are stored", SOON, || async {
        jetstream.get_stream("perms_m").await.unwrap().cached_info().state.messages == 1 + TARGETS.len() as u64
    })
    .await;
    assert_eq!(lies(&jetstream, &["VICTIM", "KV_perms"]).await, BTreeMap::new(), "no acknowledgement left the producers' account");
    // What it asks of Sluice comes back to it.
    let mut settings = sluice::settings::Settings { namespace: "perms".parse().unwrap(), ..Default::default() };
    settings.nats = crate::permissions::nats_settings(&nats, "sluice", "_INBOX");
    let installation = Store::connect(&settings).await.unwrap();
    let state = |_| std::future::ready(Some(State { buffer_size: 7, running: true })).boxed();
    tokio::spawn(answer_states(installation.states.clone(), state, CancellationToken::new()));
    eventually("its state is told", SOON, || async {
        let asked = producer.request("perms.states", "m".into()).await;
        asked.is_ok_and(|answer| answer.payload.starts_with(b"{\"buffer_size\":7"))
    })
    .await;
}
