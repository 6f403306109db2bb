//! Whether a stored document is the one that a message brought.
//!
//! Pure. The server moves `_id` to the front, replaces a top-level Timestamp(0,0) by its own time, and time-series
//! collections reorder fields; so documents are compared as sets of fields, and such a timestamp matches anything. Called
//! when an insert met a duplicate key.

use bson::{RawBson, RawBsonRef, RawDocument, RawDocumentBuf};

/// Whether `stored` holds what `sent` has; `sent` is valid. Fields that the server added (an `_id` that `sent` lacks)
/// make a difference, but for `_id` itself.
pub fn same(sent: &RawDocument, stored: &RawDocument) -> bool {
    let (Some(sent), Some(mut stored)) = (fields(sent), fields(stored)) else { return false };
    if !sent.iter().any(|(name, ..)| *name == "_id") {
        stored.retain(|(name, ..)| *name != "_id");
    }
    sent.len() == stored.len()
        && sent.iter().zip(&stored).all(|(sent, stored)| sent == stored || (sent.0 == stored.0 && is_blank_timestamp(sent)))
}

/// The same for a measurement. Time-series collections sort the fields of documents in the meta field.
pub fn same_measurement(sent: &RawDocument, stored: &RawDocument, meta_field: Option<&str>) -> bool {
    let sorted = |document: &RawDocument| {
        let mut sorted = RawDocumentBuf::new();
        for element in document.iter_elements() {
            let (name, value) = element.ok().and_then(|element| Some((element.key(), element.value().ok()?)))?;
            match meta_field == Some(name.as_str()) {
                true => sorted.append(name, in_order(value)?),
                false => sorted.append(name, value),
            }
        }
        Some(sorted)
    };
    matches!((sorted(sent), sorted(stored)), (Some(sent), Some(stored)) if same(&sent, &stored))
}

/// The value with the fields of every document in it sorted; `None` where it cannot be read. Payloads are not deeper than
/// `payload::MAX_DEPTH`.
fn in_order(value: RawBsonRef<'_>) -> Option<RawBson> {
    match value {
        RawBsonRef::Document(document) => {
            let fields = document.iter().map(|field| field.ok().and_then(|(name, value)| Some((name, in_order(value)?))));
            let mut fields = fields.collect::<Option<Vec<_>>>()?;
            fields.sort_by(|(a, _), (b, _)| a.as_str().cmp(b.as_str()));
            let mut sorted = RawDocumentBuf::new();
            fields.into_iter().for_each(|(name, value)| sorted.append(name, value));
            Some(RawBson::Document(sorted))
        }
        RawBsonRef::Array(array) => {
            let values = array.into_iter().map(|value| in_order(value.ok()?)).collect::<Option<Vec<_>>>()?;
            let mut sorted = bson::RawArrayBuf::new();
            values.into_iter().for_each(|value| sorted.push(value));
            Some(RawBson::Array(sorted))
        }
        plain => Some(plain.into()),
    }
}

/// The `_id` of a document.
pub fn id_of(document: &RawDocument) -> Option<RawBson> {
    document.get("_id").ok().flatten().map(RawBson::from)
}

/// Equal only for `_id`s that are one to the server, and for nearly all that are: numbers of any type with the same value are,
/// also within documents. What a collation takes for one has different keys here.
pub fn id_key(id: &RawBson) -> Vec<u8> {
    let mut key = Vec::new();
    write_key(id.as_raw_bson_ref(), &mut key);
    key
}

/// Payloads are not deeper than `payload::MAX_DEPTH`.
fn write_key(value: RawBsonRef<'_>, key: &mut Vec<u8>) {
    match value {
        RawBsonRef::Int32(number) => write_integer(i64::from(number), key),
        RawBsonRef::Int64(number) => write_integer(number, key),
        RawBsonRef::Double(number) => write_number(number, key),
        RawBsonRef::Decimal128(number) => match number.to_string() {
            text if text.parse().is_ok_and(|number: f64| format!("{number}") == text) => write_number(text.parse().unwrap_or(0.0), key),
            text => match text.parse() {
                Ok(number) => write_integer(number, key),
                Err(_) => {
                    key.push(b'd');
                    key.extend(text.as_bytes());
                    key.push(0);
                }
            },
        },
        RawBsonRef::Document(document) => {
            key.push(b'{');
            for (name, value) in document.iter().flatten() {
                key.extend(name.as_str().as_bytes());
                key.push(0);
                write_key(value, key);
            }
            key.push(b'}');
        }
        RawBsonRef::Array(array) => {
            key.push(b'[');
            array.into_iter().flatten().for_each(|value| write_key(value, key));
            key.push(b']');
        }
        other => {
            let mut one = RawDocumentBuf::new();
            one.append(bson::raw::cstr!("v"), other);
            key.push(b'v');
            key.extend(one.as_bytes());
        }
    }
}

fn write_integer(number: i64, key: &mut Vec<u8>) {
    key.push(b'i');
    key.extend(number.to_le_bytes());
}

/// Whole numbers as integers, exactly.
fn write_number(number: f64, key: &mut Vec<u8>) {
    const PAST: f64 = 9_223_372_036_854_775_808.0;
    if number.fract() == 0.0 && (-PAST..PAST).contains(&number) {
        return write_integer(number as i64, key);
    }
    key.push(b'f');
    // All that are not a number are one.
    key.extend(if number.is_nan() { f64::NAN } else { number }.to_le_bytes());
}

/// Name, type and bytes.
type Field<'a> = (&'a str, u8, Vec<u8>);

