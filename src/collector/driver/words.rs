//! What an execution says about its troubles: the core knows that something is wrong, the driver what was said.

use crate::collector::core::Troubles;
use crate::pipeline::report::{ExecutionPhase, Trouble};
use crate::pipeline::status::Reason;

/// Why markers do not come back.
const MUTE: &str = "what this connection publishes to its own inbox does not come back: allow its NATS user to publish and to \
                    subscribe to its inboxes (`nats.inbox_prefix`, `_INBOX.>`); until then messages are often held to be late, dropped and delivered again";

/// The last words of everything that can be in the way.
#[derive(Debug, Default)]
pub(super) struct Words {
    /// The last failure of a command.
    pub(super) command: String,
    /// The last refusal of a document.
    pub(super) refusal: String,
    /// Whether that refusal was ours: the payload is no BSON document.
    pub(super) not_bson: bool,
    /// The last failure to store a dead letter.
    pub(super) burial: String,
    /// What is wrong with NATS, stream or consumer.
    pub(super) source: Option<(Reason, String)>,
    /// What becomes of pull requests, until one works.
    pub(super) pull: Option<(Reason, String)>,
    /// Why the durable brings nothing, although something waits.
    pub(super) stuck: Option<String>,
    /// What the connection sends to its own inboxes does not come back.
    pub(super) mute: bool,
    /// Why a previous target could not be asked last.
    pub(super) previous: Option<(Reason, String)>,
    /// What is wrong with the ledger.
    pub(super) ledger: Option<(Reason, String)>,
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
    /// Whether nothing is wrong outside the core.
    pub(super) fn quiet(&self) -> bool {
        self.source.is_none() && self.pull.is_none() && self.stuck.is_none() && self.target.is_none() && self.ledger.is_none() && !self.mute
    }

    /// Everything that is in the way now.
    pub(super) fn troubles(&self, core: Troubles) -> Vec<Trouble> {
        let mut troubles = Vec::new();
        let mut add = |reason, message: &str| troubles.push(Trouble::new(reason, message));
        let pull = if self.source.is_some() { &None } else { &self.pull };
        // The same database, mostly for the same reason.
        let ledger = if core.unavailable || core.refuses || self.target.is_some() { &None } else { &self.ledger };
        for (reason, message) in [&self.source, pull, &self.target, ledger].into_iter().flatten() {
            add(*reason, message);
        }
        if let Some(why) = &self.stuck {
            add(Reason::ConsumerStuck, why);
        }
        if self.mute {
            add(Reason::StreamUnavailable, MUTE);
        }
        if core.unavailable && self.target.is_none() {
            add(Reason::DatabaseUnavailable, &self.command);
        }
        if core.refuses && self.target.is_none() {
            add(Reason::DatabaseRefuses, &self.command);
        }
        if let Some((reason, message)) = self.previous.as_ref().filter(|_| core.previous) {
            add(*reason, message);
        }
        let nothing_stored = if self.not_bson { Reason::PayloadsNotBson } else { Reason::NothingStoredYet };
        if core.nothing_stored {
            add(nothing_stored, &self.refusal);
        }
        if core.lonely && !core.aside {
            let why = "documents are refused, and no other was stored beside or after them: if it is not the collection that refuses \
                       all, they become dead letters once another one is stored";
            add(Reason::DocumentsRefused, &format!("{why}: {}", self.refusal));
        }
        if core.aside {
            add(
                if core.nothing_stored { nothing_stored } else { Reason::DocumentsRefused },
                &format!("hardly any further messages are fetched, since so many refused ones wait to be tried again: {}", self.refusal),
            );
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
