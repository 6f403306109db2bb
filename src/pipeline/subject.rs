//! Subjects of NATS as patterns: whether one is well formed, and whether two can match the same message.
//!
//! The rules are the server's (<https://docs.nats.io/nats-concepts/subjects>): a stream whose own subjects overlap, or
//! overlap those of another stream, is refused by it.

/// How the first part of every inbox begins: of the default ones (`_INBOX`), and of those that an installation gives to its
/// users (`_INBOX_name`).
pub const INBOX: &str = "_INBOX";

/// Whether an answer may be sent to `reply`, which whoever asks has chosen: only to an inbox. nats-server checks nobody's
/// rights to a reply subject, so an answer to `$KV.…` would be a write with the rights of the one that answers.
///
/// An inbox is a subject whose first part begins with `_INBOX`, one below any of the prefixes in `known`, and what the server
/// makes of either for another account (`_R_.…`) or another cluster (`_GR_.…`).
pub fn is_inbox(reply: &str, known: &[String]) -> bool {
    let literal = |text: &str| text.split('.').all(|part| !part.is_empty() && part != "*" && part != ">");
    let reply = match reply.strip_prefix("_GR_.") {
        // The cluster and the server that the answer goes back to stand in front of the inbox.
        Some(mapped) => mapped.splitn(3, '.').nth(2).unwrap_or_default(),
        None => reply,
    };
    let below = |prefix: &String| reply.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.starts_with('.'));
    let inbox = match reply.split_once('.') {
        Some((first, _)) => first == "_R_" || first.starts_with(INBOX) || known.iter().any(below),
        None => false,
    };
    inbox && literal(reply)
}

/// What is wrong with `subject` as something that a stream listens on, if anything is.
pub fn fault(subject: &str) -> Option<&'static str> {
    if subject.is_empty() || subject.split('.').any(str::is_empty) {
        return Some("a subject has no empty parts");
    }
    if subject.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Some("a subject has no white space");
    }
    if subject.starts_with('$') || subject.starts_with(INBOX) || subject.starts_with("_R_.") || subject.starts_with("_GR_.") {
        return Some("subjects that begin with '$' or '_INBOX' belong to the server and to those who wait for answers");
    }
    let parts: Vec<&str> = subject.split('.').collect();
    let misplaced = |(at, part): (usize, &&str)| match *part {
        ">" => at + 1 != parts.len(),
        "*" => false,
        part => part.contains(['*', '>']),
    };
    if parts.iter().enumerate().any(misplaced) {
        return Some("'*' stands for a whole part, and '>' for all the last ones");
    }
    (subject.len() > 255).then_some("a subject has at most 255 characters")
}

/// Whether some literal subject is matched by both patterns.
pub fn overlap(a: &str, b: &str) -> bool {
    let (mut a, mut b) = (a.split('.'), b.split('.'));
    loop {
        match (a.next(), b.next()) {
            (None, None) => return true,
            (Some(">"), Some(_)) | (Some(_), Some(">")) => return true,
            (Some(x), Some(y)) if x == y || x == "*" || y == "*" => {}
            _ => return false,
        }
    }
}

/// Whether `pattern` matches every literal subject that `subject` does.
pub fn covers(pattern: &str, subject: &str) -> bool {
    let (mut pattern, mut subject) = (pattern.split('.'), subject.split('.'));
    loop {
        match (pattern.next(), subject.next()) {
            (None, None) | (Some(">"), Some(_)) => return true,
            (Some("*"), Some(part)) if part != ">" => {}
            (Some(x), Some(y)) if x == y => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_subjects_overlap_when_one_message_can_match_both() {
        for (a, b) in [("a.b", "a.b"), ("a.*", "a.b"), ("a.>", "*.b.c"), (">", "a"), ("*.b", "a.*"), ("a.>", "a.>")] {
            assert!(overlap(a, b) && overlap(b, a), "{a} {b}");
        }
        for (a, b) in [("a", "b"), ("a.>", "a"), ("a.*", "a.b.c"), ("a.b", "a"), ("*.x", "a.y")] {
            assert!(!overlap(a, b) && !overlap(b, a), "{a} {b}");
        }
    }

    #[test]
    fn a_pattern_covers_what_it_matches_and_no_wider_pattern() {
        for (pattern, subject) in [("a.b", "a.b"), ("a.*", "a.b"), ("a.>", "a.b.c"), (">", "a"), ("a.>", "a.*"), ("a.>", "a.>")] {
            assert!(covers(pattern, subject), "{pattern} {subject}");
        }
        for (pattern, subject) in [("a.b", "a.*"), ("a.*", "a.>"), ("a.b", "a.>"), ("a.>", "a"), ("a.*", "a.b.c"), ("a.b", "a")] {
            assert!(!covers(pattern, subject), "{pattern} {subject}");
        }
    }

    #[test]
    fn an_answer_goes_to_an_inbox_and_nowhere_else() {
        let known = ["sluice.answers".to_owned()];
        for inbox in [
            "_INBOX.a",
            "_INBOX.a.1",
            "_INBOX_app.a.b",
            "sluice.answers.a",
            "_R_.ab12.xyz",
            "_GR_.cluster.server._INBOX.a",
            "_GR_.c.s._INBOX_x.a",
        ] {
            assert!(is_inbox(inbox, &known), "{inbox}");
        }
        for other in [
            "",
            "_INBOX",
            "_INBOX.",
            "_INBOX..a",
            "_INBOX.>",
            "_INBOX.*.a",
            "$KV.alpha.m",
            "$KV.alpha-status.m",
            "$JS.API.STREAM.DELETE.VICTIM",
            "$JS.ACK.alpha_m.default.1.2.3.4.5",
            "alpha.m",
            "alpha-dlq.m.x",
            "sluice.answers",
            "sluice.answersX.a",
            "x._INBOX.a",
            "_GR_.c.s.$KV.alpha.m",
            "_GR_.c.s",
            "_GR_._INBOX.a",
        ] {
            assert!(!is_inbox(other, &known), "{other}");
        }
    }

    #[test]
    fn a_malformed_subject_is_faulted() {
        for subject in
            ["", ".", "a..b", "a.", "a b", "a.b*", "a.>.b", "$JS.API", "_INBOX.x", "_INBOX_ctl.>", "_R_.>", "a\tb", &"a".repeat(256)]
        {
            assert!(fault(subject).is_some(), "{subject:?}");
        }
        for subject in ["a", "a.*.b", "a.>", ">", "ä.b"] {
            assert!(fault(subject).is_none(), "{subject:?}");
        }
    }
}
