//! Turns what the source and the work say into events for the core, and into words for people. Part of the driver.

use super::slots::Note;
use super::work::{self, Done};
use super::{Driver, nanos};
use crate::collector::classify::{self, Class};
use crate::collector::compare;
use crate::collector::core::{Event, GroupId, Outcome, Target};
use crate::collector::dead_letters::{Reason as LetterReason, Stored};
use crate::collector::sink::{CommandFailure, DocumentFailure, FailureKind, InsertReply};
use crate::collector::source::SourceEvent;
use crate::pipeline::report::{Counters, ExecutionPhase};
use crate::pipeline::status::Reason;
use bson::{RawBson, RawDocument, oid::ObjectId};
use std::time::Duration;
use tracing::{info, warn};

impl Driver {
    pub(super) fn source_says(&mut self, event: SourceEvent) {
        match event {
            SourceEvent::Delivered(deliveries) => self.arrive(deliveries),
            SourceEvent::PullEnded { .. } => {
                self.state.pulled();
                self.pulls_work();
                self.feed(Event::Tick);
            }
            SourceEvent::Gap(reason) => {
                tracing::debug!(reason, "pull requests are lost");
                self.doubt_stream();
                self.feed(Event::Gap);
            }
            SourceEvent::ConsumerGone(message) => {
                warn!(message, "stream or consumer are gone");
                self.supervision.goings += 1;
                if self.supervision.goings > 1 {
                    // That they are there when asked does not help.
                    self.words.pull = Some((Reason::StreamUnavailable, message.clone()));
                }
                self.words.source = Some((Reason::StreamUnavailable, message));
                self.doubt_stream();
                self.feed(Event::Consumer(false));
            }
            SourceEvent::Refused(message) => {
                tracing::debug!(message, "a pull request was refused");
                self.words.pull = Some((Reason::StreamUnavailable, message));
                // Its limits may have changed.
                self.supervision.ask_soon();
                self.feed(Event::PullRefused);
            }
            SourceEvent::Renewed { token, sent, confirmed, of } => {
                let sent = nanos(sent.saturating_duration_since(self.zero));
                self.feed(Event::Renewed(GroupId(token), sent, confirmed == of));
            }
            SourceEvent::Acked { token, confirmed, of } => {
                if confirmed == of {
                    self.measure(GroupId(token));
                }
                self.feed(Event::Acked(GroupId(token), confirmed == of));
            }
        }
    }

    pub(super) fn work_done(&mut self, done: Done) {
        match done {
            Done::Inserted(group, reply, took) => self.inserted(group, reply, took),
            Done::LookedUp(group, Ok(failures)) => {
                self.seat.answered(false);
                for (index, class) in &failures {
                    if *class == Class::Document {
                        self.note_difference(group, *index as usize);
                    }
                }
                self.feed(Event::LookedUp(group, Outcome::Executed { failures: &failures, uncertain: None }));
            }
            Done::LookedUp(group, Err(failure)) => {
                let class = self.command_failed(&failure);
                self.feed(Event::LookedUp(group, Outcome::Failed(class)));
            }
            Done::Checked(group, Ok(elsewhere)) => {
                self.words.previous = None;
                for index in elsewhere.iter().filter(|(_, class)| *class == Class::Document).map(|(index, _)| *index as usize) {
                    let detail = "an execution of the previous target put it into the dead letters".to_owned();
                    self.note(group, index, Note { reason: LetterReason::Unknown, code: None, detail, on_id: None });
                }
                self.feed(Event::Checked(group, Outcome::Executed { failures: &elsewhere, uncertain: None }));
            }
            Done::Checked(group, Err(unasked)) => {
                let reason = if unasked.unknown { Reason::PreviousTargetUnknown } else { Reason::PreviousTargetUnavailable };
                if self.words.previous.is_none() {
                    warn!(error = %unasked, "a previous target cannot be asked");
                }
                self.words.previous = Some((reason, unasked.message));
                self.feed(Event::Checked(group, Outcome::Failed(Class::Transient)));
            }
            Done::Buried(group, Ok(stored)) => {
                // What an earlier delivery put there was counted then.
                let earlier = stored == Stored::AlreadyThere && self.delivered(group) > 1;
                self.buried_before += u64::from(earlier);
                self.feed(Event::Buried(group, true));
            }
            Done::Buried(group, Err(error)) => {
                if self.words.burial != error.message {
                    warn!(%error, "cannot store a dead letter");
                    self.words.burial = error.message;
                }
                self.feed(Event::Buried(group, false));
            }
            Done::Disowned(group) => {
                warn!("what was to become a dead letter is not what the stream holds, and is not settled");
                self.supervision.ask_at_once();
                self.feed(Event::Disowned(group));
            }
            Done::Compared(compared) => self.compared(compared),
            Done::Pinged(result) => {
                if result.is_ok() {
                    self.seat.answered(false);
                }
                let class = result.err().map(|failure| self.command_failed(&failure));
                self.feed(Event::Pinged(class));
            }
            Done::Kept(me, answer) => self.kept(me, answer),
            Done::Reserved(me, term, answer) => self.reserved(me, term, answer),
            Done::Resolved(group, Ok(present)) => {
                self.seat.answered(false);
                self.feed(Event::Resolved(group, Outcome::Executed { failures: &present, uncertain: None }));
            }
            Done::Resolved(group, Err(failure)) => {
                let class = self.command_failed(&failure);
                self.feed(Event::Resolved(group, Outcome::Failed(class)));
            }
            Done::Repaired(me, again) => self.repaired(me, again),
            Done::Looked => {}
            Done::Asked(answer) => self.consumer_says(answer),
            Done::Glanced(answer) => self.stream_says(answer),
            Done::Opened(answer) => self.collection_says(answer),
            Done::Keeping(answer) => self.collection_keeps(answer),
        }
    }

