//! The place at the gate that all pipelines of the MongoDB client share: what it says goes to the core, and what this
//! pipeline is answered goes to it. While it is shut nothing is asked of the database but in turns. Part of the driver.

use super::Driver;
use crate::collector::core::{Event, Gate};
use std::time::Instant;

impl Driver {
    /// Hears what is new.
    pub(super) fn hear_the_gate(&mut self) {
        let word = self.seat.heard();
        let shut = word.shut.as_ref().map(|(class, _)| *class);
        let before = std::mem::replace(&mut self.shut, shut);
        if let Some((class, why)) = &word.shut
            && before != shut
        {
            self.words.command = why.to_string();
            if let Some(place) = &mut self.place {
                place.blind();
            }
            self.feed(Event::Gate(Gate::Shut(*class)));
        }
        if shut.is_none() && before.is_some() {
            // What failed with the others is asked again with them.
            if self.supervision.open_failed() {
                self.open_anew();
            }
            self.feed(Event::Gate(Gate::Open));
        }
        if std::mem::replace(&mut self.turns, word.turns) != word.turns && shut.is_some() {
            self.feed(Event::Gate(Gate::Once));
        }
    }

    /// Says whether this one needs a turn.
    pub(super) fn speak_at_the_gate(&mut self) {
        if self.shut.is_some() {
            let wants = self.core.wants_to_write();
            self.seat.wants(wants);
        }
    }

    /// When something that only waits for the gate is due: not while it is shut.
    pub(super) fn unless_shut(&self, due: Option<Instant>) -> Option<Instant> {
        due.filter(|_| self.shut.is_none())
    }
}
