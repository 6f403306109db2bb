//! How a collection lies in a sharded cluster, as far as the user of a connection may see it: for the guard of time-series
//! collections, and for `sluice doctor`.
//!
//! Reads only. `config.collections` names the shard key, and not everybody may read it; `collStats` says whether there is one.

use super::connect::{Database, bounded};
use super::failure::CommandFailure;
use super::measurements::limited;
use crate::pipeline::spec::Target;
use bson::{Document, doc};

/// How a collection lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sharding {
    /// On one shard; or there is no router.
    Whole,
    /// Over shards, by these fields; empty where they are not to be seen.
    By(Vec<String>),
    /// This user may not see it.
    Hidden,
}

impl Sharding {
    /// Whether an `_id` is unique in all of the collection: each shard has an index of its own on it, and only where the
    /// shard key is `_id` itself, hashed or not, do equal ones meet on one shard. `None`: not known.
    pub fn ids_are_unique(&self) -> Option<bool> {
        match self {
            Self::Whole => Some(true),
            Self::By(key) if key.is_empty() => None,
            Self::By(key) => Some(key.as_slice() == ["_id"]),
            Self::Hidden => None,
        }
    }
}

impl Database {
    /// How the collection of `target` lies. Errors: the server does not answer.
    pub async fn sharding(&self, target: &Target) -> Result<Sharding, CommandFailure> {
        if !self.is_mongos().await? {
            return Ok(Sharding::Whole);
        }
        Ok(look(&self.client(), &self.client().database(&target.database), &target.collection).await)
    }
}

/// Whether a collection behind a mongos may be spread over shards.
pub(super) async fn may_be_sharded(client: &mongodb::Client, handle: &mongodb::Database, name: &str) -> bool {
    look(client, handle, name).await != Sharding::Whole
}

async fn look(client: &mongodb::Client, handle: &mongodb::Database, name: &str) -> Sharding {
    // A time-series collection is entered by what lies below it; after 8.0 by its own name.
    let names = [format!("{}.{name}", handle.name()), format!("{}.system.buckets.{name}", handle.name())];
    let find = limited(doc! {"find": "collections", "filter": {"_id": {"$in": names.to_vec()}}, "limit": 2});
    let found = bounded(client.database("config").run_command(find)).await;
    if let Some(entries) = found.ok().as_ref().and_then(entries) {
        return entries.iter().find_map(|entry| key_of(entry)).map_or(Sharding::Whole, Sharding::By);
    }
    match bounded(handle.run_command(limited(doc! {"collStats": name}))).await {
        Ok(stats) if stats.get_bool("sharded").unwrap_or(false) => Sharding::By(Vec::new()),
        Ok(_) => Sharding::Whole,
        Err(_) => Sharding::Hidden,
    }
}

fn entries(reply: &Document) -> Option<Vec<&Document>> {
    let batch = reply.get_document("cursor").ok()?.get_array("firstBatch").ok()?;
    Some(batch.iter().filter_map(bson::Bson::as_document).collect())
}

/// The fields of the shard key; `None` where the entry is of a collection that is not sharded, or no more.
fn key_of(entry: &Document) -> Option<Vec<String>> {
    let is = |field: &str| entry.get_bool(field).unwrap_or(false);
    if is("dropped") || is("unsplittable") {
        return None;
    }
    Some(entry.get_document("key").ok()?.keys().cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_unique_where_the_shard_key_is_the_id_and_nothing_else() {
        let by = |fields: &[&str]| Sharding::By(fields.iter().map(|field| (*field).to_owned()).collect()).ids_are_unique();
        assert_eq!((by(&["_id"]), by(&["device"]), by(&["device", "_id"])), (Some(true), Some(false), Some(false)));
        assert_eq!((by(&[]), Sharding::Hidden.ids_are_unique(), Sharding::Whole.ids_are_unique()), (None, None, Some(true)));
    }

    #[test]
    fn entries_of_collections_that_were_dropped_or_lie_on_one_shard_name_no_key() {
        let key = doc! {"device": 1, "ts": "hashed"};
        assert_eq!(key_of(&doc! {"_id": "a.b", "key": key.clone()}), Some(vec!["device".into(), "ts".into()]));
        assert_eq!(key_of(&doc! {"_id": "a.b", "dropped": true, "key": key.clone()}), None);
        assert_eq!(key_of(&doc! {"_id": "a.b", "unsplittable": true, "key": key}), None);
    }
}
