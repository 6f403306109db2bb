//! What an execution says about its troubles: the core knows that something is wrong, the driver what was said.

use crate::collector::core::Troubles;
use crate::pipeline::report::{ExecutionPhase, Trouble};
use crate::pipeline::status::Reason;

/// The last words of everything that can be in the way.
#[derive(Debug, Default)]
pub(super) struct Words {
    /// The last failure of a command.
    pub(super) command: String,
    /// The last refusal of a document.
    pub(super) refusal: String,
    /// The last failure to store a dead letter.
    pub(super) burial: String,
    /// What is wrong with NATS, stream or consumer.
    pub(super) source: Option<(Reason, String)>,
    /// What is wrong with the collection.
    pub(super) target: Option<(Reason, String)>,
}

/// What was shown last, so that it is written only when it changes.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Showing {
    pub(super) phase: Option<ExecutionPhase>,
    pub(super) troubles: Vec<Trouble>,
}

impl Words {
    /// Everything that is in the way now.
    pub(super) fn troubles(&self, core: Troubles) -> Vec<Trouble> {
        let mut troubles = Vec::new();
        let mut add = |reason, message: &str| troubles.push(Trouble { reason, message: message.to_owned() });
        for (reason, message) in [&self.source, &self.target].into_iter().flatten() {
            add(*reason, message);
        }
        if core.unavailable && self.target.is_none() {
            add(Reason::DatabaseUnavailable, &self.command);
        }
        if core.refuses && self.target.is_none() {
            add(Reason::DatabaseRefuses, &self.command);
        }
        if core.nothing_stored {
            add(Reason::NothingStoredYet, &self.refusal);
        }
        if core.dead_letters {
            add(Reason::DeadLettersUnavailable, &self.burial);
        }
        if core.memory {
            add(Reason::MemoryLimited, "the messages held by all pipelines of this process fill limits.memory");
        }
        troubles
    }
}