    fn inserted(&mut self, group: GroupId, reply: InsertReply, took: Duration) {
        self.deps.metrics.insert.observe(took.as_secs_f64());
        match reply {
            InsertReply::Executed { failures, write_concern_error } => {
                let uncertain = write_concern_error.map(|failure| self.command_failed(&failure));
                let mut classes: Vec<(u32, Class)> =
                    failures.into_iter().filter_map(|failure| self.document_failed(group, failure)).collect();
                classes.sort_unstable_by_key(|(index, _)| *index);
                if uncertain.is_none() {
                    self.state.wrote();
                    self.seat.answered(true);
                }
                self.feed(Event::Inserted(group, Outcome::Executed { failures: &classes, uncertain }));
            }
            InsertReply::NotSeries { refused } => {
                self.seat.answered(false);
                self.not_series(group, &refused);
            }
            InsertReply::Failed(failure) => {
                if failure.kind == FailureKind::Dropped {
                    self.open_anew();
                }
                let class = self.command_failed(&failure);
                // Perhaps it is one of them that is meant.
                let blames = matches!(class, Class::Unknown | Class::Operator);
                for index in 0..if blames { self.core.entries(group).len() } else { 0 } {
                    let (code, detail) = (failure.code, failure.message.clone());
                    self.note(group, index, Note { reason: LetterReason::Unknown, code, detail, on_id: None });
                }
                self.feed(Event::Inserted(group, Outcome::Failed(class)));
            }
        }
    }

    /// Nothing more is inserted until the collection is what it should be.
    fn not_series(&mut self, group: GroupId, refused: &[usize]) {
        warn!("measurements were sent to a normal collection: the time-series collection was dropped");
        let Some(collection) = self.collection.clone() else { return };
        self.feed(Event::Target(Target::Unknown));
        let ids = self.core.entries(group).iter().enumerate().filter(|(index, _)| !refused.contains(index)).filter_map(|(_, entry)| {
            let slot = self.slots.get(entry.slot)?;
            match slot.id {
                Some(id) => Some(RawBson::ObjectId(ObjectId::from_bytes(id))),
                None => compare::id_of(RawDocument::from_bytes(&slot.delivery.message.payload).ok()?),
            }
        });
        self.work.spawn(work::take_back(collection, group, ids.collect()));
    }

    fn document_failed(&mut self, group: GroupId, failure: DocumentFailure) -> Option<(u32, Class)> {
        let slot_number = self.core.entries(group).get(failure.index).map(|entry| entry.slot);
        let our_id = slot_number.and_then(|slot| self.slots.get(slot)).is_some_and(|slot| slot.id.is_some());
        let class = match self.job.output.time_series {
            Some(_) => classify::measurement(failure.code),
            None => classify::document(failure.code, failure.on_id, our_id),
        };
        let reason = match (class, failure.code) {
            (_, 11000) => LetterReason::DuplicateId,
            (_, 10334) => LetterReason::TooLarge,
            (Class::Unknown, _) => LetterReason::Unknown,
            _ => LetterReason::Refused,
        };
        if matches!(class, Class::Transient | Class::Operator) {
            self.words.command = failure.told();
        }
        let index = u32::try_from(failure.index).ok()?;
        if class != Class::Done {
            if matches!(class, Class::Document | Class::Doubtful | Class::Unknown) {
                self.words.refusal = format!("{} (code {})", failure.message, failure.code);
                self.words.not_bson = false;
            }
            let note = Note { reason, code: Some(failure.code), detail: failure.message, on_id: failure.on_id };
            self.note(group, failure.index, note);
        } else if let Some(slot) = slot_number.and_then(|slot| self.slots.get_mut(slot)) {
            // Of an earlier try; what is looked up is its own identity now.
            slot.note = None;
        }
        Some((index, class))
    }

