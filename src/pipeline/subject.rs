//! Subjects of NATS as patterns: whether one is well formed, and whether two can match the same message.
//!
//! The rules are the server's (<https://docs.nats.io/nats-concepts/subjects>): a stream whose own subjects overlap, or
//! overlap those of another stream, is refused by it.

/// What is wrong with `subject` as something that a stream listens on, if anything is.
pub fn fault(subject: &str) -> Option<&'static str> {
    if subject.is_empty() || subject.split('.').any(str::is_empty) {
        return Some("a subject has no empty parts");
    }
    if subject.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Some("a subject has no white space");
    }
    if subject.starts_with('$') || subject.starts_with("_INBOX.") {
        return Some("subjects that begin with '$' or '_INBOX' belong to the server");
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
    fn a_malformed_subject_is_faulted() {
        for subject in ["", ".", "a..b", "a.", "a b", "a.b*", "a.>.b", "$JS.API", "_INBOX.x", "a\tb", &"a".repeat(256)] {
            assert!(fault(subject).is_some(), "{subject:?}");
        }
        for subject in ["a", "a.*.b", "a.>", ">", "ä.b"] {
            assert!(fault(subject).is_none(), "{subject:?}");
        }
    }
}
