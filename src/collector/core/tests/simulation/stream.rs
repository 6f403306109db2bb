//! A work-queue stream with one durable consumer: leases, redeliveries, requests; and what it forgets.
//!
//! It is as unkind as the servers were measured to be: an acknowledgement counts for whatever has its sequence now, a
//! message that was forgotten to be delivered is delivered with count 1 again. Used by the world.

use super::plan::WINDOW;
use crate::collector::core::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What publish times count from, nanoseconds since the epoch.
pub const EPOCH_NS: u64 = 1_700_000_000_000_000_000;

/// A message in the stream.
#[derive(Debug, Clone, Copy)]
pub struct Stored {
    /// Which publish it is of, and which message of all.
    pub doc: usize,
    pub bytes: u32,
    pub published_ns: u64,
    pub id: Option<u32>,
}

/// A pull request.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    pub number: u64,
    /// Process and connection.
    pub of: (usize, u32),
    pub left: u64,
    pub bytes: u64,
    pub until: Nanos,
}

/// A message on its way to a process.
#[derive(Debug, Clone, Copy)]
pub struct Delivery {
    pub request: u64,
    pub sequence: u64,
    pub consumer_sequence: u64,
    pub delivered: u32,
    pub pending: u64,
    pub message: Stored,
    /// When it left, by the process's own clock.
    pub lease_from: Nanos,
}

#[derive(Debug, Default)]
struct Consumer {
    next: u64,
    last: u64,
    /// Until when each is leased.
    pending: BTreeMap<u64, Nanos>,
    counts: BTreeMap<u64, u32>,
    again: BTreeSet<u64>,
    /// Deliveries of late: when, which, and its number.
    log: Vec<(Nanos, u64, u64)>,
}

/// The stream and its consumer.
#[derive(Debug)]
pub struct Stream {
    pub up: bool,
    pub created_ns: u64,
    pub last: u64,
    pub paused: bool,
    ack_wait: Nanos,
    max_ack_pending: i64,
    messages: BTreeMap<u64, Stored>,
    consumer: Option<Consumer>,
    requests: VecDeque<Request>,
    /// Requests that ended because their bytes were used up.
    full: Vec<Request>,
    ids: BTreeMap<u32, (Nanos, usize)>,
    published: Vec<(Nanos, u64, usize)>,
    removed: Vec<(Nanos, u64, Stored)>,
    /// How often the most delivered message was delivered.
    pub most: u32,
    deliveries: BTreeMap<(usize, u64), u32>,
}

impl Stream {
    pub fn new(ack_wait: Nanos, max_ack_pending: i64) -> Self {
        Self {
            up: true,
            created_ns: EPOCH_NS - 1,
            last: 0,
            paused: false,
            ack_wait,
            max_ack_pending,
            messages: BTreeMap::new(),
            consumer: Some(Consumer { next: 1, ..Consumer::default() }),
            requests: VecDeque::new(),
            full: Vec::new(),
            ids: BTreeMap::new(),
            published: Vec::new(),
            removed: Vec::new(),
            most: 0,
            deliveries: BTreeMap::new(),
        }
    }

    /// The document that is known by this id, where it is; else the message is stored.
    pub fn publish(&mut self, mut message: Stored, now: Nanos) -> Option<usize> {
        if let Some(id) = message.id {
            if let Some((_, doc)) = self.ids.get(&id).filter(|(at, _)| *at + WINDOW > now) {
                return Some(*doc);
            }
            self.ids.insert(id, (now, message.doc));
        }
        self.last += 1;
        message.published_ns = EPOCH_NS + now;
        self.published.push((now, self.last, message.doc));
        self.messages.insert(self.last, message);
        None
    }

    pub fn ask(&mut self, request: Request) {
        self.requests.push_back(request);
    }

    pub fn consumer_there(&self) -> bool {
        self.consumer.is_some()
    }

    pub fn empty(&self) -> bool {
        self.messages.is_empty()
    }

    pub fn holds(&self, doc: usize) -> bool {
        self.messages.values().any(|message| message.doc == doc)
    }

    /// Whether the message of a sequence is the one that was published then.
    pub fn has(&self, sequence: u64, published_ns: u64) -> bool {
        self.messages.get(&sequence).is_some_and(|message| message.published_ns == published_ns)
    }

    pub fn pending(&self) -> usize {
        self.consumer.as_ref().map_or(0, |consumer| consumer.pending.len())
    }

    /// Ends requests: those of one process, or those whose time is over.
    pub fn end_requests(&mut self, which: impl Fn(&Request) -> bool) -> Vec<Request> {
        let (ended, left): (Vec<Request>, Vec<Request>) = self.requests.drain(..).partition(|request| which(request));
        self.requests = left.into();
        ended
    }

