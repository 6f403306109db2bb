//! What in a stream's configuration may delete messages that nobody has acknowledged. Pure; asked at each look at a
//! pipeline's stream.

use serde_json::{Value, json};
use std::time::Duration;

/// The settings of a stream by which it may delete messages that nobody has acknowledged.
pub(super) fn unsafe_settings(config: &Value) -> Vec<String> {
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
    for flag in ["allow_msg_ttl", "allow_rollup_hdrs"] {
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
        assert_eq!(unsafe_settings(&config), expected);
        let refusing = json!({ "discard": "new", "discard_new_per_subject": true, "max_msgs": 10, "max_msgs_per_subject": 1 });
        assert!(unsafe_settings(&refusing).is_empty());
        let unlimited = json!({ "discard": "old", "max_msgs": -1, "max_bytes": -1 });
        assert_eq!(unsafe_settings(&unlimited), ["discard old, which deletes once somebody sets a limit"]);
    }
}
