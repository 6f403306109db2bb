//! Reads documents for `sluice send`: JSON lines or BSON documents one after the other, each checked and numbered.
//!
//! Runs on a blocking thread and hands documents over a bounded channel. The first document that cannot be read is the
//! last thing that is handed over.

use super::super::failure::{Exit, Failure};
use bson::{Bson, Document as BsonDocument};
use bytes::Bytes;
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use tokio::sync::mpsc;
use uuid::Uuid;

/// The largest document that MongoDB stores, 16 MiB; a longer BSON length is no document.
const MAX_DOCUMENT: usize = 16 << 20;

/// What to read.
pub struct Source {
    /// The file, or `-`.
    pub name: String,
    /// BSON or JSON lines.
    pub bson: bool,
    /// The field that becomes the message id.
    pub msg_id: Option<String>,
    /// Lines or documents to leave out.
    pub skip: u64,
}

/// A document to send.
#[derive(Debug)]
pub struct Document {
    /// Line, or number of the BSON document, counted from 1.
    pub number: u64,
    /// BSON.
    pub payload: Bytes,
    /// `Nats-Msg-Id`.
    pub msg_id: String,
    /// Bytes of the input read so far.
    pub position: u64,
}

/// A document that cannot be sent.
#[derive(Debug, PartialEq, Eq)]
pub struct BadDocument {
    /// Line, or number of the BSON document, counted from 1.
    pub number: u64,
    message: String,
}

impl fmt::Display for BadDocument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

type Sink = mpsc::Sender<Result<Document, BadDocument>>;
/// An input that can be read on another thread.
pub type Reader = Box<dyn BufRead + Send>;

impl Source {
    /// Opens the input; its size where it is a regular file.
    pub fn open(&self) -> Result<(Reader, Option<u64>), Failure> {
        if self.name == "-" {
            return Ok((Box::new(BufReader::new(std::io::stdin())), None));
        }
        let refuse = |error| Failure::new(Exit::Invalid, format!("{}: cannot be read: {error}", self.name));
        let file = File::open(&self.name).map_err(refuse)?;
        let metadata = file.metadata().map_err(refuse)?;
        if metadata.is_dir() {
            return Err(Failure::new(Exit::Invalid, format!("{}: is a directory (name a file, or - for standard input)", self.name)));
        }
        let size = metadata.is_file().then_some(metadata.len());
        Ok((Box::new(BufReader::with_capacity(256 << 10, file)), size))
    }

    /// Reads to the end, to the first bad document, or until nobody takes documents any more.
    pub fn read(&self, reader: Reader, sink: &Sink) {
        let result = if self.bson { self.read_bson(reader, sink) } else { self.read_lines(reader, sink) };
        if let Err(bad) = result {
            // Nobody is left to tell where sending has failed already.
            let _ = sink.blocking_send(Err(bad));
        }
    }

    fn read_lines(&self, mut reader: Reader, sink: &Sink) -> Result<(), BadDocument> {
        let run = Uuid::now_v7();
        let (mut line, mut number, mut position) = (Vec::new(), 0, 0);
        loop {
            line.clear();
            number += 1;
            let read = reader.read_until(b'\n', &mut line).map_err(|error| self.bad(number, None, &error.to_string()))?;
            if read == 0 {
                return Ok(());
            }
            position += read as u64;
            let text = line.trim_ascii();
            // Empty lines separate nothing from nothing.
            if number <= self.skip || text.is_empty() {
                continue;
            }
            let document: BsonDocument = serde_json::from_slice(text).map_err(|error| {
                let what = error.to_string();
                let what = what.split(" at line ").next().unwrap_or(&what);
                let hint = if text.first() == Some(&b'{') {
                    ""
                } else {
                    " (a line must hold one object; `jq -c '.[]' FILE` makes lines of an array)"
                };
                self.bad(number, Some(error.column()), &format!("{what}{hint}"))
            })?;
            let payload = bson::serialize_to_vec(&document).map_err(|error| self.bad(number, None, &error.to_string()))?;
            let msg_id = self.message_id(number, &document, &run)?;
            if sink.blocking_send(Ok(Document { number, payload: payload.into(), msg_id, position })).is_err() {
                return Ok(());
            }
        }
    }

    fn read_bson(&self, mut reader: Reader, sink: &Sink) -> Result<(), BadDocument> {
        let run = Uuid::now_v7();
        let (mut number, mut position) = (0, 0);
        loop {
            number += 1;
            if reader.fill_buf().map_err(|error| self.bad(number, None, &error.to_string()))?.is_empty() {
                return Ok(());
            }
            let at = |what: &str| self.bad(number, None, &format!("{what}, at byte {position}"));
            let mut length = [0; 4];
            reader.read_exact(&mut length).map_err(|_| at("the file ends within a document"))?;
            let size = i32::from_le_bytes(length);
            let Some(size) = usize::try_from(size).ok().filter(|size| (5..=MAX_DOCUMENT).contains(size)) else {
                return Err(at(&format!("this is no BSON document: its length would be {size} (is it JSON? --format jsonl)")));
            };
            let mut payload = vec![0; size];
            payload[..4].copy_from_slice(&length);
            reader.read_exact(&mut payload[4..]).map_err(|_| at("the file ends within a document"))?;
            let document =
                BsonDocument::from_reader(payload.as_slice()).map_err(|error| at(&format!("this is no BSON document: {error}")))?;
            position += size as u64;
            if number <= self.skip {
                continue;
            }
            let msg_id = self.message_id(number, &document, &run)?;
            if sink.blocking_send(Ok(Document { number, payload: payload.into(), msg_id, position })).is_err() {
                return Ok(());
            }
        }
    }

