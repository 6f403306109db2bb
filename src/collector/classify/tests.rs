//! One row of the table a test.

use super::*;

fn server(code: i32) -> Class {
    command(FailureKind::Server, Some(code), &[])
}

/// A document under an identity of ours, whatever the index.
fn ours(code: i32) -> Class {
    document(code, None, true)
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
fn each_transient_code_passes_for_commands_documents_and_measurements() {
    let listed = [6, 7, 89, 91, 189, 262, 9001, 10107, 10058, 11600, 11602, 13435, 13436, 112, 50, 46, 64, 14031];
    let of_shards = [24, 63, 146, 150, 202, 249, 317, 365, 384, 402, 407, 13388];
    let of_routers = [82, 70, 90, 145];
    let of_buckets_and_throttling = [409, 16500];
    let of_commands = [237, 279, 290, 355, 391, 406, 412, 433, 449, 450, 453, 462, 46841, 50915, 91331, 10_045_600];
    let others = [133, 134, 11601];
    let all = [&listed[..], &of_shards, &of_routers, &of_buckets_and_throttling, &of_commands, &others].concat();
    assert_eq!(all.len(), TRANSIENT.len());
    for code in all {
        assert_eq!(server(code), Class::Transient, "{code}");
        assert_eq!(ours(code), Class::Transient, "{code}");
        assert_eq!(measurement(code), Class::Transient, "{code}");
    }
}

#[test]
fn each_operator_code_and_credentials_tls_and_host_names_wait_for_a_person_of_single_documents_too() {
    let all = [13, 18, 26, 73, 20, 100, 79, 9, 59, 72, 166, 371, 8000, 40415, 115, 238];
    assert_eq!(all.len() + 2, OPERATOR.len());
    for code in all {
        assert_eq!(server(code), Class::Operator, "{code}");
        assert_eq!(ours(code), Class::Operator, "{code}");
        assert_eq!(measurement(code), Class::Operator, "{code}");
    }
    for kind in [FailureKind::Auth, FailureKind::Tls, FailureKind::UnknownHost] {
        assert_eq!(command(kind, None, &[]), Class::Operator);
    }
}

#[test]
fn codes_2_and_14_wait_for_a_person_where_they_refuse_a_command_are_in_doubt_of_a_document_and_in_none_of_a_measurement() {
    for code in [2, 14] {
        assert_eq!(server(code), Class::Operator, "{code}");
        assert_eq!(ours(code), Class::Doubtful, "{code}");
        assert_eq!(measurement(code), Class::Document, "{code}");
    }
}

#[test]
fn each_document_code_refuses_a_document_and_throws_doubt_on_a_measurement() {
    let all = [15, 22, 52, 53, 55, 56, 57, 61, 116, 121, 171, 10334, 16755, 16766, 17261, 17262, 17280, 17419, 183_493, 183_934, 5_930_501];
    assert_eq!(all.len() + 3, DOCUMENT.len());
    for code in all {
        assert_eq!(document(code, None, false), Class::Document, "{code}");
        assert_eq!(ours(code), Class::Document, "{code}");
        assert_eq!(measurement(code), Class::Doubtful, "{code}");
        assert_eq!(server(code), Class::Unknown, "of a whole command: {code}");
    }
    assert_eq!((ours(5_743_702), measurement(5_743_702)), (Class::Document, Class::Document));
}

#[test]
fn a_duplicate_of_our_own_identity_is_done() {
    assert_eq!(document(11000, Some(true), true), Class::Done);
}

#[test]
fn any_other_duplicate_is_looked_up_since_the_index_that_is_named_may_not_be_the_only_one() {
    for (on_id, our_id) in [(Some(true), false), (None, true), (None, false), (Some(false), true), (Some(false), false)] {
        assert_eq!(document(11000, on_id, our_id), Class::LookUp, "{on_id:?} {our_id}");
    }
}

#[test]
fn a_duplicate_key_in_a_series_which_has_no_unique_index_of_ours_is_in_doubt() {
    assert_eq!(measurement(11000), Class::Doubtful);
}

#[test]
fn anything_else_is_unknown() {
    assert_eq!(server(4711), Class::Unknown);
    assert_eq!(ours(4711), Class::Unknown);
    assert_eq!(measurement(4711), Class::Unknown);
    assert_eq!(command(FailureKind::Other, None, &[]), Class::Unknown);
    assert_eq!(command(FailureKind::TooLarge, None, &[]), Class::Unknown);
}

#[test]
fn no_code_is_in_two_lists_but_2_and_14() {
    let both = OPERATOR.iter().filter(|code| DOCUMENT.contains(code)).collect::<Vec<_>>();
    assert_eq!(both, [&2, &14]);
    assert!(TRANSIENT.iter().all(|code| !OPERATOR.contains(code) && !DOCUMENT.contains(code)));
}
