//! What JetStream itself says about pipelines: what waits, how old it is, how fast it is worked off, and how many dead
//! letters there are. Only reads; used by `status`, `delete` and `dlq`.

use super::context::Context;
use super::failure::{Exit, Failure};
use crate::pipeline::id::PipelineId;
use crate::pipeline::status::PipelineStatus;
use crate::store::Store;
use async_nats::jetstream::context::{RequestError, RequestErrorKind};
use async_nats::jetstream::response::Response;
use async_nats::jetstream::{self, ErrorCode, stream};
use futures_util::TryStreamExt;
use jiff::Timestamp;
use std::collections::HashMap;
use std::fmt::Display;

/// What a pipeline's stream says at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Facts {
    /// Messages that are not acknowledged yet; `None` where there is no stream.
    pub lag: Option<u64>,
    /// When the oldest of them was published.
    pub oldest: Option<Timestamp>,
    /// The last sequence that the stream gave out.
    last_sequence: u64,
}

impl Facts {
    /// Asks the stream of `id`: the one that the status knows, else the one that the names give.
    pub async fn of(context: &Context, store: &Store, id: &PipelineId, status: Option<&PipelineStatus>) -> Result<Self, Failure> {
        let name = status
            .and_then(|status| status.kept.stream.clone().or_else(|| Some(status.admitted.spec.as_ref()?.stream.clone())))
            .unwrap_or_else(|| context.settings.names().stream(id));
        let Some(info) = stream_info(store, &name).await? else { return Ok(Self::default()) };
        let oldest = (info.state.messages > 0).then(|| Timestamp::from_nanosecond(info.state.first_timestamp.unix_timestamp_nanos()).ok());
        Ok(Self { lag: Some(info.state.messages), oldest: oldest.flatten(), last_sequence: info.state.last_sequence })
    }

    /// Messages a second that left the stream between `earlier` and now: a work queue loses them to acknowledgements
    /// only. `None` where the stream is not the same or there is none.
    pub fn rate(&self, earlier: &Self, seconds: f64) -> Option<f64> {
        let (before, now) = (earlier.lag?, self.lag?);
        let arrived = self.last_sequence.checked_sub(earlier.last_sequence)?;
        let left = (before + arrived).checked_sub(now)?;
        (seconds > 0.0).then(|| left as f64 / seconds)
    }
}

/// The info of a stream; `None` where there is none.
pub async fn stream_info(store: &Store, name: &str) -> Result<Option<stream::Info>, Failure> {
    let doing = || format!("read stream {name}");
    let jetstream = jetstream::new(store.client.clone());
    match jetstream.request(format!("STREAM.INFO.{name}"), &serde_json::json!({})).await {
        Ok(Response::Ok(info)) => Ok(Some(info)),
        Ok(Response::Err { error }) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => Ok(None),
        Ok(Response::Err { error }) => Err(failed(&doing(), &error)),
        Err(error) => Err(unanswered(&doing(), &error)),
    }
}

/// Dead letters by pipeline: of `id`, or of all.
pub async fn dead_letters(context: &Context, store: &Store, id: Option<&PipelineId>) -> Result<HashMap<String, u64>, Failure> {
    let names = context.settings.names();
    let stream = names.dead_letters();
    let all = format!("{stream}.");
    let filter = id.map_or_else(|| names.dead_letter_subjects(), |id| format!("{}.>", names.dead_letter_prefix(id)));
    let doing = format!("count the dead letters in stream {stream}");
    let mut counts = HashMap::new();
    if stream_info(store, &stream).await?.is_none() {
        return Ok(counts);
    }
    let handle = jetstream::new(store.client.clone());
    let handle = handle.get_stream_no_info(&stream).await.map_err(|error| failed(&doing, &error))?;
    let mut subjects = handle.info_with_subjects(&filter).await.map_err(|error| unanswered(&doing, &error))?;
    while let Some((subject, count)) = subjects.try_next().await.map_err(|error| unanswered(&doing, &error))? {
        if let Some(key) = subject.strip_prefix(&all).and_then(|rest| rest.split('.').next()) {
            *counts.entry(key.to_owned()).or_default() += count as u64;
        }
    }
    Ok(counts)
}

/// JetStream refused `doing`.
pub fn failed(doing: &str, error: &impl Display) -> Failure {
    Failure::new(Exit::Failed, format!("{doing}: {error} (check the account's permissions)"))
}

/// JetStream did not answer `doing`.
pub fn unanswered(doing: &str, error: &RequestError) -> Failure {
    match error.kind() {
        RequestErrorKind::NoResponders | RequestErrorKind::TimedOut => {
            Failure::new(Exit::Unreachable, format!("{doing}: {error} (is the NATS server running with JetStream?)"))
        }
        _ => failed(doing, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(lag: u64, last_sequence: u64) -> Facts {
        Facts { lag: Some(lag), oldest: None, last_sequence }
    }

    #[test]
    fn the_rate_counts_what_left_the_stream_whatever_arrived_meanwhile() {
        assert_eq!(facts(50, 300).rate(&facts(100, 200), 2.0), Some(75.0));
        assert_eq!(facts(100, 200).rate(&facts(100, 200), 1.0), Some(0.0));
    }

    #[test]
    fn a_stream_made_anew_has_no_rate() {
        assert_eq!(facts(1, 1).rate(&facts(100, 200), 1.0), None);
        assert_eq!(Facts::default().rate(&facts(100, 200), 1.0), None);
    }
}
