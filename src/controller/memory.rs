//! What the controller remembers of each pipeline between two reconciles, and which of them are admitted to read which
//! stream: a cache, never the truth. A pipeline's status is shared, not copied, among those who look at it.

use super::looks::Looked;
use crate::pipeline::id::PipelineId;
use crate::pipeline::names::Names;
use crate::pipeline::status::{Phase, PipelineStatus};
use crate::pipeline::subject::overlap;
use crate::store::StatusRecord;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

/// What is remembered of one pipeline.
#[derive(Default, Clone)]
pub(super) struct Memory {
    /// The status as it was last read or written; set by [`Memories::note`] alone.
    status: Option<Arc<StatusRecord>>,
    /// Whether the status may have been changed by somebody else since.
    pub stale: bool,
    /// How often that was hinted: a read is as old as the hints before it.
    pub hints: u64,
    /// The entry's revision at the last reconcile that ended well.
    pub reconciled: Option<u64>,
    /// Failures in a row.
    pub failures: u32,
    /// Looks in a row at which the own execution was still starting.
    pub starting: u32,
    /// Since when the status cannot be written, and why.
    pub unwritten: Option<(Instant, String)>,
    /// The stream, as it was last looked at.
    pub looked: Looked,
    /// When the durable last could not be paused.
    pub unpausable: Option<Instant>,
}

impl Memory {
    /// The status with its revision.
    pub fn record(&self) -> Option<&Arc<StatusRecord>> {
        self.status.as_ref()
    }

    /// The status.
    pub fn status(&self) -> Option<&PipelineStatus> {
        self.status.as_ref().map(|record| &record.status)
    }

    /// Notes that somebody else may have written the status.
    pub fn hinted(&mut self) {
        self.stale = true;
        self.hints += 1;
    }
}

/// What is remembered of all of them.
#[derive(Default)]
pub(super) struct Memories {
    each: HashMap<PipelineId, Memory>,
    /// By stream: who is admitted to read it. One, unless configs name the stream of another pipeline.
    readers: HashMap<String, Vec<PipelineId>>,
}

impl Memories {
    pub fn get(&self, id: &PipelineId) -> Option<&Memory> {
        self.each.get(id)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&PipelineId, &Memory)> {
        self.each.iter()
    }

    /// Changes all of them.
    pub fn change_all(&mut self, change: impl FnMut(&mut Memory)) {
        self.each.values_mut().for_each(change);
    }

    /// Changes what is remembered of `id`, if anything is.
    pub fn recall(&mut self, id: &PipelineId, change: impl FnOnce(&mut Memory)) {
        if let Some(memory) = self.each.get_mut(id) {
            change(memory);
        }
    }

    /// Changes what is remembered of `id`, from now on.
    pub fn remember(&mut self, id: &PipelineId, change: impl FnOnce(&mut Memory)) {
        change(self.each.entry(id.clone()).or_default());
    }

    /// Notes the status of `id`: from now on where there is one, else only where anything is remembered.
    pub fn note(&mut self, id: &PipelineId, status: Option<Arc<StatusRecord>>) {
        let reads = status.as_ref().and_then(|record| stream_of(&record.status)).map(str::to_owned);
        let before = match status {
            Some(status) => self.each.entry(id.clone()).or_default().status.replace(status),
            None => self.each.get_mut(id).and_then(|memory| memory.status.take()),
        };
        self.reads(id, before.as_ref().and_then(|record| stream_of(&record.status)), reads);
    }

    /// Nothing is remembered of `id` any more.
    pub fn forget(&mut self, id: &PipelineId) {
        self.note(id, None);
        self.each.remove(id);
    }

    /// Another pipeline than `id` that is admitted to read this stream, by whatever durable: a work queue has one.
    pub fn reader_of(&self, stream: &str, id: &PipelineId) -> Option<PipelineId> {
        self.readers.get(stream)?.iter().find(|other| *other != id).cloned()
    }

    /// Another pipeline than `id` whose stream listens on what `subject` matches, or will: on its own subject, and on those
    /// that its stream was last seen with.
    pub fn listener_on(&self, subject: &str, names: &Names, id: &PipelineId) -> Option<PipelineId> {
        let listens = |(other, memory): &(&PipelineId, &Memory)| {
            let Some(status) = memory.status().filter(|status| *other != id && stream_of(status).is_some()) else { return false };
            overlap(subject, &names.subject(other)) || status.kept.subjects.iter().any(|taken| overlap(subject, taken))
        };
        self.iter().find(listens).map(|(other, _)| other.clone())
    }

