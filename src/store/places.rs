//! Looks at streams without their durables: at those of the namespace, and at the pipelines' now and then, for what tells
//! that one is not what it was.

use super::api::{code, field};
use super::error::StoreError;
use super::safety::{unsafe_for_a_bucket, unsafe_for_dead_letters, unsafe_settings};
use super::{Store, Streams};
use crate::pipeline::status::StreamSeen;
use serde_json::Value;

/// A stream as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glimpse {
    /// What tells it from others, and from itself before.
    pub seen: StreamSeen,
    /// As [`super::PipelineStream::unsafe_settings`].
    pub unsafe_settings: Vec<String>,
}

/// A stream of the namespace that may lose what it confirms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsafePlace {
    /// The stream.
    pub stream: String,
    /// What it is for.
    pub holds: &'static str,
    /// Why, each for people.
    pub settings: Vec<String>,
}

impl Streams {
    /// The stream alone; `None` where there is none.
    pub async fn glimpse(&self, name: &str) -> Result<Option<Glimpse>, StoreError> {
        let info = match self.api.info(name).await {
            Ok(info) => info,
            Err(failure) if failure.is(code::STREAM_NOT_FOUND) => return Ok(None),
            Err(failure) => return Err(failure.during(format!("look at stream {name}"))),
        };
        let during = |failure: super::api::Failure| failure.during(format!("look at stream {name}"));
        Ok(Some(Glimpse {
            seen: StreamSeen {
                created: field(&info, "/created").map_err(during)?,
                last: field(&info, "/state/last_seq").map_err(during)?,
                messages: field(&info, "/state/messages").map_err(during)?,
            },
            unsafe_settings: unsafe_settings(&info),
        }))
    }
}

impl Store {
    /// The ways in which the stream of the dead letters may lose them, each for people. None where it is missing.
    pub async fn unsafe_dead_letters(&self) -> Result<Vec<String>, StoreError> {
        self.judge(&self.names.dead_letters(), unsafe_for_dead_letters).await
    }

    /// Every stream of the namespace, beside the pipelines', that may lose what it confirms.
    pub async fn unsafe_places(&self) -> Result<Vec<UnsafePlace>, StoreError> {
        let names = &self.names;
        let buckets = [
            (format!("KV_{}", names.entries()), "the entries"),
            (format!("KV_{}", names.status()), "the status of the pipelines"),
            (format!("OBJ_{}", names.configs()), "the configs"),
        ];
        let mut places = Vec::new();
        let mut add = |stream: String, holds, settings: Vec<String>| {
            if !settings.is_empty() {
                places.push(UnsafePlace { stream, holds, settings });
            }
        };
        add(names.dead_letters(), "the dead letters", self.unsafe_dead_letters().await?);
        for (stream, holds) in buckets {
            let settings = self.judge(&stream, unsafe_for_a_bucket).await?;
            add(stream, holds, settings);
        }
        Ok(places)
    }

    async fn judge(&self, stream: &str, judge: impl Fn(&Value) -> Vec<String>) -> Result<Vec<String>, StoreError> {
        match self.streams.api.info(stream).await {
            Ok(info) => Ok(judge(&info)),
            Err(failure) if failure.is(code::STREAM_NOT_FOUND) => Ok(Vec::new()),
            Err(failure) => Err(failure.during(format!("look at stream {stream}"))),
        }
    }
}
