//! Documents that met a duplicate key, looked up: whether they are what is stored under their `_id`s.
//!
//! What always holds: the server says which stored document has an `_id`, since it alone knows what is equal to it (numbers of
//! any type, what a collation takes for one). Keys computed here only save reads: what they find no match for is asked for by
//! itself, where anything is left that may be its match. Called by the driver's work.

use crate::collector::classify::Class;
use crate::collector::compare;
use crate::collector::sink::{Collection, CommandFailure};
use bson::{RawBson, RawDocument, RawDocumentBuf, oid::ObjectId};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use std::collections::HashMap;

/// Single look-ups under way at once.
const AT_ONCE: usize = 8;

/// A document that met a duplicate key.
#[derive(Debug)]
pub(super) struct Met {
    pub(super) payload: Bytes,
    pub(super) id: Option<[u8; 12]>,
    /// Whether the server said that the index is the one on `_id`.
    pub(super) on_id: Option<bool>,
}

impl Met {
    fn id(&self) -> Option<RawBson> {
        match self.id {
            Some(id) => Some(RawBson::ObjectId(ObjectId::from_bytes(id))),
            None => compare::id_of(RawDocument::from_bytes(&self.payload).ok()?),
        }
    }
}

/// Those that are not stored as they were sent, by index.
pub(super) async fn look_up(collection: &Collection, met: &[Met]) -> Result<Vec<(u32, Class)>, CommandFailure> {
    let ids: Vec<Option<RawBson>> = met.iter().map(Met::id).collect();
    // Of our own identities it is enough to know that they are there.
    let bare = met.iter().all(|met| met.id.is_some());
    let stored = collection.find(ids.iter().flatten().cloned().collect(), bare).await?;
    let mut by_id: HashMap<Vec<u8>, &RawDocumentBuf> = HashMap::new();
    for document in &stored {
        if let Some(id) = compare::id_of(document) {
            by_id.insert(compare::id_key(&id), document);
        }
    }
    let mut claimed = 0;
    let mut judged = Vec::new();
    let mut unmatched = Vec::new();
    for ((index, met), id) in (0..).zip(met).zip(&ids) {
        match id.as_ref().and_then(|id| by_id.get(&compare::id_key(id))) {
            Some(document) => {
                claimed += 1;
                judged.extend(judge(met, Some(document)).map(|class| (index, class)));
            }
            None => unmatched.push((index, met, id.clone())),
        }
    }
    if claimed >= stored.len() {
        judged.extend(unmatched.into_iter().filter_map(|(index, met, _)| Some((index, judge(met, None)?))));
    } else {
        let questions = unmatched.iter().map(|(index, _, id)| by_itself(collection.clone(), *index, id.clone())).collect::<Vec<_>>();
        let answers: Vec<(u32, Option<RawDocumentBuf>)> = stream::iter(questions).buffer_unordered(AT_ONCE).try_collect().await?;
        let found: HashMap<u32, Option<RawDocumentBuf>> = answers.into_iter().collect();
        for (index, met, _) in unmatched {
            let found = found.get(&index).and_then(Option::as_ref);
            judged.extend(judge(met, found).map(|class| (index, class)));
        }
    }
    judged.sort_unstable_by_key(|(index, _)| *index);
    Ok(judged)
}

/// What is stored under one `_id`.
async fn by_itself(collection: Collection, index: u32, id: Option<RawBson>) -> Result<(u32, Option<RawDocumentBuf>), CommandFailure> {
    let found = collection.find(id.into_iter().collect(), false).await?;
    Ok((index, found.into_iter().next()))
}

/// `None`: stored as it was sent. `found`: what is stored under its `_id`.
fn judge(met: &Met, found: Option<&RawDocumentBuf>) -> Option<Class> {
    match (found, met.id, met.on_id) {
        // Nothing but this message has this identity: it was stored, and the application may have changed it since.
        (Some(_), Some(_), _) => None,
        (Some(stored), None, _) => {
            let same = RawDocument::from_bytes(&met.payload).is_ok_and(|sent| compare::same(sent, stored));
            (!same).then_some(Class::Document)
        }
        // It was there a moment ago: not on a majority yet, lost with what was not, or deleted by the application.
        (None, _, Some(true)) => Some(Class::Transient),
        (None, _, Some(false)) => Some(Class::Document),
        (None, _, None) => Some(Class::Unknown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::rawdoc;

    fn met(document: RawDocumentBuf) -> Met {
        Met { payload: Bytes::from(document.into_bytes()), id: None, on_id: Some(true) }
    }

    #[test]
    fn a_document_that_is_stored_as_it_was_sent_is_done() {
        let stored = rawdoc! { "_id": 1, "a": 2 };
        assert_eq!(judge(&met(rawdoc! { "a": 2, "_id": 1 }), Some(&stored)), None);
    }

    #[test]
    fn another_document_under_the_same_id_is_a_refusal_whatever_its_type() {
        let stored = rawdoc! { "_id": { "n": 3 }, "a": 3 };
        assert_eq!(judge(&met(rawdoc! { "_id": { "n": 3 }, "a": 2 }), Some(&stored)), Some(Class::Document));
        assert_eq!(judge(&met(rawdoc! { "_id": { "n": 3.0 }, "a": 3 }), Some(&stored)), Some(Class::Document));
    }

    #[test]
    fn nothing_under_an_id_that_was_taken_passes_and_under_one_that_was_not_another_index_is_meant() {
        let not_found = |on_id| judge(&Met { on_id, ..met(rawdoc! { "_id": 1 }) }, None);
        assert_eq!(not_found(Some(true)), Some(Class::Transient));
        assert_eq!(not_found(Some(false)), Some(Class::Document));
        assert_eq!(not_found(None), Some(Class::Unknown), "the server does not say which index");
    }

    #[test]
    fn our_own_identity_that_is_not_on_a_majority_is_not_taken_for_stored() {
        let ours = Met { id: Some([7; 12]), ..met(rawdoc! { "a": 2 }) };
        assert_eq!(judge(&ours, None), Some(Class::Transient));
    }

    #[test]
    fn a_document_under_our_own_identity_is_done_even_if_the_application_changed_it() {
        let id = [7; 12];
        let stored = rawdoc! { "_id": ObjectId::from_bytes(id), "a": 3 };
        let ours = Met { id: Some(id), ..met(rawdoc! { "a": 2 }) };
        assert_eq!(judge(&ours, Some(&stored)), None);
    }
}
