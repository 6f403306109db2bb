//! What a namespace needs on NATS, created where it is missing and left exactly as it is where it exists: a bucket that
//! the first parent made with history 1 stays so. Called through [`super::Store::prepare`].

use super::api::{Api, Failure, code, field};
use super::error::{StoreError, StoreErrorKind};
use super::lease::LEASE_TTL;
use crate::pipeline::created::{ENTRIES_HISTORY, metadata};
use crate::pipeline::names::Names;
use crate::pipeline::subject::covers;
use async_nats::Client;
use futures_util::future::try_join_all;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether it was said already, as this is called again and again.
static WARNED: AtomicBool = AtomicBool::new(false);

/// What has to be there.
fn wanted(names: &Names) -> [Value; 5] {
    let mut lease = bucket(&names.lease(), 1, u64::try_from(LEASE_TTL.as_nanos()).unwrap_or(u64::MAX));
    // Epochs are revisions of this bucket and must grow even where it is made anew. Nobody writes to it once a second
    // for long, so the seconds since 1970 are beyond whatever an earlier one has reached.
    lease["first_seq"] = json!(jiff::Timestamp::now().as_second().max(1));
    [entries(names), bucket(&names.status(), 1, 0), lease, object_store(&names.configs()), dead_letters(names)]
}

/// Of each that has to be there, by its stream's name: whether it is, or why it cannot serve.
pub(super) async fn look(client: &Client, names: &Names) -> Result<Vec<(String, Result<bool, StoreError>)>, StoreError> {
    let api = Api::new(client.clone());
    let mut found = Vec::new();
    for config in wanted(names).into_iter().chain([object_store(&names.dead_letter_objects())]) {
        let name = config["name"].as_str().unwrap_or_default().to_owned();
        let state = match api.info(&name).await {
            Ok(info) => serves(&name, &config, &info["config"]).map(|()| true),
            Err(failure) if failure.is(code::STREAM_NOT_FOUND) => Ok(false),
            Err(failure) => return Err(failure.during(format!("look at stream {name}"))),
        };
        found.push((name, state));
    }
    Ok(found)
}

/// Creates what is missing.
pub(super) async fn prepare(client: &Client, names: &Names, replicas: usize) -> Result<(), StoreError> {
    let api = Api::new(client.clone());
    try_join_all(wanted(names).into_iter().map(|config| create(&api, config, replicas))).await?;
    // Payloads are kept as safe as the dead letters that refer to them.
    let during = |failure: Failure| failure.during("look at the stream of the dead letters");
    let letters = api.info(&names.dead_letters()).await.map_err(during)?;
    let replicas = letters["config"]["num_replicas"].as_u64().and_then(|copies| usize::try_from(copies).ok()).unwrap_or(replicas);
    create(&api, object_store(&names.dead_letter_objects()), replicas).await
}

async fn create(api: &Api, mut config: Value, replicas: usize) -> Result<(), StoreError> {
    let name = config["name"].as_str().unwrap_or_default().to_owned();
    let during = |failure: Failure| failure.during(format!("create stream {name}"));
    match api.info(&name).await {
        Ok(found) => {
            serves(&name, &config, &found["config"])?;
            let (wanted, found) = (&config["max_age"], &found["config"]["max_age"]);
            if *wanted != json!(0) && wanted != found && !WARNED.swap(true, Ordering::Relaxed) {
                tracing::warn!(stream = name, max_age = %found, "lease bucket has another max age, taking over takes longer");
            }
            return Ok(());
        }
        Err(failure) if failure.is(code::STREAM_NOT_FOUND) => {}
        Err(failure) => return Err(during(failure)),
    }
    config["num_replicas"] = json!(replicas);
    config["metadata"] = json!(metadata(None));
    match api.call::<Value>(&format!("STREAM.CREATE.{name}"), config).await {
        Ok(_) => {
            tracing::info!(stream = name, "created");
            Ok(())
        }
        // Somebody else was faster.
        Err(failure) if failure.is(code::STREAM_NAME_IN_USE) => Ok(()),
        Err(failure) => Err(during(failure)),
    }
}

