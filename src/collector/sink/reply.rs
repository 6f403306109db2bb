//! The reply to an `insert` command.

use super::CommandFailure;

/// One document that the server refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentFailure {
    /// Its index in the command.
    pub index: usize,
    /// The server's error code.
    pub code: i32,
    /// For people, short.
    pub message: String,
    /// For a duplicate key (11000): whether the index was the one on `_id`; `None` where the server does not say.
    pub on_id: Option<bool>,
}

/// What came of an `insert` command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InsertReply {
    /// The server tried every document.
    Executed {
        /// Those that it refused, by index.
        failures: Vec<DocumentFailure>,
        /// The write concern was not met in time: whether anything is durable is unknown.
        write_concern_error: Option<CommandFailure>,
    },
    /// The command failed; what was stored of it is unknown.
    Failed(CommandFailure),
}
