//! The reply to an `insert` command, read into facts.
//!
//! The driver turns a reply that is not `ok` into an error, and hands everything else over untouched: `writeErrors` and
//! `writeConcernError` are ours to find.

use super::failure::{CommandFailure, FailureKind, shorten};
use bson::{Bson, Document};

/// The code of a duplicate key.
const DUPLICATE_KEY: i32 = 11000;

/// One document that the server refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentFailure {
    /// Its index in the command.
    pub index: usize,
    /// The server's error code.
    pub code: i32,
    /// For people, short.
    pub message: String,
    /// For a duplicate key (11000): whether the index was the one on `_id`; `None` where the server does not say.
    pub on_id: Option<bool>,
}

/// What came of an `insert` command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InsertReply {
    /// The server tried every document.
    Executed {
        /// Those that it refused, by index.
        failures: Vec<DocumentFailure>,
        /// The write concern was not met in time: whether anything is durable is unknown.
        write_concern_error: Option<CommandFailure>,
    },
    /// Measurements were sent to what is a normal collection now. It took them all but those it `refused`, by index.
    NotSeries {
        /// Their indexes.
        refused: Vec<usize>,
    },
    /// The command failed; what was stored of it is unknown.
    Failed(CommandFailure),
}

/// Reads the reply to a command of `sent` documents. A reply that does not add up is a failure: nothing may count as
/// stored because of it.
pub(super) fn read(reply: &Document, sent: usize) -> InsertReply {
    let mut failures = Vec::new();
    if let Some(Bson::Array(entries)) = reply.get("writeErrors") {
        for entry in entries {
            match entry.as_document().and_then(failure) {
                Some(failure) if failure.index < sent => failures.push(failure),
                _ => return unreadable("an entry of writeErrors"),
            }
        }
    }
    let stored = reply.get("n").and_then(integer).and_then(|n| usize::try_from(n).ok());
    let write_concern_error = match reply.get("writeConcernError") {
        None => None,
        Some(Bson::Document(error)) => Some(concern_failure(error)),
        Some(_) => return unreadable("writeConcernError"),
    };
    if stored.map(|n| n + failures.len()) != Some(sent) {
        return unreadable("the number of stored documents");
    }
    failures.sort_unstable_by_key(|failure| failure.index);
    if failures.windows(2).any(|pair| pair[0].index == pair[1].index) {
        return unreadable("one document twice in writeErrors");
    }
    InsertReply::Executed { failures, write_concern_error }
}

fn unreadable(what: &str) -> InsertReply {
    InsertReply::Failed(CommandFailure::new(FailureKind::Other, format!("the server's reply does not add up: {what}")))
}

fn failure(entry: &Document) -> Option<DocumentFailure> {
    let code = i32::try_from(integer(entry.get("code")?)?).ok()?;
    let on_id = match entry.get("keyPattern") {
        Some(Bson::Document(pattern)) if code == DUPLICATE_KEY => Some(pattern.len() == 1 && pattern.contains_key("_id")),
        _ => None,
    };
    Some(DocumentFailure {
        index: usize::try_from(integer(entry.get("index")?)?).ok()?,
        code,
        message: shorten(entry.get_str("errmsg").unwrap_or_default()),
        on_id,
    })
}

fn concern_failure(error: &Document) -> CommandFailure {
    let labels = error.get_array("errorLabels").into_iter().flatten().filter_map(Bson::as_str).map(str::to_owned).collect();
    CommandFailure {
        kind: FailureKind::Server,
        code: error.get("code").and_then(integer).and_then(|code| i32::try_from(code).ok()),
        labels,
        message: shorten(error.get_str("errmsg").unwrap_or("the write concern was not met")),
    }
}

/// Servers send numbers as 32-bit, 64-bit or floating point.
fn integer(value: &Bson) -> Option<i64> {
    match value {
        Bson::Int32(number) => Some(i64::from(*number)),
        Bson::Int64(number) => Some(*number),
        Bson::Double(number) if number.fract() == 0.0 => Some(*number as i64),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::doc;

    fn executed(reply: Document, sent: usize) -> (Vec<DocumentFailure>, Option<CommandFailure>) {
        match read(&reply, sent) {
            InsertReply::Executed { failures, write_concern_error } => (failures, write_concern_error),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn all_stored() {
        assert_eq!(executed(doc! {"n": 3, "ok": 1.0}, 3), (vec![], None));
    }

    #[test]
    fn a_duplicate_on_id_is_told_from_one_on_another_index() {
        let entry = |index: i32, pattern: Document| {
            doc! {"index": index, "code": 11000, "errmsg": "E11000", "keyPattern": pattern, "keyValue": {"x": 1}}
        };
        let no_pattern = doc! {"index": 3_i64, "code": 11000.0, "errmsg": "E11000"};
        let errors = vec![entry(1, doc! {"_id": 1}), entry(0, doc! {"_id": 1, "b": 1}), entry(2, doc! {"a": 1}), no_pattern];
        let (failures, _) = executed(doc! {"n": 0, "ok": 1, "writeErrors": errors}, 4);
        let on_id: Vec<_> = failures.iter().map(|failure| (failure.index, failure.on_id)).collect();
        assert_eq!(on_id, [(0, Some(false)), (1, Some(true)), (2, Some(false)), (3, None)]);
    }

    #[test]
    fn an_unmet_write_concern_is_not_a_refusal() {
        let reply = doc! {"n": 1, "ok": 1, "writeConcernError": {"code": 64, "errmsg": "waiting for replication timed out"}};
        let (failures, concern) = executed(reply, 1);
        assert!(failures.is_empty());
        assert_eq!(concern.unwrap().code, Some(64));
    }

    #[test]
    fn a_reply_that_does_not_add_up_stores_nothing() {
        for reply in [
            doc! {"ok": 1},
            doc! {"n": 1, "ok": 1},
            doc! {"n": 2, "ok": 1, "writeErrors": [{"index": 0, "code": 121}]},
            doc! {"n": 1, "ok": 1, "writeErrors": [{"index": 2, "code": 121}]},
            doc! {"n": 0, "ok": 1, "writeErrors": [{"index": 0, "code": 121}, {"index": 0, "code": 121}]},
            doc! {"n": 1, "ok": 1, "writeErrors": ["?"]},
            doc! {"n": 2, "ok": 1, "writeConcernError": "?"},
        ] {
            assert!(matches!(read(&reply, 2), InsertReply::Failed(_)), "{reply}");
        }
    }
}
