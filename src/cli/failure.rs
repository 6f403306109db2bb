//! How a command fails: one message for people, which names the place and the remedy, and an exit code for scripts.
//!
//! The codes are part of the interface: `sluice --help` lists them and a test holds them. Every command returns a
//! [`Failure`]; only `cli::main` turns it into text on stderr and an exit code.

use crate::pipeline::id::NameError;
use crate::pipeline::problem::Problems;
use crate::store::error::Unfit;
use crate::store::{StoreError, StoreErrorKind};
use std::process::ExitCode;

/// The exit codes. `2` is clap's, for arguments that do not parse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Something failed while running.
    Failed = 1,
    /// The arguments contradict each other or are not understood.
    Usage = 2,
    /// Settings, a config, an entry or input documents are invalid.
    Invalid = 3,
    /// There is no such pipeline, version or dead letter.
    NotFound = 4,
    /// Somebody else edited meanwhile.
    Conflict = 5,
    /// `--wait` ran out of time.
    TimedOut = 6,
    /// NATS or MongoDB cannot be reached.
    Unreachable = 7,
    /// NATS does not permit it to the user of the settings.
    NotPermitted = 8,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A failed command.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    exit: Exit,
    message: String,
    problems: bool,
}

impl Failure {
    /// A failure with its message, which names the place and the remedy.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), problems: false }
    }

    /// The code that the process ends with.
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// A failure that has been told already: only the exit code is left to say.
    pub fn told(exit: Exit) -> Self {
        Self::new(exit, "")
    }

    /// Whether the message is a list of problems, each of which says that it is an error or a warning.
    pub fn is_problems(&self) -> bool {
        self.problems
    }

    /// A failure of the kind that a store error means, with a remedy where the store's own message has none.
    pub fn store(error: &StoreError) -> Self {
        let (exit, remedy) = match error.kind() {
            StoreErrorKind::Unavailable => (Exit::Unreachable, "is NATS running, with JetStream, at `nats.urls` of the settings?"),
            StoreErrorKind::Conflict => (Exit::Conflict, "somebody else edited it meanwhile; look at it and try again"),
            StoreErrorKind::Missing => (Exit::NotFound, "check the id with `sluice list`, and `namespace` in the settings"),
            StoreErrorKind::Refused => (Exit::Failed, "NATS refuses it; check the account's permissions and limits"),
            StoreErrorKind::Unfit(Unfit::TooLarge) => (Exit::Invalid, "it is larger than allowed"),
            StoreErrorKind::Unfit(_) => (Exit::Invalid, "it is not what it should be; publish it again or remove it"),
        };
        Self::new(exit, format!("{error} ({remedy})"))
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::store(&error)
    }
}

impl From<Problems> for Failure {
    fn from(problems: Problems) -> Self {
        Self { exit: Exit::Invalid, message: problems.to_string(), problems: true }
    }
}

impl From<NameError> for Failure {
    fn from(error: NameError) -> Self {
        Self::new(Exit::Usage, error.to_string())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(Exit::Failed, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_codes_never_change() {
        let codes = [
            Exit::Failed,
            Exit::Usage,
            Exit::Invalid,
            Exit::NotFound,
            Exit::Conflict,
            Exit::TimedOut,
            Exit::Unreachable,
            Exit::NotPermitted,
        ];
        assert_eq!(codes.map(|code| code as u8), [1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn a_store_error_keeps_its_place_and_gains_a_remedy() {
        let failure = Failure::from(StoreError::new(StoreErrorKind::Conflict, "write entry metrics: wrong last revision"));
        assert_eq!(failure.exit(), Exit::Conflict);
        assert!(failure.to_string().starts_with("write entry metrics") && failure.to_string().contains("try again"), "{failure}");
    }
}
