//! Messages as they arrive: looked at once, given their identity, put into slots. Part of the driver.

use super::slots::{Note, Slot};
use super::{AT_ONCE, Driver, nanos};
use crate::collector::core::{Arrival, Event, Kind};
use crate::collector::dead_letters::Reason;
use crate::collector::headers;
use crate::collector::identity::{self, Identities, Identity};
use crate::collector::payload::{self, Fault};
use crate::collector::sink::Collection;
use crate::collector::source::Delivery;
use crate::pipeline::moves::Delivered;
use bytes::Bytes;
use std::time::{Duration, Instant};

/// A payload shares the client's read buffer of 64 KiB with whatever arrived beside it. Where less than this comes together,
/// each payload gets bytes of its own: in an outage it would otherwise hold many times what the budget counts.
const SPARSE: u64 = 32 << 10;

impl Driver {
    pub(super) fn arrive(&mut self, deliveries: Vec<Delivery>) {
        self.state.pulled();
        self.pulls_work();
        self.supervision.stirred();
        let mut fell = false;
        for delivery in &deliveries {
            fell |= delivery.consumer_sequence <= self.last_delivery;
            self.last_delivery = delivery.consumer_sequence;
            self.highest = self.highest.max(delivery.sequence);
        }
        self.deps.budget.take(deliveries.iter().map(|delivery| delivery.bytes).sum());
        if fell {
            tracing::debug!("the consumer counts anew");
            self.doubt_stream();
        }
        if self.identities.is_none() {
            self.drop_late();
            self.early.extend(deliveries);
            self.feed(Event::Tick);
            return;
        }
        self.take_in(deliveries);
    }

    /// Messages whose leases ended before it was known where they come from.
    pub(super) fn drop_late(&mut self) {
        let lease = Duration::from_nanos(self.core.limits().ack_wait / 10 * 9);
        let mut bytes = 0;
        self.early.retain(|delivery| {
            let inside = delivery.lease_from.elapsed() < lease;
            bytes += if inside { 0 } else { delivery.bytes };
            inside
        });
        self.deps.budget.give(bytes);
    }

    /// Messages of a stream that is known; the budget counts them already.
    pub(super) fn take_in(&mut self, mut deliveries: Vec<Delivery>) {
        let pending = deliveries.last().map_or(0, |delivery| delivery.pending);
        self.put_suspects_aside(&mut deliveries);
        self.take_in_whole(deliveries, pending);
    }

    /// The same of messages that are as they were published.
    pub(super) fn take_in_whole(&mut self, mut deliveries: Vec<Delivery>, pending: u64) {
        let Some(identities) = self.identities.take() else { return };
        self.pending = pending;
        let measurements = self.job.output.time_series.is_some();
        let mut again = 0;
        self.arrivals.clear();
        self.arrivals.reserve(deliveries.len());
        let together = deliveries.iter().map(|delivery| delivery.bytes).sum();
        for mut delivery in deliveries.drain(..) {
            keep_alone(&mut delivery.message.payload, together);
            again += u64::from(delivery.delivered > 1);
            let checked = match &self.job.output.time_series {
                Some(series) => payload::inspect_measurement(&delivery.message.payload, series.meta_field.as_deref()),
                None => payload::inspect(&delivery.message.payload),
            };
            if let Some(what) = delivery.message.headers.as_deref().and_then(|some| headers::oddity(&delivery.message.subject, some)) {
                self.odd.note(delivery.sequence, what);
            }
            let id = match checked {
                Ok(facts) if !facts.has_id => Some(identity_of(&identities, &delivery, measurements)),
                _ => None,
            };
            let size = Collection::document_bytes(delivery.message.payload.len(), id.is_some());
            let (lease_from, published_ns) = (nanos(delivery.lease_from.saturating_duration_since(self.zero)), delivery.published_ns);
            let (kind, note) = match checked {
                Ok(_) => (Kind::Document, None),
                Err(fault) => {
                    let note = note_of(fault, &delivery.message.payload);
                    self.words.refusal.clone_from(&note.detail);
                    self.words.not_bson = note.reason == Reason::NotBson;
                    (Kind::Unreadable, Some(Box::new(note)))
                }
            };
            let check = self.formers.any() && self.formers.concern(told(&delivery));
            let sequence = delivery.sequence;
            self.youngest = self.youngest.max((sequence, published_ns));
            let slot = self.slots.put(Slot { delivery, id, note });
            // A payload is smaller than NATS's largest message, which 32 bits count.
            let bytes = u32::try_from(size).unwrap_or(u32::MAX);
            self.arrivals.push(Arrival { slot, sequence, bytes, lease_from, published_ns, kind, check });
        }
        self.source.recycle(deliveries);
        self.identities = Some(identities);
        let count = self.arrivals.len() as u64;
        self.received += count;
        self.redelivered += again;
        self.deps.metrics.received.inc_by(count);
        self.deps.metrics.redelivered.inc_by(again);
        self.deps.metrics.unreadable_headers.inc_by(self.odd.speak(&self.job.stream));
        let arrivals = std::mem::take(&mut self.arrivals);
        self.feed(Event::Delivered { messages: &arrivals, pending });
        self.arrivals = arrivals;
        self.rest(count, pending);
    }

