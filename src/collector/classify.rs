//! The error table: what a failure means for the messages that met it.
//!
//! Pure; one function for commands, one for single documents, a test for every row. Matching is on kinds, codes and
//! labels, never on text. Called by the driver, which hands the class to the core.

use super::sink::FailureKind;

/// What a failure means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// It passes: keep everything, renew the leases, back off, stop pulling.
    Transient,
    /// A person has to do something: keep everything, say why, retry slowly. Never a dead letter.
    Operator,
    /// This one document is refused: to the dead letters, once the config is proven.
    Document,
    /// The document is stored already.
    Done,
    /// Whether the document is stored has to be looked up.
    LookUp,
    /// Not known: narrow it down to single documents, try again over minutes.
    Unknown,
}

/// Codes with which a server says that it cannot write now.
pub const TRANSIENT: [i32; 33] = [
    6,     // HostUnreachable
    7,     // HostNotFound, as one server says of another
    46,    // LockBusy
    50,    // MaxTimeMSExpired
    64,    // WriteConcernTimeout: the write is applied
    89,    // NetworkTimeout
    91,    // ShutdownInProgress
    112,   // WriteConflict
    189,   // PrimarySteppedDown
    262,   // ExceededTimeLimit
    9001,  // SocketException
    10058, // LegacyNotPrimary
    10107, // NotWritablePrimary
    11600, // InterruptedAtShutdown
    11602, // InterruptedDueToReplStateChange
    13435, // NotPrimaryNoSecondaryOk
    13436, // NotPrimaryOrSecondary
    14031, // OutOfDiskSpace
    11601, // Interrupted: somebody killed the operation
    133,   // FailedToSatisfyReadPreference
    134,   // ReadConcernMajorityNotAvailableYet
    24,    // LockTimeout
    63,    // StaleShardVersion, of older servers
    146,   // ExceededMemoryLimit: of the server's work, which is not the document's fault
    150,   // StaleEpoch
    202,   // NetworkInterfaceExceededTimeLimit
    249,   // StaleDbVersion
    317,   // ConnectionPoolExpired
    365,   // TemporarilyUnavailable
    384,   // ConnectionError
    402,   // ResourceExhausted
    407,   // PooledConnectionAcquisitionExceededTimeLimit
    13388, // StaleConfig
];

/// Codes with which a server refuses a whole command until a person changes something.
pub const OPERATOR: [i32; 15] = [
    13,    // Unauthorized
    18,    // AuthenticationFailed
    20,    // IllegalOperation
    26,    // NamespaceNotFound
    73,    // InvalidNamespace
    79,    // UnknownReplWriteConcern
    100,   // UnsatisfiableWriteConcern
    2,     // BadValue: an option of the command
    14,    // TypeMismatch: likewise
    9,     // FailedToParse
    59,    // CommandNotFound
    72,    // InvalidOptions
    166,   // CommandNotSupportedOnView
    8000,  // AtlasError
    40415, // an unknown field in the command
];

/// Codes with which a server refuses a document.
pub const DOCUMENT: [i32; 17] = [
    2,       // BadValue: a measurement without its time field
    14,      // TypeMismatch
    15,      // Overflow: nested too deep
    22,      // InvalidBSON
    52,      // DollarPrefixedFieldName
    53,      // InvalidIdField
    55,      // InvalidDBRef
    56,      // EmptyFieldName
    57,      // DottedFieldName
    121,     // DocumentValidationFailure
    10334,   // BSONObjectTooLarge
    16755,   // a 2dsphere index cannot take the value
    16766,   // a text index has no such language
    17262,   // a text index cannot take the value
    17280,   // KeyTooLong
    17419,   // the document is too large after an update of it
    5743702, // a measurement's time field is no date
];

const DUPLICATE_KEY: i32 = 11000;

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

