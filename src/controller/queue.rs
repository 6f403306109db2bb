//! The work queue of the controller: ids to reconcile, deduplicated, never two at once for one id, with a delay per id.
//!
//! Every trigger only puts an id in. An id that is put in while it is being reconciled is reconciled once more
//! afterwards; a delayed id that is put in is taken at once. Order is first come, first served.

use crate::pipeline::id::PipelineId;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use tokio::time::{Duration, Instant};

#[derive(Default)]
struct State {
    ready: VecDeque<PipelineId>,
    /// What is in `ready`.
    queued: HashSet<PipelineId>,
    /// What a worker has: since when, and whether it was put in meanwhile.
    running: HashMap<PipelineId, (Instant, bool)>,
    delayed: BTreeMap<(Instant, PipelineId), ()>,
    due: HashMap<PipelineId, Instant>,
}

/// The queue; shared by all workers and triggers.
#[derive(Default)]
pub struct Queue {
    state: Mutex<State>,
    changed: Notify,
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts `id` in, to be reconciled as soon as a worker is free.
    pub fn add(&self, id: PipelineId) {
        let mut state = self.state();
        state.undelay(&id);
        state.make_ready(id);
        drop(state);
        self.changed.notify_one();
    }

    /// Puts `id` in after `delay`, unless it is to come earlier anyway.
    pub fn add_after(&self, id: PipelineId, delay: Duration) {
        let due = Instant::now() + delay;
        let mut state = self.state();
        if state.queued.contains(&id) || state.due.get(&id).is_some_and(|earlier| *earlier <= due) {
            return;
        }
        state.undelay(&id);
        state.due.insert(id.clone(), due);
        state.delayed.insert((due, id), ());
        drop(state);
        self.changed.notify_one();
    }

    /// The next id; it is this worker's until [`Queue::done`]. Cancel-safe.
    pub async fn next(&self) -> PipelineId {
        loop {
            // Made before looking, so that nothing put in between is missed.
            let changed = self.changed.notified();
            let next_due = {
                let mut state = self.state();
                state.promote(Instant::now());
                if let Some(id) = state.ready.pop_front() {
                    state.queued.remove(&id);
                    state.running.insert(id.clone(), (Instant::now(), false));
                    let more = !state.ready.is_empty();
                    drop(state);
                    if more {
                        self.changed.notify_one();
                    }
                    return id;
                }
                state.delayed.keys().next().map(|(due, _)| *due)
            };
            match next_due {
                Some(due) => {
                    // Either ends the wait; the loop looks again.
                    let _ = tokio::time::timeout_at(due, changed).await;
                }
                None => changed.await,
            }
        }
    }

    /// What has been with a worker for longer than `most`, and for how long.
    pub fn longer_than(&self, most: Duration) -> Vec<(PipelineId, Duration)> {
        let lasts = |(id, (since, _)): (&PipelineId, &(Instant, bool))| Some((id.clone(), since.elapsed())).filter(|(_, age)| *age > most);
        self.state().running.iter().filter_map(lasts).collect()
    }

    /// Gives `id` back.
    pub fn done(&self, id: &PipelineId) {
        let mut state = self.state();
        if state.running.remove(id).is_some_and(|(_, again)| again) {
            state.make_ready(id.clone());
            drop(state);
            self.changed.notify_one();
        }
    }
}

impl State {
    fn make_ready(&mut self, id: PipelineId) {
        if let Some((_, again)) = self.running.get_mut(&id) {
            *again = true;
        } else if self.queued.insert(id.clone()) {
            self.ready.push_back(id);
        }
    }

    fn undelay(&mut self, id: &PipelineId) {
        if let Some(due) = self.due.remove(id) {
            self.delayed.remove(&(due, id.clone()));
        }
    }

    fn promote(&mut self, now: Instant) {
        while let Some(((due, _), ())) = self.delayed.first_key_value()
            && *due <= now
            && let Some(((_, id), ())) = self.delayed.pop_first()
        {
            self.due.remove(&id);
            self.make_ready(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> PipelineId {
        PipelineId::parse(name).unwrap()
    }

    async fn nothing(queue: &Queue) -> bool {
        tokio::time::timeout(Duration::from_millis(20), queue.next()).await.is_err()
    }

    #[tokio::test]
    async fn an_id_is_never_with_two_workers_and_comes_again_if_put_in_meanwhile() {
        let queue = Queue::default();
        queue.add(id("a"));
        queue.add(id("a"));
        assert_eq!(queue.next().await, id("a"));
        queue.add(id("a"));
        assert!(nothing(&queue).await);
        queue.done(&id("a"));
        assert_eq!(queue.next().await, id("a"));
        queue.done(&id("a"));
        assert!(nothing(&queue).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_delayed_id_comes_when_due_and_at_once_if_put_in() {
        let queue = Queue::default();
        let begun = Instant::now();
        queue.add_after(id("a"), Duration::from_secs(5));
        queue.add_after(id("b"), Duration::from_secs(9));
        queue.add_after(id("a"), Duration::from_secs(7));
        assert_eq!(queue.next().await, id("a"));
        assert_eq!(begun.elapsed().as_secs(), 5);
        queue.done(&id("a"));
        queue.add(id("b"));
        assert_eq!(queue.next().await, id("b"));
        assert_eq!(begun.elapsed().as_secs(), 5);
        queue.done(&id("b"));
        assert!(nothing(&queue).await);
    }

    #[tokio::test]
    async fn several_workers_share_what_is_ready() {
        let queue = std::sync::Arc::new(Queue::default());
        let workers: Vec<_> = (0..3)
            .map(|_| {
                let queue = queue.clone();
                tokio::spawn(async move { queue.next().await })
            })
            .collect();
        tokio::task::yield_now().await;
        for name in ["a", "b", "c"] {
            queue.add(id(name));
        }
        let mut seen = Vec::new();
        for worker in workers {
            seen.push(tokio::time::timeout(Duration::from_secs(5), worker).await.unwrap().unwrap());
        }
        seen.sort();
        assert_eq!(seen, [id("a"), id("b"), id("c")]);
    }
}
