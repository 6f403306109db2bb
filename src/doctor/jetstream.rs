//! JetStream, as `sluice doctor` sees it: whether what has to be created could be, whether what is there can serve, and
//! whether a dead letter would be taken.
//!
//! Reads only. What the account allows is compared with what the settings and configs ask for.

use super::{Finding, unread};
use crate::pipeline::config::{DEFAULT_MAX_ACK_PENDING, LintContext, lint};
use crate::pipeline::entry::Entry;
use crate::pipeline::id::PipelineId;
use crate::pipeline::jetstream::remedy;
use crate::store::{PipelineStream, Store, StoreErrorKind};
use serde_json::{Value, json};

/// What the headers of a dead letter may measure, without those of the original.
const LETTER: i64 = 4096;

/// What the account allows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Account {
    max_bytes_required: bool,
    /// 0 or less: no limit, as with those below.
    max_ack_pending: i64,
    streams_left: Option<i64>,
}

impl Account {
    fn of(info: &Value) -> Self {
        let limits = &info["limits"];
        let most = limits["max_streams"].as_i64().filter(|most| *most > 0);
        Self {
            max_bytes_required: limits["max_bytes_required"] == json!(true),
            max_ack_pending: limits["max_ack_pending"].as_i64().unwrap_or(-1),
            streams_left: most.map(|most| most - info["streams"].as_i64().unwrap_or_default()),
        }
    }

    /// Why a stream that is not there could not be created.
    fn refuses(&self, about: &str, stream: &str) -> Option<Finding> {
        let code = match self {
            Self { max_bytes_required: true, .. } => 10113,
            Self { streams_left: Some(..=0), .. } => 10027,
            _ => return None,
        };
        Some(Finding::wrong(
            about,
            format!("stream {stream} is not there and cannot be created (error {code})"),
            remedy(code).unwrap_or_default(),
        ))
    }
}

/// The account, and what is to be said of the buckets and of the dead letters.
pub(super) async fn examine(store: &Store) -> (Account, Vec<Finding>) {
    let mut findings = Vec::new();
    let account = match store.streams.account().await {
        Ok(info) => Account::of(&info),
        Err(error) => {
            let remedy = "allow `$JS.API.INFO` to see whether streams could be created; all else is looked at without";
            findings.push(Finding::doubtful("account", error.to_string(), remedy));
            Account::default()
        }
    };
    match store.look_at_buckets().await {
        Ok(buckets) => {
            for (name, state) in buckets {
                match state {
                    Ok(true) => {}
                    Ok(false) => findings.extend(account.refuses(&format!("stream {name}"), &name)),
                    Err(error) => {
                        findings.push(Finding::wrong(format!("stream {name}"), error.to_string(), "do what stands in parentheses"))
                    }
                }
            }
        }
        Err(error) => findings.push(unread("buckets", &error)),
    }
    match store.streams.configuration(&store.names.dead_letters()).await {
        Ok((config, state)) => findings.extend(letters(&store.names.dead_letters(), &config, &state)),
        Err(error) if error.kind() == StoreErrorKind::Missing => {}
        Err(error) => findings.push(unread("dead letters", &error)),
    }
    (account, findings)
}

fn letters(name: &str, config: &Value, state: &Value) -> Option<Finding> {
    let number = |value: &Value| value.as_i64().unwrap_or_default();
    let largest = number(&config["max_msg_size"]);
    if (1..LETTER).contains(&largest) {
        let message =
            format!("stream {name} takes messages of {largest} bytes, and the headers of a dead letter may have {LETTER} (error 10054)");
        return Some(Finding::wrong("dead letters", message, remedy(10054).unwrap_or_default()));
    }
    for (limit, used) in [("max_bytes", "bytes"), ("max_msgs", "messages")] {
        let most = number(&config[limit]);
        if most > 0 && number(&state[used]) >= most {
            let message = format!("stream {name} is full: {limit} is {most} (error 10077)");
            return Some(Finding::wrong("dead letters", message, remedy(10077).unwrap_or_default()));
        }
    }
    None
}

/// Why the durable that a pipeline's stream lacks could not be created, or why the stream could not.
pub(super) async fn creatable(
    store: &Store,
    account: &Account,
    id: &PipelineId,
    about: &str,
    name: &str,
    stream: Option<&PipelineStream>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    match stream {
        Some(stream) if stream.consumer.is_some() => return findings,
        Some(_) => {
            let others = store.streams.consumers(name).await;
            if !others.is_empty() {
                let message = format!("stream {name} is read by {}, and a work queue has one reader (error 10099)", others.join(", "));
                findings.push(Finding::wrong(about, message, remedy(10099).unwrap_or_default()));
            }
        }
        None => findings.extend(account.refuses(about, name)),
    }
    let wanted = wanted(store, id).await;
    if account.max_ack_pending > 0 && (wanted <= 0 || wanted > account.max_ack_pending) {
        let asked = if wanted <= 0 { "no limit".to_owned() } else { wanted.to_string() };
        let message = format!("max_ack_pending is to be {asked}, and the account allows {} (error 10121)", account.max_ack_pending);
        findings.push(Finding::wrong(about, message, remedy(10121).unwrap_or_default()));
    }
    findings
}

/// The `max_ack_pending` that the pipeline's config asks for; the default where it cannot be read.
async fn wanted(store: &Store, id: &PipelineId) -> i64 {
    let config = async {
        let entry = store.entries.get(id).await.ok()??;
        let version = Entry::parse(&entry.value).ok()?.version?;
        let stored = store.configs.get(id, &version).await.ok()?;
        lint(version.as_str(), &stored.bytes, &LintContext::default()).0?.input.max_ack_pending
    };
    config.await.unwrap_or(DEFAULT_MAX_ACK_PENDING)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_account_does_not_allow_is_found_before_it_is_tried() {
        let account = |limits: Value| Account::of(&json!({ "limits": limits, "streams": 3 }));
        assert_eq!(account(json!({ "max_streams": -1, "max_ack_pending": -1 })).refuses("p", "s"), None);
        assert!(account(json!({ "max_bytes_required": true })).refuses("p", "s").unwrap().message.contains("10113"));
        assert!(account(json!({ "max_streams": 3 })).refuses("p", "s").unwrap().message.contains("10027"));
        assert_eq!(account(json!({ "max_streams": 4 })).refuses("p", "s"), None);
    }

    #[test]
    fn dead_letters_that_would_not_be_taken_are_found() {
        let found = |config: Value, state: Value| letters("d", &config, &state).map(|finding| finding.message);
        assert_eq!(found(json!({ "max_msg_size": -1, "max_bytes": -1 }), json!({ "bytes": 5 })), None);
        assert!(found(json!({ "max_msg_size": 500 }), json!({})).unwrap().contains("10054"));
        assert!(found(json!({ "max_bytes": 5 }), json!({ "bytes": 5 })).unwrap().contains("10077"));
    }
}
