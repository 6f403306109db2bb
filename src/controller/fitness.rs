//! What is wrong, or doubtful, with a pipeline's stream and durable, as findings for the status. Pure.
//!
//! The holder's reconcile asks after each look at the stream.

use super::desire::{Desire, Finding};
use super::reconcile::Failure;
use crate::pipeline::plan::Wish;
use crate::pipeline::status::{Kept, Reason};
use crate::pipeline::subject::covers;
use crate::store::{PipelineStream, StoreError, StoreErrorKind, error::Unfit};

/// What the subjects of a stream may measure, bytes in JSON.
const MOST_SUBJECTS: usize = 32 << 10;

/// Errors that lie in the stream itself become findings.
pub(super) fn unfit(error: StoreError) -> Failure {
    let reason = match error.kind() {
        StoreErrorKind::Unfit(Unfit::Foreign) => Reason::StreamForeign,
        StoreErrorKind::Unfit(Unfit::NotWorkQueue) => Reason::StreamNotWorkQueue,
        StoreErrorKind::Unfit(_) => Reason::ConsumerUnusable,
        StoreErrorKind::Refused => Reason::StreamUnavailable,
        StoreErrorKind::Unavailable | StoreErrorKind::Conflict | StoreErrorKind::Missing => return Failure::Store(error),
    };
    Failure::Finding(Finding::new(reason, error.to_string()))
}

/// Whether an execution can read from the stream.
pub(super) fn fit_to_read(stream: &PipelineStream) -> Result<(), Failure> {
    if !stream.work_queue {
        let message = format!("stream {} has no work-queue retention", stream.name);
        return Err(Failure::Finding(Finding::new(Reason::StreamNotWorkQueue, message)));
    }
    let subjects: usize = stream.subjects.iter().map(|subject| subject.len() + 4).sum();
    if subjects > MOST_SUBJECTS {
        // A deletion has to put them back, so the status keeps them.
        let message = format!("the subjects of stream {} have {subjects} bytes, more than {MOST_SUBJECTS}; use wildcards", stream.name);
        return Err(Failure::Finding(Finding::new(Reason::StreamUnavailable, message)));
    }
    if let Some(durable) = stream.consumer.as_ref().filter(|durable| !durable.faults.is_empty()) {
        let message = format!("durable {} of stream {} cannot be read: {}", durable.name, stream.name, durable.faults.join("; "));
        return Err(Failure::Finding(Finding::new(Reason::ConsumerUnusable, message)));
    }
    Ok(())
}

/// What is doubtful in the stream and its durable, but works.
pub(super) fn advice_on(stream: &PipelineStream, desire: &Desire) -> Vec<Finding> {
    let message = |setting: &String| format!("stream {}: {setting}", stream.name);
    let mut advice: Vec<_> = stream.unsafe_settings.iter().map(|setting| Finding::new(Reason::StreamUnsafe, message(setting))).collect();
    if let (Some(config), Some(live)) = (&desire.config, stream.consumer.as_ref().filter(|live| !live.ours)) {
        let input = &config.config.input;
        if let Some(wanted) = input.ack_wait.filter(|wanted| *wanted != live.ack_wait) {
            let (is, wanted) = (humantime::format_duration(live.ack_wait), humantime::format_duration(wanted));
            advice.push(Finding::new(Reason::ConsumerDiffers, format!("ack_wait is {is}, the config says {wanted}")));
        }
        if let Some(wanted) = input.max_ack_pending.filter(|wanted| (*wanted).max(0) != live.max_ack_pending.max(0)) {
            let message = format!("max_ack_pending is {}, the config says {wanted}", live.max_ack_pending);
            advice.push(Finding::new(Reason::ConsumerDiffers, message));
        }
    }
    if let Some((wanted, _)) = &desire.create {
        let heard = |subject: &String| stream.subjects.iter().any(|pattern| covers(pattern, subject));
        let missing: Vec<_> = wanted.subjects.iter().filter(|subject| !heard(subject)).map(String::as_str).collect();
        if !missing.is_empty() {
            let message = format!("stream {} does not listen on {}", stream.name, missing.join(", "));
            advice.push(Finding::new(Reason::StreamDiffers, message));
        }
    }
    advice
}

/// What the stream of the dead letters may lose.
pub(super) fn advice_on_dead_letters(stream: &str, settings: &[String]) -> impl Iterator<Item = Finding> {
    settings.iter().map(move |setting| Finding::new(Reason::StreamUnsafe, format!("stream {stream}, of the dead letters: {setting}")))
}

/// What a target change waits for.
pub(super) fn waits_for(stream: Option<&PipelineStream>, live: u32) -> String {
    let mut waits = Vec::new();
    if live > 0 {
        waits.push(format!("{live} executions of it still run"));
    }
    if let Some(consumer) = stream.and_then(|stream| stream.consumer.as_ref()).filter(|consumer| consumer.ack_pending > 0) {
        let most = humantime::format_duration(2 * consumer.ack_wait);
        waits.push(format!("{} messages are unacknowledged, which is waited for at most {most}", consumer.ack_pending));
    }
    let waits = if waits.is_empty() { String::new() } else { format!(": {}", waits.join(", ")) };
    format!("the old target is finished before the new one begins{waits}")
}

/// Why a stream stays although its pipeline was deleted.
pub(super) fn left_over(wish: &Wish, stream: Option<&PipelineStream>, kept: &Kept) -> Option<Finding> {
    let stream = stream.filter(|_| *wish == Wish::Deleted)?;
    let message = format!("stream {} holds {} messages and nothing ran when the entry was deleted", stream.name, stream.messages);
    replaced(Some(stream), kept).or(Some(Finding::new(Reason::StreamKept, message)))
}

/// A stream of the recorded name that is another one than the recorded.
pub(super) fn replaced(stream: Option<&PipelineStream>, kept: &Kept) -> Option<Finding> {
    let stream = stream.filter(|stream| kept.stream_created.is_some_and(|created| created != stream.created))?;
    Some(Finding::new(Reason::StreamReplaced, format!("stream {} was created at {}", stream.name, stream.created)))
}
