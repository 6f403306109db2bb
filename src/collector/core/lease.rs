//! Leases: renewed while messages wait, and what is past its lease dropped without a word. Part of the core.

use super::Core;
use super::group::{Group, Stage};
use super::types::{Effect, GroupId, Limits, Nanos};

impl Core {
    /// Renews what is due and drops what has expired.
    pub(super) fn keep_leases(&mut self, now: Nanos, out: &mut Vec<Effect>) {
        let lease = self.lease();
        let expired = self.forming.take_expired(now, lease);
        self.expire(expired, out);
        renew(self.forming_id, &mut self.forming, now, out);
        let mut gone: Vec<GroupId> = Vec::new();
        for (id, group) in &mut self.groups {
            // Groups whose replies name entries by index stay whole until then.
            if group.lease_ends <= now && !group.stage.indexed() {
                gone.push(*id);
            } else {
                renew(*id, group, now, out);
            }
        }
        for id in gone {
            let Some(mut group) = self.take(id) else { continue };
            let expired = group.take_expired(now, lease);
            if matches!(group.stage, Stage::Acking | Stage::AckAgain) {
                // Stored and acknowledged, only not confirmed in time.
                self.release(expired, out);
            } else {
                self.expire(expired, out);
            }
            if group.entries.is_empty() {
                self.ready.retain(|ready| *ready != id);
                continue;
            }
            if group.stage.aside() {
                self.aside += group.entries.len() as u64;
            }
            renew(id, &mut group, now, out);
            self.groups.insert(id, group);
        }
    }

    /// The server counts a shorter lease from the old delivery, for what is in hand, too; a longer one counts from the next
    /// renewal only.
    pub(super) fn limit(&mut self, limits: Limits) {
        let before = self.lease();
        self.limits = limits;
        let lease = self.lease();
        if lease < before {
            self.forming.shorten(before - lease, lease);
            self.groups.values_mut().for_each(|group| group.shorten(before - lease, lease));
        }
    }

    /// Releases everything without a word. Replies that are still under way find nothing.
    pub(super) fn forget_all(&mut self, out: &mut Vec<Effect>) {
        let mut entries = std::mem::take(&mut self.forming.entries);
        self.forming = Group::new(Stage::Ready, Vec::new());
        self.forming_id = GroupId(self.next_id);
        self.next_id += 1;
        self.ready.clear();
        for mut group in std::mem::take(&mut self.groups).into_values() {
            entries.append(&mut group.entries);
        }
        self.aside = 0;
        self.pulls.forget();
        self.expire(entries, out);
    }

    pub(super) fn renewed(&mut self, id: GroupId, sent: Nanos, all: bool, now: Nanos) {
        let lease = self.lease();
        let group = if id == self.forming_id { Some(&mut self.forming) } else { self.groups.get_mut(&id) };
        // A reply to an earlier renewal does not say which entries it covered.
        let Some(group) = group.filter(|group| group.renewing.is_some_and(|(_, started)| sent >= started)) else { return };
        if all {
            group.renewed(sent, now, lease);
        } else {
            // Which of them were renewed is unknown: try all again soon.
            group.renewing = None;
            group.renew_at = group.renew_at.max(now + lease / 20);
        }
    }
}

fn renew(id: GroupId, group: &mut Group, now: Nanos, out: &mut Vec<Effect>) {
    let wanted = !matches!(group.stage, Stage::Acking | Stage::AckAgain);
    if wanted && group.renewing.is_none() && now >= group.renew_at && now < group.lease_ends && !group.entries.is_empty() {
        group.renewing = Some((group.entries.len(), now));
        out.push(Effect::Renew(id));
    }
}
