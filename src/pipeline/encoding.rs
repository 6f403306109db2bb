//! What bytes look like that are not the text they should be: named by their beginning, with what to do about it.
//!
//! Asked where documents, entries, configs and settings are read, so that nobody has to guess what "expected value" means.
//! Pure.

/// The mark that some editors put in front of UTF-8.
pub const BYTE_ORDER_MARK: &str = "\u{feff}";

/// Something that is no UTF-8 text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Foreign {
    /// What it looks like.
    pub what: &'static str,
    /// A command that makes text of it, `FILE` in the place of its name.
    pub remedy: &'static str,
}

/// Beginnings, longer ones before those that they begin with.
const KNOWN: &[(&[u8], &str, &str)] = &[
    (&[0x1f, 0x8b], "compressed by gzip", "unpack it first: gunzip -c FILE"),
    (&[0x28, 0xb5, 0x2f, 0xfd], "compressed by zstd", "unpack it first: zstd -dc FILE"),
    (&[0xfd, b'7', b'z', b'X', b'Z', 0], "compressed by xz", "unpack it first: xz -dc FILE"),
    (b"BZh", "compressed by bzip2", "unpack it first: bzip2 -dc FILE"),
    (&[0x04, 0x22, 0x4d, 0x18], "compressed by lz4", "unpack it first: lz4 -dc FILE"),
    (b"PK\x03\x04", "a zip archive", "unpack it first: unzip -p FILE"),
    (&[0x6d, 0xe2, 0x99, 0x81], "an archive of mongodump", "dump into a directory, without --archive, and take its *.bson files"),
    (b"PAR1", "a Parquet file", "export it as JSON lines first"),
    (b"Obj\x01", "an Avro file", "export it as JSON lines first"),
    (&[0xff, 0xfe, 0, 0], "UTF-32", "save it as UTF-8: iconv -f UTF-32 -t UTF-8 FILE"),
    (&[0, 0, 0xfe, 0xff], "UTF-32", "save it as UTF-8: iconv -f UTF-32 -t UTF-8 FILE"),
    (&[0xff, 0xfe], "UTF-16", UTF_16),
    (&[0xfe, 0xff], "UTF-16", UTF_16),
];

const UTF_16: &str = "save it as UTF-8: iconv -f UTF-16 -t UTF-8 FILE";

/// What bytes that begin like this look like, where it is no UTF-8 text.
pub fn foreign(head: &[u8]) -> Option<Foreign> {
    let known = KNOWN.iter().find(|(magic, ..)| head.starts_with(magic));
    if let Some((_, what, remedy)) = known {
        return Some(Foreign { what, remedy });
    }
    // Without a mark: every other byte of what is ASCII is zero.
    let utf_16 = |zero: usize| {
        let pairs = head.as_chunks::<2>().0;
        pairs.len() >= 2 && pairs.iter().take(4).all(|pair| pair[zero] == 0 && matches!(pair[1 - zero], b'\t'..=b'~'))
    };
    if utf_16(1) {
        return Some(Foreign { what: "UTF-16", remedy: "save it as UTF-8: iconv -f UTF-16LE -t UTF-8 FILE" });
    }
    utf_16(0).then_some(Foreign { what: "UTF-16", remedy: "save it as UTF-8: iconv -f UTF-16BE -t UTF-8 FILE" })
}

/// Whether bytes that begin like this may be BSON documents: a length that MongoDB stores, and a type that there is.
pub fn maybe_bson(head: &[u8]) -> bool {
    let Some((length, rest)) = head.split_first_chunk::<4>() else { return false };
    let plausible = (5..=16 << 20).contains(&i32::from_le_bytes(*length));
    plausible && matches!(rest.first(), Some(0..=0x13 | 0x7f | 0xff))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_text_is_named_by_its_beginning_and_text_is_not() {
        let utf_16 = |text: &str, bytes: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(bytes).collect::<Vec<u8>>();
        for (head, what) in [
            (b"\x1f\x8b\x08\x00\x00\x00\x00\x00".to_vec(), "gzip"),
            (utf_16("\u{feff}{\"a\":1}", u16::to_le_bytes), "UTF-16"),
            (utf_16("\u{feff}{\"a\":1}", u16::to_be_bytes), "UTF-16"),
            (utf_16("{\"a\":1}", u16::to_le_bytes), "UTF-16"),
            (utf_16("{\"a\":1}", u16::to_be_bytes), "UTF-16"),
            (b"\xff\xfe\x00\x00{\x00\x00\x00".to_vec(), "UTF-32"),
        ] {
            assert!(foreign(&head).unwrap().what.contains(what), "{head:?}");
        }
        for text in ["", "{", "{}", "{\"a\":1}", "\u{feff}{}", "{\"é\":1}", "\u{16}\0\0\0"] {
            assert_eq!(foreign(text.as_bytes()), None, "{text:?}");
        }
        assert!(maybe_bson(&[5, 0, 0, 0, 0]) && maybe_bson(&[0x16, 0, 0, 0, 2, b'a', 0]));
        assert!(!maybe_bson(b"{\"a\":1}") && !maybe_bson(b"") && !maybe_bson(b"\x1f\x8b\x08\x00"));
    }
}
