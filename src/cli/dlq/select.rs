//! Which dead letters a command is about: all of a pipeline's, or those that every given filter takes. Pure.
//!
//! Values of one filter are alternatives, different filters all have to hold; so do `--sequence` and the letters that are
//! named one by one.

use super::letters::Letter;
use clap::Args;
use jiff::Timestamp;
use std::str::FromStr;

/// What `Sluice-Reason` may say.
pub const REASONS: [&str; 7] = ["not_bson", "refused", "duplicate_id", "too_large", "measurement_too_large", "field_twice", "unknown"];

/// The filters.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Filters")]
pub struct Selection {
    /// Single letters: their sequences in the stream of the dead letters, or their identities
    #[arg(value_name = "SEQ|IDENTITY")]
    pub letters: Vec<LetterName>,
    /// Of these reasons
    #[arg(long, value_name = "REASON", value_delimiter = ',', value_parser = REASONS)]
    pub reason: Vec<String>,
    /// With these error codes of MongoDB
    #[arg(long, value_name = "CODE", value_delimiter = ',', allow_negative_numbers = true)]
    pub code: Vec<i32>,
    /// With sequences in the stream of the dead letters in this range, both ends included: `12`, `12..40`, `12..`, `..40`
    #[arg(long, value_name = "A..B")]
    pub sequence: Option<Range>,
    /// That became dead letters at this time or later: `2026-11-23T06:00:00Z`, `2026-11-23`, or `2h` for two hours ago
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub since: Option<Timestamp>,
    /// That became dead letters before this time
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub until: Option<Timestamp>,
}

/// One letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LetterName {
    /// By its sequence in the stream of the dead letters.
    Sequence(u64),
    /// By its identity.
    Identity(String),
}

impl FromStr for LetterName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.len() == 24 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(Self::Identity(text.to_ascii_lowercase()));
        }
        let sequence = text.parse().map(Self::Sequence);
        sequence.map_err(|_| "it is neither a sequence nor an identity (24 hexadecimal digits); `sluice dlq list ID` shows both".to_owned())
    }
}

/// Sequences, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    from: u64,
    to: u64,
}

impl FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let end = |text: &str, open: u64| if text.is_empty() { Some(open) } else { text.parse().ok() };
        let ends = match text.split_once("..") {
            Some((from, to)) => end(from, 0).zip(end(to, u64::MAX)),
            None => text.parse().ok().map(|one| (one, one)),
        };
        let (from, to) = ends.ok_or("write 12, 12..40, 12.. or ..40")?;
        if from > to {
            return Err(format!("it is empty: {from} comes after {to}"));
        }
        Ok(Self { from, to })
    }
}

/// A time, a day (its beginning, UTC), or how long ago.
fn parse_time(text: &str) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    if let Ok(date) = text.parse::<jiff::civil::Date>() {
        return date.to_zoned(jiff::tz::TimeZone::UTC).map(|time| time.timestamp()).map_err(|error| error.to_string());
    }
    let ago = humantime::parse_duration(text).map_err(|_| "write 2026-11-23T06:00:00Z, 2026-11-23, or 2h for two hours ago".to_owned())?;
    Timestamp::now().checked_sub(ago).map_err(|error| error.to_string())
}

impl Selection {
    /// Whether it takes every letter.
    pub fn is_everything(&self) -> bool {
        let Self { letters, reason, code, sequence, since, until } = self;
        letters.is_empty() && reason.is_empty() && code.is_empty() && sequence.is_none() && since.is_none() && until.is_none()
    }

