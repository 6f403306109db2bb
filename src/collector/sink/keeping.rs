//! What a collection deletes of itself, although MongoDB confirmed it: a capped one its oldest documents, a TTL index or
//! `expireAfterSeconds` those of an age. `docs/safe-places.md` says it of every option.
//!
//! Looks only. What this user may not see is not known, and not said. Called by executions now and then, and by `sluice doctor`.

use super::connect::{Database, bounded};
use super::failure::CommandFailure;
use super::open;
use crate::pipeline::spec::Target;
use bson::{Bson, Document, doc};
use std::time::Duration;

/// The collection is not there (yet), is a view, or has no indexes that can be listed.
const NO_INDEXES: [i32; 4] = [26, 166, 115, open::UNAUTHORIZED];

/// How a collection deletes by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keeping {
    /// Whether the oldest documents go once it is full.
    capped: bool,
    /// After how many seconds documents go.
    expires: Option<i64>,
    /// Whether it is a time-series collection, whose config may want that.
    series: bool,
    /// The TTL indexes: name, keys, seconds.
    indexes: Vec<(String, String, i64)>,
}

impl Database {
    /// How the collection of `target` deletes by itself. Errors: the server does not answer.
    pub async fn keeping(&self, target: &Target) -> Result<Keeping, CommandFailure> {
        let database = self.client().database(&target.database);
        let found = open::look(&database, &target.collection).await?;
        let listed = bounded(database.run_command(doc! {"listIndexes": &target.collection})).await;
        let indexes = match listed {
            Ok(indexes) => indexes,
            Err(failure) if failure.code.is_some_and(|code| NO_INDEXES.contains(&code)) => Document::new(),
            Err(failure) => return Err(failure),
        };
        Ok(Keeping::read(&found.unwrap_or_default(), &indexes))
    }
}

impl Keeping {
    /// From an entry of `listCollections` and the answer to `listIndexes`.
    fn read(entry: &Document, indexes: &Document) -> Self {
        let options = entry.get_document("options").cloned().unwrap_or_default();
        let batch = indexes.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch")).cloned().unwrap_or_default();
        let expiring = batch.iter().filter_map(Bson::as_document).filter_map(|index| {
            let keys = index.get_document("key").map(|key| key.keys().cloned().collect::<Vec<_>>().join(", ")).unwrap_or_default();
            Some((index.get_str("name").unwrap_or_default().to_owned(), keys, seconds(index.get("expireAfterSeconds")?)?))
        });
        Self {
            capped: options.get_bool("capped").unwrap_or(false),
            expires: options.get("expireAfterSeconds").and_then(seconds),
            series: entry.get_str("type").is_ok_and(|kind| kind == "timeseries"),
            indexes: expiring.collect(),
        }
    }

    /// What deletes documents, each for people, with its remedy. `wanted`: how long the config wants measurements to be kept, where
    /// that is known.
    pub fn deletes(&self, target: &Target, wanted: Option<Option<Duration>>) -> Vec<String> {
        let collection = &target.collection;
        let mut found = Vec::new();
        if self.capped {
            found.push(format!(
                "the collection '{collection}' is capped: the oldest documents go once it is full; copy it into one that is not, or write elsewhere"
            ));
        }
        let wanted = wanted.map(|wanted| wanted.map(|age| i64::try_from(age.as_secs()).unwrap_or(i64::MAX)));
        if let Some(seconds) = self.expires.filter(|seconds| !self.series || wanted.is_some_and(|wanted| wanted != Some(*seconds))) {
            let remedy = match self.series {
                true => format!("say `expire_after: {seconds}s` in the config if that is meant, or change it by `collMod`"),
                false => "take it off by `collMod` with `expireAfterSeconds: \"off\"` if that is not meant".to_owned(),
            };
            found.push(format!("the collection '{collection}' deletes what is older than {seconds} s (`expireAfterSeconds`); {remedy}"));
        }
        found.extend(self.indexes.iter().map(|(name, keys, seconds)| {
            format!(
                "the TTL index '{name}' of the collection '{collection}' deletes documents {seconds} s after their {keys}; drop it if that is not meant"
            )
        }));
        found
    }
}

fn seconds(value: &Bson) -> Option<i64> {
    match value {
        Bson::Int32(seconds) => Some(i64::from(*seconds)),
        Bson::Int64(seconds) => Some(*seconds),
        Bson::Double(seconds) => Some(*seconds as i64),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deletes(entry: Document, indexes: Vec<Document>, wanted: Option<Option<Duration>>) -> Vec<String> {
        let target = Target { hosts: Vec::new(), database: "d".into(), collection: "c".into() };
        Keeping::read(&entry, &doc! {"cursor": {"firstBatch": indexes}}).deletes(&target, wanted)
    }

    #[test]
    fn a_collection_that_deletes_by_itself_says_how() {
        let id = || doc! {"name": "_id_", "key": {"_id": 1}};
        assert!(deletes(doc! {"type": "collection", "options": {}}, vec![id()], Some(None)).is_empty());
        assert!(deletes(doc! {}, vec![], None).is_empty());
        let capped = deletes(doc! {"type": "collection", "options": {"capped": true, "size": 4096}}, vec![id()], None);
        assert!(capped.len() == 1 && capped[0].contains("capped"), "{capped:?}");
        for age in [Bson::Int32(60), Bson::Int64(60), Bson::Double(60.0)] {
            let ttl = deletes(doc! {}, vec![id(), doc! {"name": "at_1", "key": {"at": 1}, "expireAfterSeconds": age}], None);
            assert!(ttl.len() == 1 && ttl[0].contains("'at_1'") && ttl[0].contains("60 s after their at"), "{ttl:?}");
        }
        let clustered = deletes(doc! {"type": "collection", "options": {"expireAfterSeconds": 60_i64}}, vec![], Some(None));
        assert!(clustered.len() == 1 && clustered[0].contains("older than 60 s"), "{clustered:?}");
    }

    #[test]
    fn measurements_expire_as_the_config_wants_it_without_a_word() {
        let series = || doc! {"type": "timeseries", "options": {"expireAfterSeconds": 60_i64}};
        assert!(deletes(series(), vec![], Some(Some(Duration::from_secs(60)))).is_empty());
        assert!(deletes(series(), vec![], None).is_empty(), "what the config wants is not known");
        for wanted in [None, Some(Duration::from_secs(61))] {
            assert!(deletes(series(), vec![], Some(wanted))[0].contains("expire_after: 60s"));
        }
    }
}