    /// What is delivered now, and to which process on which connection.
    pub fn deliver(&mut self, now: Nanos) -> Vec<((usize, u32), Delivery)> {
        let Some(consumer) = self.consumer.as_mut().filter(|_| self.up && !self.paused) else { return Vec::new() };
        for sequence in consumer.pending.iter().filter(|(_, until)| **until <= now).map(|(sequence, _)| *sequence).collect::<Vec<_>>() {
            consumer.pending.remove(&sequence);
            consumer.again.insert(sequence);
        }
        let mut out = Vec::new();
        // Those who ask take turns.
        while let Some(mut request) = self.requests.front().copied() {
            if self.max_ack_pending > 0 && consumer.pending.len() as i64 >= self.max_ack_pending {
                break;
            }
            let again = consumer.again.pop_first();
            let fresh = || self.messages.range(consumer.next..).map(|(sequence, _)| *sequence).find(|s| !consumer.pending.contains_key(s));
            let Some(sequence) = again.or_else(fresh) else { break };
            let Some(message) = self.messages.get(&sequence).copied() else { continue };
            consumer.next = consumer.next.max(sequence + u64::from(again.is_none()));
            consumer.last += 1;
            consumer.pending.insert(sequence, now + self.ack_wait);
            let delivered = consumer.counts.entry(sequence).or_default();
            *delivered += 1;
            consumer.log.push((now, sequence, consumer.last));
            let often = self.deliveries.entry((message.doc, message.published_ns)).or_default();
            *often += 1;
            self.most = self.most.max(*often);
            let pending = self.messages.range(consumer.next..).count() as u64 + consumer.again.len() as u64;
            let delivery = Delivery {
                request: request.number,
                sequence,
                consumer_sequence: consumer.last,
                delivered: *delivered,
                pending,
                message,
                lease_from: now,
            };
            request.left -= 1;
            request.bytes = request.bytes.saturating_sub(u64::from(message.bytes));
            out.push((request.of, delivery));
            self.requests.pop_front();
            if request.left > 0 && request.bytes > 0 {
                self.requests.push_back(request);
            } else if request.left > 0 {
                self.full.push(request);
            }
        }
        out
    }

    /// Requests whose bytes were used up since this was asked last.
    pub fn full(&mut self) -> Vec<Request> {
        std::mem::take(&mut self.full)
    }

    /// The next moment at which a lease ends.
    pub fn next_end(&self) -> Option<Nanos> {
        self.consumer.as_ref()?.pending.values().min().copied()
    }

    pub fn renew(&mut self, sequence: u64, now: Nanos) {
        let until = now + self.ack_wait;
        if let Some(lease) = self.consumer.as_mut().and_then(|consumer| consumer.pending.get_mut(&sequence)) {
            *lease = (*lease).max(until);
        }
    }

    /// The message that is removed: whichever has the sequence now.
    pub fn ack(&mut self, sequence: u64, now: Nanos) -> Option<Stored> {
        let consumer = self.consumer.as_mut()?;
        consumer.counts.get(&sequence)?;
        consumer.pending.remove(&sequence);
        consumer.again.remove(&sequence);
        let message = self.messages.remove(&sequence)?;
        self.removed.push((now, sequence, message));
        Some(message)
    }

    pub fn nak(&mut self, sequence: u64, now: Nanos) {
        if let Some(lease) = self.consumer.as_mut().and_then(|consumer| consumer.pending.get_mut(&sequence)) {
            *lease = now + SECOND / 2;
        }
    }

    /// What was delivered since then never was.
    pub fn forget_deliveries(&mut self, since: Nanos) {
        let Some(consumer) = &mut self.consumer else { return };
        while let Some((_, sequence, number)) = consumer.log.pop_if(|(at, ..)| *at >= since) {
            consumer.pending.remove(&sequence);
            consumer.last = number - 1;
            let count = consumer.counts.entry(sequence).or_default();
            *count = count.saturating_sub(1);
            if *count == 0 {
                consumer.counts.remove(&sequence);
                consumer.next = consumer.next.min(sequence);
            } else {
                consumer.again.insert(sequence);
            }
        }
    }

    /// What was acknowledged since then is there again.
    pub fn forget_acks(&mut self, since: Nanos) {
        while let Some((_, sequence, message)) = self.removed.pop_if(|(at, ..)| *at >= since) {
            self.messages.insert(sequence, message);
            if let Some(consumer) = self.consumer.as_mut().filter(|consumer| consumer.next > sequence) {
                consumer.again.insert(sequence);
            }
        }
    }

    /// What was published since then is lost; the documents.
    pub fn lose_tail(&mut self, since: Nanos) -> Vec<usize> {
        let mut lost = Vec::new();
        while let Some((_, sequence, doc)) = self.published.pop_if(|(at, ..)| *at >= since) {
            self.last = sequence - 1;
            self.messages.remove(&sequence);
            lost.push(doc);
        }
        let last = self.last;
        self.removed.retain(|(_, sequence, _)| *sequence <= last);
        if let Some(consumer) = &mut self.consumer {
            consumer.pending.retain(|sequence, _| *sequence <= last);
            consumer.counts.retain(|sequence, _| *sequence <= last);
            consumer.again.retain(|sequence| *sequence <= last);
            consumer.next = consumer.next.min(last + 1);
        }
        lost
    }

    /// A server that starts again knows no ids of what is gone from the stream, and no requests.
    pub fn restart(&mut self) {
        let kept: BTreeSet<u32> = self.messages.values().filter_map(|message| message.id).collect();
        self.ids.retain(|id, _| kept.contains(id));
        self.requests.clear();
    }

    pub fn delete_consumer(&mut self) -> Vec<Request> {
        self.consumer = None;
        self.requests.drain(..).collect()
    }

    pub fn make_consumer(&mut self) {
        self.consumer = Some(Consumer { next: 1, ..Consumer::default() });
    }
}
