//! What runs beside the driver's loop: inserts, look-ups, dead letters, questions. Each is one task that ends with one
//! [`Done`]; a panic in one is a failure of that one.

use super::doubles::{self, Met};
use super::slots::Note;
use super::suspects::Compared;
use crate::collector::classify::{self, Class};
use crate::collector::core::GroupId;
use crate::collector::dead_letters::{DeadLetterError, DeadLetterErrorKind, DeadLetters, Poison, Reason, Stored};
use crate::collector::former::{Doubtful, Formers, Unasked};
use crate::collector::ledger::Answer;
use crate::collector::sink::{Collection, CommandFailure, FailureKind, InsertCommand, InsertReply, Keeping, OpenError};
use crate::collector::source::{ConsumerFacts, Found, Glance, Inspector, Original, SourceError, SourceErrorKind};
use bson::RawBson;
use futures_util::FutureExt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use uuid::Uuid;

/// What a task ended with.
#[derive(Debug)]
pub(super) enum Done {
    Inserted(GroupId, InsertReply, Duration),
    /// Those that are not stored as they were sent, by index; the reason of a dead letter, where it is certain now.
    LookedUp(GroupId, Result<Vec<(u32, Class)>, CommandFailure>),
    /// Those that lie in a previous target or among the dead letters, by index.
    Checked(GroupId, Result<Vec<(u32, Class)>, Unasked>),
    Buried(GroupId, Result<Stored, DeadLetterError>),
    /// The stream holds other bytes than those that were to be buried.
    Disowned(GroupId),
    /// Messages that were compared with the stream.
    Compared(Compared),
    Pinged(Result<(), CommandFailure>),
    /// What the ledger answered to whom.
    Kept(Uuid, Result<Answer, CommandFailure>),
    /// Whether a block is reserved, by whom, in which term.
    Reserved(Uuid, u64, Result<bool, CommandFailure>),
    /// Those that are in the collection, by index.
    Resolved(GroupId, Result<Vec<(u32, Class)>, CommandFailure>),
    /// After how long records are to be looked at again.
    Repaired(Uuid, Result<Option<Duration>, CommandFailure>),
    /// Nothing more is to be done about it.
    Looked,
    /// What stream and consumer are like, and whether the stream still has the message that was asked about.
    Asked(Result<(ConsumerFacts, Tail), SourceError>),
    /// What the stream alone is like.
    Glanced(Result<Glance, SourceError>),
    Opened(Result<Collection, OpenError>),
    /// How the collection deletes by itself.
    Keeping(Result<Keeping, CommandFailure>),
}

/// Begins `work` beside the driver's loop; what `instead` makes stands for a panic in it.
pub(super) fn begin<W, I>(tasks: &mut JoinSet<Done>, work: W, instead: I)
where
    W: Future<Output = Done> + Send + 'static,
    I: FnOnce() -> Done + Send + 'static,
{
    tasks.spawn(guarded(work, instead));
}

/// Runs `work`; what `instead` makes stands for a panic.
async fn guarded(work: impl Future<Output = Done>, instead: impl FnOnce() -> Done) -> Done {
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| instead())
}

pub(super) fn panicked(what: &str) -> CommandFailure {
    CommandFailure { kind: FailureKind::Other, code: None, labels: Vec::new(), message: format!("{what} panicked: a bug of sluice") }
}

fn late() -> CommandFailure {
    let message = "the leases of a batch had ended before it was sent".to_owned();
    CommandFailure { kind: FailureKind::TooLate, code: None, labels: Vec::new(), message }
}

pub(super) fn asking_panicked() -> SourceError {
    SourceError { kind: SourceErrorKind::Unavailable, code: None, message: "asking the consumer panicked: a bug of sluice".into() }
}

/// Questions that are under way at the same time take some KiB each: where a thousand pipelines ask together, most of them
/// wait a moment.
static ASKING: Semaphore = Semaphore::const_new(128);
/// For so long at most: answers may be late, too.
const ASKING_WAIT: Duration = Duration::from_secs(1);