    fn reads(&mut self, id: &PipelineId, before: Option<&str>, now: Option<String>) {
        if before == now.as_deref() {
            return;
        }
        if let Some(before) = before
            && let Some(readers) = self.readers.get_mut(before)
        {
            readers.retain(|reader| reader != id);
            if readers.is_empty() {
                self.readers.remove(before);
            }
        }
        if let Some(now) = now {
            self.readers.entry(now).or_default().push(id.clone());
        }
    }
}

/// The stream that the pipeline is admitted to read.
fn stream_of(status: &PipelineStatus) -> Option<&str> {
    let spec = status.admitted.spec.as_ref().filter(|_| status.admitted.phase != Phase::Absent)?;
    Some(&spec.stream)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::spec::ExecutionSpec;
    use crate::pipeline::status::{Admitted, DesiredSummary, Kept, ObservedSummary};
    use jiff::Timestamp;

    fn id(id: &str) -> PipelineId {
        PipelineId::parse(id).unwrap()
    }

    fn record(id: &str, phase: Phase, stream: &str) -> Option<Arc<StatusRecord>> {
        let spec: ExecutionSpec = serde_json::from_value(serde_json::json!({
            "schema": 1, "installation": uuid::Uuid::nil(), "namespace": "alpha", "id": id, "version": "1", "digest": "SHA-256=abc",
            "stream": stream, "consumer": "default", "target": {"hosts": [], "database": "d", "collection": "c"},
            "replicas": 1, "proven": false, "settings_digest": "s", "fingerprint": "f"
        }))
        .unwrap();
        let status = PipelineStatus {
            schema: 1,
            id: spec.id.clone(),
            epoch: 1,
            updated: Timestamp::UNIX_EPOCH,
            desired: DesiredSummary::default(),
            admitted: Admitted { phase, spec: Some(spec), live_executions: 1 },
            observed: ObservedSummary::default(),
            conditions: Vec::new(),
            history: Vec::new(),
            kept: Kept::default(),
        };
        Some(Arc::new(StatusRecord { status, revision: 1 }))
    }

    #[test]
    fn a_stream_is_read_by_who_is_admitted_to_it_until_that_changes() {
        let mut memories = Memories::default();
        let reader = |memories: &Memories| memories.reader_of("s", &id("b"));
        memories.note(&id("b"), record("b", Phase::Run, "s"));
        assert_eq!(reader(&memories), None, "itself is nobody else");
        memories.note(&id("a"), record("a", Phase::Run, "s"));
        assert_eq!(reader(&memories), Some(id("a")));
        assert_eq!(memories.reader_of("t", &id("b")), None, "another stream");
        memories.note(&id("a"), record("a", Phase::Run, "t"));
        assert_eq!((reader(&memories), memories.reader_of("t", &id("b"))), (None, Some(id("a"))), "it moved");
        memories.note(&id("a"), record("a", Phase::Stopped, "s"));
        assert_eq!(reader(&memories), Some(id("a")), "paused, it keeps its stream");
        memories.note(&id("a"), record("a", Phase::Absent, "s"));
        assert_eq!(reader(&memories), None, "withdrawn");
        memories.note(&id("a"), record("a", Phase::Run, "s"));
        memories.forget(&id("a"));
        assert_eq!((reader(&memories), memories.readers["s"].len()), (None, 1), "forgotten, without a trace");
    }

    #[test]
    fn a_subject_is_another_pipelines_where_its_stream_listens_on_it_or_will() {
        let names = Names::new("alpha".parse().unwrap(), crate::pipeline::names::NameTemplates::default());
        let mut memories = Memories::default();
        let mut other = record("a", Phase::Run, "alpha_a").unwrap();
        Arc::make_mut(&mut other).status.kept.subjects = vec!["alpha.a".into(), "plant.*".into()];
        memories.note(&id("a"), Some(other));
        for taken in ["alpha.a", "plant.x", "plant.>"] {
            assert_eq!(memories.listener_on(taken, &names, &id("b")), Some(id("a")), "{taken}");
            assert_eq!(memories.listener_on(taken, &names, &id("a")), None, "its own");
        }
        assert_eq!(memories.listener_on("alpha.c", &names, &id("b")), None, "nobody's");
        memories.note(&id("a"), record("a", Phase::Absent, "alpha_a"));
        assert_eq!(memories.listener_on("alpha.a", &names, &id("b")), None, "withdrawn");
    }

    #[test]
    fn the_status_of_a_pipeline_that_never_was_is_not_remembered() {
        let mut memories = Memories::default();
        memories.note(&id("a"), None);
        assert!(memories.get(&id("a")).is_none());
    }
}
