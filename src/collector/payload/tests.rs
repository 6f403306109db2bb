//! The validation of payloads against the bson crate's own full iteration.

#![allow(clippy::unwrap_used)]

use super::*;
use bson::{RawBsonRef, RawDocument, RawDocumentBuf, rawdoc};
use proptest::prelude::*;

/// Whether the bson crate reads every element.
fn readable(bytes: &[u8]) -> bool {
    fn walk(document: &RawDocument) -> bool {
        document.iter().all(|element| match element {
            Ok((_, RawBsonRef::Document(inner))) => walk(inner),
            Ok((_, RawBsonRef::Array(inner))) => RawDocument::from_bytes(inner.as_bytes()).is_ok_and(walk),
            Ok((_, RawBsonRef::JavaScriptCodeWithScope(inner))) => walk(inner.scope),
            Ok(_) => true,
            Err(_) => false,
        })
    }
    // The crate panics on some malformed values (a code with scope that is too short).
    std::panic::catch_unwind(|| RawDocument::from_bytes(bytes).is_ok_and(walk)).unwrap_or(false)
}

fn agrees(bytes: &[u8]) {
    match inspect(bytes) {
        Ok(facts) => {
            assert!(readable(bytes), "{bytes:x?}");
            let document = RawDocument::from_bytes(bytes).unwrap();
            assert_eq!(facts.has_id, document.iter().any(|e| e.is_ok_and(|(key, _)| key == "_id")));
        }
        Err(Fault::Malformed(why)) => assert!(!readable(bytes), "{why}: {bytes:x?}"),
        Err(_) => {}
    }
}

fn all_types() -> RawDocumentBuf {
    let mut document = rawdoc! {
        "double": 1.5, "string": "grüße", "document": { "a": { "b": 1 } }, "array": [1, [2, "x"], {}],
        "binary": bson::Binary { subtype: bson::spec::BinarySubtype::Generic, bytes: vec![1, 2, 3] },
        "old": bson::Binary { subtype: bson::spec::BinarySubtype::BinaryOld, bytes: vec![1, 2, 3] },
        "undefined": bson::RawBson::Undefined, "oid": bson::oid::ObjectId::from_bytes([7; 12]), "bool": true,
        "date": bson::DateTime::from_millis(5), "null": bson::RawBson::Null,
        "code": bson::RawBson::JavaScriptCode("f()".into()), "symbol": bson::RawBson::Symbol("s".into()),
        "scope": bson::RawJavaScriptCodeWithScope { code: "g()".into(), scope: rawdoc! { "x": { "y": 1 } } },
        "int": 1i32, "timestamp": bson::Timestamp { time: 1, increment: 2 }, "long": 1i64,
        "decimal": bson::Decimal128::from_bytes([1; 16]), "min": bson::RawBson::MinKey, "max": bson::RawBson::MaxKey,
    };
    document.append(
        bson::raw::CString::try_from("regex").unwrap(),
        bson::Regex { pattern: "a+".try_into().unwrap(), options: "i".try_into().unwrap() },
    );
    document
}

#[test]
fn a_document_with_every_type_is_valid() {
    assert_eq!(inspect(all_types().as_bytes()), Ok(Facts { has_id: false }));
}

#[test]
fn only_an_id_at_the_top_level_counts() {
    assert!(inspect(rawdoc! { "a": 1, "_id": 2 }.as_bytes()).unwrap().has_id);
    assert!(!inspect(rawdoc! { "a": { "_id": 2 }, "_idx": 1, "x_id": 2 }.as_bytes()).unwrap().has_id);
    assert!(!inspect(rawdoc! {}.as_bytes()).unwrap().has_id);
}

#[test]
fn json_text_and_empty_payloads_are_no_documents() {
    for bytes in [&b""[..], b"{}", b"{\"a\":1}", b"null", b"\0\0\0\0\0", b"\x05\0\0\0\x01", b"\xff\xff\xff\xff\0"] {
        assert!(matches!(inspect(bytes), Err(Fault::Malformed(_))), "{bytes:?}");
    }
}

#[test]
fn a_hundred_levels_are_stored_and_one_more_is_not() {
    let nested = |levels: usize| (1..levels).fold(rawdoc! { "x": 1 }, |inner, _| rawdoc! { "d": inner });
    assert!(inspect(nested(MAX_DEPTH).as_bytes()).is_ok());
    assert_eq!(inspect(nested(MAX_DEPTH + 1).as_bytes()), Err(Fault::TooDeep));
}

