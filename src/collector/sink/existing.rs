//! What a collection that is there already is: for configs that are derived from somebody's wish to write into it, and so
//! say neither its kind nor its fields.
//!
//! Only looks; nothing is created. Called by the controller when it derives a config.

use super::failure::{CommandFailure, FailureKind};
use super::{Database, open};
use crate::pipeline::config::{Granularity, TimeSeries};
use crate::pipeline::spec::Target;
use bson::Document;
use std::time::Duration;

/// A collection as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Existing {
    /// There is none, or a normal one.
    Normal,
    /// A time-series collection, with the options to make it again.
    Series(TimeSeries),
    /// A time-series collection whose options this user may not see.
    Hidden,
}

/// Looks at the collection of `target`. Errors as any command's: [`FailureKind`] says whether MongoDB is merely away.
pub async fn existing(database: &Database, target: &Target) -> Result<Existing, CommandFailure> {
    match open::look(&database.client().database(&target.database), &target.collection).await {
        Ok(found) => Ok(found.map_or(Existing::Normal, |found| kind_of(&found))),
        Err(failure) => Err(database.explain(failure).await),
    }
}

impl CommandFailure {
    /// Whether MongoDB is merely away, rather than refusing.
    pub fn is_away(&self) -> bool {
        matches!(self.kind, FailureKind::Network | FailureKind::Selection | FailureKind::Timeout)
    }
}

/// Anything but a time-series collection is for the check at opening to judge.
fn kind_of(found: &Document) -> Existing {
    if !found.get_str("type").is_ok_and(|kind| kind == "timeseries") {
        return Existing::Normal;
    }
    let options = found.get_document("options").ok();
    let Some(series) = options.and_then(|options| options.get_document("timeseries").ok()) else { return Existing::Hidden };
    let text = |field: &str| series.get_str(field).ok().map(str::to_owned);
    let Some(time_field) = text("timeField") else { return Existing::Hidden };
    let granularity = match series.get_str("granularity") {
        Ok("seconds") => Some(Granularity::Seconds),
        Ok("minutes") => Some(Granularity::Minutes),
        Ok("hours") => Some(Granularity::Hours),
        _ => None,
    };
    let age = options.and_then(|options| options.get("expireAfterSeconds")).and_then(|age| match age {
        bson::Bson::Int32(age) => u64::try_from(*age).ok(),
        bson::Bson::Int64(age) => u64::try_from(*age).ok(),
        bson::Bson::Double(age) if *age >= 1.0 => Some(*age as u64),
        _ => None,
    });
    let expire_after = age.filter(|age| *age > 0).map(Duration::from_secs);
    Existing::Series(TimeSeries { time_field, meta_field: text("metaField"), granularity, expire_after })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::doc;

    #[test]
    fn a_time_series_collection_is_described_so_that_it_can_be_made_again() {
        let found = doc! {
            "name": "m", "type": "timeseries",
            "options": {"expireAfterSeconds": 60_i64, "timeseries": {"timeField": "ts", "metaField": "device", "granularity": "hours", "bucketMaxSpanSeconds": 3600}},
        };
        let series = TimeSeries {
            time_field: "ts".into(),
            meta_field: Some("device".into()),
            granularity: Some(Granularity::Hours),
            expire_after: Some(Duration::from_secs(60)),
        };
        assert_eq!(kind_of(&found), Existing::Series(series));
        assert_eq!(kind_of(&doc! {"type": "collection", "options": {}}), Existing::Normal);
        assert_eq!(kind_of(&doc! {"type": "timeseries"}), Existing::Hidden);
    }
}
