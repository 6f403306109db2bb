//! Suspects of a time-series pipeline: recorded and looked up before they are inserted again, and repaired afterwards.
//!
//! ```text
//! resolve   record (majority) ▶ look up (majority, causally after the record) ▶ present: acknowledged · missing: inserted
//! repair    each record, as old as it may be ▶ all copies of its suspects ▶ delete those with a smaller one beside them
//! ```
//!
//! What always holds: nothing is looked up before it is recorded, so that whoever comes later can find a copy that came after the
//! look-up; a payload with an `_id` of its own is in the collection only if a measurement equals it field by field, and it is never
//! repaired, since two measurements may have one `_id`. The rules are in `ledger` and `traces`; called by the driver, beside its loop.

use super::classify::Class;
use super::compare;
use super::identity::Identity;
use super::ledger::{Fate, due, fate};
use super::sink::{Causal, CommandFailure, Ledger, Measurements, Record};
use super::traces::{self, Trace};
use bson::{RawBson, RawDocument};
use bytes::Bytes;
use std::collections::HashSet;
use std::time::Duration;

/// Measurements whose copies are looked up together.
const AT_ONCE: usize = 1000;

/// A message that may have been inserted before.
#[derive(Debug, Clone)]
pub(super) struct Suspect {
    pub payload: Bytes,
    /// The identity, where the payload has no `_id` of its own.
    pub id: Option<Identity>,
}

/// The page, and the collection that it is about.
#[derive(Debug, Clone)]
pub(super) struct Repair {
    pub ledger: Ledger,
    pub measurements: Measurements,
}

impl Repair {
    /// Records `suspects`, then says which of them are in the collection (`Done`), by index.
    pub async fn resolve(&self, suspects: &[Suspect]) -> Result<Vec<(u32, Class)>, CommandFailure> {
        let fields = self.measurements.fields();
        let (time, meta) = (fields.time_field.as_str(), fields.meta_field.as_deref());
        // What has no time was never stored: it is neither recorded nor looked up.
        let trace = |suspect: &Suspect| Trace::of(&suspect.payload, suspect.id.as_ref()?, time, meta);
        let traces: Vec<Option<Trace>> = suspects.iter().map(trace).collect();
        let recorded: Vec<Trace> = traces.iter().flatten().cloned().collect();
        let own: Vec<(usize, &Suspect)> =
            suspects.iter().enumerate().filter(|(_, s)| s.id.is_none() && traces::time_of(&s.payload, time).is_some()).collect();

        let mut causal = self.measurements.database().causal().await;
        if recorded.is_empty() {
            self.ledger.barrier(&mut causal).await?;
        } else {
            self.ledger.record(&mut causal, &recorded).await?;
        }
        let mut present = Vec::new();
        let copies = self.measurements.copies(&mut causal, &traces::windows(&recorded)).await?;
        let there: HashSet<_> = copies.iter().map(traces::Copy::key).collect();
        for (index, trace) in traces.iter().enumerate() {
            if trace.as_ref().is_some_and(|trace| there.contains(&(trace.prefix, trace.time))) {
                present.push(index);
            }
        }
        present.extend(self.present_by_themselves(&mut causal, &own).await?);
        present.sort_unstable();
        Ok(present.into_iter().filter_map(|index| Some((u32::try_from(index).ok()?, Class::Done))).collect())
    }

    async fn present_by_themselves(&self, causal: &mut Causal, own: &[(usize, &Suspect)]) -> Result<Vec<usize>, CommandFailure> {
        if own.is_empty() {
            return Ok(Vec::new());
        }
        let fields = self.measurements.fields();
        let (time, meta) = (fields.time_field.as_str(), fields.meta_field.as_deref());
        let named = own.iter().filter_map(|(_, suspect)| {
            let id = compare::id_of(RawDocument::from_bytes(&suspect.payload).ok()?).filter(is_plain);
            Some((traces::time_of(&suspect.payload, time)?, traces::meta_of(&suspect.payload, meta), id))
        });
        let stored = self.measurements.exact(causal, &named.collect::<Vec<_>>()).await?;
        let is_there = |suspect: &Suspect| {
            RawDocument::from_bytes(&suspect.payload)
                .is_ok_and(|sent| stored.iter().any(|stored| compare::same_measurement(sent, stored, meta)))
        };
        Ok(own.iter().filter(|(_, suspect)| is_there(suspect)).map(|(index, _)| *index).collect())
    }

    /// Looks at the records whose time has come, or at `all`; after how long to look again, where any is left.
    pub async fn pass(&self, all: bool, ack_wait: Duration) -> Result<Option<Duration>, CommandFailure> {
        let mut again: Option<Duration> = None;
        for record in self.ledger.records().await? {
            let fate = fate(record.age, record.passes, ack_wait);
            if all || fate != Fate::Rest {
                self.repair(&self.ledger.suspects(&record).await?).await?;
            }
            if fate != Fate::Forget {
                let passes = record.passes + u32::from(fate == Fate::Keep);
                let rest = due(passes, ack_wait).saturating_sub(record.age);
                again = Some(again.map_or(rest, |again| again.min(rest)));
            }
            self.settle(&record, fate).await?;
        }
        Ok(again)
    }

    async fn settle(&self, record: &Record, fate: Fate) -> Result<(), CommandFailure> {
        match fate {
            Fate::Rest => Ok(()),
            Fate::Keep => self.ledger.looked_at(record).await,
            Fate::Forget => self.ledger.forget(record).await,
        }
    }

    /// Measurements whose insert was answered after their leases had ended: another execution may have inserted them too.
    pub async fn late(&self, suspects: &[Suspect]) -> Result<(), CommandFailure> {
        let fields = self.measurements.fields();
        let trace = |s: &Suspect| Trace::of(&s.payload, s.id.as_ref()?, &fields.time_field, fields.meta_field.as_deref());
        let traces: Vec<Trace> = suspects.iter().filter_map(trace).collect();
        if traces.is_empty() {
            return Ok(());
        }
        // First: whatever becomes of this process, somebody looks at them again.
        let mut causal = self.measurements.database().causal().await;
        self.ledger.record(&mut causal, &traces).await?;
        self.repair(&traces).await
    }

    async fn repair(&self, all: &[Trace]) -> Result<(), CommandFailure> {
        for traces in all.chunks(AT_ONCE) {
            // Each read by itself: a copy that is missed now is seen by the next look.
            let mut causal = self.measurements.database().causal().await;
            let copies = self.measurements.copies(&mut causal, &traces::windows(traces)).await?;
            let surplus = traces::surplus(traces, &copies);
            if !surplus.is_empty() {
                tracing::warn!(measurements = surplus.len(), "measurements that were stored twice are repaired");
                self.measurements.delete(&surplus).await?;
            }
        }
        Ok(())
    }
}

/// Whether a filter on the value finds what equals it, and nothing else is meant by it.
fn is_plain(id: &RawBson) -> bool {
    matches!(id, RawBson::String(_) | RawBson::Int32(_) | RawBson::Int64(_) | RawBson::ObjectId(_) | RawBson::Binary(_))
}
