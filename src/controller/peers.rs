//! What the processes of the namespace report of their executions: who is alive and what it runs.
//!
//! A process that has not been heard of for [`SILENT`] counts as gone. Built from reports only, so that every
//! controller knows the same; the own process's executions are asked directly, not from here. Whoever begins to listen
//! asks the others for everything, and until they had [`ANSWERS`] to do so he knows that he does not know them all:
//! a controller that has just taken over must not take its ignorance for the end of what others run.

use crate::pipeline::id::PipelineId;
use crate::pipeline::report::{Counters, ExecutionPhase, ExecutionReport, Report};
use crate::pipeline::spec::Fingerprint;
use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// After this time without a report a process counts as gone.
pub const SILENT: Duration = Duration::from_secs(16);
/// So long the others have to answer who asks what they run.
pub const ANSWERS: Duration = Duration::from_secs(3);

/// What tells the executions of a process apart: while a version takes over from another, there are two of a pipeline.
pub type Key = (PipelineId, Fingerprint);

/// The key of what a report is about.
pub fn key(report: &ExecutionReport) -> Key {
    (report.id.clone(), report.fingerprint.clone())
}

#[derive(Debug)]
struct Peer {
    heard: Instant,
    executions: HashMap<Key, ExecutionReport>,
}

/// The other processes, as they report themselves.
#[derive(Debug, Default)]
pub struct Peers {
    peers: Mutex<HashMap<uuid::Uuid, Peer>>,
    asked: Mutex<Option<Instant>>,
}

/// What a report says that was not known.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// The pipelines that it changes in a way that matters to the status.
    pub changed: Vec<PipelineId>,
    /// Whether the process was not known and this is not all that it runs.
    pub unknown: bool,
}

impl Peers {
    fn peers(&self) -> MutexGuard<'_, HashMap<uuid::Uuid, Peer>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn asked_at(&self) -> MutexGuard<'_, Option<Instant>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The others were asked for everything at `now`.
    pub fn asked(&self, now: Instant) {
        *self.asked_at() = Some(now);
    }

    /// Reports may have been missed.
    pub fn missed(&self) {
        *self.asked_at() = None;
    }

    /// Whether the others were asked and had the time to answer.
    pub fn known(&self, now: Instant) -> bool {
        self.asked_at().is_some_and(|asked| now.saturating_duration_since(asked) >= ANSWERS)
    }

    /// How many executions share a durable, where `heard` are known of and `recorded` were before.
    pub fn live(&self, heard: usize, recorded: u32, now: Instant) -> u32 {
        let heard = heard.try_into().unwrap_or(u32::MAX);
        if self.known(now) { heard } else { heard.max(recorded) }
    }

    /// Takes a report in.
    pub fn take(&self, report: Report, now: Instant) -> Heard {
        let mut peers = self.peers();
        let unknown = !report.complete && !peers.contains_key(&report.process);
        let peer = peers.entry(report.process).or_insert_with(|| Peer { heard: now, executions: HashMap::new() });
        peer.heard = now;
        let mut changed = Vec::new();
        if report.complete {
            let listed: HashSet<_> = report.executions.iter().map(key).collect();
            peer.executions.retain(|key, _| {
                let stays = listed.contains(key) || !report.covers(&key.0);
                if !stays {
                    changed.push(key.0.clone());
                }
                stays
            });
        }
        for execution in report.executions {
            let (key, id) = (key(&execution), execution.id.clone());
            let differs = if execution.phase == ExecutionPhase::Stopped {
                peer.executions.remove(&key).is_some()
            } else {
                let old = peer.executions.insert(key, execution.clone());
                // Complete reports are few enough for what people read to follow them.
                old.is_none_or(|old| !same(&old, &execution) || report.complete && old.troubles != execution.troubles)
            };
            if differs {
                changed.push(id);
            }
        }
        Heard { changed, unknown }
    }

    /// Drops the processes that went silent and says which pipelines they ran.
    pub fn expire(&self, now: Instant) -> Vec<PipelineId> {
        let mut gone = Vec::new();
        self.peers().retain(|_, peer| {
            let alive = now.saturating_duration_since(peer.heard) < SILENT;
            if !alive {
                gone.extend(peer.executions.keys().map(|(id, _)| id.clone()));
            }
            alive
        });
        gone
    }

    /// The live executions of `id` in the other processes.
    pub fn of(&self, id: &PipelineId, own: uuid::Uuid) -> Vec<ExecutionReport> {
        let peers = self.peers();
        let others = peers.iter().filter(|(process, _)| **process != own);
        others.flat_map(|(_, peer)| peer.executions.values().filter(|execution| execution.id == *id).cloned()).collect()
    }

