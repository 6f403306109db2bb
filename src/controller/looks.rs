//! Looks at the pipelines' streams now and then, those of paused pipelines above all, which nobody reads: whether one came
//! back empty, or without its tail, and whether somebody changed it so that it may lose what it confirms.
//!
//! What always holds: a loss is said only where it was seen twice, [`AGAIN`] apart, since a server that leads and has not
//! caught up yet, or leads no more, answers with what was; what an execution reads is judged by its sequences alone, as what
//! waited in it may have been read. The holder looks; what it saw is kept in the status.

use super::Controller;
use super::desire::Finding;
use super::memory::Memory;
use crate::pipeline::backoff::jittered;
use crate::pipeline::id::PipelineId;
use crate::pipeline::status::{ConditionType, Kept, Phase, PipelineStatus, Reason, StreamLoss, StreamSeen};
use crate::store::{Glimpse, StoreError};
use futures_util::future::join_all;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// How often it is looked for streams that are due, and whether the connection is another one.
const TICK: Duration = Duration::from_secs(5);
/// How often the stream of a pipeline is looked at that nobody reads, and that of one whose executions look themselves.
const IDLE: Duration = Duration::from_secs(30);
const READ: Duration = Duration::from_secs(300);
/// How soon a stream that seems to have lost something is looked at again, at least.
const AGAIN: Duration = Duration::from_secs(10);
/// So many at once, and the pause after them: 50 a second.
const AT_ONCE: usize = 10;
const PAUSE: Duration = Duration::from_millis(200);

/// What is remembered of a pipeline's stream.
#[derive(Debug, Clone, Default)]
pub(super) struct Looked {
    /// When it was last looked at, on which connection.
    at: Option<(Instant, u64)>,
    seen: Option<StreamSeen>,
    /// Since when it seems to have lost something.
    doubt: Option<Instant>,
    /// What it has lost, until that is in the status.
    lost: Option<String>,
}

/// What a look says.
#[derive(Debug, PartialEq, Eq)]
enum Judged {
    /// As it was, or further.
    Same,
    /// It lost something, for people.
    Lost(String),
    /// Another one that lost nothing as far as anybody knows.
    Other,
}

/// `read`: executions read it, so that what waited when it was last seen may have been stored since.
fn judge(name: &str, before: &StreamSeen, now: Option<&StreamSeen>, read: bool) -> Judged {
    match now {
        Some(now) if now.created == before.created && now.last < before.last => Judged::Lost(format!(
            "stream {name} had given the sequence {} and ends at {} now: the newest {} messages that it had confirmed are gone",
            before.last,
            now.last,
            before.last - now.last
        )),
        Some(now) if now.created == before.created => Judged::Same,
        _ if read || before.messages == 0 => Judged::Other,
        Some(now) => Judged::Lost(format!(
            "stream {name} was made anew at {}: {} messages waited in the one before it when it was last looked at",
            now.created, before.messages
        )),
        None => Judged::Lost(format!("stream {name} is gone: {} messages waited in it when it was last looked at", before.messages)),
    }
}

