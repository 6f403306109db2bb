//! Whether a line of extended JSON can be stored exactly as it is written, and if not, where and why.
//!
//! Parsers round what no double holds, keep the last of two fields of one name, and drop what stands beside a type's own
//! field; MongoDB cuts dates to milliseconds. Whoever sends such a document should hear of it before it is sent. Pure.

use crate::collector::payload::MAX_DEPTH;
use crate::pipeline::document::shown;
use crate::pipeline::json::{Node, Value};
use std::borrow::Cow;

/// The fields by which extended JSON names a type: such an object is that value and has no other fields.
const TYPES: &[&str] = &[
    "$oid",
    "$symbol",
    "$numberInt",
    "$numberLong",
    "$numberDouble",
    "$numberDecimal",
    "$numberDecimalBytes",
    "$binary",
    "$uuid",
    "$code",
    "$scope",
    "$timestamp",
    "$regularExpression",
    "$dbPointer",
    "$date",
    "$maxKey",
    "$minKey",
    "$undefined",
];

/// The significant digits of a double that has the most.
const MOST_DIGITS: usize = 767;

/// Why a document would not be stored as it is written.
#[derive(Debug, PartialEq, Eq)]
pub struct Flaw {
    /// The byte at which it stands.
    pub at: usize,
    /// What is wrong, and the remedy.
    pub message: String,
}

/// The first flaw of a document.
pub fn flaw(document: &Node<'_>) -> Option<Flaw> {
    let twice = document.twice().map(|twice| Flaw {
        at: twice.second,
        message: format!("field '{}' is given twice, and only one of them would be stored (remove one of them)", twice.path),
    });
    let value = in_value(document, 0);
    match (twice, value) {
        (Some(twice), Some(value)) => Some(if twice.at <= value.at { twice } else { value }),
        (twice, value) => twice.or(value),
    }
}

/// The first flaw of a value that lies in so many documents and lists.
fn in_value(node: &Node<'_>, depth: usize) -> Option<Flaw> {
    match &node.value {
        Value::Number(text) => number(text, node.at),
        Value::List(items) => too_deep(node, depth).or_else(|| items.iter().find_map(|item| in_value(item, depth + 1))),
        Value::Object(fields) => match fields.iter().find(|(_, name, _)| TYPES.contains(&name.as_ref())) {
            Some(kind) => typed(fields, kind, depth),
            None => too_deep(node, depth).or_else(|| fields.iter().find_map(|(_, _, value)| in_value(value, depth + 1))),
        },
        Value::Text(_) | Value::Word => None,
    }
}

fn too_deep(node: &Node<'_>, depth: usize) -> Option<Flaw> {
    let message =
        || format!("documents and lists are nested more than {MAX_DEPTH} levels deep, which MongoDB does not store (nest less deeply)");
    (depth >= MAX_DEPTH).then(|| Flaw { at: node.at, message: message() })
}

type Field<'a> = (usize, Cow<'a, str>, Node<'a>);

