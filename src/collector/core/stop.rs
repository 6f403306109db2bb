//! The end: everything fetched is written and acknowledged, within the deadline; past it, what was never sent to the
//! database and is inside its lease is given back, and the rest left to redelivery. Part of the core.
//!
//! Requests end before the core does, or the server would send messages to nobody and deliver them again. While messages
//! flow requests are short ([`FLOW_EXPIRES`]), so that they are simply waited for: the server says how each one ended, in
//! order with what it brought, and no message is delivered twice. An idle pipeline's are long, and there hardly anything is
//! on its way: they are taken back.

use super::Core;
use super::group::Stage;
use super::types::{Effect, Entry, GroupId, Nanos, Now, SECOND};

/// How long a pull request may wait at the server while messages flow.
pub const FLOW_EXPIRES: Nanos = SECOND;
/// How long after its last message a pipeline counts as idle.
const IDLE_AFTER: Nanos = 5 * SECOND;
/// How long requests are waited for that end by themselves.
const ENDING: Nanos = FLOW_EXPIRES + SECOND / 2;
/// How long it may take until requests that were taken back are known to bring nothing more.
const WITHDRAWING: Nanos = 2 * SECOND;

impl Core {
    /// Whether messages flow: then requests are made to end soon.
    pub fn flowing(&self, now: Nanos) -> bool {
        self.pulls.last_at.is_some_and(|last| now < last + IDLE_AFTER)
    }

    pub(super) fn end_when_done(&mut self, now: Now, out: &mut Vec<Effect>) {
        let Some(deadline) = self.stopping else { return };
        let waits = |stage| matches!(stage, Stage::CheckAgain | Stage::Held | Stage::Unreadable | Stage::Puzzling);
        let settled = self.forming.entries.is_empty() && self.groups.values().all(|group| waits(group.stage));
        if settled && now.outstanding > 0 && self.withdrawn_at.is_none() && (!self.flowing(now.at) || now.at >= self.stopped_at + ENDING) {
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
            let never_sent = !group.sent && matches!(group.stage, Stage::Ready | Stage::Checking | Stage::CheckAgain | Stage::Unreadable);
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