impl Controller {
    /// Looks until `stop`.
    pub(super) async fn look_at_streams(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(jittered(TICK, rand::random())) => {}
                () = stop.cancelled() => return,
            }
            if self.holding.epoch().is_none() || !self.deps.store.connected() {
                continue;
            }
            let due = self.due(Instant::now(), self.deps.store.connects());
            for some in due.chunks(AT_ONCE) {
                join_all(some.iter().map(|(id, stream)| self.look_at_stream(id, stream))).await;
                tokio::select! {
                    () = tokio::time::sleep(PAUSE) => {}
                    () = stop.cancelled() => return,
                }
            }
        }
    }

    /// The pipelines whose streams are to be looked at, with the streams.
    fn due(&self, now: Instant, connects: u64) -> Vec<(PipelineId, String)> {
        let is_due = |memory: &Memory, phase: Phase| match memory.looked.at {
            None => true,
            Some((_, on)) if on != connects => true,
            Some((at, _)) if memory.looked.doubt.is_some() => now >= at + AGAIN,
            Some((at, _)) => now >= at + if reads(phase) { READ } else { IDLE },
        };
        let memory = self.memory();
        let all = memory.iter().filter_map(|(id, memory)| {
            let status = memory.status()?;
            let stream = status.kept.stream.clone()?;
            // While it is being deleted, all of that is on purpose.
            let lives = status.kept.drain_started.is_none() && status.desired.status != "deleted";
            (lives && is_due(memory, status.admitted.phase)).then(|| (id.clone(), stream))
        });
        all.collect()
    }

    async fn look_at_stream(&self, id: &PipelineId, stream: &str) {
        let connects = self.deps.store.connects();
        let glimpse: Result<Option<Glimpse>, StoreError> = self.deps.store.streams.glimpse(stream).await;
        let glimpse = match glimpse {
            Ok(glimpse) => glimpse,
            Err(error) => {
                debug!(pipeline = %id, %error, "a stream could not be looked at");
                return;
            }
        };
        let now = Instant::now();
        let mut worth_it = false;
        self.recall(id, |memory| {
            let Some(status) = memory.status().cloned() else { return };
            let read = reads(status.admitted.phase);
            let looked = &mut memory.looked;
            looked.at = Some((now, connects));
            let before = looked.seen.or(status.kept.seen);
            let seen = glimpse.as_ref().map(|glimpse| glimpse.seen);
            let judged = before.map_or(Judged::Other, |before| judge(stream, &before, seen.as_ref(), read));
            if let Judged::Lost(message) = judged {
                let since = *looked.doubt.get_or_insert(now);
                if now < since + AGAIN {
                    return;
                }
                warn!(pipeline = %id, message, "a stream has lost what it had confirmed");
                looked.lost = Some(message);
                worth_it = true;
            }
            looked.doubt = None;
            looked.seen = seen.or(looked.seen.filter(|_| glimpse.is_some()));
            // Of what is read the executions know more; of what nobody reads a holder to come must know.
            worth_it |= !read && seen.is_some() && seen != status.kept.seen;
            worth_it |= glimpse.as_ref().is_some_and(|glimpse| differs(&glimpse.unsafe_settings, stream, &status));
        });
        if worth_it {
            self.queue.add(id.clone());
        }
    }

    /// Puts what was seen into what is kept; what the stream has lost, for as long as that is to be said.
    pub(super) fn note_stream(&self, id: &PipelineId, kept: &mut Kept, revision: u64) -> Option<Finding> {
        self.recall(id, |memory| {
            kept.seen = memory.looked.seen.or(kept.seen);
            if let Some(message) = memory.looked.lost.take() {
                kept.seen = memory.looked.seen;
                kept.lost = Some(StreamLoss { revision, message });
            }
        });
        kept.lost.take_if(|lost| lost.revision != revision);
        kept.lost.as_ref().map(|lost| Finding::new(Reason::StreamLostMessages, lost.message.clone()))
    }

    /// Why the dead letters are not safe, as of the last resync.
    pub(super) fn unsafe_letters(&self) -> Vec<String> {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks at the stream of the dead letters; what it says concerns every pipeline.
    pub(super) async fn look_at_dead_letters(&self) {
        let found = match self.deps.store.unsafe_dead_letters().await {
            Ok(found) => found,
            Err(error) => {
                debug!(%error, "the stream of the dead letters could not be looked at");
                return;
            }
        };
        let before = std::mem::replace(&mut *self.letters.lock().unwrap_or_else(PoisonError::into_inner), found.clone());
        if before != found {
            self.memory().change_all(|memory| memory.reconciled = None);
        }
    }
}

/// Whether executions read the stream in this phase.
fn reads(phase: Phase) -> bool {
    matches!(phase, Phase::Run | Phase::Drain | Phase::Switch)
}

/// Whether the status says otherwise than the stream's settings.
fn differs(settings: &[String], stream: &str, status: &PipelineStatus) -> bool {
    let prefix = format!("stream {stream}: ");
    let about = |condition: &&crate::pipeline::status::Condition| {
        condition.kind == ConditionType::Advisory && condition.reason == Reason::StreamUnsafe && condition.message.starts_with(&prefix)
    };
    let said: Vec<_> = status.conditions.iter().filter(about).map(|condition| condition.message[prefix.len()..].to_owned()).collect();
    said.len() != settings.len() || !settings.iter().all(|setting| said.contains(setting))
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;

    #[test]
    fn a_loss_is_a_tail_that_is_gone_or_a_stream_in_which_something_waited_and_that_nobody_read() {
        let seen =
            |created: i64, last: u64, messages: u64| StreamSeen { created: Timestamp::from_second(created).unwrap(), last, messages };
        let lost = |before: StreamSeen, now: Option<StreamSeen>, read: bool| match judge("s", &before, now.as_ref(), read) {
            Judged::Lost(message) => message,
            other => format!("{other:?}"),
        };
        assert_eq!(lost(seen(1, 9, 3), Some(seen(1, 9, 0)), false), "Same");
        assert_eq!(lost(seen(1, 9, 3), Some(seen(1, 12, 6)), true), "Same");
        for read in [false, true] {
            assert!(lost(seen(1, 9, 3), Some(seen(1, 7, 1)), read).contains("the newest 2 messages"));
            assert_eq!(lost(seen(1, 9, 0), Some(seen(2, 0, 0)), read), "Other", "nothing was in it");
            assert_eq!(lost(seen(1, 9, 0), None, read), "Other");
        }
        assert!(lost(seen(1, 9, 3), Some(seen(2, 0, 0)), false).contains("3 messages waited"));
        assert!(lost(seen(1, 9, 3), None, false).contains("is gone: 3 messages waited"));
        assert_eq!(lost(seen(1, 9, 3), Some(seen(2, 0, 0)), true), "Other", "what waited may have been read");
    }
}
