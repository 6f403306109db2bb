//! Reads many messages of a stream by requests alone, `STREAM.INFO` and `STREAM.MSG.GET`: for people and CI, who have no
//! right to consumers. nats-server sends what a consumer says, the empty message that nothing is left included, wherever a
//! pull asks for it and with its own rights: to `$JS.API.STREAM.DELETE.…` too. These requests answer in JSON.
//!
//! Called for the CLI; a controller, which may delete streams anyway, reads by [`super::collect`], which is faster.

use super::api::{Api, Failure, Stored, field};
use super::collect::Which;
use futures_util::{StreamExt as _, TryStreamExt as _};
use serde_json::json;
use std::collections::BTreeMap;

/// Requests that wait for their answers at the same time.
pub(super) const AT_ONCE: usize = 64;

impl Api {
    /// The subjects of the messages in `stream` that match `filter`.
    pub async fn subjects(&self, stream: &str, filter: &str) -> Result<Vec<String>, Failure> {
        let mut found: BTreeMap<String, u64> = BTreeMap::new();
        loop {
            let query = json!({ "subjects_filter": filter, "offset": found.len() });
            let info = self.call(&format!("STREAM.INFO.{stream}"), query).await?;
            let page: Option<BTreeMap<String, u64>> = field(&info, "/state/subjects")?;
            let before = found.len();
            found.extend(page.unwrap_or_default());
            // The server answers a page at a time; the last one brings nothing new.
            if found.len() == before || info["total"].as_u64().is_none_or(|total| found.len() as u64 >= total) {
                return Ok(found.into_keys().collect());
            }
        }
    }

    /// As [`Api::collect`], without a consumer.
    pub async fn collect_one_by_one(&self, stream: &str, filter: &str, which: Which) -> Result<Vec<Stored>, Failure> {
        let mut messages = Vec::new();
        match which {
            Which::Newest => {
                let subjects = self.subjects(stream, filter).await?;
                let asked = subjects.into_iter().map(|subject| async move { self.last(stream, &subject).await });
                let mut answers = futures_util::stream::iter(asked).buffer_unordered(AT_ONCE);
                while let Some(found) = answers.try_next().await? {
                    messages.extend(found);
                }
                messages.sort_by_key(|message| message.sequence);
            }
            Which::All => {
                let mut from = 1;
                while let Some(message) = self.message(stream, json!({ "seq": from, "next_by_subj": filter })).await? {
                    from = message.sequence + 1;
                    messages.push(message);
                }
            }
        }
        Ok(messages)
    }
}
