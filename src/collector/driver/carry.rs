//! Carries out the core's effects. Part of the driver.

use super::Driver;
use super::arrive::{message_identity, told};
use super::doubles::Met;
use super::slots::Note;
use super::work::{self, Done, Letter};
use crate::collector::core::{Effect, Entry, Event, FLOW_EXPIRES, GroupId};
use crate::collector::dead_letters::Reason;
use crate::collector::former::Doubtful;
use crate::collector::identity::{self, Identities};
use crate::collector::source::{SourceError, SourceErrorKind};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long a pull request of an idle pipeline waits at the server.
const EXPIRES: Duration = Duration::from_secs(60);
/// How often the server says that it still knows a request, at most.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// After which messages that were given back are delivered again.
const NAK_DELAY: Duration = Duration::from_millis(500);

impl Driver {
    /// Carries out everything that is due, and what follows from it.
    pub(super) async fn carry_out(&mut self) {
        while !self.effects.is_empty() {
            let mut effects = std::mem::take(&mut self.effects);
            for effect in effects.drain(..) {
                self.carry(effect).await;
            }
            if self.effects.is_empty() {
                self.effects = effects;
            }
        }
    }

    async fn carry(&mut self, effect: Effect) {
        match effect {
            Effect::Pull { batch, max_bytes } => self.pull(batch, max_bytes).await,
            Effect::Withdraw => self.source.withdraw().await,
            Effect::Insert(group) => self.insert(group),
            Effect::LookUp(group) => self.look_up(group),
            Effect::Reserve(upto) => self.reserve(upto),
            Effect::Resolve(group) => self.resolve(group),
            Effect::Late(entries) => self.late(&entries),
            Effect::Check(group) => self.check(group),
            // Perhaps they are of a stream that is no more: nothing is said about them before that is known.
            Effect::Ack(group) | Effect::Terminate(group) if self.identities.is_none() => self.feed(Event::Acked(group, false)),
            Effect::Renew(group) if self.identities.is_none() => {
                let now = self.now().at;
                self.feed(Event::Renewed(group, now, false));
            }
            Effect::Nak(entries) if self.identities.is_none() => self.release(entries),
            Effect::Ack(group) => {
                self.take_replies(group);
                if let Err(error) = self.source.ack(&mut self.replies, group.0).await {
                    self.source_failed(&error);
                    self.feed(Event::Acked(group, false));
                }
            }
            Effect::Terminate(group) => {
                self.collect_replies(group);
                if let Err(error) = self.source.term(&mut self.replies, group.0).await {
                    self.source_failed(&error);
                    self.feed(Event::Acked(group, false));
                }
            }
            Effect::Renew(group) => {
                self.collect_replies(group);
                if let Err(error) = self.source.renew(&mut self.replies, group.0).await {
                    self.source_failed(&error);
                    let now = self.now().at;
                    self.feed(Event::Renewed(group, now, false));
                }
            }
            Effect::Bury(group) => self.bury(group),
            Effect::Nak(entries) => {
                self.replies.clear();
                self.replies.extend(entries.iter().filter_map(|entry| self.source.reply(&self.slots.get(entry.slot)?.delivery)));
                if let Err(error) = self.source.nak(&mut self.replies, NAK_DELAY).await {
                    // They are delivered again when their leases end.
                    self.source_failed(&error);
                }
                self.release(entries);
            }
            Effect::Ping => {
                let database = self.deps.database.clone();
                let work = async move { Done::Pinged(database.ping().await) };
                work::begin(&mut self.work, work, || Done::Pinged(Err(work::panicked("the ping"))));
            }
            Effect::Release(entries) => self.release(entries),
            Effect::Finished => {
                self.finished = true;
                self.give_back_early().await;
                self.give_back_page().await;
                if let Err(error) = self.source.flush().await {
                    self.source_failed(&error);
                }
            }
        }
    }

    /// Messages whose stream never became certain: the core never saw them, so nothing was sent for them.
    async fn give_back_early(&mut self) {
        self.drop_late();
        let early = std::mem::take(&mut self.early);
        self.deps.budget.give(early.iter().map(|delivery| delivery.bytes).sum());
        let mut replies: Vec<_> = early.into_iter().filter_map(|delivery| delivery.message.reply).collect();
        // After a doubt they may be of another stream than their subjects say.
        if replies.is_empty() || self.supervision.stream_created_ns > 0 {
            return;
        }
        if let Err(error) = self.source.nak(&mut replies, NAK_DELAY).await {
            // They are delivered again when their leases end.
            tracing::debug!(%error, "could not give messages back");
        }
    }

    async fn pull(&mut self, batch: u64, max_bytes: u64) {
        self.unsent = self.unsent.saturating_sub(batch);
        let wait = Duration::from_nanos(self.core.limits().ack_wait);
        let (most_bytes, longest) = self.supervision.pull_limits;
        let brief = !self.core.pulls_last();
        let expires = if brief { Duration::from_nanos(FLOW_EXPIRES) } else { EXPIRES };
        let expires = if longest.is_zero() { expires } else { expires.min(longest) };
        let max_bytes = if most_bytes == 0 { max_bytes } else { max_bytes.min(most_bytes) };
        let heartbeat = HEARTBEAT.min(wait / 4).max(Duration::from_millis(500)).min(expires / 3);
        // Such a request says soon enough that the server knows it.
        let heartbeat = if brief { Duration::ZERO } else { heartbeat };
        let batch = usize::try_from(batch).unwrap_or(usize::MAX);
        if let Err(error) = self.source.pull(batch, max_bytes, expires, heartbeat).await {
            self.source_failed(&error);
            self.feed(if error.kind == SourceErrorKind::NotFound { Event::Consumer(false) } else { Event::PullRefused });
        }
    }

