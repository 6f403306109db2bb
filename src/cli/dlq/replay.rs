//! One dead letter into its pipeline's stream again, and out of the dead letters once the stream has acknowledged it.
//!
//! What makes it idempotent, wherever it is interrupted and however often it is done:
//! - The document's identity is not the new message's but the one that the letter names: `Sluice-Replay-Of` hands it on,
//!   through any number of refusals, and the collector takes it for the `_id`. Should the original message, or an earlier
//!   replay, be stored as well, it meets the same `_id`: one document.
//! - The `Nats-Msg-Id` is made of the letter itself, its identity, sequence and time, and not of the message: a repeat is
//!   one message within the stream's duplicate window, and a letter that was refused again is another one. The original
//!   id would not do: within the window the stream would acknowledge what it then throws away.
//! - A refused replay is a dead letter under an identity of its own, since its message id differs: it never meets the
//!   letter that is about to be removed, which would count as stored and then be gone.
//! - The letter is removed by its sequence: one that came after it under the same identity stays.
//!
//! Time-series collections have no unique `_id`: there a repeat after the duplicate window can store a measurement twice.

use super::super::failure::{Exit, Failure};
use super::letters::{Letters, object_of, payload};
use super::select::LetterName;
use crate::collector::identity::{REPLAY_OF, is_hex};
use crate::store::Store;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::{PublishMessage, StreamMessage};
use async_nats::jetstream::{Context as JetStream, publish::PublishAck};
use async_nats::{HeaderMap, HeaderName};
use bytes::Bytes;
use std::time::Duration;

/// How often a letter is sent at all.
const TRIES: u32 = 5;
/// The headers of the original message, in the letter.
const ORIGINAL: &str = "Sluice-Original-";

/// Where letters go.
pub struct Replay<'a> {
    pub store: &'a Store,
    pub jetstream: JetStream,
    pub letters: &'a Letters,
    /// The pipeline's subject.
    pub subject: String,
    /// The pipeline's stream: another that listens on the subject is not to take it.
    pub stream: String,
}

/// What came of one letter.
#[derive(Debug)]
pub enum Done {
    /// It is in the pipeline's stream, or it is dropped.
    Yes,
    /// It was in the pipeline's stream already: an earlier replay was interrupted before it removed the letter.
    Repeated,
    /// Somebody else removed it.
    Gone,
}

/// Why one letter stays where it is.
#[derive(Debug)]
pub enum Trouble {
    /// It is about this letter.
    Letter(Failure),
    /// It would be the same with every other letter.
    All(Failure),
}

impl Replay<'_> {
    /// Replays the letter with this sequence.
    pub async fn one(&self, sequence: u64) -> Result<Done, Trouble> {
        let found = self.letters.find(&LetterName::Sequence(sequence)).await.map_err(Trouble::All)?;
        let Some(letter) = found else { return Ok(Done::Gone) };
        let payload = payload(self.store, &letter).await.map_err(Trouble::Letter)?;
        let ack = match self.publish(message(&letter, &self.stream, true), &payload).await {
            // Its own headers may be what is too much.
            Err(error) if error.kind() == PublishErrorKind::MaxPayloadExceeded => {
                self.publish(message(&letter, &self.stream, false), &payload).await
            }
            result => result,
        };
        let ack = ack.map_err(|error| self.trouble(&letter, &error))?;
        remove(self.store, self.letters, &letter, Some(&payload)).await.map_err(Trouble::All)?;
        Ok(if ack.duplicate { Done::Repeated } else { Done::Yes })
    }

    /// Publishes until it is acknowledged, under the same id where no answer comes.
    async fn publish(&self, headers: HeaderMap, payload: &Bytes) -> Result<PublishAck, PublishError> {
        let mut tries = 1;
        loop {
            let message = PublishMessage::build().headers(headers.clone()).payload(payload.clone());
            let result = match self.jetstream.send_publish(self.subject.clone(), message).await {
                Ok(ack) => ack.await,
                Err(error) => Err(error),
            };
            match result {
                // That nobody listens can pass too: for a moment after a server's restart nobody does.
                Err(error) if tries < TRIES && unreachable(&error) => {
                    tokio::time::sleep(Duration::from_millis(100 << tries)).await;
                    tries += 1;
                }
                result => return result,
            }
        }
    }

    fn trouble(&self, letter: &StreamMessage, error: &PublishError) -> Trouble {
        let source = std::error::Error::source(error).map_or(String::new(), |source| format!(": {source}"));
        let refused = |exit, remedy: &str| {
            Failure::new(exit, format!("dead letter {} was not taken by '{}': {error}{source} ({remedy})", letter.sequence, self.subject))
        };
        match error.kind() {
            PublishErrorKind::StreamNotFound => Trouble::All(refused(
                Exit::NotFound,
                "the pipeline has no stream, or it is closed since the pipeline is being deleted: publish the pipeline first",
            )),
            PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe => Trouble::All(refused(Exit::Unreachable, "is NATS running?")),
            PublishErrorKind::MaxPayloadExceeded => Trouble::Letter(refused(
                Exit::Invalid,
                "with the headers of a replay it is larger than the server's max_payload: raise that by 1 KiB",
            )),
            _ => Trouble::Letter(refused(Exit::Failed, "look at the limits and subjects of the pipeline's stream")),
        }
    }
}