fn is_blank_timestamp((_, kind, bytes): &Field<'_>) -> bool {
    *kind == bson::spec::ElementType::Timestamp as u8 && bytes.iter().all(|byte| *byte == 0)
}

/// The fields, by name; `None` where one cannot be read.
fn fields(document: &RawDocument) -> Option<Vec<Field<'_>>> {
    let mut fields = document
        .iter_elements()
        .map(|element| {
            let element = element.ok()?;
            let mut one = bson::RawDocumentBuf::new();
            one.append(bson::raw::cstr!("v"), element.value().ok()?);
            // Frame (4), type (1), name with its end (2), value, end (1).
            let bytes = one.as_bytes().get(7..one.as_bytes().len() - 1)?.to_vec();
            Some((element.key().as_str(), element.element_type() as u8, bytes))
        })
        .collect::<Option<Vec<_>>>()?;
    fields.sort_by(|a, b| a.0.cmp(b.0));
    Some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{Timestamp, rawdoc};

    #[test]
    fn the_order_of_top_level_fields_does_not_matter() {
        assert!(same(&rawdoc! { "a": 1, "_id": 2, "b": { "x": 1, "y": 2 } }, &rawdoc! { "_id": 2, "b": { "x": 1, "y": 2 }, "a": 1 }));
        assert!(!same(&rawdoc! { "_id": 2, "b": { "x": 1, "y": 2 } }, &rawdoc! { "_id": 2, "b": { "y": 2, "x": 1 } }));
    }

    #[test]
    fn a_blank_timestamp_at_the_top_level_matches_what_the_server_put_there() {
        let blank = Timestamp { time: 0, increment: 0 };
        let set = Timestamp { time: 5, increment: 1 };
        assert!(same(&rawdoc! { "_id": 1, "t": blank }, &rawdoc! { "_id": 1, "t": set }));
        assert!(!same(&rawdoc! { "_id": 1, "t": set }, &rawdoc! { "_id": 1, "t": blank }));
        assert!(!same(&rawdoc! { "_id": 1, "d": { "t": blank } }, &rawdoc! { "_id": 1, "d": { "t": set } }));
    }

    #[test]
    fn another_value_type_or_field_is_a_difference() {
        let sent = rawdoc! { "_id": 1, "a": 1 };
        for stored in
            [rawdoc! { "_id": 1, "a": 2 }, rawdoc! { "_id": 1, "a": 1i64 }, rawdoc! { "_id": 1 }, rawdoc! { "_id": 1, "a": 1, "b": 1 }]
        {
            assert!(!same(&sent, &stored), "{stored:?}");
        }
        assert!(same(&sent, &sent));
    }

    #[test]
    fn not_a_number_equals_itself() {
        assert!(same(&rawdoc! { "_id": 1, "a": f64::NAN }, &rawdoc! { "_id": 1, "a": f64::NAN }));
    }

    #[test]
    fn ids_that_are_one_to_the_server_have_one_key() {
        assert_eq!(id_key(&RawBson::Int32(1)), id_key(&RawBson::Double(1.0)));
        assert_eq!(id_key(&RawBson::Double(-0.0)), id_key(&RawBson::Int64(0)));
        assert_ne!(id_key(&RawBson::Int32(1)), id_key(&RawBson::String("1".into())));
        let decimal = |text: &str| id_key(&RawBson::Decimal128(text.parse().unwrap()));
        assert_eq!(decimal("3"), id_key(&RawBson::Int32(3)));
        assert_eq!(decimal("0.5"), id_key(&RawBson::Double(0.5)));
        assert_ne!(decimal("0.1"), decimal("0.2"));
    }

    #[test]
    fn large_integers_that_are_one_as_floating_point_numbers_have_keys_of_their_own() {
        let large = 1_i64 << 53;
        assert_ne!(id_key(&RawBson::Int64(large)), id_key(&RawBson::Int64(large + 1)));
        assert_eq!(id_key(&RawBson::Int64(large)), id_key(&RawBson::Double(9_007_199_254_740_992.0)));
    }

    #[test]
    fn numbers_within_documents_and_arrays_are_one_as_well_and_names_and_order_are_not() {
        let key = |id: RawDocumentBuf| id_key(&RawBson::Document(id));
        assert_eq!(key(rawdoc! { "n": 3, "a": [1, { "b": -0.0 }] }), key(rawdoc! { "n": 3.0, "a": [1_i64, { "b": 0 }] }));
        assert_ne!(key(rawdoc! { "n": 3 }), key(rawdoc! { "m": 3 }));
        assert_ne!(key(rawdoc! { "a": 1, "b": 2 }), key(rawdoc! { "b": 2, "a": 1 }));
    }

    #[test]
    fn a_measurement_is_the_same_however_the_server_sorted_its_source() {
        let sent = rawdoc! { "v": 1, "m": { "b": [{ "y": 1, "x": 2 }], "a": 1 }, "o": { "b": 1, "a": 2 } };
        let stored = rawdoc! { "m": { "a": 1, "b": [{ "x": 2, "y": 1 }] }, "_id": 7, "o": { "b": 1, "a": 2 }, "v": 1 };
        assert!(same_measurement(&sent, &stored, Some("m")) && !same_measurement(&sent, &stored, Some("o")));
        let other = rawdoc! { "m": { "a": 1, "b": [{ "x": 2, "y": 3 }] }, "o": { "b": 1, "a": 2 }, "v": 1 };
        assert!(!same_measurement(&sent, &other, Some("m")));
    }

    #[test]
    fn an_id_that_we_added_is_no_difference() {
        assert!(same(&rawdoc! { "a": 1 }, &rawdoc! { "_id": 7, "a": 1 }));
    }
}