/// The youngest message that was delivered here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Witness {
    pub(super) sequence: u64,
    pub(super) published_ns: u64,
    /// Whether it is held: nobody here has acknowledged it.
    pub(super) held: bool,
}

/// What the stream says of the youngest message that was delivered here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tail {
    /// It is there, or was acknowledged here.
    Sound,
    /// It is held here and not there, or could not be asked for. Another process may have got it as well, from a durable that
    /// was made anew or while this one had no connection, and have acknowledged it: that is no loss.
    Uncertain,
    /// Another message has its sequence: it was lost.
    Lost,
}

impl Tail {
    fn of(held: bool, found: Option<Found>) -> Self {
        match found {
            Some(Found::Another) => Self::Lost,
            Some(Found::Same) => Self::Sound,
            Some(Found::Nothing) | None if held => Self::Uncertain,
            Some(Found::Nothing) | None => Self::Sound,
        }
    }
}

/// `witness`: a message that the stream should have, if it is still the one that it was.
pub(super) async fn ask(question: Inspector, witness: Option<Witness>) -> Result<(ConsumerFacts, Tail), SourceError> {
    let _turn = tokio::time::timeout(ASKING_WAIT, ASKING.acquire()).await;
    let facts = Box::pin(question.info()).await?;
    let Some(Witness { sequence, published_ns, held }) = witness else { return Ok((facts, Tail::Sound)) };
    match Box::pin(question.holds(sequence, published_ns)).await {
        Ok(found) => Ok((facts, Tail::of(held, Some(found)))),
        // Not allowed to ask, perhaps: then nothing is certain.
        Err(error) if matches!(error.kind, SourceErrorKind::Timeout | SourceErrorKind::Refused) => Ok((facts, Tail::of(held, None))),
        Err(error) => Err(error),
    }
}

/// The same of the stream alone.
pub(super) async fn glance(question: Inspector) -> Result<Glance, SourceError> {
    let _turn = tokio::time::timeout(ASKING_WAIT, ASKING.acquire()).await;
    Box::pin(question.glance()).await
}

/// Sends the command, unless the process was suspended until the leases of its messages had ended at `until`: another may
/// have stored them elsewhere by then.
pub(super) async fn insert(collection: Collection, group: GroupId, command: InsertCommand, until: Instant) -> Done {
    let begun = Instant::now();
    let work = async {
        if Instant::now() >= until {
            return Done::Inserted(group, InsertReply::Failed(late()), begun.elapsed());
        }
        let reply = collection.send(command).await;
        Done::Inserted(group, reply, begun.elapsed())
    };
    guarded(work, || Done::Inserted(group, InsertReply::Failed(panicked("the insert")), begun.elapsed())).await
}

/// Takes back what a normal collection took in the place of a time-series one.
pub(super) async fn take_back(collection: Collection, group: GroupId, ids: Vec<RawBson>) -> Done {
    let begun = Instant::now();
    let work = async { Done::Inserted(group, InsertReply::Failed(collection.take_back(ids).await), begun.elapsed()) };
    guarded(work, || Done::Inserted(group, InsertReply::Failed(panicked("taking measurements back")), begun.elapsed())).await
}

pub(super) async fn look_up(collection: Collection, group: GroupId, met: Vec<Met>) -> Done {
    let work = async { Done::LookedUp(group, doubles::look_up(&collection, &met).await) };
    guarded(work, || Done::LookedUp(group, Err(panicked("the look-up")))).await
}

pub(super) async fn check(formers: Formers, letters: DeadLetters, group: GroupId, doubtful: Vec<Doubtful>) -> Done {
    let work = async { Done::Checked(group, formers.check(&letters, &doubtful).await) };
    let panicked = || Unasked { unknown: false, message: "the look-up in the previous target panicked: a bug of sluice".into() };
    guarded(work, || Done::Checked(group, Err(panicked()))).await
}

