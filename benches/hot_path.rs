//! The hot path without any I/O: each message is checked, gets its identity and goes through the core; every insert and
//! acknowledgement is answered at once.
//!
//! `deploy/local/instructions.sh` runs it under valgrind with two numbers of documents, so that what a document costs is
//! their difference; `tests/it/instructions.rs` holds that to a bound. Usage: `hot_path DOCUMENTS`.

#![allow(clippy::print_stdout)]

use anyhow::{Context, Result, ensure};
use bson::doc;
use sluice::collector::{
    core::{Arrival, Batches, Core, Effect, Event, Kind, Limits, MS, Now, Outcome, SECOND, Target},
    identity::Identities,
    payload,
};
use std::hint::black_box;

/// Messages that arrive together.
const ARRIVALS: usize = 250;

fn main() -> Result<()> {
    let documents: u64 = std::env::args().nth(1).context("usage: hot_path DOCUMENTS")?.parse()?;
    let payload = bson::serialize_to_vec(&doc! {
        "at": bson::DateTime::from_millis(1_780_000_000_000),
        "device": "device-007",
        "n": 42_i64,
        "value": 21.5,
        "fill": bson::Binary { subtype: bson::spec::BinarySubtype::Generic, bytes: vec![7; 55] },
    })?;
    let mut hot = HotPath::new();
    while hot.sequence < documents {
        hot.deliver(&payload, documents)?;
    }
    // The last partial batch goes by its period.
    hot.at += 10 * SECOND;
    hot.on(Event::Tick);
    let totals = (hot.core.in_hand(), hot.inserted, hot.acked);
    ensure!(totals == (0, documents, documents), "held, inserted, acknowledged: {totals:?} of {documents}");
    println!("{documents} documents of {} bytes, identities {:x}", payload.len(), hot.identities_seen);
    Ok(())
}

struct HotPath {
    core: Core,
    identities: Identities,
    at: u64,
    sequence: u64,
    outstanding: u64,
    inserted: u64,
    acked: u64,
    identities_seen: u64,
    arrivals: Vec<Arrival>,
    effects: Vec<Effect>,
    due: Vec<Effect>,
}

impl HotPath {
    fn new() -> Self {
        let batches = Batches { count: 1000, bytes: 16 << 20, period: 5 * SECOND, linger: 0, max_in_flight: 2, first_half_only: false };
        let limits = Limits { ack_wait: 30 * SECOND, max_ack_pending: 10_000, live: 1 };
        let mut hot = Self {
            core: Core::new(batches, limits, true, 7),
            identities: Identities::new("bench_readings", 1_780_000_000_000_000_000),
            at: SECOND,
            sequence: 0,
            outstanding: 0,
            inserted: 0,
            acked: 0,
            identities_seen: 0,
            arrivals: Vec::with_capacity(ARRIVALS),
            effects: Vec::new(),
            due: Vec::new(),
        };
        hot.on(Event::Target(Target::Good));
        hot
    }

    /// What the driver does with messages that lie ready, and with all that follows from them.
    fn deliver(&mut self, payload: &[u8], documents: u64) -> Result<()> {
        self.at += MS;
        let mut arrivals = std::mem::take(&mut self.arrivals);
        arrivals.clear();
        while arrivals.len() < ARRIVALS && self.sequence < documents {
            self.sequence += 1;
            let published_ns = 1_780_000_000_000_000_000 + self.sequence * 1_000_000;
            let facts = payload::inspect(black_box(payload)).map_err(|fault| anyhow::anyhow!(fault))?;
            ensure!(!facts.has_id, "the payload is to get its identity as _id");
            let identity = self.identities.without_message_id(self.sequence, published_ns);
            self.identities_seen ^= u64::from(identity[11]);
            let bytes = (payload.len() + 25) as u32;
            arrivals.push(Arrival { slot: self.sequence as u32, bytes, lease_from: self.at, published_ns, kind: Kind::Document });
        }
        self.outstanding = self.outstanding.saturating_sub(arrivals.len() as u64);
        self.on(Event::Delivered { messages: &arrivals, pending: documents - self.sequence });
        self.arrivals = arrivals;
        Ok(())
    }

    /// Feeds an event, then answers every effect until nothing is left to do.
    fn on(&mut self, event: Event<'_>) {
        let now = Now { at: self.at, free: 256 << 20, outstanding: self.outstanding };
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
        let now = Now { at: self.at, free: 256 << 20, outstanding: self.outstanding };
        match effect {
            Effect::Pull { batch, .. } => self.outstanding += batch,
            Effect::Insert(group) => {
                self.inserted += black_box(self.core.entries(group)).len() as u64;
                self.core.on(Event::Inserted(group, Outcome::Executed { failures: &[], uncertain: None }), now, &mut self.effects);
            }
            Effect::Ack(group) => {
                self.acked += black_box(self.core.entries(group)).len() as u64;
                self.core.on(Event::Acked(group, true), now, &mut self.effects);
            }
            Effect::Release(entries) => self.core.recycle(black_box(entries)),
            _ => {}
        }
    }
}
