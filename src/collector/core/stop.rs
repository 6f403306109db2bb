//! The end: everything fetched is written and acknowledged, within the deadline; past it, what was never sent to the
//! database and is inside its lease is given back, and the rest left to redelivery. Part of the core.
//!
//! Requests end before the core does, or the server would send messages to nobody and deliver them again. While messages
//! flow they are brief ([`FLOW_EXPIRES`]), and simply waited for: the server says how each one ended, in order with what it
//! brought, and no message is delivered twice. An idle pipeline's lasts long, and is taken back, and so is that of one to which
//! nothing ever came, so that what is published after a pause waits: only a message that arrives in that very moment, the first
//! for seconds, may be in the server's hand for it, and goes to another execution at once, as a second delivery.

use super::Core;
use super::group::Stage;
use super::pull::FLOW_EXPIRES;
use super::types::{Effect, Entry, GroupId, Nanos, Now, SECOND};

/// How long brief requests are waited for: a busy server says late that they ended.
const ENDING: Nanos = FLOW_EXPIRES + 3 * SECOND;
/// How long it may take until requests that were taken back are known to bring nothing more.
const WITHDRAWING: Nanos = 2 * SECOND;

impl Core {
    pub(super) fn end_when_done(&mut self, now: Now, out: &mut Vec<Effect>) {
        let Some(deadline) = self.stopping else { return };
        let waits = |stage| matches!(stage, Stage::CheckAgain | Stage::Held | Stage::Unreadable | Stage::Puzzling);
        let settled = self.forming.entries.is_empty() && self.groups.values().all(|group| waits(group.stage));
        let due = self.pulls_last() || self.pulls.last_at.is_none() || now.at >= self.stopped_at + ENDING;
        if settled && now.outstanding > 0 && self.withdrawn_at.is_none() && due {
            self.withdrawn_at = Some(now.at);
            out.push(Effect::Withdraw);
        }
        let given_up = self.withdrawn_at.is_some_and(|at| now.at >= at + WITHDRAWING);
        let done = settled && (now.outstanding == 0 || given_up);
        if !done && now.at < deadline {
            return;
        }
        self.finished = true;
        let mut back: Vec<Entry> = Vec::new();
        let mut gone = std::mem::take(&mut self.forming.entries);
        back.extend(gone.extract_if(.., |entry| entry.lease_ends > now.at));
        let ids: Vec<GroupId> = self.groups.keys().copied().collect();
        for id in ids {
            let Some(mut group) = self.take(id) else { continue };
            let never_sent = !group.sent
                && matches!(group.stage, Stage::Ready | Stage::Checking | Stage::CheckAgain | Stage::Resolving | Stage::Unreadable);
            if never_sent {
                back.extend(group.entries.extract_if(.., |entry| entry.lease_ends > now.at));
            }
            gone.append(&mut group.entries);
        }
        if !back.is_empty() {
            self.count_out(&back);
            out.push(Effect::Nak(back));
        }
        self.release(gone, out);
        out.push(Effect::Finished);
    }
}
