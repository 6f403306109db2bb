//! An error with what caused it, as one line of text. Pure; called where an error of a library becomes a message for people.

use std::error::Error;

/// What `error` says, then what each cause says that was not said yet: the outermost of HTTP libraries says nothing.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Said(&'static str, #[source] Option<Box<Said>>);

    #[test]
    fn every_cause_is_said_once() {
        let inner = Said("connection refused", None);
        let middle = Said("connect: connection refused", Some(Box::new(inner)));
        assert_eq!(with_causes(&Said("request failed", Some(Box::new(middle)))), "request failed: connect: connection refused");
    }
}
