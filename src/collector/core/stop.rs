//! The end: everything fetched is written and acknowledged, within the deadline; past it, what was never sent to the
//! database and is inside its lease is given back, and the rest left to redelivery. Part of the core.

use super::Core;
use super::group::Stage;
use super::types::{Effect, Entry, GroupId, MS, Nanos, Now};

/// How long nothing may arrive, while requests are outstanding, before nothing more is expected.
const QUIET: Nanos = 50 * MS;

impl Core {
    pub(super) fn end_when_done(&mut self, now: Now, out: &mut Vec<Effect>) {
        let Some(deadline) = self.stopping else { return };
        let quiet = now.outstanding == 0 || now.at >= self.pulls.last_at + QUIET;
        let waits = |stage| matches!(stage, Stage::CheckAgain | Stage::Held | Stage::Unreadable | Stage::Puzzling);
        let done = quiet && self.forming.entries.is_empty() && self.groups.values().all(|group| waits(group.stage));
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