    /// Leaves what comes next in the inbox for a while, where nothing is lost by it: each wake costs about as much as fifty
    /// messages. Whatever work is done ends the rest, since then something may be wanted at once.
    fn rest(&mut self, count: u64, pending: u64) {
        let (saturated, ready) = self.core.saturation();
        let pause = if saturated && ready > 0 {
            // The next batch is whole and waits.
            Duration::from_millis(10)
        } else if saturated {
            Duration::from_millis(4)
        } else if pending > 0 && count < AT_ONCE as u64 / 4 {
            Duration::from_millis(1)
        } else {
            return;
        };
        self.rest_until = Some(Instant::now() + pause);
    }
}

/// Gives a payload bytes of its own where little arrived `together` with it, in bytes as budgets count them.
fn keep_alone(payload: &mut Bytes, together: u64) {
    if together < SPARSE {
        *payload = Bytes::copy_from_slice(payload);
    }
}

/// The ObjectId of a payload without an `_id`.
fn identity_of(identities: &Identities, delivery: &Delivery, measurement: bool) -> Identity {
    if measurement {
        return identities.measurement(delivery.sequence, delivery.published_ns, [0; 3]);
    }
    let replayed = delivery.message.headers.as_ref().and_then(|headers| headers.get(identity::REPLAY_OF));
    // A header that anybody may set: it names a document of its own sender's, who could as well have given it an `_id`.
    replayed.and_then(|of| identity::parse(of.as_str())).unwrap_or_else(|| message_identity(identities, delivery))
}

/// What previous targets are told of a message.
pub(super) fn told(delivery: &Delivery) -> Delivered {
    let has_id = delivery.message.headers.as_ref().is_some_and(|headers| headers.get(async_nats::header::NATS_MESSAGE_ID).is_some());
    Delivered { sequence: delivery.sequence, published_ns: delivery.published_ns, again: delivery.delivered > 1, has_id }
}

/// What names a message's dead letter.
pub(super) fn message_identity(identities: &Identities, delivery: &Delivery) -> Identity {
    match headers::message_id(delivery.message.headers.as_deref()) {
        Some(id) => identities.with_message_id(id, &delivery.message.payload),
        None => identities.without_message_id(delivery.sequence, delivery.published_ns),
    }
}

fn note_of(fault: Fault, payload: &[u8]) -> Note {
    let reason = match fault {
        Fault::Malformed(_) => Reason::NotBson,
        Fault::TooDeep => Reason::Refused,
        Fault::TooLarge => Reason::TooLarge,
        Fault::MeasurementTooLarge => Reason::MeasurementTooLarge,
        Fault::FieldTwice => Reason::FieldTwice,
    };
    let appearance = if reason == Reason::NotBson { payload::describe(payload) } else { None };
    let detail = appearance.map_or_else(|| fault.to_string(), |appearance| format!("{fault}; {appearance}"));
    Note { reason, code: None, detail, on_id: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    /// What the client reads into.
    const BUFFER: usize = 64 << 10;

    /// A read buffer that tells whether anybody still holds it.
    struct Buffer {
        bytes: Vec<u8>,
        _alive: Arc<()>,
    }

    impl AsRef<[u8]> for Buffer {
        fn as_ref(&self) -> &[u8] {
            &self.bytes
        }
    }

    /// The bytes that messages of `size` bytes hold, `together` at a time, by the bytes that budgets count of them.
    fn held_by_counted(size: usize, together: usize) -> f64 {
        let (alive, mut held, mut copied) = (Arc::new(()), Vec::new(), 0);
        let rounds = 50;
        for _ in 0..rounds {
            // Each time they come, others' messages fill the rest of the buffer, and are gone soon.
            let buffer = Bytes::from_owner(Buffer { bytes: vec![0; BUFFER], _alive: alive.clone() });
            let area = buffer.as_ptr_range();
            for number in 0..together {
                let mut payload = buffer.slice(number * size..(number + 1) * size);
                keep_alone(&mut payload, (size * together) as u64);
                copied += if area.contains(&payload.as_ptr()) { 0 } else { payload.len() };
                held.push(payload);
            }
        }
        let buffers = (Arc::strong_count(&alive) - 1) * BUFFER;
        (buffers + copied) as f64 / (rounds * together * size) as f64
    }

    #[test]
    fn what_is_held_for_long_is_about_what_the_budget_counts_however_sparsely_it_came() {
        for size in [100, 200, 1000, 8000, 30_000] {
            for together in [1, 2, 8, 50, 150, 300, 600].into_iter().filter(|together| together * size <= BUFFER) {
                let ratio = held_by_counted(size, together);
                assert!((1.0..=2.0).contains(&ratio), "{together} at a time of {size} bytes hold {ratio} times what is counted");
            }
        }
        assert_eq!(held_by_counted(200, 10), 1.0, "sparse ones have bytes of their own");
        assert!(held_by_counted(1000, 60) > 1.0, "what fills a buffer is not copied");
    }
}