/// What the refusal of one document means. `on_id` says whether the index of a duplicate key is the one on `_id`, where
/// the server says it; `our_id` whether the `_id` is the identity that we gave.
pub fn document(code: i32, on_id: Option<bool>, our_id: bool) -> Class {
    match code {
        DUPLICATE_KEY => match on_id {
            Some(true) if our_id => Class::Done,
            Some(false) => Class::Document,
            Some(true) | None => Class::LookUp,
        },
        code if DOCUMENT.contains(&code) => Class::Document,
        code if TRANSIENT.contains(&code) => Class::Transient,
        13 | 18 | 20 | 26 | 73 | 100 => Class::Operator,
        _ => Class::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(code: i32) -> Class {
        command(FailureKind::Server, Some(code), &[])
    }

    #[test]
    fn network_selection_and_time_outs_pass() {
        for kind in [FailureKind::Network, FailureKind::Selection, FailureKind::Timeout, FailureKind::Dropped] {
            assert_eq!(command(kind, None, &[]), Class::Transient);
        }
    }

    #[test]
    fn a_retryable_label_makes_any_code_transient() {
        assert_eq!(command(FailureKind::Server, Some(4711), &["RetryableWriteError".into()]), Class::Transient);
        assert_eq!(command(FailureKind::Server, Some(4711), &["Other".into()]), Class::Unknown);
    }

    #[test]
    fn each_transient_code_passes_for_commands_and_documents() {
        let of_shards = [24, 63, 146, 150, 202, 249, 317, 365, 384, 402, 407, 13388];
        let listed = [6, 7, 89, 91, 189, 262, 9001, 10107, 10058, 11600, 11602, 13435, 13436, 112, 50, 46, 64, 14031];
        for code in listed.into_iter().chain(of_shards) {
            assert_eq!(server(code), Class::Transient, "{code}");
            assert_eq!(document(code, None, true), Class::Transient, "{code}");
        }
    }

    #[test]
    fn each_operator_code_and_credentials_tls_and_host_names_wait_for_a_person() {
        for code in [13, 18, 26, 73, 20, 100] {
            assert_eq!(server(code), Class::Operator, "{code}");
            assert_eq!(document(code, None, true), Class::Operator, "{code}");
        }
        for kind in [FailureKind::Auth, FailureKind::Tls, FailureKind::UnknownHost] {
            assert_eq!(command(kind, None, &[]), Class::Operator);
        }
    }

    #[test]
    fn codes_2_and_14_wait_for_a_person_where_they_refuse_a_command_and_are_about_a_document_where_they_refuse_one() {
        for code in [2, 14] {
            assert_eq!(server(code), Class::Operator, "{code}");
            assert_eq!(document(code, None, true), Class::Document, "{code}");
        }
    }

    #[test]
    fn each_document_code_refuses_a_document() {
        for code in [121, 2, 5743702, 14, 22, 10334, 15] {
            assert_eq!(document(code, None, false), Class::Document, "{code}");
        }
    }

    #[test]
    fn a_duplicate_of_our_own_identity_is_done() {
        assert_eq!(document(11000, Some(true), true), Class::Done);
    }

    #[test]
    fn a_duplicate_of_the_payloads_own_id_or_of_an_unknown_index_is_looked_up() {
        assert_eq!(document(11000, Some(true), false), Class::LookUp);
        assert_eq!(document(11000, None, true), Class::LookUp);
        assert_eq!(document(11000, None, false), Class::LookUp);
    }

    #[test]
    fn a_duplicate_of_another_unique_index_refuses_the_document() {
        assert_eq!(document(11000, Some(false), true), Class::Document);
        assert_eq!(document(11000, Some(false), false), Class::Document);
    }

    #[test]
    fn anything_else_is_unknown() {
        assert_eq!(server(4711), Class::Unknown);
        assert_eq!(document(4711, None, true), Class::Unknown);
        assert_eq!(command(FailureKind::Other, None, &[]), Class::Unknown);
        assert_eq!(command(FailureKind::TooLarge, None, &[]), Class::Unknown);
    }
}