    /// Adds the executions in the other processes, and their counters, to `sums`.
    pub fn count(&self, own: uuid::Uuid, sums: &mut HashMap<PipelineId, (usize, Counters)>) {
        let peers = self.peers();
        for execution in peers.iter().filter(|(process, _)| **process != own).flat_map(|(_, peer)| peer.executions.values()) {
            let sum = sums.entry(execution.id.clone()).or_default();
            sum.0 += 1;
            sum.1 += execution.counters;
        }
    }
}

/// Whether two reports of one execution say the same but for counters, times and the wording of troubles: a message
/// that names a round trip differs with every try.
pub fn same(a: &ExecutionReport, b: &ExecutionReport) -> bool {
    let reasons = |report: &ExecutionReport| report.troubles.iter().chain(&report.advice).map(|trouble| trouble.reason).collect::<Vec<_>>();
    let said = |report: &ExecutionReport| (report.phase, report.role, report.limits, report.proven);
    a.fingerprint == b.fingerprint && said(a) == said(b) && reasons(a) == reasons(b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::report::Trouble;
    use crate::pipeline::status::Reason;

    fn execution(id: &str, message: &str) -> ExecutionReport {
        ExecutionReport {
            id: PipelineId::parse(id).unwrap(),
            version: "1".into(),
            fingerprint: Fingerprint("f".into()),
            phase: ExecutionPhase::Running,
            troubles: vec![Trouble { reason: Reason::DatabaseUnavailable, message: message.into() }],
            advice: Vec::new(),
            counters: Counters::default(),
            role: None,
            limits: crate::pipeline::report::EffectiveLimits::default(),
            proven: true,
            last_pull_ms: 0,
            last_write_ms: 0,
        }
    }

    fn complete(executions: Vec<ExecutionReport>, from: Option<&str>, to: Option<&str>) -> Report {
        let id = |id: &str| PipelineId::parse(id).unwrap();
        let (from, to) = (from.map(id), to.map(id));
        Report { schema: 1, process: uuid::Uuid::nil(), host: String::new(), complete: true, asks: false, from, to, executions }
    }

    fn known(peers: &Peers, id: &str) -> bool {
        !peers.of(&PipelineId::parse(id).unwrap(), uuid::Uuid::max()).is_empty()
    }

    #[test]
    fn a_complete_report_in_several_messages_drops_only_what_each_covers() {
        let (peers, now) = (Peers::default(), Instant::now());
        peers.take(complete(["a", "b", "c", "d"].map(|id| execution(id, "")).into(), None, None), now);
        let changed = peers.take(complete(vec![execution("a", "")], None, Some("c")), now);
        assert_eq!(changed.changed, [PipelineId::parse("b").unwrap()]);
        assert!(known(&peers, "a") && !known(&peers, "b") && known(&peers, "c") && known(&peers, "d"));
        peers.take(complete(vec![execution("d", "")], Some("c"), None), now);
        assert!(known(&peers, "a") && !known(&peers, "c") && known(&peers, "d"));
    }

    #[test]
    fn of_a_process_that_was_not_known_or_went_silent_everything_is_asked() {
        let (peers, now) = (Peers::default(), Instant::now());
        let news = || Report { complete: false, ..complete(vec![execution("a", "")], None, None) };
        assert!(peers.take(news(), now).unknown);
        assert!(!peers.take(news(), now).unknown);
        assert!(!peers.expire(now + SILENT).is_empty());
        assert!(peers.take(news(), now + SILENT).unknown);
        assert!(!Peers::default().take(complete(vec![], None, None), now).unknown);
    }

    #[test]
    fn until_the_others_had_time_to_answer_nothing_that_was_recorded_counts_as_gone() {
        let (peers, now) = (Peers::default(), Instant::now());
        assert_eq!((peers.live(1, 3, now), peers.live(4, 3, now)), (3, 4));
        peers.asked(now);
        assert_eq!(peers.live(1, 3, now + ANSWERS / 2), 3);
        assert_eq!(peers.live(1, 3, now + ANSWERS), 1);
        peers.missed();
        assert_eq!(peers.live(1, 3, now + ANSWERS), 3);
    }

    #[test]
    fn another_wording_of_the_same_trouble_is_no_change() {
        assert!(same(&execution("a", "no answer in 11 ms"), &execution("a", "no answer in 12 ms")));
    }

    #[test]
    fn two_executions_of_one_pipeline_in_one_process_both_count() {
        let (peers, now) = (Peers::default(), Instant::now());
        let other = ExecutionReport { fingerprint: Fingerprint("g".into()), ..execution("a", "") };
        peers.take(complete(vec![execution("a", ""), other], None, None), now);
        assert_eq!(peers.of(&PipelineId::parse("a").unwrap(), uuid::Uuid::max()).len(), 2);
    }
}
