//! The stream of the dead letters as those read it who look after them: message by message, with every value of every header,
//! by requests alone (see [`super::one_by_one`]). The CLI calls it.

use super::api::{Api, Raw};
use super::error::StoreError;
use super::one_by_one::AT_ONCE;
use async_nats::jetstream::message::StreamMessage;
use async_nats::{Client, HeaderMap, HeaderName, HeaderValue};
use futures_util::{StreamExt as _, TryStreamExt as _};
use serde_json::{Value, json};
use std::time::SystemTime;

/// The stream of the dead letters.
#[derive(Clone)]
pub struct LetterStream {
    api: Api,
    stream: String,
}

impl LetterStream {
    pub(super) fn new(client: Client, stream: &str) -> Self {
        Self { api: Api::new(client), stream: stream.to_owned() }
    }

    /// The message with this sequence, as the stream's leader has it.
    pub async fn at(&self, sequence: u64) -> Result<Option<StreamMessage>, StoreError> {
        self.get(json!({ "seq": sequence })).await
    }

    /// The newest message on `subject`, as the stream's leader has it.
    pub async fn last(&self, subject: &str) -> Result<Option<StreamMessage>, StoreError> {
        self.get(json!({ "last_by_subj": subject })).await
    }

    /// The newest message of each subject that matches `filter`, in no order. `take` keeps what it needs of each.
    pub async fn each<T>(&self, filter: &str, mut take: impl FnMut(StreamMessage) -> T) -> Result<Vec<T>, StoreError> {
        let subjects = self.api.subjects(&self.stream, filter).await.map_err(|failure| failure.during(self.reading()))?;
        let mut taken = Vec::with_capacity(subjects.len());
        let asked = subjects.into_iter().map(|subject| async move { self.last(&subject).await });
        let mut answers = futures_util::stream::iter(asked).buffer_unordered(AT_ONCE);
        while let Some(found) = answers.try_next().await? {
            taken.extend(found.map(&mut take));
        }
        Ok(taken)
    }

    async fn get(&self, query: Value) -> Result<Option<StreamMessage>, StoreError> {
        let found = self.api.raw(&self.stream, query).await.map_err(|failure| failure.during(self.reading()))?;
        Ok(found.map(message))
    }

    fn reading(&self) -> String {
        format!("read the dead letters in {}", self.stream)
    }
}

fn message(raw: Raw) -> StreamMessage {
    StreamMessage {
        subject: raw.subject.into(),
        sequence: raw.sequence,
        headers: headers(&raw.headers),
        payload: raw.payload,
        time: SystemTime::from(raw.time).into(),
    }
}

/// Every header that can be one; a line that is none was not written by Sluice.
fn headers(raw: &[u8]) -> HeaderMap {
    let mut map = HeaderMap::new();
    let text = String::from_utf8_lossy(raw);
    for (name, value) in text.split("\r\n").filter_map(|line| line.split_once(':')) {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.trim().parse::<HeaderValue>()) {
            map.append(name, value);
        }
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_of_a_header_is_kept_and_what_is_none_is_left_out() {
        let read = headers(b"NATS/1.0\r\nTrace: a\r\nTrace: b: c\r\nMy Header: x\r\nno colon\r\nLast:\xe9\r\n\r\n");
        let trace: Vec<_> = read.get_all("Trace").map(|value| value.as_str().to_owned()).collect();
        assert_eq!(trace, ["a", "b: c"]);
        assert_eq!(read.get("Last").unwrap().as_str(), "\u{fffd}");
        assert_eq!(read.len(), 2, "{read:?}");
    }
}
