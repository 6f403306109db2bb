//! The `insert` command as bytes: each payload is copied into it once, and nothing is decoded.
//!
//! A document gets its `_id` in front by writing a new length, the `_id`, and the rest of the payload as it came. The
//! layout is BSON's (<https://bsonspec.org/spec.html>): an array is a document whose keys are `"0"`, `"1"`, ….

use super::Document;
use crate::pipeline::config::WriteConcern;
use std::time::Duration;

/// The largest command of several documents, in bytes, array keys and added `_id`s included. mongod takes 16 KiB more
/// (`BSONObjMaxInternalSize`), which the driver's own fields (`lsid`, `$clusterTime`, `$db`) and a lone document use.
pub const MAX_COMMAND_BYTES: usize = 16 << 20;

/// The largest document that MongoDB stores, in bytes, with its `_id`.
pub const MAX_DOCUMENT_BYTES: usize = 16 << 20;

/// What an `_id` element with an ObjectId takes: type, name, terminator, value.
const ID_BYTES: usize = 1 + 3 + 1 + 12;
/// The ends of the array and of the command.
const EPILOGUE_BYTES: usize = 2;

/// Everything of a command in front of its first document but the command's own length, and with the array's length
/// left zero.
pub(super) fn prologue(collection: &str, concern: &WriteConcern, limit: Duration) -> Vec<u8> {
    let millis = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
    let mut concern_body = Vec::with_capacity(64);
    match concern.w.parse::<i32>() {
        Ok(nodes) => int32(&mut concern_body, "w", nodes),
        Err(_) => string(&mut concern_body, "w", &concern.w),
    }
    boolean(&mut concern_body, "j", concern.j);
    // maxTimeMS bounds the write, this bounds the wait for the other nodes: both, so that a reply always comes.
    int32(&mut concern_body, "wtimeout", millis);

    let mut out = Vec::with_capacity(192 + collection.len());
    string(&mut out, "insert", collection);
    boolean(&mut out, "ordered", false);
    int32(&mut out, "maxTimeMS", millis);
    header(&mut out, 0x03, "writeConcern");
    out.extend_from_slice(&length(4 + concern_body.len() + 1));
    out.extend_from_slice(&concern_body);
    out.push(0);
    header(&mut out, 0x04, "documents");
    out.extend_from_slice(&[0; 4]);
    out
}

/// The command that inserts `documents`, each a payload and perhaps the `_id` to put in front, and how many they are.
/// `bytes`: the sum of their [`document_bytes`], so that nothing is moved while it grows.
pub(super) fn build<'a>(prologue: &[u8], bytes: usize, documents: impl Iterator<Item = (&'a [u8], Option<[u8; 12]>)>) -> (Vec<u8>, usize) {
    let mut out = Vec::with_capacity(4 + prologue.len() + bytes + EPILOGUE_BYTES);
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(prologue);
    let array = out.len() - 4;
    let mut key = Key::default();
    let mut count = 0;
    for (payload, id) in documents {
        out.push(0x03);
        out.extend_from_slice(key.as_bytes());
        out.push(0);
        key.advance();
        count += 1;
        match id {
            None => out.extend_from_slice(payload),
            Some(id) => {
                // Of one piece, of a size that is known.
                let mut front = [0; 4 + ID_BYTES];
                front[..4].copy_from_slice(&length(payload.len() + ID_BYTES));
                front[4..9].copy_from_slice(b"\x07_id\0");
                front[9..].copy_from_slice(&id);
                out.extend_from_slice(&front);
                // A payload is at least a length and a terminator; one that is not was refused long before.
                out.extend_from_slice(payload.get(4..).unwrap_or_default());
            }
        }
    }
    out.push(0);
    let array_length = length(out.len() - array);
    out[array..array + 4].copy_from_slice(&array_length);
    out.push(0);
    let total = length(out.len());
    out[..4].copy_from_slice(&total);
    (out, count)
}

/// [`build`] of documents.
pub(super) fn build_all(prologue: &[u8], documents: &[Document]) -> (Vec<u8>, usize) {
    let bytes = documents.iter().map(|document| document_bytes(document.payload.len(), document.id.is_some())).sum();
    build(prologue, bytes, documents.iter().map(|document| (document.payload.as_ref(), document.id)))
}

/// The most that a document of `payload` bytes adds to a command.
pub(super) fn document_bytes(payload: usize, adds_id: bool) -> usize {
    // Type, at most six digits (a command holds at most 100,000 documents), terminator.
    payload + if adds_id { ID_BYTES } else { 0 } + 8
}

