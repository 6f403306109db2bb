//! What a payload that is no BSON looks like, so that its dead letter and the status can call it by its name.
//!
//! Pure, and asked only of payloads that were refused: nothing depends on the answer but the words for a person. It goes by
//! the first bytes, as `file` does, and names nothing that it is not sure of.

/// What `bytes` look like and what to do about it; `None` where nothing is recognized.
pub fn describe(bytes: &[u8]) -> Option<&'static str> {
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let start = text.trim_ascii_start();
    Some(match start {
        [] if bytes.is_empty() => "it is empty: a producer publishes one BSON document a message",
        [b'{' | b'[', ..] if is_json(start) => {
            "it looks like JSON: encode the document as BSON in the producer (`bson.encode`, `bson.Marshal`, `BSON.serialize`), or send it with `sluice send`"
        }
        [0x1f, 0x8b, ..] => "it looks like gzip: publish the document uncompressed",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "it looks like zstd: publish the document uncompressed",
        [0x04, 0x22, 0x4d, 0x18, ..] => "it looks like lz4: publish the document uncompressed",
        [0xff, 0x06, 0x00, 0x00, b's', ..] => "it looks like snappy: publish the document uncompressed",
        [b'O', b'b', b'j', 0x01, ..] => "it looks like an Avro file: encode the document as BSON in the producer",
        [0x00, 0x00, 0x00, ..] if bytes.len() > 5 && bytes[4] != 0 && length(bytes) == Some(0) => {
            "it looks like Avro or Protobuf with a schema registry's header: encode the document as BSON in the producer"
        }
        _ if is_text(text) => "it looks like text: encode the document as BSON in the producer",
        [0x80..=0x8f | 0xde | 0xdf, ..] if is_message_pack(bytes) => {
            "it looks like MessagePack: encode the document as BSON in the producer"
        }
        [0xa0..=0xb7 | 0xbf, ..] => "it looks like CBOR: encode the document as BSON in the producer",
        _ => match length(bytes) {
            Some(length) if length > bytes.len() && length <= 2 * bytes.len().max(64) => {
                "it begins like a BSON document and is cut off: look for what shortens it on its way"
            }
            Some(length) if (5..bytes.len()).contains(&length) => {
                "it begins like a BSON document and goes on after its end: publish one document a message"
            }
            _ => return None,
        },
    })
}

/// The length that a BSON document would begin with.
fn length(bytes: &[u8]) -> Option<usize> {
    usize::try_from(i32::from_le_bytes(*bytes.first_chunk::<4>()?)).ok()
}

/// Whether what begins with a brace or a bracket goes on as JSON does. A BSON document of 123 bytes begins with a brace, too.
fn is_json(start: &[u8]) -> bool {
    match start.get(1..).map(<[u8]>::trim_ascii_start) {
        Some([next, ..]) => matches!(next, b'"' | b'}' | b']' | b'{' | b'[' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n'),
        _ => false,
    }
}

/// Whether all of it is readable text.
fn is_text(bytes: &[u8]) -> bool {
    // A long text need not be read to its end; where it is cut, a character may be.
    let head = &bytes[..bytes.len().min(1024)];
    let valid = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(error) if bytes.len() > head.len() && error.error_len().is_none() => {
            std::str::from_utf8(&head[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return false,
    };
    !valid.is_empty() && valid.chars().all(|c| !c.is_control() || c.is_ascii_whitespace())
}

/// Whether the first key of a MessagePack map is a text: arrays and numbers begin with too many bytes to be told apart.
fn is_message_pack(bytes: &[u8]) -> bool {
    let key = match bytes[0] {
        0xde => bytes.get(3),
        0xdf => bytes.get(5),
        _ => bytes.get(1),
    };
    key.is_some_and(|key| matches!(key, 0xa0..=0xbf | 0xd9))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(bytes: &[u8], word: &str) -> bool {
        describe(bytes).is_some_and(|text| text.contains(word))
    }

    #[test]
    fn what_producers_send_by_mistake_is_called_by_its_name() {
        for json in ["{\"a\":1}", " \n[1,2]", "{}", "\u{feff}{ \"a\": null }", "[{\"a\":1}]"] {
            assert!(named(json.as_bytes(), "JSON"), "{json}");
        }
        assert!(named(b"\x1f\x8b\x08\x00\x00\x00\x00\x00", "gzip"));
        assert!(named(b"\x28\xb5\x2f\xfd\x00", "zstd"));
        assert!(named(b"\x81\xa1a\x01", "MessagePack"));
        assert!(named(b"\xde\x00\x10\xa3abc", "MessagePack"));
        assert!(named(b"\xa1\x61a\x01", "CBOR"));
        assert!(named("hello, wörld".as_bytes(), "text"));
        assert!(named("ö".repeat(2000).as_bytes(), "text"));
        assert!(named(b"", "empty"));
        assert!(named(b"\x00\x00\x00\x00\x07\x02a", "schema registry"));
    }

    #[test]
    fn damaged_documents_are_not_taken_for_something_else() {
        // {"a": 1 (int32)}: 12 bytes.
        let good = b"\x0c\x00\x00\x00\x10a\x00\x01\x00\x00\x00\x00";
        assert!(named(&good[..11], "cut off"));
        assert!(named(&[good.as_slice(), good].concat(), "one document a message"));
        assert_eq!(describe(b"\xff\xff\xff\xff\x00\x01\x02"), None);
        // A document of 123 bytes begins with the byte of a brace.
        let mut long = vec![0u8; 122];
        long[0] = b'{';
        assert!(!named(&long, "JSON"));
    }
}
