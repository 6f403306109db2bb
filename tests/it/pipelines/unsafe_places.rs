//! Places that lose what they have confirmed are named, by the status of the pipeline and by `sluice doctor`, each with its
//! remedy; and what a stream has lost is said, also where nobody reads it. `docs/safe-places.md` has all settings.

use super::forgetting::copy;
use super::*;
use serde_json::json;

/// What makes a stream unsafe, and what is said of it.
fn unsafe_streams() -> Vec<(&'static str, Value, &'static str)> {
    vec![
        ("memory", json!({"storage": "memory"}), "storage memory"),
        ("async", json!({"persist_mode": "async"}), "persist_mode async"),
        ("noack", json!({"no_ack": true}), "no_ack"),
        ("old", json!({"discard": "old", "max_msgs": 5}), "discard old with max_msgs 5"),
        ("age", json!({"max_age": 3_600_000_000_000_u64}), "max_age 1h"),
        ("subject", json!({"max_msgs_per_subject": 3}), "max_msgs_per_subject 3"),
        ("ttl", json!({"allow_msg_ttl": true}), "allow_msg_ttl"),
        ("rollup", json!({"allow_rollup_hdrs": true}), "allow_rollup_hdrs"),
        ("schedules", json!({"allow_msg_schedules": true, "discard": "old"}), "allow_msg_schedules"),
    ]
}

/// What makes none unsafe, all of it at once.
fn safe_settings() -> Value {
    json!({
        "compression": "s2", "max_msg_size": 100_000, "max_msgs": 100_000, "max_bytes": 100_000_000, "max_consumers": 3, "deny_delete": true,
        "deny_purge": true, "duplicate_window": 1_000_000_000, "first_seq": 1000, "allow_direct": true, "allow_atomic": true,
        "allow_batched": true, "max_msgs_per_subject": 50_000, "discard_new_per_subject": true, "description": "d",
        "republish": {"src": ">", "dest": "copies.>"}, "subject_transform": {"src": "alpha.safe", "dest": "moved.safe"},
        "consumer_limits": {"max_ack_pending": 20_000}, "metadata": {"a": "b"},
    })
}

async fn call(stage: &Stage, operation: &str, body: Value) -> Value {
    let client = stage.nats.client().await;
    let payload = if body.is_null() { String::new() } else { body.to_string() };
    let answer = client.request(format!("$JS.API.{operation}"), payload.into()).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert!(answer["error"].is_null(), "{operation} {body}: {answer}");
    answer
}

async fn make_stream(stage: &Stage, id: &str, change: Value) {
    let mut config = json!({
        "name": format!("alpha_{id}"), "subjects": [format!("alpha.{id}")], "retention": "workqueue", "discard": "new", "storage": "file",
        "num_replicas": 1,
    });
    change.as_object().unwrap().iter().for_each(|(name, value)| config[name] = value.clone());
    call(stage, &format!("STREAM.CREATE.alpha_{id}"), config).await;
}

