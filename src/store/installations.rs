//! Which installations a NATS account holds, so that a typo in a namespace is answered by the names that are there.
//!
//! An installation is known by its status bucket. Only reads, and only for a message: a user who may not list streams is
//! told of none.

use super::Store;
use super::api::Api;
use serde::Deserialize;
use serde_json::json;
use std::time::Duration;

/// How long the answer may take: it is only needed for a message.
const LIST_TIMEOUT: Duration = Duration::from_secs(2);
/// Pages that are read at most, of 1024 streams each.
const MOST_PAGES: usize = 20;

#[derive(Deserialize)]
struct Names {
    #[serde(default)]
    total: usize,
    streams: Option<Vec<String>>,
}

impl Store {
    /// The namespaces of the installations in this account, sorted; empty where streams may not be listed. Buckets that were
    /// given another name than `{ns}-status` in the settings are not found.
    pub async fn installations(&self) -> Vec<String> {
        let api = Api::new(self.client.clone()).with_timeout(LIST_TIMEOUT);
        let (mut found, mut offset) = (Vec::new(), 0);
        for _ in 0..MOST_PAGES {
            let Ok(page) = api.call::<Names>("STREAM.NAMES", json!({ "subject": "$KV.*.*", "offset": offset })).await else { break };
            let names = page.streams.unwrap_or_default();
            offset += names.len();
            let namespace = |name: &String| Some(name.strip_prefix("KV_")?.strip_suffix("-status")?.to_owned());
            found.extend(names.iter().filter_map(namespace));
            if names.is_empty() || offset >= page.total {
                break;
            }
        }
        found.sort_unstable();
        found
    }
}