    /// The command is built here: payloads handed to another thread would have their counts taken and given back there, one
    /// by one, while others of the same buffer are counted here.
    fn insert(&mut self, group: GroupId) {
        let Some(collection) = self.collection.clone() else { return };
        let entries = self.core.entries(group);
        if self.core.needs_own_ids(group) {
            // Copies of a measurement are told apart by the end of their `_id`s; the first attempt's is the smallest.
            for entry in entries {
                if let Some(id) = self.slots.get_mut(entry.slot).and_then(|slot| slot.id.as_mut()) {
                    *id = identity::attempt(id, rand::random());
                }
            }
        }
        let slots = &self.slots;
        let bytes = entries.iter().map(|entry| entry.bytes as usize).sum();
        let document = |entry: &Entry| slots.get(entry.slot).map(|slot| (slot.delivery.message.payload.as_ref(), slot.id));
        let documents = entries.iter().filter_map(document);
        let command = match self.job.output.time_series {
            Some(_) => collection.measurements_command(bytes, self.write_limit(), documents),
            None => collection.command(bytes, documents),
        };
        self.deps.metrics.batch_documents.observe(command.documents() as f64);
        let lease_ends = entries.iter().map(|entry| entry.lease_ends).min().unwrap_or_default();
        self.work.spawn(work::insert(collection, group, command, self.zero + Duration::from_nanos(lease_ends)));
    }

    fn look_up(&mut self, group: GroupId) {
        let Some(collection) = self.collection.clone() else { return };
        let slots = &self.slots;
        let suspect = |entry: &Entry| {
            let slot = slots.get(entry.slot)?;
            // One without a note met its own identity.
            let on_id = slot.note.as_ref().map_or(Some(true), |note| note.on_id);
            Some(Met { payload: slot.delivery.message.payload.clone(), id: slot.id, on_id })
        };
        let met = self.core.entries(group).iter().filter_map(suspect).collect();
        self.work.spawn(work::look_up(collection, group, met));
    }

    fn check(&mut self, group: GroupId) {
        let identities = self.identities.clone().unwrap_or_else(|| Identities::new(&self.job.stream, self.supervision.stream_created_ns));
        let mut doubtful = Vec::new();
        for (index, entry) in (0..).zip(self.core.entries(group)) {
            let Some(slot) = self.slots.get(entry.slot) else { continue };
            let (delivery, told) = (&slot.delivery, told(&slot.delivery));
            if self.formers.concern(told) {
                doubtful.push(Doubtful {
                    index,
                    payload: delivery.message.payload.clone(),
                    told,
                    identity: message_identity(&identities, delivery),
                    measurement: identities.measurement(delivery.sequence, delivery.published_ns, [0; 3]),
                    adds_id: slot.id.is_some(),
                });
            }
        }
        self.work.spawn(work::check(self.formers.clone(), self.letters.clone(), group, doubtful));
    }

    fn bury(&mut self, group: GroupId) {
        let Some(slot) = self.core.entries(group).first().and_then(|entry| self.slots.get(entry.slot)) else { return };
        let delivery = &slot.delivery;
        let note = slot.note.as_deref().cloned().unwrap_or_else(|| Note {
            reason: Reason::Unknown,
            code: None,
            detail: "refused for a reason that was not kept".into(),
            on_id: None,
        });
        // The stream is certain: nothing arrives in the core before it is.
        let identities = self.identities.clone().unwrap_or_else(|| Identities::new(&self.job.stream, self.supervision.stream_created_ns));
        let letter = Letter {
            message: (&delivery.message).into(),
            identity: identity::hex(&message_identity(&identities, delivery)),
            note,
            pipeline: self.job.id.to_string(),
            version: self.job.version.to_string(),
            stream: self.job.stream.clone(),
            sequence: delivery.sequence,
            published_ns: delivery.published_ns,
            attempts: delivery.delivered,
        };
        self.work.spawn(work::bury(self.letters.clone(), self.source.inspector(), group, letter));
    }

    fn collect_replies(&mut self, group: GroupId) {
        self.replies.clear();
        let (slots, source) = (&self.slots, &self.source);
        self.replies.extend(self.core.entries(group).iter().filter_map(|entry| source.reply(&slots.get(entry.slot)?.delivery)));
    }

    /// For acknowledgements, which are hardly ever sent twice.
    fn take_replies(&mut self, group: GroupId) {
        self.replies.clear();
        let (slots, source) = (&mut self.slots, &self.source);
        self.replies
            .extend(self.core.entries(group).iter().filter_map(|entry| source.take_reply(&mut slots.get_mut(entry.slot)?.delivery)));
    }

    fn release(&mut self, entries: Vec<Entry>) {
        let bytes = entries.iter().map(|entry| self.slots.free(entry.slot)).sum();
        self.deps.budget.give(bytes);
        self.core.recycle(entries);
    }

    /// From publish to acknowledgement, of the oldest message.
    pub(super) fn measure(&self, group: GroupId) {
        let oldest = Duration::from_nanos(self.core.oldest(group));
        let age = SystemTime::now().duration_since(UNIX_EPOCH).ok().and_then(|now| now.checked_sub(oldest));
        if let Some(age) = age {
            self.deps.metrics.end_to_end.observe(age.as_secs_f64());
        }
    }

    fn source_failed(&mut self, error: &SourceError) {
        tracing::debug!(%error, "nats did not take it");
        self.source_trouble(error);
        // The answer says when it is over.
        self.supervision.ask_soon();
    }
}