    /// Whether it takes this one.
    pub fn takes(&self, letter: &Letter) -> bool {
        let named = |name: &LetterName| match name {
            LetterName::Sequence(sequence) => *sequence == letter.sequence,
            LetterName::Identity(identity) => *identity == letter.identity,
        };
        let code = letter.header("Sluice-Code").and_then(|code| code.parse::<i32>().ok());
        // One without a time is taken by no limit on it.
        let within = |holds: &dyn Fn(Timestamp) -> bool| letter.time.is_some_and(holds);
        (self.letters.is_empty() || self.letters.iter().any(named))
            && (self.reason.is_empty() || letter.header("Sluice-Reason").is_some_and(|reason| self.reason.iter().any(|r| r == reason)))
            && (self.code.is_empty() || code.is_some_and(|code| self.code.contains(&code)))
            && self.sequence.is_none_or(|range| (range.from..=range.to).contains(&letter.sequence))
            && self.since.is_none_or(|since| within(&|time| time >= since))
            && self.until.is_none_or(|until| within(&|time| time < until))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::dead_letters::Reason;
    use std::collections::BTreeMap;

    fn letter(sequence: u64, reason: &str, code: &str) -> Letter {
        let headers = [("Sluice-Reason", reason), ("Sluice-Code", code)].map(|(name, value)| (name.to_owned(), value.to_owned()));
        let time = Timestamp::from_second(i64::try_from(sequence).unwrap()).ok();
        let identity = format!("{sequence:024x}");
        Letter { sequence, identity, time, headers: BTreeMap::from(headers), bytes: 7, document: None, payload_base64: None }
    }

    fn taken(selection: &Selection) -> Vec<u64> {
        let all = [letter(1, "refused", "121"), letter(2, "not_bson", ""), letter(3, "refused", "2"), letter(4, "duplicate_id", "11000")];
        all.iter().filter(|letter| selection.takes(letter)).map(|letter| letter.sequence).collect()
    }

    #[test]
    fn a_letter_is_taken_where_every_filter_takes_it() {
        let at = |second| Timestamp::from_second(second).ok();
        let all = Selection::default();
        assert!(all.is_everything());
        assert_eq!(taken(&all), [1, 2, 3, 4]);
        let refused = Selection { reason: vec!["refused".into(), "not_bson".into()], ..all.clone() };
        assert_eq!(taken(&refused), [1, 2, 3]);
        assert_eq!(taken(&Selection { code: vec![121, 11000], ..all.clone() }), [1, 4]);
        assert_eq!(taken(&Selection { code: vec![121, 11000], ..refused.clone() }), [1]);
        assert_eq!(taken(&Selection { sequence: Some("2..3".parse().unwrap()), ..all.clone() }), [2, 3]);
        assert_eq!(taken(&Selection { since: at(2), until: at(4), ..all.clone() }), [2, 3]);
        let named = ["4", "000000000000000000000001"].map(|name| name.parse().unwrap());
        let named = Selection { letters: named.to_vec(), ..all };
        assert!(!named.is_everything());
        assert_eq!(taken(&named), [1, 4]);
    }

    #[test]
    fn ranges_and_times_are_read_as_people_write_them() {
        for (text, from, to) in [("12", 12, 12), ("12..40", 12, 40), ("12..", 12, u64::MAX), ("..40", 0, 40)] {
            assert_eq!(text.parse(), Ok(Range { from, to }), "{text}");
        }
        for bad in ["", "x", "40..12", "1...2", "-1"] {
            assert!(bad.parse::<Range>().is_err(), "{bad}");
        }
        assert_eq!(parse_time("2026-11-23").unwrap().to_string(), "2026-11-23T00:00:00Z");
        assert_eq!(parse_time("2026-11-23T06:00:00Z").unwrap().to_string(), "2026-11-23T06:00:00Z");
        assert!(parse_time("2h").unwrap() < Timestamp::now());
        assert!(parse_time("soon").is_err());
    }

    #[test]
    fn every_reason_of_the_collector_can_be_named() {
        let of_documents = [Reason::NotBson, Reason::Refused, Reason::DuplicateId, Reason::TooLarge];
        let all = of_documents.into_iter().chain([Reason::MeasurementTooLarge, Reason::FieldTwice, Reason::Unknown]);
        assert_eq!(all.map(Reason::as_str).collect::<Vec<_>>(), REASONS);
    }
}