fn unreachable(error: &PublishError) -> bool {
    matches!(error.kind(), PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe | PublishErrorKind::StreamNotFound)
}

/// The headers of a replayed letter: the original's where `originals`, without those that mean something to NATS.
fn message(letter: &StreamMessage, stream: &str, originals: bool) -> HeaderMap {
    let identity = letter.subject.rsplit('.').next().unwrap_or_default();
    let mut headers = HeaderMap::new();
    for (name, values) in letter.headers.iter().filter(|_| originals) {
        let Some(original) = AsRef::<str>::as_ref(name).strip_prefix(ORIGINAL) else { continue };
        // Nats-Expected-…, Nats-TTL and Nats-Rollup would do again what they did once.
        if original.to_ascii_lowercase().starts_with("nats-") {
            continue;
        }
        let Ok(name) = original.parse::<HeaderName>() else { continue };
        // What stands for bytes that are no text is not what was sent.
        let text = values.iter().filter(|value| !value.as_str().contains('\u{fffd}'));
        text.for_each(|value| headers.append(name.clone(), value.clone()));
    }
    let before = letter.headers.get(format!("{ORIGINAL}{REPLAY_OF}").as_str()).map(|value| value.as_str());
    headers.insert(REPLAY_OF, before.filter(|before| is_hex(before)).unwrap_or(identity));
    headers.insert("Nats-Expected-Stream", stream);
    headers.insert("Nats-Msg-Id", format!("sluice-replay-{identity}-{}-{}", letter.sequence, letter.time.unix_timestamp_nanos()));
    headers
}

/// Removes a letter, and the object with its payload if it has one. `false` where it was gone already.
pub async fn remove(store: &Store, letters: &Letters, letter: &StreamMessage, payload: Option<&Bytes>) -> Result<bool, Failure> {
    let removed = letters.delete(letter.sequence).await?;
    let Ok(Some(object)) = object_of(letter) else { return Ok(removed) };
    // The object bears the identity's name: the same message, refused anew meanwhile, needs it again.
    if !letters.is_there(object).await? {
        store.payloads.remove(object).await?;
        if let Some(payload) = payload
            && letters.is_there(object).await?
        {
            store.payloads.restore(object, payload).await?;
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: &str = "65f0a1b2c3d4e5f601234567";

    fn letter(headers: &[(&str, &str)]) -> StreamMessage {
        let mut map = HeaderMap::new();
        headers.iter().for_each(|(name, value)| map.append(*name, *value));
        let time = std::time::SystemTime::UNIX_EPOCH.into();
        StreamMessage { subject: format!("alpha-dlq.metrics.{IDENTITY}").into(), sequence: 7, headers: map, payload: Bytes::new(), time }
    }

    #[test]
    fn a_replay_has_the_original_headers_but_for_those_that_steer_nats() {
        let letter = letter(&[
            ("Sluice-Reason", "refused"),
            ("Sluice-Original-Trace", "a"),
            ("Sluice-Original-Trace", "b"),
            ("Sluice-Original-Nats-Msg-Id", "m1"),
            ("Sluice-Original-nats-rollup", "all"),
            ("Sluice-Original-Name", "caf\u{fffd}e9"),
            ("Sluice-Unreadable-Headers", "TmFtZTogY2Fm6Qo="),
        ]);
        let headers = message(&letter, "alpha_metrics", true);
        assert_eq!(headers.get_all("Trace").count(), 2);
        assert_eq!(headers.get("Nats-Msg-Id").unwrap().as_str(), format!("sluice-replay-{IDENTITY}-7-0"));
        assert_eq!(headers.get("Nats-Expected-Stream").unwrap().as_str(), "alpha_metrics");
        assert_eq!((headers.len(), headers.get(REPLAY_OF).unwrap().as_str()), (4, IDENTITY));
        assert_eq!(message(&letter, "alpha_metrics", false).len(), 3);
    }

    #[test]
    fn a_document_keeps_its_first_identity_however_often_it_is_refused() {
        let first = "0123456789abcdef01234567";
        let again = letter(&[("Sluice-Original-Sluice-Replay-Of", first)]);
        for originals in [true, false] {
            assert_eq!(message(&again, "s", originals).get(REPLAY_OF).unwrap().as_str(), first);
        }
        let hostile = letter(&[("Sluice-Original-Sluice-Replay-Of", "x")]);
        assert_eq!(message(&hostile, "s", true).get(REPLAY_OF).unwrap().as_str(), IDENTITY);
    }
}
