//! Reports what this process runs, every 5 s and where something began or ended, everything at once to who asks, and
//! notices every second what its executions say anew.

use super::Controller;
use super::peers::{Key, key, same};
use crate::pipeline::id::PipelineId;
use crate::pipeline::report::{Counters, ExecutionPhase, ExecutionReport, Report};
use jiff::Timestamp;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::debug;

const LOOK: Duration = Duration::from_secs(1);
/// What changed is reported this often.
const REPORT_EVERY: Duration = Duration::from_secs(5);
/// Everything is reported this often.
const COMPLETE_EVERY: Duration = Duration::from_secs(30);
/// Complete reports that others ask for go at most this often.
const ANSWER_EVERY: Duration = Duration::from_millis(200);
/// Bytes a message, well below the smallest max_payload that people set.
const CHUNK: usize = 200 << 10;
/// What only people read (counters, the wording of troubles) reaches the status at most this often.
const WORDS_EVERY: Duration = Duration::from_secs(10);

/// What was last noticed of an execution, and when.
type Seen = HashMap<Key, (ExecutionReport, Instant)>;

/// What others want to hear, and what this process wants to hear of them.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    answer: AtomicBool,
    ask: AtomicBool,
    changed: Notify,
}

impl Wanted {
    /// Somebody asks what runs here.
    pub fn answer(&self) {
        self.answer.store(true, Ordering::Relaxed);
        self.changed.notify_one();
    }

    /// Not everything is known of the others, or not any more.
    pub fn ask(&self) {
        self.ask.store(true, Ordering::Relaxed);
        self.changed.notify_one();
    }

    async fn wanted(&self) {
        self.changed.notified().await;
        // Several who ask together get one answer.
        tokio::time::sleep(ANSWER_EVERY.mul_f64(rand::random())).await;
    }
}

impl Controller {
    /// Reports until `stop`, and then once more that everything has ended.
    pub(super) async fn report(self: Arc<Self>, stop: CancellationToken) {
        let mut seen = HashMap::new();
        let mut sent = HashMap::new();
        let mut first = HashMap::<Key, Instant>::new();
        let (mut report_at, mut complete_at) = (Instant::now(), Instant::now());
        while !stop.is_cancelled() {
            let now = self.own_reports().await;
            self.notice(&mut seen, &now);
            self.freshen(&now);
            first.retain(|key, _| now.contains_key(key));
            let own = now.iter().map(|(key, report)| (report.clone(), *first.entry(key.clone()).or_insert_with(Instant::now)));
            *self.own.lock().unwrap_or_else(PoisonError::into_inner) = own.collect();
            let at = Instant::now();
            let asks = self.wanted.ask.swap(false, Ordering::Relaxed);
            let complete = self.wanted.answer.swap(false, Ordering::Relaxed) || asks || at >= complete_at;
            let others = now.len() != sent.len() || now.keys().any(|key| !sent.contains_key(key));
            if complete || others || at >= report_at {
                report_at = at + REPORT_EVERY;
                complete_at = if complete { at + COMPLETE_EVERY } else { complete_at };
                self.send_report(&mut sent, now, complete, asks).await;
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = self.wanted.wanted() => {}
                () = stop.cancelled() => {}
            }
        }
        self.send_report(&mut sent, HashMap::new(), true, false).await;
    }

    async fn own_reports(&self) -> HashMap<Key, ExecutionReport> {
        // Executions that are processes of their own report themselves.
        if self.deps.executor.shared() {
            return HashMap::new();
        }
        match self.deps.executor.list().await {
            // The newest comes first and is the one to keep where two run the same.
            Ok(observed) => {
                let reports = observed.into_iter().flat_map(|observed| observed.reports.into_iter().rev());
                reports.map(|report| (key(&report), report)).collect()
            }
            Err(error) => {
                debug!(%error, "executions could not be listed");
                HashMap::new()
            }
        }
    }

    /// Puts into the queue what the executions say anew.
    fn notice(&self, seen: &mut Seen, now: &HashMap<Key, ExecutionReport>) {
        seen.retain(|key, _| now.contains_key(key));
        for (key, report) in now {
            let known = seen.get(key).is_some_and(|(old, at)| {
                let reworded = old.troubles != report.troubles && at.elapsed() >= WORDS_EVERY;
                same(old, report) && told(old) == told(report) && !reworded
            });
            if !known {
                self.queue.add(key.0.clone());
                seen.insert(key.clone(), (report.clone(), Instant::now()));
            }
        }
    }

    /// Puts into the queue, as the holder, whose counters have moved since its status was written a while ago (the last
    /// numbers before a pipeline falls idle get there too), and who has another number of live executions than admitted.
    fn freshen(&self, own: &HashMap<Key, ExecutionReport>) {
        if self.holding.epoch().is_none() {
            return;
        }
        let mut sums = HashMap::<PipelineId, (usize, Counters)>::new();
        for report in own.values() {
            let sum = sums.entry(report.id.clone()).or_default();
            sum.0 += 1;
            sum.1 += report.counters;
        }
        self.peers.count(self.process, &mut sums);
        let now = Timestamp::now();
        let memory = self.memory();
        let statuses = memory.iter().filter_map(|(id, known)| Some((id, known.status()?)));
        for (id, status) in statuses {
            let (live, counters) = sums.get(id).copied().unwrap_or_default();
            let recorded = status.admitted.live_executions;
            let moved =
                live > 0 && status.observed.counters != counters && now.duration_since(status.updated).unsigned_abs() >= WORDS_EVERY;
            if moved || self.peers.live(live, recorded, Instant::now()) != recorded {
                self.queue.add(id.clone());
            }
        }
    }

