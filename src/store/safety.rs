//! What in a stream's configuration may lose messages that were acknowledged to their publishers. Pure; asked at each look at
//! a stream. `docs/safe-places.md` says it of every field.

use serde_json::{Value, json};
use std::time::Duration;

/// The settings of a pipeline's stream by which it may lose messages that nobody has acknowledged to it. `info`: what
/// `STREAM.INFO` says.
pub(super) fn unsafe_settings(info: &Value) -> Vec<String> {
    let mut found = deleting(&info["config"]);
    found.extend(forgetting(info));
    found
}

/// The same of the stream of the dead letters, which nobody acknowledges anything to: they stay until somebody drops them.
pub(super) fn unsafe_for_dead_letters(info: &Value) -> Vec<String> {
    let config = &info["config"];
    let mut found = deleting(config);
    if config["retention"] != "limits" {
        let retention = config["retention"].as_str().unwrap_or_default();
        found.push(format!("retention {retention}, by which reading a dead letter deletes it, or nobody's interest does"));
    }
    found.extend(forgetting(info));
    found
}

/// The same of a bucket, from which values may go: by an age that is not `max_age`, and in an outage.
pub(super) fn unsafe_for_a_bucket(info: &Value) -> Vec<String> {
    let mut found = forgetting(info);
    if let Some(age) = info["config"]["max_age"].as_i64().filter(|age| *age > 0) {
        found.push(format!("max_age {}", humantime::format_duration(Duration::from_nanos(age.unsigned_abs()))));
    }
    found
}

/// Settings by which the server confirms what it does not keep.
fn forgetting(info: &Value) -> Vec<String> {
    let config = &info["config"];
    let mut found = Vec::new();
    if config["storage"] == "memory" {
        found.push("storage memory, which is empty once its server has restarted".to_owned());
    }
    if config["persist_mode"] == "async" {
        found.push("persist_mode async, which confirms what is not written yet".to_owned());
    }
    if config["no_ack"] == json!(true) {
        found.push("no_ack, by which no publish is ever confirmed: its publisher cannot know that it has to repeat it".to_owned());
    }
    // A server that is no member of a cluster has no name of one.
    let cluster = info["cluster"]["name"].as_str().unwrap_or_default();
    if !cluster.is_empty() && config["num_replicas"].as_i64().unwrap_or(1) < 2 {
        found.push(format!("num_replicas 1 in the cluster {cluster}: what it holds is gone with its node"));
    }
    found
}

/// Settings by which the server deletes what it has confirmed.
fn deleting(config: &Value) -> Vec<String> {
    let number = |name: &str| config[name].as_i64().unwrap_or_default();
    let is = |name: &str| config[name] == json!(true);
    let mut found = Vec::new();
    if config["discard"] != "new" {
        for limit in ["max_msgs", "max_bytes"] {
            if number(limit) > 0 {
                found.push(format!("discard old with {limit} {}", number(limit)));
            }
        }
        if found.is_empty() {
            found.push("discard old, which deletes once somebody sets a limit".to_owned());
        }
    }
    if number("max_age") > 0 {
        found.push(format!("max_age {}", humantime::format_duration(Duration::from_nanos(number("max_age").unsigned_abs()))));
    }
    // With discard new alone the oldest of a subject still goes.
    if number("max_msgs_per_subject") > 0 && !(config["discard"] == "new" && is("discard_new_per_subject")) {
        found.push(format!("max_msgs_per_subject {}", number("max_msgs_per_subject")));
    }
    for flag in ["allow_msg_ttl", "allow_rollup_hdrs", "allow_msg_schedules"] {
        if is(flag) {
            found.push(flag.to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_lose_messages_silently_is_named() {
        let unsafe_settings = |config: Value| unsafe_settings(&json!({ "config": config }));
        let config = json!({
            "discard": "old", "max_msgs": 10, "max_bytes": 20, "max_age": 60_000_000_000_u64, "max_msgs_per_subject": 1,
            "allow_msg_ttl": true, "allow_rollup_hdrs": true,
        });
        let expected = [
            "discard old with max_msgs 10",
            "discard old with max_bytes 20",
            "max_age 1m",
            "max_msgs_per_subject 1",
            "allow_msg_ttl",
            "allow_rollup_hdrs",
        ];
        assert_eq!(unsafe_settings(config), expected);
        let refusing = json!({ "discard": "new", "discard_new_per_subject": true, "max_msgs": 10, "max_msgs_per_subject": 1 });
        assert!(unsafe_settings(refusing).is_empty());
        let unlimited = json!({ "discard": "old", "max_msgs": -1, "max_bytes": -1 });
        assert_eq!(unsafe_settings(unlimited), ["discard old, which deletes once somebody sets a limit"]);
    }

    #[test]
    fn every_way_to_confirm_what_is_not_kept_is_named() {
        let safe = json!({ "discard": "new", "storage": "file", "num_replicas": 1, "retention": "limits", "persist_mode": "default" });
        let of = |change: Value, cluster: &str| {
            let mut config = safe.clone();
            change.as_object().unwrap().iter().for_each(|(name, value)| config[name] = value.clone());
            json!({ "config": config, "cluster": { "name": cluster, "leader": "n1" } })
        };
        for judge in [unsafe_settings, unsafe_for_dead_letters, unsafe_for_a_bucket] {
            assert!(judge(&of(json!({}), "")).is_empty());
            for (change, says) in [
                (json!({ "storage": "memory" }), "storage memory"),
                (json!({ "persist_mode": "async" }), "persist_mode async"),
                (json!({ "no_ack": true }), "no_ack"),
                (json!({ "max_age": 1_000_000_000 }), "max_age 1s"),
            ] {
                let found = judge(&of(change, ""));
                assert!(found.len() == 1 && found[0].contains(says), "{found:?}");
            }
            assert!(judge(&of(json!({}), "C1"))[0].contains("num_replicas 1 in the cluster C1"));
            assert!(judge(&of(json!({ "num_replicas": 3 }), "C1")).is_empty());
        }
        assert!(unsafe_for_dead_letters(&of(json!({ "retention": "interest" }), ""))[0].contains("retention interest"));
    }
}