/// Whether an advice of this reason says `part`.
fn advises(status: &Value, reason: &str, part: &str) -> bool {
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    conditions.iter().any(|condition| condition["reason"] == reason && condition["message"].as_str().unwrap_or_default().contains(part))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_setting_by_which_a_stream_may_lose_what_it_confirms_is_named_in_the_status_and_by_doctor() {
    require!("nats-server", "database");
    let stage = Stage::set().await;
    for (id, change, _) in unsafe_streams() {
        make_stream(&stage, id, change).await;
        stage.publish_plain(id).await;
    }
    make_stream(&stage, "safe", safe_settings()).await;
    stage.publish_plain("safe").await;
    for (id, _, says) in unsafe_streams() {
        let named = || async { advises(&stage.status(id).await, "StreamUnsafe", says) };
        eventually(&format!("{id} says {says}"), SOON, named).await;
    }
    stage.send("alpha.safe", 0..100).await;
    stage.exactly("safe", 0..100).await;
    stage.settled("safe").await;
    assert!(!advises(&stage.status("safe").await, "StreamUnsafe", ""), "{}", stage.status("safe").await);
    let doctor = stage.sluice.cli(&["doctor", "--output", "json"]).await;
    assert_eq!(doctor.status.code(), Some(1));
    let findings: Vec<Value> = serde_json::from_slice(&doctor.stdout).unwrap();
    for (id, _, says) in unsafe_streams() {
        let about = format!("pipeline {id}");
        let named = |finding: &&Value| finding["about"] == about.as_str() && finding["message"].as_str().unwrap().contains(says);
        let finding = findings.iter().find(named).unwrap_or_else(|| panic!("{id}: {findings:?}"));
        assert!(finding["verdict"] == "wrong" && finding["remedy"].as_str().unwrap().contains("delete it, and it is made again"));
    }
    assert!(findings.iter().any(|finding| finding["about"] == "pipeline safe" && finding["verdict"] == "good"), "{findings:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_option_by_which_a_collection_deletes_what_it_confirmed_is_named_in_the_status_and_by_doctor() {
    require!("nats-server", "database");
    let stage = Stage::set().await;
    let database = stage.mongo.client().await.database(stage.mongo.database());
    database.run_command(doc! {"create": "capped", "capped": true, "size": 1 << 20}).await.unwrap();
    let index = doc! {"key": {"at": 1}, "name": "at_1", "expireAfterSeconds": 86_400};
    database.run_command(doc! {"createIndexes": "ttl", "indexes": [index]}).await.unwrap();
    database.run_command(doc! {"create": "series", "timeseries": {"timeField": "ts"}, "expireAfterSeconds": 86_400}).await.unwrap();
    for id in ["capped", "ttl", "plain"] {
        stage.publish_plain(id).await;
    }
    let series = plain("series").replace("    batching", "    time_series: {time_field: ts}\n    batching");
    stage.publish("series", &series).await;
    let says = [("capped", "is capped"), ("ttl", "the TTL index 'at_1'"), ("series", "older than 86400 s")];
    for (id, part) in says {
        eventually(&format!("{id} says {part}"), SOON, || async { advises(&stage.status(id).await, "TargetUnsafe", part) }).await;
    }
    assert!(!advises(&stage.status("plain").await, "TargetUnsafe", ""));
    let doctor = stage.sluice.cli(&["doctor"]).await;
    let shown = String::from_utf8_lossy(&doctor.stdout).into_owned();
    // What the config wants of a series doctor does not know.
    for (_, part) in &says[..2] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    // Said as meant, it is no more doubtful.
    stage.publish("series", &series.replace("{time_field: ts}", "{time_field: ts, expire_after: 1d}")).await;
    let quiet = || async { !advises(&stage.status("series").await, "TargetUnsafe", "") };
    eventually("nothing is said any more", SOON, quiet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_setting_by_which_a_durable_does_not_hand_out_what_was_published_is_named_in_the_status_and_by_doctor() {
    require!("nats-server", "database");
    let stage = Stage::set().await;
    let durables = [
        ("headers", json!({"headers_only": true})),
        ("deliver", json!({"max_deliver": 3})),
        ("filter", json!({"filter_subject": "alpha.other"})),
        ("filters", json!({"filter_subjects": ["alpha.filters", "alpha.another"]})),
        ("groups", json!({"priority_groups": ["a"], "priority_policy": "overflow"})),
        ("push", json!({"deliver_subject": "somewhere"})),
    ];
    for (id, change) in &durables {
        make_stream(&stage, id, json!({"subjects": [format!("alpha.{id}"), format!("alpha.{id}.more")]})).await;
        let mut config = json!({"durable_name": "default", "name": "default", "ack_policy": "explicit", "deliver_policy": "all"});
        change.as_object().unwrap().iter().for_each(|(name, value)| config[name] = value.clone());
        let body = json!({"stream_name": format!("alpha_{id}"), "config": config, "action": "create"});
        call(&stage, &format!("CONSUMER.CREATE.alpha_{id}.default"), body).await;
        let file = stage.config_file(id, &plain(id));
        stage.sluice.cli(&["publish", id, "-f", &file]).await;
    }
    for (id, _) in &durables {
        stage.says(id, "Valid", false, "ConsumerUnusable").await;
    }
    let doctor = stage.sluice.cli(&["doctor", "--output", "json"]).await;
    assert_eq!(doctor.status.code(), Some(1));
    let findings: Vec<Value> = serde_json::from_slice(&doctor.stdout).unwrap();
    for (id, _) in &durables {
        let about = format!("pipeline {id}");
        let wrong = |finding: &&Value| finding["about"] == about.as_str() && finding["verdict"] == "wrong";
        assert!(
            findings.iter().any(|finding| wrong(&finding) && finding["message"].as_str().unwrap().contains("durable")),
            "{id}: {findings:?}"
        );
    }
    // The remedy: without the durable, one is made that can be read.
    call(&stage, "CONSUMER.DELETE.alpha_headers.default", Value::Null).await;
    stage.says("headers", "Ready", true, "AsDesired").await;
    stage.send("alpha.headers", 0..10).await;
    stage.exactly("headers", 0..10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_becomes_unsafe_while_it_is_read_is_noticed_and_one_of_the_dead_letters_concerns_every_pipeline() {
    require!("nats-server", "database");
    let stage = Stage::set().await;
    stage.publish_plain("metrics").await;
    stage.says("metrics", "Ready", true, "AsDesired").await;
    let mut letters = call(&stage, "STREAM.INFO.alpha-dlq", Value::Null).await["config"].clone();
    letters["max_age"] = json!(7_200_000_000_000_u64);
    call(&stage, "STREAM.UPDATE.alpha-dlq", letters.clone()).await;
    let said = || async { advises(&stage.status("metrics").await, "StreamUnsafe", "alpha-dlq, of the dead letters: max_age 2h") };
    within("it is said", Duration::from_secs(59), said).await;
    let doctor = stage.sluice.cli(&["doctor"]).await;
    assert!(String::from_utf8_lossy(&doctor.stdout).contains("stream alpha-dlq may lose what it has confirmed: max_age 2h"));
    letters["max_age"] = json!(0);
    call(&stage, "STREAM.UPDATE.alpha-dlq", letters).await;
    let quiet = || async { !advises(&stage.status("metrics").await, "StreamUnsafe", "") };
    within("it is said no more", Duration::from_secs(59), quiet).await;
    // A paused one's own stream: nobody reads it, and it is looked at.
    stage.sluice.cli_ok(&["pause", "metrics"]).await;
    let mut config = call(&stage, "STREAM.INFO.alpha_metrics", Value::Null).await["config"].clone();
    config["max_age"] = json!(7_200_000_000_000_u64);
    call(&stage, "STREAM.UPDATE.alpha_metrics", config).await;
    let said = || async { advises(&stage.status("metrics").await, "StreamUnsafe", "stream alpha_metrics: max_age 2h") };
    within("it is said", Duration::from_secs(59), said).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_pipelines_stream_that_comes_back_without_its_tail_is_said_after_a_restart_of_everything_too() {
    require!("nats-server", "database");
    let (nats, mongo) = tokio::join!(Nats::start_synced(), Mongo::start());
    let mut stage = Stage::of(nats, mongo).await;
    stage.publish_plain("metrics").await;
    stage.sluice.cli_ok(&["pause", "metrics"]).await;
    stage.phase_is("metrics", "stopped").await;
    stage.send("alpha.metrics", 0..10).await;
    stage.nats.kill9();
    let disk = stage.nats.dir.join("store/jetstream/$G/streams/alpha_metrics");
    let kept = stage.nats.dir.join("kept");
    copy(&disk, &kept);
    stage.nats.restart().await;
    stage.send("alpha.metrics", 10..30).await;
    let looked = || async { stage.status("metrics").await["kept"]["seen"]["last"] == 30 };
    within("it was looked at", Duration::from_secs(59), looked).await;
    // The disk of an hour ago, and nobody lives who remembers.
    stage.sluice.kill9();
    stage.nats.kill9();
    std::fs::remove_dir_all(&disk).unwrap();
    copy(&kept, &disk);
    stage.nats.restart().await;
    stage.sluice.respawn();
    stage.sluice.wait_ready().await;
    let said = || async { advises(&stage.status("metrics").await, "StreamLostMessages", "the newest 20 messages") };
    within("it is said", Duration::from_secs(59), said).await;
    // Until somebody has taken notice.
    stage.sluice.cli_ok(&["publish", "metrics", "--wait"]).await;
    stage.exactly("metrics", 0..10).await;
    let quiet = || async { !advises(&stage.status("metrics").await, "StreamLostMessages", "") };
    eventually("it is said no more", SOON, quiet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_pipelines_stream_that_was_in_memory_only_is_missed_with_what_waited_in_it() {
    require!("nats-server", "database");
    let mut stage = Stage::set().await;
    make_stream(&stage, "metrics", json!({"storage": "memory"})).await;
    stage.publish_plain("metrics").await;
    stage.sluice.cli_ok(&["pause", "metrics"]).await;
    stage.phase_is("metrics", "stopped").await;
    stage.send("alpha.metrics", 0..10).await;
    let looked = || async { stage.status("metrics").await["kept"]["seen"]["messages"] == 10 };
    within("it was looked at", Duration::from_secs(59), looked).await;
    stage.nats.restart().await;
    let said = || async { advises(&stage.status("metrics").await, "StreamLostMessages", "is gone: 10 messages waited in it") };
    within("it is said", Duration::from_secs(59), said).await;
    // Made again, it is safe.
    stage.sluice.cli_ok(&["publish", "metrics", "--wait"]).await;
    stage.send("alpha.metrics", 0..10).await;
    stage.exactly("metrics", 0..10).await;
    let quiet = || async { !advises(&stage.status("metrics").await, "Stream", "") };
    eventually("nothing is said any more", SOON, quiet).await;
}