    /// The value of the named field, else an id that is this document's in this run.
    fn message_id(&self, number: u64, document: &BsonDocument, run: &Uuid) -> Result<String, BadDocument> {
        let Some(field) = &self.msg_id else { return Ok(format!("{}-{number}", run.simple())) };
        let value = match document.get(field) {
            Some(Bson::String(text)) => text.clone(),
            Some(Bson::ObjectId(id)) => id.to_hex(),
            Some(Bson::Int32(number)) => number.to_string(),
            Some(Bson::Int64(number)) => number.to_string(),
            Some(_) => {
                return Err(self.bad(
                    number,
                    None,
                    &format!("field '{field}' is no message id: it must be a string, a whole number or an ObjectId"),
                ));
            }
            None => return Err(self.bad(number, None, &format!("field '{field}', the message id, is missing"))),
        };
        if value.is_empty() || value.chars().any(char::is_control) {
            return Err(self.bad(number, None, &format!("field '{field}' is no message id: it is empty or has control characters")));
        }
        Ok(value)
    }

    fn bad(&self, number: u64, column: Option<usize>, what: &str) -> BadDocument {
        let name = if self.name == "-" { "standard input" } else { &self.name };
        let message = match (self.bson, column) {
            (true, _) => format!("{name}: document {number}: {what}"),
            (false, Some(column)) => format!("{name}:{number}:{column}: {what}"),
            (false, None) => format!("{name}:{number}: {what}"),
        };
        BadDocument { number, message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{doc, oid::ObjectId};

    fn read(source: &Source, input: &[u8]) -> (Vec<Document>, Option<BadDocument>) {
        let (sink, mut received) = mpsc::channel(100);
        source.read(Box::new(std::io::Cursor::new(input.to_vec())), &sink);
        drop(sink);
        let (mut documents, mut bad) = (Vec::new(), None);
        while let Ok(item) = received.try_recv() {
            match item {
                Ok(document) => documents.push(document),
                Err(error) => bad = Some(error),
            }
        }
        (documents, bad)
    }

    fn lines(msg_id: Option<&str>, skip: u64) -> Source {
        Source { name: "data.jsonl".into(), bson: false, msg_id: msg_id.map(str::to_owned), skip }
    }

    #[test]
    fn extended_json_becomes_the_types_it_names_and_fields_keep_their_order() {
        let (documents, bad) = read(
            &lines(None, 0),
            br#"{"z":{"$date":"2024-05-06T07:08:09Z"},"a":{"$oid":"65f0a1b2c3d4e5f601234567"},"n":5,"big":5000000000}"#,
        );
        assert_eq!(bad, None);
        let document = BsonDocument::from_reader(documents[0].payload.as_ref()).unwrap();
        assert_eq!(document.keys().collect::<Vec<_>>(), ["z", "a", "n", "big"]);
        let expected = doc! {
            "z": bson::DateTime::parse_rfc3339_str("2024-05-06T07:08:09Z").unwrap(),
            "a": ObjectId::parse_str("65f0a1b2c3d4e5f601234567").unwrap(), "n": 5, "big": 5_000_000_000i64,
        };
        assert_eq!(document, expected);
    }

    #[test]
    fn a_bad_line_is_named_and_nothing_after_it_is_read() {
        let (documents, bad) = read(&lines(None, 0), b"{\"a\":1}\n\n{\"a\":2}\n{\"a\":}\n{\"a\":3}\n");
        assert_eq!(documents.iter().map(|document| document.number).collect::<Vec<_>>(), [1, 3]);
        let bad = bad.unwrap();
        assert_eq!(bad.number, 4);
        assert!(bad.to_string().starts_with("data.jsonl:4:6: expected value"), "{bad}");
    }

    #[test]
    fn an_array_in_place_of_lines_is_refused_with_what_to_do() {
        let (documents, bad) = read(&lines(None, 0), b"[{\"a\":1}]");
        assert!(documents.is_empty() && bad.unwrap().to_string().contains("jq -c"));
    }

    #[test]
    fn the_message_id_is_the_fields_value_or_unique() {
        let (documents, _) = read(&lines(Some("k"), 0), b"{\"k\":\"x-1\"}\n{\"k\":7}");
        assert_eq!(documents.iter().map(|document| document.msg_id.as_str()).collect::<Vec<_>>(), ["x-1", "7"]);
        let (_, bad) = read(&lines(Some("k"), 0), b"{\"k\":\"x\"}\n{\"j\":1}");
        assert!(bad.unwrap().to_string().contains("data.jsonl:2: field 'k'"));
        let (documents, _) = read(&lines(None, 0), b"{}\n{}");
        assert_ne!(documents[0].msg_id, documents[1].msg_id);
    }

    #[test]
    fn skipping_leaves_out_lines_and_keeps_their_numbers() {
        let (documents, _) = read(&lines(None, 1), b"not json\n{\"a\":2}\n");
        assert_eq!(documents.iter().map(|document| document.number).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn bson_documents_pass_unchanged_and_a_cut_off_one_is_named() {
        let source = Source { name: "dump.bson".into(), bson: true, msg_id: None, skip: 0 };
        let one = bson::serialize_to_vec(&doc! { "a": 1 }).unwrap();
        let mut input = [one.clone(), one.clone()].concat();
        let (documents, bad) = read(&source, &input);
        assert!(bad.is_none() && documents.len() == 2 && documents[1].payload == one);
        input.truncate(input.len() - 1);
        let (documents, bad) = read(&source, &input);
        assert_eq!(documents.len(), 1);
        assert_eq!(bad.unwrap().to_string(), "dump.bson: document 2: the file ends within a document, at byte 12");
        let (_, bad) = read(&source, b"{\"a\":1}");
        assert!(bad.unwrap().to_string().contains("--format jsonl"));
    }
}
