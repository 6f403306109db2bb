//! The error table: what a failure means for the messages that met it.
//!
//! Pure; one function for commands, one for single documents, one for single measurements, a test for every row. Matching
//! is on kinds, codes and labels, never on text. Two rules are the core's, not the table's: a code that hits every document of
//! a command blames none of them, and what is in doubt is tried alone before it is a dead letter. Called by the driver, which
//! hands the class to the core.

#[path = "classify/codes.rs"]
mod codes;
#[cfg(test)]
#[path = "classify/tests.rs"]
mod tests;

pub use codes::{DOCUMENT, OPERATOR, TRANSIENT};

use super::sink::FailureKind;

/// What a failure means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// It passes: keep everything, renew the leases, back off, stop pulling.
    Transient,
    /// A person has to do something: keep everything, say why, retry slowly. Never a dead letter of itself; but where one
    /// document has the server refuse whole commands so, it is narrowed down to that one.
    Operator,
    /// This one document is refused, without a doubt where others of the same command were stored: to the dead letters,
    /// once the config is proven.
    Document,
    /// A document is refused, perhaps because of others that went with it: to be tried alone first.
    Doubtful,
    /// The document is stored already.
    Done,
    /// Whether the document is stored has to be looked up.
    LookUp,
    /// Not known: narrow it down to single documents, try again over minutes.
    Unknown,
}

const DUPLICATE_KEY: i32 = 11000;
/// A time-series collection's own words for a measurement without a time, or with one that is no date: said before
/// anything is put into a bucket, so that they are about that measurement alone.
const OF_A_MEASUREMENT: [i32; 3] = [2, 14, 5743702];

/// What the failure of a whole command means.
pub fn command(kind: FailureKind, code: Option<i32>, labels: &[String]) -> Class {
    let retryable = ["RetryableWriteError", "TransientTransactionError", "RetryableError", "SystemOverloadedError"];
    if labels.iter().any(|label| retryable.contains(&label.as_str())) || code.is_some_and(|code| TRANSIENT.contains(&code)) {
        return Class::Transient;
    }
    match (kind, code) {
        (FailureKind::Auth | FailureKind::Tls | FailureKind::UnknownHost, _) => Class::Operator,
        (FailureKind::TooLate, _) => Class::Transient,
        (FailureKind::Network | FailureKind::Selection | FailureKind::Timeout | FailureKind::Dropped, None) => Class::Transient,
        (_, Some(code)) if OPERATOR.contains(&code) => Class::Operator,
        (FailureKind::Network | FailureKind::Selection | FailureKind::Timeout | FailureKind::Dropped, _) => Class::Transient,
        (FailureKind::Server | FailureKind::TooLarge | FailureKind::Other, _) => Class::Unknown,
    }
}

/// What the refusal of one document of a normal collection means. `on_id` says whether the index of a duplicate key is the one
/// on `_id`, where the server says it; `our_id` whether the `_id` is the identity that we gave.
///
/// There is no doubt about [`DOCUMENT`], since a server that carries out the command tries each document by itself, except of 2 and
/// 14: with these a router also hands on what one of its shards said of a whole command. A duplicate key is always looked
/// up but under our own identity: where a document violates two indexes, it is not certain which one the server names.
/// What a person or time has to mend counts document by document as well, since a router makes such refusals of commands into
/// refusals of documents, and servers themselves say 371 and 166 of each document.
pub fn document(code: i32, on_id: Option<bool>, our_id: bool) -> Class {
    match code {
        DUPLICATE_KEY if on_id == Some(true) && our_id => Class::Done,
        DUPLICATE_KEY => Class::LookUp,
        2 | 14 => Class::Doubtful,
        code if DOCUMENT.contains(&code) => Class::Document,
        code => not_about_it(code),
    }
}

/// The same of one measurement of a time-series collection: whatever is found when a bucket is written hits all that went into
/// it, those of other clients too, so that only what is said before leaves no doubt.
pub fn measurement(code: i32) -> Class {
    match code {
        code if OF_A_MEASUREMENT.contains(&code) => Class::Document,
        code if code == DUPLICATE_KEY || DOCUMENT.contains(&code) => Class::Doubtful,
        code => not_about_it(code),
    }
}

fn not_about_it(code: i32) -> Class {
    match code {
        code if TRANSIENT.contains(&code) => Class::Transient,
        code if OPERATOR.contains(&code) => Class::Operator,
        _ => Class::Unknown,
    }
}