    async fn send_report(&self, sent: &mut HashMap<Key, ExecutionReport>, now: HashMap<Key, ExecutionReport>, complete: bool, asks: bool) {
        let news = |report: &&ExecutionReport| complete || sent.get(&key(report)).is_none_or(|old| !alike(old, report));
        let mut changed: Vec<_> = now.values().filter(news).cloned().collect();
        let ended = sent.iter().filter(|(key, _)| !now.contains_key(*key));
        changed.extend(ended.map(|(_, old)| ExecutionReport { phase: ExecutionPhase::Stopped, ..old.clone() }));
        for part in parts(changed, CHUNK) {
            let Part { from, to, executions } = part;
            let report = Report { schema: 1, process: self.process, host: self.host.clone(), complete, asks, from, to, executions };
            match self.deps.store.reports.publish(&report).await {
                Ok(()) if asks => self.peers.asked(Instant::now()),
                Ok(()) => {}
                Err(error) => {
                    debug!(%error, "report could not be sent");
                    // Who asks asks again at the next look.
                    self.wanted.ask.fetch_or(asks, Ordering::Relaxed);
                }
            }
        }
        *sent = now;
    }
}

/// Counters of what is said in the status as soon as it happens.
fn told(report: &ExecutionReport) -> (u64, u64, u64) {
    let counters = &report.counters;
    (counters.dead_lettered, counters.lost_tails, counters.unreadable_headers)
}

/// Whether the other processes need not hear of the change: an idle pull's answer is none.
fn alike(old: &ExecutionReport, new: &ExecutionReport) -> bool {
    same(old, new) && (old.counters, old.last_write_ms) == (new.counters, new.last_write_ms)
}

/// One message of a report.
struct Part {
    from: Option<PipelineId>,
    to: Option<PipelineId>,
    executions: Vec<ExecutionReport>,
}

/// Cuts a report into messages of at most `most` bytes (or one pipeline's), which cover all ids together. At least one:
/// an empty report still says that the process is alive.
fn parts(mut executions: Vec<ExecutionReport>, most: usize) -> Vec<Part> {
    executions.sort_by(|a, b| a.id.cmp(&b.id));
    let mut parts = vec![Part { from: None, to: None, executions: Vec::new() }];
    let mut bytes = 0;
    for execution in executions {
        // What cannot be serialized is not sent either; the publish says why.
        let size = serde_json::to_vec(&execution).map_or(0, |json| json.len() + 1);
        if let Some(last) = parts.last_mut() {
            let another = last.executions.last().is_some_and(|before| before.id != execution.id);
            if another && bytes + size > most {
                last.to = Some(execution.id.clone());
                parts.push(Part { from: Some(execution.id.clone()), to: None, executions: Vec::new() });
                bytes = 0;
            }
        }
        bytes += size;
        if let Some(last) = parts.last_mut() {
            last.executions.push(execution);
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::spec::Fingerprint;

    fn execution(number: usize) -> ExecutionReport {
        ExecutionReport {
            id: PipelineId::parse(&format!("p{number:05}")).unwrap(),
            version: "1".into(),
            fingerprint: Fingerprint("f".into()),
            phase: ExecutionPhase::Running,
            troubles: Vec::new(),
            advice: Vec::new(),
            counters: Counters::default(),
            role: None,
            limits: crate::pipeline::report::EffectiveLimits::default(),
            proven: true,
            last_pull_ms: 0,
            last_write_ms: 0,
        }
    }

    #[test]
    fn a_complete_report_of_any_size_is_cut_into_small_messages_that_cover_every_id_once() {
        assert_eq!(parts(Vec::new(), CHUNK).len(), 1);
        let parts = parts((0..3_000).rev().map(execution).collect(), CHUNK);
        assert!(parts.len() > 1);
        assert_eq!(parts.iter().map(|part| part.executions.len()).sum::<usize>(), 3_000);
        assert!(parts[0].from.is_none() && parts[parts.len() - 1].to.is_none());
        assert!(parts.windows(2).all(|pair| pair[0].to.is_some() && pair[0].to == pair[1].from));
        assert!(parts.iter().all(|part| serde_json::to_vec(&part.executions).unwrap().len() <= CHUNK + 2));
    }

    #[test]
    fn an_answered_pull_alone_is_not_reported() {
        let (old, new) = (execution(1), ExecutionReport { last_pull_ms: 9, ..execution(1) });
        assert!(alike(&old, &new));
        assert!(!alike(&old, &ExecutionReport { last_write_ms: 9, ..execution(1) }));
    }
}