/// Whether what exists under that name can do what we need of it; refused by name where it cannot.
fn serves(name: &str, wanted: &Value, found: &Value) -> Result<(), StoreError> {
    let subjects = |config: &Value| field::<Vec<String>>(config, "/subjects").unwrap_or_default();
    let heard = subjects(found);
    let deaf: Vec<String> = subjects(wanted).into_iter().filter(|wanted| !heard.iter().any(|pattern| covers(pattern, wanted))).collect();
    let rename = "remove it, or give ours another name under `names` in the settings";
    let why = if let Some(of) = found["mirror"]["name"].as_str() {
        format!("it is a mirror of {of}, and nothing can be written to it ({rename})")
    } else if found["sealed"] == json!(true) {
        format!("it is sealed, and nothing can be written to it any more ({rename})")
    } else if !deaf.is_empty() {
        format!("it does not listen on {} ({rename}, or add the subject: `nats stream edit {name} --subjects=…`)", deaf.join(", "))
    } else if found["retention"] != wanted["retention"] {
        format!("its retention is {}, and what lies in it would go by itself ({rename})", found["retention"].as_str().unwrap_or("unknown"))
    } else {
        return Ok(());
    };
    Err(StoreError::new(StoreErrorKind::Refused, format!("stream {name} cannot serve: {why}")))
}

/// A KV bucket, as every client library makes them. `max_age` in nanoseconds, 0 for none.
fn bucket(name: &str, history: u32, max_age: u64) -> Value {
    let two_minutes = 120_000_000_000;
    json!({
        "name": format!("KV_{name}"),
        "subjects": [format!("$KV.{name}.>")],
        "retention": "limits",
        "storage": "file",
        "discard": "new",
        "max_msgs_per_subject": history,
        "max_msgs": -1,
        "max_bytes": -1,
        "max_consumers": -1,
        "max_msg_size": -1,
        "max_age": max_age,
        // It may not be longer than the max age.
        "duplicate_window": if max_age == 0 { two_minutes } else { max_age.min(two_minutes) },
        "allow_rollup_hdrs": true,
        "deny_delete": true,
        "allow_direct": false,
    })
}

/// The entries' bucket, as the first parent makes it: its clients get keys directly. Nobody needs the right to do so in any
/// other bucket or stream of ours (a direct get publishes the bytes of whoever stored them wherever the asker says, with the
/// server's rights), so those do not answer them at all.
fn entries(names: &Names) -> Value {
    let mut config = bucket(&names.entries(), ENTRIES_HISTORY, 0);
    config["allow_direct"] = json!(true);
    config
}

/// An Object Store, as every client library makes them.
fn object_store(name: &str) -> Value {
    json!({
        "name": format!("OBJ_{name}"),
        "subjects": [format!("$O.{name}.C.>"), format!("$O.{name}.M.>")],
        "retention": "limits",
        "storage": "file",
        "discard": "new",
        "max_msgs_per_subject": -1,
        "max_msgs": -1,
        "max_bytes": -1,
        "max_consumers": -1,
        "max_msg_size": -1,
        "max_age": 0,
        "allow_rollup_hdrs": true,
        "allow_direct": false,
    })
}

/// The dead letters: a second copy under one identity is refused, for ever.
fn dead_letters(names: &Names) -> Value {
    json!({
        "name": names.dead_letters(),
        "subjects": [names.dead_letter_subjects()],
        "retention": "limits",
        "storage": "file",
        "discard": "new",
        "discard_new_per_subject": true,
        "max_msgs_per_subject": 1,
        "max_msgs": -1,
        "max_bytes": -1,
        "max_consumers": -1,
        "max_msg_size": -1,
        "max_age": 0,
        "allow_direct": false,
    })
}