    fn note(&mut self, group: GroupId, index: usize, note: Note) {
        let slot = self.core.entries(group).get(index).map(|entry| entry.slot);
        if let Some(slot) = slot.and_then(|slot| self.slots.get_mut(slot)) {
            slot.note = Some(Box::new(note));
        }
    }

    /// The stored document differs from the one that was sent, or the duplicate is in another index.
    fn note_difference(&mut self, group: GroupId, index: usize) {
        let slot = self.core.entries(group).get(index).map(|entry| entry.slot);
        if let Some(note) = slot.and_then(|slot| self.slots.get_mut(slot)).and_then(|slot| slot.note.as_mut()) {
            note.reason = LetterReason::DuplicateId;
            self.words.refusal.clone_from(&note.detail);
            self.words.not_bson = false;
        }
    }

    pub(super) fn command_failed(&mut self, failure: &CommandFailure) -> Class {
        let class = work::class_of(failure);
        self.seat.failed(failure);
        if self.core.troubles() == crate::collector::core::Troubles::default() {
            warn!(error = %failure, "the database failed");
        }
        self.words.command = failure.told();
        class
    }

    /// How often the first message of a group was delivered; 0 where the group is gone.
    fn delivered(&self, group: GroupId) -> u64 {
        let slot = self.core.entries(group).first().and_then(|entry| self.slots.get(entry.slot));
        slot.map_or(0, |slot| slot.delivery.delivered)
    }

    /// Pull requests are taken, and end as they should.
    pub(super) fn pulls_work(&mut self) {
        self.supervision.goings = 0;
        self.words.pull = None;
    }

    /// Shows counters, phase and troubles, where they changed.
    pub(super) fn show(&mut self) {
        let mut totals = self.core.totals();
        totals.dead_lettered = totals.dead_lettered.saturating_sub(self.buried_before);
        let metrics = &self.deps.metrics;
        metrics.written.inc_by(totals.written - self.shown.written);
        metrics.duplicates.inc_by(totals.duplicates - self.shown.duplicates);
        metrics.dead_lettered.inc_by(totals.dead_lettered - self.shown.dead_lettered);
        metrics.in_flight.set(i64::try_from(self.core.in_hand()).unwrap_or(i64::MAX));
        self.shown = totals;
        let counters = Counters {
            received: self.received,
            written: totals.written,
            duplicates: totals.duplicates,
            dead_lettered: totals.dead_lettered,
            redelivered: self.redelivered,
            expired: totals.expired,
            buffered: self.core.in_hand() + self.early.len() as u64 + self.suspects.messages,
            lost_tails: self.supervision.lost_tails,
            unreadable_headers: self.odd.count(),
        };
        if let Some(advice) = self.odd.news(&self.job.stream) {
            self.state.advise(advice.reason, vec![advice]);
        }
        self.show_lag(counters.buffered);
        self.state.count(counters, self.core.proven());
        if self.core.in_hand() == 0 {
            self.slots.shrink();
        }

        let troubles = self.core.troubles();
        let phase = if self.stopping {
            ExecutionPhase::Stopping
        } else if troubles.unavailable
            || troubles.refuses
            || troubles.dead_letters
            || troubles.previous
            || self.words.source.is_some()
            || self.words.pull.is_some()
            || self.words.stuck.is_some()
            || self.words.target.is_some()
            || self.words.ledger.is_some()
        {
            ExecutionPhase::Blocked
        } else if self.stands_nowhere() || self.collection.is_none() || self.identities.is_none() && self.supervision.stream_created_ns == 0
        {
            ExecutionPhase::Starting
        } else {
            ExecutionPhase::Running
        };
        if self.source.mute() && !self.words.mute {
            self.supervision.ask_soon();
        }
        self.words.mute = self.source.mute();
        let quiet = troubles == crate::collector::core::Troubles::default() && self.words.quiet();
        if quiet && self.showing.phase == Some(phase) && self.showing.troubles.is_empty() {
            return;
        }
        let showing = super::Showing { phase: Some(phase), troubles: self.words.troubles(troubles) };
        if showing == self.showing {
            return;
        }
        if showing.troubles.first().map(|t| t.reason) != self.showing.troubles.first().map(|t| t.reason) {
            match showing.troubles.first() {
                Some(trouble) => warn!(reason = trouble.reason.as_str(), message = trouble.message, "the pipeline is in trouble"),
                None => info!("the pipeline is out of trouble"),
            }
        }
        self.state.show(phase, showing.troubles.clone());
        self.showing = showing;
    }
}
