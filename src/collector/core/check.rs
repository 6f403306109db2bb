//! Messages that may lie in a previous target already: looked up there before they are inserted here. Part of the core.
//!
//! What always holds: what arrived to be checked is inserted only after an answer that said that it lies nowhere else; what
//! lies there is acknowledged without an insert; without an answer it waits aside, its lease renewed, and is asked again.

use super::Core;
use super::group::{Group, Settled, Stage};
use super::types::{Effect, Entry, GroupId, Nanos, Outcome};
use crate::collector::classify::Class;

impl Core {
    /// Begins the look-up of a group that was taken from those that are ready; whether there was room for it.
    pub(super) fn begin_check(&mut self, id: GroupId, out: &mut Vec<Effect>) -> bool {
        let room = self.checking < self.batches.max_in_flight;
        if let Some(group) = self.groups.get_mut(&id).filter(|_| room) {
            group.stage = Stage::Checking;
            self.checking += 1;
            out.push(Effect::Check(id));
        }
        room
    }

    /// A failure of class `Done` lies in a previous target, one of class `Document` among the dead letters.
    pub(super) fn checked(&mut self, id: GroupId, outcome: Outcome<'_>, now: Nanos, out: &mut Vec<Effect>) {
        self.checking = self.checking.saturating_sub(1);
        let random = self.random();
        let lease = self.lease();
        let Some(mut group) = self.take(id) else { return };
        let Outcome::Executed { failures, uncertain: None } = outcome else {
            let Some(mut group) = self.group_inside_lease(group, now, out) else { return };
            group.failures += 1;
            group.stage = Stage::CheckAgain;
            group.due = now + super::aside::look_up_delay(group.failures, random);
            self.aside += group.entries.len() as u64;
            self.groups.insert(id, group);
            return;
        };
        group.unchecked = false;
        group.failures = 0;
        let (found, buried) = split(&mut group, failures);
        group.recount(lease);
        if !found.is_empty() {
            self.totals.duplicates += found.len() as u64;
            let mut stored = Group::new(Stage::Acking, found);
            stored.recount(lease);
            stored.oldest_ns = group.oldest_ns;
            let id = GroupId(self.next_id);
            self.next_id += 1;
            self.acknowledge(id, stored, Settled::Stored, now, out);
        }
        for entry in self.inside_lease(buried, now, out) {
            // Its dead letter is there: stored once more, which changes nothing, and terminated. Never tried as a document.
            self.cannot_be_sent(entry);
        }
        let Some(mut group) = self.group_inside_lease(group, now, out) else { return };
        group.stage = Stage::Ready;
        self.groups.insert(id, group);
        self.ready.push_front(id);
    }
}

/// Takes out of the group what lies elsewhere: documents, and dead letters.
pub(super) fn split(group: &mut Group, failures: &[(u32, Class)]) -> (Vec<Entry>, Vec<Entry>) {
    let (mut found, mut buried) = (Vec::new(), Vec::new());
    let mut failures = failures.iter().peekable();
    let mut index = 0u32;
    group.entries.retain(|entry| {
        let class = failures.next_if(|(listed, _)| *listed == index).map(|(_, class)| *class);
        index += 1;
        match class {
            Some(Class::Done) => found.push(*entry),
            Some(Class::Document) => buried.push(*entry),
            _ => return true,
        }
        false
    });
    (found, buried)
}
