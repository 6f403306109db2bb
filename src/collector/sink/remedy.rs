//! What a person can do about a refusal, by its code: a remedy that is the same for all of them leads nowhere for most.
//!
//! Pure. What the server says stands in front of it; what nothing is known about gets the place to look it up. Said in the
//! status, in logs and by `sluice doctor`.

use super::failure::{CommandFailure, FailureKind};
use super::reply::DocumentFailure;

/// With these a server says that it has no time-series collections, or no such command or option: `CommandNotSupported`,
/// `NotImplemented`, "Feature not supported" (Amazon DocumentDB), `CommandNotFound`, an unknown field of a command (a
/// MongoDB before 5.0).
const NO_SERIES: [i32; 5] = [115, 238, 303, 59, 40415];

const LOOK_IT_UP: &str = "look the code up in the documentation of the server";

impl CommandFailure {
    /// What a person can do about it; `None` where nothing has to be done, since it passes by itself.
    pub fn remedy(&self) -> Option<&'static str> {
        match (self.kind, self.code) {
            (FailureKind::Auth, _) | (_, Some(18)) => {
                Some("correct `username`, `password` or `auth_source` of the connection in the settings")
            }
            (FailureKind::Tls, _) => Some("correct `tls` of the connection in the settings, or the server's certificate"),
            (FailureKind::UnknownHost, _) => Some("correct the host in the `url` of the connection in the settings"),
            (_, Some(code)) => of_code(code),
            (_, None) => None,
        }
    }

    /// What the server said, its code, and what to do about it.
    pub fn told(&self) -> String {
        let said = match self.code {
            Some(code) => format!("{} (code {code})", self.message),
            None => self.message.clone(),
        };
        match self.remedy() {
            Some(remedy) => format!("{said}: {remedy}"),
            None => said,
        }
    }
}

impl DocumentFailure {
    /// The same of a refusal that came document by document.
    pub fn told(&self) -> String {
        CommandFailure { code: Some(self.code), ..CommandFailure::new(FailureKind::Server, self.message.as_str()) }.told()
    }
}

/// Whether the refusal to create a time-series collection says that the server has none at all.
pub(super) fn has_no_series(code: i32) -> bool {
    NO_SERIES.contains(&code)
}

fn of_code(code: i32) -> Option<&'static str> {
    Some(match code {
        13 => "grant its user the role that `sluice doctor --permissions execution` prints",
        20 => "make the server what the message asks for: `w: majority` needs a replica set",
        26 => "let the user of the connection create the collection, or create it",
        73 => "correct `database` and `collection` in the config",
        79 | 100 => "correct `write_concern` in the config: the replica set has no such mode, or not so many members",
        2 | 9 | 14 | 72 | 40415 => {
            "the server does not take a part of the command: correct `write_concern` in the config, or upgrade the server to what sluice needs"
        }
        59 => "the server is too old, or does not have the command: MongoDB from 4.4 on has it",
        115 | 238 | 303 => "the server does not have what is asked of it: use a server that does, or a config that does without",
        166 => "a view has the name of the collection: name another collection in the config, or drop the view",
        371 => "somebody has blocked writes (mongosync while it copies, Atlas where the disk is full): let it finish, or free space",
        8000 => "Atlas refuses it: look at the cluster's state, its tier's limits and its access list",
        // The server's own; it passes.
        code if crate::collector::classify::TRANSIENT.contains(&code) => return None,
        _ => LOOK_IT_UP,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::classify;

    fn refusal(code: i32) -> CommandFailure {
        CommandFailure { code: Some(code), ..CommandFailure::new(FailureKind::Server, "no") }
    }

    #[test]
    fn the_remedy_of_every_refusal_that_needs_a_person_follows_its_code() {
        for code in classify::OPERATOR {
            let remedy = refusal(code).remedy();
            assert!(remedy.is_some_and(|remedy| remedy != LOOK_IT_UP), "{code}: {remedy:?}");
        }
        for code in classify::TRANSIENT {
            assert_eq!(refusal(code).remedy(), None, "{code} passes by itself");
        }
        assert_eq!(refusal(4711).remedy(), Some(LOOK_IT_UP));
    }

    #[test]
    fn credentials_are_the_remedy_for_credentials_alone() {
        let auth = CommandFailure::new(FailureKind::Auth, "no");
        assert!(auth.told().contains("password"), "{}", auth.told());
        for code in classify::OPERATOR.into_iter().filter(|code| *code != 18).chain([115, 238, 303, 371]) {
            assert!(!refusal(code).told().contains("password"), "{}", refusal(code).told());
        }
        assert!(refusal(13).told().starts_with("no (code 13): grant"), "{}", refusal(13).told());
    }
}
