//! The messages that the core holds, by slot: payload, acknowledgement subject, and what is known of a refusal.
//!
//! What always holds: a slot is taken when a message arrives and freed once, when the core releases it. Used by the driver.

use crate::collector::{dead_letters::Reason, identity::Identity, source::Delivery};
use std::collections::HashMap;

/// What was said about a message that could not simply be stored.
#[derive(Debug, Clone)]
pub(super) struct Note {
    pub(super) reason: Reason,
    pub(super) code: Option<i32>,
    pub(super) detail: String,
    /// Of a duplicate key: whether the server said that the index is the one on `_id`.
    pub(super) on_id: Option<bool>,
}

/// A message that is held.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) delivery: Delivery,
    /// The ObjectId that the document gets; `None` where it has an `_id` of its own.
    pub(super) id: Option<Identity>,
    /// Boxed: hardly any message has one.
    pub(super) note: Option<Box<Note>>,
}

/// All messages that are held.
#[derive(Debug, Default)]
pub(super) struct Slots {
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
}

impl Slots {
    pub(super) fn put(&mut self, slot: Slot) -> u32 {
        if let Some(number) = self.free.pop()
            && let Some(place) = self.slots.get_mut(number as usize)
        {
            *place = Some(slot);
            return number;
        }
        self.slots.push(Some(slot));
        // Far fewer messages are held than 32 bits count: the budget and max_ack_pending see to it.
        (self.slots.len() - 1) as u32
    }

    pub(super) fn get(&self, number: u32) -> Option<&Slot> {
        self.slots.get(number as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut Slot> {
        self.slots.get_mut(number as usize)?.as_mut()
    }

    /// Frees a slot, dropping what it holds where it lies; the bytes that budgets counted of it.
    pub(super) fn free(&mut self, number: u32) -> u64 {
        let Some(place) = self.slots.get_mut(number as usize) else { return 0 };
        let Some(bytes) = place.as_ref().map(|slot| slot.delivery.bytes) else { return 0 };
        *place = None;
        self.free.push(number);
        bytes
    }

    /// Sequence and publish time of the youngest message that is held.
    pub(super) fn youngest(&self) -> Option<(u64, u64)> {
        self.slots.iter().flatten().map(|slot| (slot.delivery.sequence, slot.delivery.published_ns)).max()
    }

    /// Whether one of `deliveries` has the sequence of a message that is held and is another.
    pub(super) fn replaced_by(&self, deliveries: &[Delivery]) -> bool {
        if deliveries.is_empty() {
            return false;
        }
        let held: HashMap<u64, u64> =
            self.slots.iter().flatten().map(|slot| (slot.delivery.sequence, slot.delivery.published_ns)).collect();
        deliveries.iter().any(|one| held.get(&one.sequence).is_some_and(|published_ns| *published_ns != one.published_ns))
    }

    /// What budgets count of all that is held.
    pub(super) fn bytes(&self) -> u64 {
        self.slots.iter().flatten().map(|slot| slot.delivery.bytes).sum()
    }

    /// Returns the memory of a burst that is over.
    pub(super) fn shrink(&mut self) {
        if self.free.len() == self.slots.len() && self.slots.len() > 64 {
            self.slots = Vec::new();
            self.free = Vec::new();
        }
    }
}