/// Everything that a dead letter says, owned by its task.
#[derive(Debug)]
pub(super) struct Letter {
    pub(super) message: async_nats::Message,
    pub(super) identity: String,
    pub(super) note: Note,
    pub(super) pipeline: String,
    pub(super) version: String,
    pub(super) stream: String,
    pub(super) sequence: u64,
    pub(super) published_ns: u64,
    pub(super) attempts: u64,
}

/// Payloads beyond this are not compared with the stream before they are buried: JetStream hands them out in base64 within
/// JSON, four thirds of their size on the connection that all pipelines share. Nothing that a server can be set to do shortens a
/// payload: it hands out all of it or nothing.
const COMPARED: usize = 1 << 20;

/// Whether the stream holds the bytes that are to be buried.
async fn as_published(question: &Inspector, letter: &Letter) -> Result<bool, SourceError> {
    let payload = &letter.message.payload;
    if payload.len() > COMPARED {
        return Ok(true);
    }
    Ok(match Box::pin(question.original(letter.sequence, letter.published_ns, payload)).await? {
        Original::Same => true,
        Original::Altered => false,
        // The stream lost it, or it was settled: what was handed out of it is all there is. Nothing at all may be a durable's
        // doing.
        Original::Gone => !payload.is_empty(),
    })
}

/// Stores a dead letter, of the very bytes that were published: asked of the stream, since a durable that was edited a moment
/// ago hands out no bodies.
pub(super) async fn bury(letters: DeadLetters, question: Inspector, group: GroupId, letter: Letter) -> Done {
    let redelivered = letter.attempts > 1;
    let detail = match letter.note.reason {
        Reason::DuplicateId if redelivered => format!(
            "{} (this is a redelivery: the application may have updated the document after an earlier delivery stored it)",
            letter.note.detail
        ),
        _ => letter.note.detail.clone(),
    };
    let poison = Poison {
        message: &letter.message,
        identity: &letter.identity,
        reason: letter.note.reason,
        code: letter.note.code,
        detail: &detail,
        pipeline: &letter.pipeline,
        version: &letter.version,
        stream: &letter.stream,
        sequence: letter.sequence,
        published_ns: letter.published_ns,
        attempts: letter.attempts,
        redelivered,
    };
    let work = async {
        match as_published(&question, &letter).await {
            Ok(true) => Done::Buried(group, letters.store(&poison).await),
            Ok(false) => Done::Disowned(group),
            Err(error) => {
                let message = format!("the message cannot be compared with what the stream {} holds of it: {error}", letter.stream);
                Done::Buried(group, Err(DeadLetterError { kind: DeadLetterErrorKind::Unavailable, message }))
            }
        }
    };
    let instead = || {
        let error =
            DeadLetterError { kind: DeadLetterErrorKind::Refused, message: "storing the dead letter panicked: a bug of sluice".into() };
        Done::Buried(group, Err(error))
    };
    guarded(work, instead).await
}

/// What the failure of a command means.
pub(super) fn class_of(failure: &CommandFailure) -> Class {
    classify::command(failure.kind, failure.code, &failure.labels)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn a_message_that_is_gone_may_have_been_acknowledged_and_one_in_its_place_says_that_it_was_lost() {
        for held in [true, false] {
            assert_eq!(Tail::of(held, Some(Found::Another)), Tail::Lost);
            assert_eq!(Tail::of(held, Some(Found::Same)), Tail::Sound);
        }
        for found in [Some(Found::Nothing), None] {
            assert_eq!((Tail::of(true, found), Tail::of(false, found)), (Tail::Uncertain, Tail::Sound));
        }
    }

    #[tokio::test]
    async fn a_panic_is_a_failure_of_that_work_alone() {
        let done = guarded(async { panic!("boom") }, || Done::Pinged(Err(panicked("the test")))).await;
        assert!(matches!(done, Done::Pinged(Err(failure)) if failure.message.contains("bug")));
    }
}