/// An object that has a type's own field.
fn typed(fields: &[Field<'_>], (at, name, value): &Field<'_>, depth: usize) -> Option<Flaw> {
    let code = matches!(name.as_ref(), "$code" | "$scope");
    let belongs = |other: &str| other == name || (code && matches!(other, "$code" | "$scope"));
    if let Some((_, beside, _)) = fields.iter().find(|(_, other, _)| !belongs(other)) {
        let message = format!(
            "'{name}' makes the whole object one value, and '{}' beside it would be lost (give each an object of its own)",
            shown(beside)
        );
        return Some(Flaw { at: *at, message });
    }
    match (name.as_ref(), &value.value) {
        ("$numberDouble", Value::Text(text)) => double(text, value.at),
        ("$date", Value::Text(text)) => date(text, value.at),
        _ if code => fields.iter().find_map(|(_, _, value)| in_value(value, depth)),
        // Whole numbers and texts only, which the library checks.
        _ => None,
    }
}

fn number(text: &str, at: usize) -> Option<Flaw> {
    if text.contains(['.', 'e', 'E']) || text == "-0" {
        return (!is_double(text)).then(|| inexact(text, at));
    }
    let remedy = format!(r#"write {{"$numberDecimal":"{}"}}, or the digits in quotes as a text"#, short(text));
    let message = || format!("{} does not fit into the 64 bits of a whole number ({remedy})", short(text));
    text.parse::<i64>().is_err().then(|| Flaw { at, message: message() })
}

fn double(text: &str, at: usize) -> Option<Flaw> {
    if matches!(text, "NaN" | "Infinity" | "-Infinity") || is_double(text) {
        return None;
    }
    Some(inexact(text, at))
}

fn inexact(text: &str, at: usize) -> Flaw {
    let stored = match text.parse::<f64>() {
        Ok(value) if value.is_finite() => format!("as a double it would be {value:?}"),
        Ok(_) => "it is larger than any double".to_owned(),
        Err(_) => "it is no number".to_owned(),
    };
    let remedy = format!(r#"write {{"$numberDecimal":"{0}"}} for all of its digits, or round it"#, short(text));
    Flaw { at, message: format!("{} would not be stored as it is written: {stored} ({remedy})", short(text)) }
}

fn short(text: &str) -> Cow<'_, str> {
    if text.len() <= 40 { shown(text).into() } else { format!("{}…", text.chars().take(40).collect::<String>()).into() }
}

/// Whether a double gives back the digits of `text`: written with as many, it is the same number.
fn is_double(text: &str) -> bool {
    let Some(value) = text.parse::<f64>().ok().filter(|value| value.is_finite()) else { return false };
    let Some((digits, exponent)) = significant(text) else { return false };
    if digits.is_empty() {
        return true;
    }
    if digits.len() > MOST_DIGITS || value == 0.0 {
        return false;
    }
    let written = format!("{:.*e}", digits.len() - 1, value.abs());
    let Some((mantissa, power)) = written.split_once('e') else { return false };
    mantissa.replace('.', "") == digits && power.parse() == Ok(exponent)
}

/// The digits of a decimal number without zeros at either end, and the power of ten of the first; no digits for zero.
fn significant(text: &str) -> Option<(String, i64)> {
    let text = text.trim_start_matches(['-', '+']);
    let (decimal, power) = match text.split_once(['e', 'E']) {
        Some((decimal, power)) => (decimal, power.parse::<i64>().ok()),
        None => (text, Some(0)),
    };
    let (whole, fraction) = decimal.split_once('.').unwrap_or((decimal, ""));
    let digits = format!("{whole}{fraction}");
    let rest = digits.trim_start_matches('0');
    if rest.is_empty() {
        return Some((String::new(), 0));
    }
    let zeros = i64::try_from(digits.len() - rest.len()).ok()?;
    let first = i64::try_from(whole.len()).ok()? - 1 - zeros;
    Some((rest.trim_end_matches('0').to_owned(), first.checked_add(power?)?))
}

/// A date in RFC 3339 with a fraction that milliseconds do not hold.
fn date(text: &str, at: usize) -> Option<Flaw> {
    let (_, rest) = text.split_once('.')?;
    let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let lost = rest[..digits].get(3..)?.trim_end_matches('0');
    let message = "MongoDB stores dates in milliseconds, and the digits after them would be lost (write at most three digits after the second, or a text in quotes without $date)";
    (!lost.is_empty()).then(|| Flaw { at, message: message.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Option<(usize, String)> {
        flaw(&Node::read(text).unwrap()).map(|flaw| (flaw.at, flaw.message))
    }

    #[test]
    fn numbers_that_a_double_or_64_bits_give_back_are_exact_and_all_others_are_not() {
        for exact in [
            "0",
            "-0",
            "-0.0",
            "0e400",
            "0e99999999999999999999",
            "0.1",
            "-0.1",
            "1.50",
            "1e3",
            "1E+3",
            "1.0",
            "21.5",
            "1e308",
            "5e-324",
            "1.7976931348623157e308",
            "0.10000000000000001",
            "0.30000000000000004",
            "9223372036854775807",
            "-9223372036854775808",
            "123456789.125",
            "1e22",
            "0.000001",
            "100000000000000000000.0",
        ] {
            assert_eq!(of(&format!("{{\"n\":{exact}}}")), None, "{exact}");
        }
        for inexact in [
            "100000000000000000001",
            "9223372036854775808",
            "18446744073709551615",
            "-9223372036854775809",
            "1e400",
            "-1e400",
            "1e-400",
            "1e99999999999999999999",
            "0.1234567890123456789",
            "100000000000000000001.0",
            "9007199254740993.0",
            "1.00000000000000000001",
        ] {
            let (at, message) = of(&format!("{{\"n\":{inexact}}}")).expect(inexact);
            assert_eq!(at, 5);
            assert!(message.contains(inexact) && message.contains("$numberDecimal"), "{message}");
        }
        assert_eq!(of(&format!("{{\"n\":0.{}1}}", "0".repeat(70_000))).map(|(at, _)| at), Some(5));
        assert_eq!(of(&format!("{{\"n\":0.{}}}", "3".repeat(70_000))).map(|(at, _)| at), Some(5));
        assert_eq!(of(r#"{"n":{"$numberDouble":"1e400"}}"#).map(|(at, _)| at), Some(22));
        assert_eq!(of(r#"{"n":{"$numberDouble":"NaN"},"m":{"$numberDecimal":"100000000000000000001"}}"#), None);
    }

    #[test]
    fn what_would_be_lost_beside_a_type_or_under_the_same_name_is_named() {
        assert!(of(r#"{"a":{"x":1,"$oid":"65f0a1b2c3d4e5f601234567"}}"#).unwrap().1.contains("'x' beside it would be lost"));
        assert_eq!(of(r#"{"a":{"$scope":{},"$code":"f()"}}"#), None);
        let (at, message) = of(r#"{"a":1,"b":{"c":1,"c":2},"a":1e400}"#).unwrap();
        assert!(at == 18 && message.contains("'b.c' is given twice"), "{message}");
        assert_eq!(of(r#"{"a":1e400,"a":1}"#).unwrap().0, 5, "the first in the text");
        assert!(of(r#"{"t":{"$date":"2026-01-02T03:04:05.123456Z"}}"#).unwrap().1.contains("milliseconds"));
        assert_eq!(of(r#"{"t":{"$date":"2026-01-02T03:04:05.123000+02:00"},"u":{"$date":"2026-01-02T03:04:05Z"}}"#), None);
    }

    #[test]
    fn as_deep_as_mongodb_stores_is_allowed_and_deeper_is_not() {
        let nested = |levels: usize| format!("{}1{}", "{\"a\":".repeat(levels), "}".repeat(levels));
        assert_eq!(of(&nested(MAX_DEPTH)), None);
        assert!(of(&nested(MAX_DEPTH + 1)).unwrap().1.contains("nested"));
        let payload = bson::serialize_to_vec(&serde_json::from_str::<bson::Document>(&nested(MAX_DEPTH)).unwrap()).unwrap();
        assert!(crate::collector::payload::inspect(&payload).is_ok());
    }
}