#[test]
fn a_document_may_have_sixteen_mebibytes_with_its_id() {
    let of_size = |size: usize, id: bool| {
        let mut document = if id {
            rawdoc! { "_id": 1 }
        } else {
            rawdoc! {}
        };
        let rest = size - document.as_bytes().len() - 8;
        document.append(bson::raw::CString::try_from("s").unwrap(), "x".repeat(rest));
        assert_eq!(document.as_bytes().len(), size);
        inspect(document.as_bytes())
    };
    assert!(of_size(MAX_DOCUMENT_BYTES, true).is_ok());
    assert!(of_size(MAX_DOCUMENT_BYTES - ADDED_ID, false).is_ok());
    assert_eq!(of_size(MAX_DOCUMENT_BYTES - ADDED_ID + 1, false), Err(Fault::TooLarge));
}

#[test]
fn cutting_or_changing_any_byte_of_a_document_is_judged_as_the_bson_crate_does() {
    let document = all_types();
    let bytes = document.as_bytes();
    for end in 0..bytes.len() {
        agrees(&bytes[..end]);
    }
    for position in 0..bytes.len() {
        for change in [1u8, 2, 0x10, 0x7f, 0x80, 0xff] {
            let mut changed = bytes.to_vec();
            changed[position] = changed[position].wrapping_add(change);
            agrees(&changed);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn arbitrary_bytes_are_judged_as_the_bson_crate_does(mut bytes in prop::collection::vec(any::<u8>(), 0..200), framed: bool) {
        if framed && bytes.len() >= 5 {
            let size = bytes.len() as i32;
            bytes[..4].copy_from_slice(&size.to_le_bytes());
            *bytes.last_mut().unwrap() = 0;
        }
        agrees(&bytes);
    }

    #[test]
    fn damaged_documents_are_judged_as_the_bson_crate_does(damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = all_types().as_bytes().to_vec();
        for (place, value) in damage {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        agrees(&bytes);
    }
}

#[test]
fn a_measurement_with_one_name_twice_is_told_however_many_names_share_a_bit() {
    let twice = |document: &RawDocumentBuf| inspect_measurement(document.as_bytes(), Some("m"));
    let mut document = rawdoc! { "ts": 1, "m": { "a": 1, "b": 2 }, "a": 1 };
    assert_eq!(twice(&document), Ok(Facts { has_id: false }));
    // More names than bits: some share one, and none is there twice.
    for n in 0..200 {
        document.append(bson::raw::CString::try_from(format!("field_{n}")).unwrap(), n);
    }
    assert_eq!(twice(&document), Ok(Facts { has_id: false }));
    assert_eq!(inspect(document.as_bytes()), Ok(Facts { has_id: false }));
    document.append(bson::raw::cstr!("field_77"), 1);
    assert_eq!(twice(&document), Err(Fault::FieldTwice));
    assert_eq!(inspect(document.as_bytes()), Ok(Facts { has_id: false }), "of no consequence in a normal collection");
    let mut few = rawdoc! { "ts": 1, "a": 1 };
    few.append(bson::raw::cstr!("a"), 1);
    assert_eq!(twice(&few), Err(Fault::FieldTwice));
    // Neither order nor a name inside another field counts.
    let nested = rawdoc! { "m": { "ts": 1 }, "ts": 1 };
    assert_eq!(twice(&nested), Ok(Facts { has_id: false }));
}

#[test]
fn a_measurement_may_have_4_mib_beside_its_meta_field() {
    let sized = |value: usize, meta: usize| {
        let document = rawdoc! { "ts": 1, "m": "x".repeat(meta), "v": "y".repeat(value) };
        inspect_measurement(document.as_bytes(), Some("m"))
    };
    assert_eq!(sized(MAX_MEASUREMENT_BYTES - 100, 0), Ok(Facts { has_id: false }));
    assert_eq!(sized(MAX_MEASUREMENT_BYTES - 100, 5 << 20), Ok(Facts { has_id: false }), "stored once");
    assert_eq!(sized(MAX_MEASUREMENT_BYTES, 0), Err(Fault::MeasurementTooLarge));
    assert_eq!(sized(17 << 20, 0), Err(Fault::TooLarge), "whatever it is stored in");
    let without = rawdoc! { "ts": 1, "m": "x".repeat(MAX_MEASUREMENT_BYTES) };
    assert_eq!(inspect_measurement(without.as_bytes(), None), Err(Fault::MeasurementTooLarge));
}