/// BSON lengths are signed; what is larger was refused before (the caller holds to [`MAX_COMMAND_BYTES`]).
fn length(bytes: usize) -> [u8; 4] {
    i32::try_from(bytes).unwrap_or(i32::MAX).to_le_bytes()
}

fn header(out: &mut Vec<u8>, kind: u8, name: &str) {
    out.push(kind);
    out.extend_from_slice(name.as_bytes());
    out.push(0);
}

fn int32(out: &mut Vec<u8>, name: &str, value: i32) {
    header(out, 0x10, name);
    out.extend_from_slice(&value.to_le_bytes());
}

fn boolean(out: &mut Vec<u8>, name: &str, value: bool) {
    header(out, 0x08, name);
    out.push(u8::from(value));
}

fn string(out: &mut Vec<u8>, name: &str, value: &str) {
    header(out, 0x02, name);
    out.extend_from_slice(&length(value.len() + 1));
    out.extend_from_slice(value.as_bytes());
    out.push(0);
}

/// The decimal keys of an array, counted upwards in place: formatting each would cost as much as copying a document.
#[derive(Debug)]
struct Key {
    digits: [u8; 20],
    start: usize,
}

impl Default for Key {
    fn default() -> Self {
        Self { digits: [b'0'; 20], start: 19 }
    }
}

impl Key {
    fn as_bytes(&self) -> &[u8] {
        &self.digits[self.start..]
    }

    fn advance(&mut self) {
        let mut at = self.digits.len() - 1;
        while self.digits[at] == b'9' && at > 0 {
            self.digits[at] = b'0';
            at -= 1;
        }
        self.digits[at] += 1;
        self.start = self.start.min(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{Document as Bson, doc, oid::ObjectId};
    use proptest::prelude::*;

    fn payload(document: &Bson) -> bytes::Bytes {
        document.to_vec().unwrap().into()
    }

    fn prologue_of(w: &str) -> Vec<u8> {
        prologue("metrics", &WriteConcern { w: w.into(), j: true }, Duration::from_secs(10))
    }

    #[test]
    fn a_command_is_what_the_server_expects() {
        let own = doc! {"_id": 7, "a": "b"};
        let documents = [
            Document { payload: payload(&doc! {"n": 1}), id: Some([7; 12]) },
            Document { payload: payload(&own), id: None },
            Document { payload: payload(&doc! {}), id: Some([8; 12]) },
        ];
        let command = Bson::from_reader(build_all(&prologue_of("majority"), &documents).0.as_slice()).unwrap();
        assert_eq!(
            command,
            doc! {
                "insert": "metrics", "ordered": false, "maxTimeMS": 10_000,
                "writeConcern": {"w": "majority", "j": true, "wtimeout": 10_000},
                "documents": [
                    {"_id": ObjectId::from_bytes([7; 12]), "n": 1},
                    own,
                    {"_id": ObjectId::from_bytes([8; 12])},
                ],
            }
        );
        assert_eq!(command.keys().next().unwrap(), "insert", "the first key names the command");
    }

    #[test]
    fn a_number_of_nodes_is_sent_as_a_number() {
        let command = Bson::from_reader(build_all(&prologue_of("2"), &[]).0.as_slice()).unwrap();
        assert_eq!(command.get_document("writeConcern").unwrap().get_i32("w").unwrap(), 2);
    }

    proptest! {
        #[test]
        fn any_number_of_documents_makes_a_valid_command_within_the_size_that_was_said(
            values in prop::collection::vec((any::<Option<[u8; 12]>>(), ".{0,40}"), 0..1200),
        ) {
            let documents: Vec<_> =
                values.iter().map(|(id, text)| Document { payload: payload(&doc! {"t": text}), id: *id }).collect();
            let prologue = prologue_of("majority");
            let (bytes, count) = build_all(&prologue, &documents);
            prop_assert_eq!(count, documents.len());
            let bound = 1024 + documents.iter().map(|d| document_bytes(d.payload.len(), d.id.is_some())).sum::<usize>();
            prop_assert!(bytes.len() <= bound);
            let command = Bson::from_reader(bytes.as_slice()).unwrap();
            let stored = command.get_array("documents").unwrap();
            prop_assert_eq!(stored.len(), values.len());
            for (stored, (id, text)) in stored.iter().zip(&values) {
                let stored = stored.as_document().unwrap();
                prop_assert_eq!(stored.get_str("t").unwrap(), text);
                prop_assert_eq!(stored.get_object_id("_id").ok(), id.map(ObjectId::from_bytes));
            }
        }
    }

    #[test]
    fn keys_count_upwards() {
        let mut key = Key::default();
        for number in 0..100_001_usize {
            assert_eq!(key.as_bytes(), number.to_string().as_bytes());
            key.advance();
        }
    }
}
