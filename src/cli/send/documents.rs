//! Reads documents for `sluice send`: JSON lines or BSON documents one after the other, each checked and numbered.
//!
//! Runs on a blocking thread and hands documents over a bounded channel. The first document that cannot be read, or would
//! not be stored as it is written, is the last thing that is handed over.

use super::super::failure::{Exit, Failure};
use super::exact;
use crate::pipeline::encoding::{BYTE_ORDER_MARK, foreign, maybe_bson};
use crate::pipeline::json::{Node, Position};
use bson::{Bson, Document as BsonDocument};
use bytes::Bytes;
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read};
use tokio::sync::mpsc;
use uuid::Uuid;

/// The largest document that MongoDB stores, 16 MiB; a longer BSON length is no document.
const MAX_DOCUMENT: usize = 16 << 20;

/// Of the input's beginning, what tells what it is.
const HEAD: usize = 64;

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
        let result = beginning(reader).map_err(|error| self.bad(1, None, &error.to_string())).and_then(|(head, reader)| {
            let read = if self.bson { self.read_bson(reader, sink) } else { self.read_lines(&head, reader, sink) };
            // A magic number may be the length of a document: what the input is not is only asked where it cannot be read.
            let wrong = foreign(&head).filter(|_| self.bson);
            read.map_err(|bad| match wrong.filter(|_| bad.number == 1) {
                Some(wrong) => self.bad(1, None, &format!("this is no BSON, it looks {} ({})", like(wrong.what), self.named(wrong.remedy))),
                None => bad,
            })
        });
        if let Err(bad) = result {
            // Nobody is left to tell where sending has failed already.
            let _ = sink.blocking_send(Err(bad));
        }
    }

    fn read_lines(&self, head: &[u8], mut reader: Reader, sink: &Sink) -> Result<(), BadDocument> {
        if let Some(wrong) = foreign(head) {
            return Err(self.bad(1, Some(1), &format!("this is no JSON, it looks {} ({})", like(wrong.what), self.named(wrong.remedy))));
        }
        if maybe_bson(head) {
            return Err(self.bad(1, Some(1), "this is no JSON, it looks like BSON documents (--format bson)"));
        }
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
            // Also where files with a mark were put one after the other.
            let text = line.strip_prefix(BYTE_ORDER_MARK.as_bytes()).unwrap_or(&line).trim_ascii_end();
            // Empty lines separate nothing from nothing.
            if number <= self.skip || text.trim_ascii_start().is_empty() {
                continue;
            }
            let document = self.document(number, text)?;
            let payload = bson::serialize_to_vec(&document).map_err(|error| self.bad(number, None, &error.to_string()))?;
            let msg_id = self.message_id(number, &document, &run)?;
            if sink.blocking_send(Ok(Document { number, payload: payload.into(), msg_id, position })).is_err() {
                return Ok(());
            }
        }
    }

    /// The document of one line, exactly as it is written there.
    fn document(&self, number: u64, line: &[u8]) -> Result<BsonDocument, BadDocument> {
        let bad = |at: usize, what: &str| self.bad(number, Some(Position::of(line, at).column), what);
        let text = std::str::from_utf8(line).map_err(|error| {
            bad(error.valid_up_to(), "this is not UTF-8 (save it as UTF-8; if it is Latin-1: iconv -f LATIN1 -t UTF-8 FILE)")
        })?;
        let flaw = Node::read(text).and_then(|document| exact::flaw(&document));
        match serde_json::from_str::<BsonDocument>(text) {
            // The parser may stumble over what it could have said better.
            Err(error) if flaw.as_ref().is_none_or(|flaw| flaw.at >= error.column()) => {
                let what = error.to_string();
                let what = what.split(" at line ").next().unwrap_or(&what);
                Err(bad(error.column().saturating_sub(1), &format!("{what}{}", hint(text, &error))))
            }
            parsed => match (flaw, parsed) {
                (Some(flaw), _) => Err(bad(flaw.at, &flaw.message)),
                (None, Ok(document)) => Ok(document),
                (None, Err(error)) => Err(bad(0, &error.to_string())),
            },
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

    /// A command with this input's name.
    fn named(&self, remedy: &str) -> String {
        if self.name == "-" { remedy.replace(" FILE", "") } else { remedy.replace("FILE", &self.name) }
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

/// The first bytes of the input, and a reader that gives all of it.
fn beginning(mut reader: Reader) -> std::io::Result<(Vec<u8>, Reader)> {
    let mut head = Vec::with_capacity(HEAD);
    reader.by_ref().take(HEAD as u64).read_to_end(&mut head)?;
    Ok((head.clone(), Box::new(Cursor::new(head).chain(reader))))
}

fn like(what: &str) -> String {
    if what.starts_with("compressed") { what.to_owned() } else { format!("like {what}") }
}

/// What to do about a line that is no JSON object.
fn hint(line: &str, error: &serde_json::Error) -> &'static str {
    let at = error.column();
    let around = line.as_bytes().get(at.saturating_sub(2)..(at + 8).min(line.len())).unwrap_or_default();
    let has = |word: &str| around.windows(word.len()).any(|part| part == word.as_bytes());
    match line.trim_start().as_bytes().first() {
        Some(b'{') if error.is_eof() => " (a line must hold a whole object; `jq -c . FILE` puts each into one line)",
        Some(b'{') if has("NaN") || has("Infinity") => {
            r#" (JSON has no such number: write {"$numberDouble":"NaN"}, "Infinity" or "-Infinity")"#
        }
        Some(b'{') if error.to_string().starts_with("trailing characters") => {
            " (a line must hold one object; `jq -c . FILE` puts each into one line)"
        }
        Some(b'{') => "",
        _ => " (a line must hold one object; `jq -c '.[]' FILE` makes lines of an array)",
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
    fn what_would_not_be_stored_as_it_is_written_is_refused_at_its_place() {
        for (line, place, part) in [
            (r#"{"n":100000000000000000001}"#, "data.jsonl:1:6: ", "64 bits"),
            (r#"  {"é":1e400}"#, "data.jsonl:1:8: ", "larger than any double"),
            (r#"{"n":0.1234567890123456789}"#, "data.jsonl:1:6: ", "0.12345678901234568"),
            (r#"{"n":1,"m":{"x":1,"x":2}}"#, "data.jsonl:1:19: ", "'m.x' is given twice"),
            (r#"{"n":NaN}"#, "data.jsonl:1:6: ", "$numberDouble"),
            (r#"{"n":-Infinity}"#, "data.jsonl:1:7: ", "$numberDouble"),
            (r#"{"n":{"$numberLong":"100000000000000000001"}}"#, "data.jsonl:1:", "64-bit"),
            (r#"{"n":{"$numberDecimal":"1e99999"}}"#, "data.jsonl:1:", "decimal128"),
            (r#"{"n":1"#, "data.jsonl:1:6: ", "jq -c . FILE"),
            (r#"{"n":1} {"n":2}"#, "data.jsonl:1:9: ", "one object"),
        ] {
            let (documents, bad) = read(&lines(None, 0), line.as_bytes());
            let bad = bad.expect(line).to_string();
            assert!(documents.is_empty() && bad.starts_with(place) && bad.contains(part), "{line}: {bad}");
        }
        let deep = format!("{}1{}", "{\"a\":".repeat(120), "}".repeat(120));
        assert!(read(&lines(None, 0), deep.as_bytes()).1.unwrap().to_string().contains("nested"));
        assert!(read(&lines(None, 0), b"{\"a\":\"\xe9\"}").1.unwrap().to_string().starts_with("data.jsonl:1:7: this is not UTF-8"));
    }

    #[test]
    fn numbers_that_can_be_kept_are_kept_to_the_last_digit() {
        let line = r#"{"a":0.1,"b":-0,"c":5e-324,"d":9223372036854775807,"e":{"$numberDecimal":"100000000000000000001"},"f":1.7976931348623157e308}"#;
        let (documents, bad) = read(&lines(None, 0), line.as_bytes());
        assert_eq!(bad, None);
        let document = BsonDocument::from_reader(documents[0].payload.as_ref()).unwrap();
        let decimal: bson::Decimal128 = "100000000000000000001".parse().unwrap();
        assert_eq!(document, doc! { "a": 0.1, "b": -0.0, "c": 5e-324, "d": i64::MAX, "e": decimal, "f": f64::MAX });
        assert!(document.get_f64("b").unwrap().is_sign_negative());
    }

    #[test]
    fn a_byte_order_mark_is_skipped_and_what_is_no_utf_8_is_named() {
        let (documents, bad) = read(&lines(None, 0), "\u{feff}{\"a\":1}\n\u{feff}{\"a\":2}\n\u{feff}".as_bytes());
        assert_eq!((documents.len(), bad), (2, None));
        let utf_16: Vec<u8> = "\u{feff}{\"a\":1}".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let gzip = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
        let one = bson::serialize_to_vec(&doc! { "a": 1 }).unwrap();
        for (input, part) in [
            (utf_16.as_slice(), "looks like UTF-16 (save it as UTF-8: iconv -f UTF-16 -t UTF-8 data.jsonl)"),
            (&gzip, "looks compressed by gzip (unpack it first: gunzip -c data.jsonl)"),
            (&one, "--format bson"),
        ] {
            let bad = read(&lines(None, 0), input).1.unwrap().to_string();
            assert!(bad.starts_with("data.jsonl:1:1: ") && bad.contains(part), "{bad}");
        }
        let dump = Source { name: "dump.bson".into(), bson: true, msg_id: None, skip: 0 };
        assert!(read(&dump, &gzip).1.unwrap().to_string().contains("gunzip -c dump.bson"));
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
