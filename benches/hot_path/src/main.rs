//! The hot path without any I/O: each message is checked, gets its identity and goes through the core; every batch becomes
//! an insert command; every insert and acknowledgement is answered at once.
//!
//! The sources are the crate's own, by path. `deploy/local/instructions.sh` runs this under valgrind with two numbers of
//! documents, so that what a document costs is their difference; `tests/it/instructions.rs` holds that to a bound. Usage:
//! `hot_path DOCUMENTS`.

// Of each module only the hot path is used.
#![allow(dead_code, unused_imports)]

mod collector;
mod pipeline;

use bytes::Bytes;
use collector::{
    core::{Arrival, Batches, Core, Effect, Event, Kind, Limits, MS, Now, Outcome, SECOND, Target},
    identity::{Identities, Identity},
    payload, sink,
};
use std::hint::black_box;

/// Messages that arrive together.
const ARRIVALS: usize = 250;

/// Nanoseconds since the epoch at which the stream was created.
const CREATED: u64 = 1_780_000_000_000_000_000;

fn main() {
    let documents = std::env::args().nth(1).and_then(|argument| argument.parse().ok()).expect("usage: hot_path DOCUMENTS");
    let mut hot = HotPath::new();
    while hot.sequence < documents {
        hot.deliver(documents);
    }
    // The last partial batch goes by its period.
    hot.at += 10 * SECOND;
    hot.on(Event::Tick);
    assert_eq!((hot.core.in_hand(), hot.inserted, hot.acked), (0, documents, documents), "held, inserted, acknowledged");
    println!("{documents} documents of {} bytes, {} bytes of commands", hot.payload.len(), hot.sent);
}

/// A document of 130 bytes: a date, a name, a number, a value, some binary.
fn payload() -> Bytes {
    let mut out = vec![130, 0, 0, 0];
    out.extend(b"\x09at\0");
    out.extend(1_780_000_000_000_i64.to_le_bytes());
    out.extend(b"\x02device\0\x0b\0\0\0device-007\0");
    out.extend(b"\x12n\0");
    out.extend(42_i64.to_le_bytes());
    out.extend(b"\x01value\0");
    out.extend(21.5_f64.to_le_bytes());
    out.extend(b"\x05fill\0");
    let binary = 130 - 1 - out.len() - 5;
    out.extend((binary as u32).to_le_bytes());
    out.push(0);
    out.resize(129, 7);
    out.push(0);
    out.into()
}

struct HotPath {
    core: Core,
    identities: Identities,
    payload: Bytes,
    prologue: Vec<u8>,
    /// What the driver keeps under each slot.
    slots: Vec<(Bytes, Identity)>,
    at: u64,
    sequence: u64,
    outstanding: u64,
    inserted: u64,
    acked: u64,
    sent: u64,
    arrivals: Vec<Arrival>,
    effects: Vec<Effect>,
    due: Vec<Effect>,
}

/// More than are ever held at once.
const SLOTS: usize = 16_384;

impl HotPath {
    fn new() -> Self {
        let batches = Batches { count: 1000, bytes: 16 << 20, period: 5 * SECOND, linger: 0, max_in_flight: 2, first_half_only: false };
        let limits = Limits { ack_wait: 30 * SECOND, max_ack_pending: 10_000, live: 1, max_batch: 0 };
        let mut hot = Self {
            core: Core::new(batches, limits, true, 7),
            identities: Identities::new("bench_readings", CREATED),
            payload: payload(),
            prologue: sink::prologue(),
            slots: vec![(Bytes::new(), [0; 12]); SLOTS],
            at: SECOND,
            sequence: 0,
            outstanding: 0,
            inserted: 0,
            acked: 0,
            sent: 0,
            arrivals: Vec::with_capacity(ARRIVALS),
            effects: Vec::new(),
            due: Vec::new(),
        };
        hot.on(Event::Target(Target::Good));
        hot
    }

    /// What the driver does with messages that lie ready, and with all that follows from them.
    fn deliver(&mut self, documents: u64) {
        self.at += MS;
        let mut arrivals = std::mem::take(&mut self.arrivals);
        arrivals.clear();
        while arrivals.len() < ARRIVALS && self.sequence < documents {
            self.sequence += 1;
            let payload = black_box(self.payload.clone());
            let published_ns = CREATED + self.sequence * 1_000_000;
            let facts = payload::inspect(&payload).expect("a valid document");
            assert!(!facts.has_id, "it gets its identity as _id");
            let identity = self.identities.without_message_id(self.sequence, published_ns);
            let slot = self.sequence as usize % SLOTS;
            let bytes = (payload.len() + 25) as u32;
            self.slots[slot] = (payload, identity);
            arrivals.push(Arrival {
                slot: slot as u32,
                sequence: self.sequence,
                bytes,
                lease_from: self.at,
                published_ns,
                kind: Kind::Document,
                check: false,
            });
        }
        self.outstanding = self.outstanding.saturating_sub(arrivals.len() as u64);
        self.on(Event::Delivered { messages: &arrivals, pending: documents - self.sequence });
        self.arrivals = arrivals;
    }

    fn now(&self) -> Now {
        Now { at: self.at, free: 256 << 20, outstanding: self.outstanding }
    }

    /// Feeds an event, then answers every effect until nothing is left to do.
    fn on(&mut self, event: Event<'_>) {
        let now = self.now();
        self.core.on(event, now, &mut self.effects);
        while !self.effects.is_empty() {
            std::mem::swap(&mut self.effects, &mut self.due);
            let mut due = std::mem::take(&mut self.due);
            for effect in due.drain(..) {
                self.answer(effect);
            }
            self.due = due;
        }
    }

    fn answer(&mut self, effect: Effect) {
        let now = self.now();
        match effect {
            Effect::Pull { batch, .. } => self.outstanding += batch,
            Effect::Insert(group) => {
                let entries = self.core.entries(group);
                let bytes = entries.iter().map(|entry| entry.bytes as usize).sum();
                let documents = entries.iter().map(|entry| {
                    let (payload, identity) = &self.slots[entry.slot as usize];
                    (payload.as_ref(), Some(*identity))
                });
                self.inserted += entries.len() as u64;
                self.sent += black_box(sink::build(&self.prologue, bytes, documents)).len() as u64;
                self.core.on(Event::Inserted(group, Outcome::Executed { failures: &[], uncertain: None }), now, &mut self.effects);
            }
            Effect::Ack(group) => {
                self.acked += self.core.entries(group).len() as u64;
                self.core.on(Event::Acked(group, true), now, &mut self.effects);
            }
            Effect::Release(entries) => {
                for entry in &entries {
                    self.slots[entry.slot as usize].0 = Bytes::new();
                }
                self.core.recycle(entries);
            }
            _ => {}
        }
    }
}
