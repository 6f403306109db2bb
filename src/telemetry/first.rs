//! What is worth one line of the log, however often it comes back: garbage that anybody may write stays where it is, and is
//! met again at every look.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

/// So many different things are named; of more only that there are more.
const MOST: usize = 200;

/// Whether something is to be said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Say {
    /// It has not been said yet.
    It,
    /// There are more of them than are named.
    More,
    /// It has been said.
    Nothing,
}

/// What has been said.
#[derive(Debug, Default)]
pub struct Said(Mutex<HashSet<String>>);

impl Said {
    /// Notes `what`, and whether it is to be said.
    pub fn first(&self, what: &str) -> Say {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match said.len() {
            _ if said.contains(what) => Say::Nothing,
            full if full > MOST => Say::Nothing,
            full => {
                said.insert(what.to_owned());
                if full == MOST { Say::More } else { Say::It }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_said_once_and_of_too_many_only_that_there_are_more() {
        let said = Said::default();
        for turn in 0..3 {
            let all: Vec<Say> = (0..1_000).map(|number| said.first(&number.to_string())).collect();
            let count = |say| all.iter().filter(|other| **other == say).count();
            let expected = if turn == 0 { (MOST, 1) } else { (0, 0) };
            assert_eq!((count(Say::It), count(Say::More)), expected);
        }
    }
}
