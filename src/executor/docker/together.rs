//! Asking for several at once: who asks while an answer is on its way gets the next one, together with all others who ask
//! meanwhile.
//!
//! ```text
//! ask(what) ─▶ waiting ─▶ whose turn it is takes all that wait ─▶ one call ─▶ answers each
//! ```
//!
//! One who asks alone waits for nobody. An answer is never older than the question: its call begins after that. Called by
//! what looks at the engine, and by what fills volumes.

use crate::executor::error::BackendError;
use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// Questions of one kind.
pub struct Together<K, T> {
    waiting: Mutex<Vec<Request<K, T>>>,
    turn: tokio::sync::Mutex<()>,
    /// How many questions one call answers at most.
    most: usize,
}

struct Request<K, T> {
    what: K,
    answer: oneshot::Sender<Result<T, BackendError>>,
}

/// Whom one call answers.
pub struct Answers<T>(Vec<oneshot::Sender<Result<T, BackendError>>>);

impl<T: Clone> Answers<T> {
    /// Answers all of them.
    pub fn all(self, answer: &Result<T, BackendError>) {
        for one in self.0 {
            // Who does not wait any more looks again anyway.
            let _ = one.send(answer.clone());
        }
    }
}

impl<K: Clone, T: Clone> Together<K, T> {
    /// Nobody asks yet; one call is to answer `most` at most.
    pub fn new(most: usize) -> Self {
        Self { waiting: Mutex::default(), turn: tokio::sync::Mutex::default(), most: most.max(1) }
    }

    /// Asks for `what`; `call` is for all that wait when it begins, in the order in which they asked, and answers them.
    pub async fn ask<F: Future<Output = ()>>(&self, what: K, call: impl Fn(Vec<K>, Answers<T>) -> F) -> Result<T, BackendError> {
        loop {
            let (answer, answered) = oneshot::channel();
            self.waiting().push(Request { what: what.clone(), answer });
            {
                let _turn = self.turn.lock().await;
                // Ours went with somebody else's turn, or goes with this one, or with that of one who waits behind us.
                let (asked, answers): (Vec<_>, Vec<_>) = self.take().into_iter().map(|one| (one.what, one.answer)).unzip();
                if !asked.is_empty() {
                    call(asked, Answers(answers)).await;
                }
            }
            if let Ok(answer) = answered.await {
                return answer;
            }
            // Who asked for us has ended over it.
        }
    }

    /// The next of those that wait.
    fn take(&self) -> Vec<Request<K, T>> {
        let mut waiting = self.waiting();
        // Nothing is asked for who has gone away.
        waiting.retain(|one| !one.answer.is_closed());
        let most = waiting.len().min(self.most);
        waiting.drain(..most).collect()
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Request<K, T>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::future::join_all;
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::sync::Semaphore;

    /// Answers with what was asked together, once the test lets it.
    async fn ask(together: &Together<u32, Vec<u32>>, what: u32, gate: &Semaphore) -> Vec<u32> {
        let call = |asked: Vec<u32>, answers: Answers<Vec<u32>>| async move {
            tokio::task::yield_now().await;
            gate.acquire().await.unwrap().forget();
            answers.all(&Ok(asked));
        };
        together.ask(what, call).await.unwrap()
    }

    #[tokio::test]
    async fn one_alone_waits_for_nobody_and_all_that_ask_meanwhile_share_the_next_call() {
        let (together, gate) = (Together::new(3), Semaphore::new(100));
        assert_eq!(ask(&together, 9, &gate).await, [9]);
        let answers = join_all((0..6).map(|n| ask(&together, n, &gate))).await;
        assert_eq!(answers, [vec![0], vec![1, 2, 3], vec![1, 2, 3], vec![1, 2, 3], vec![4, 5], vec![4, 5]]);
    }

    #[tokio::test]
    async fn who_goes_away_in_the_middle_leaves_nobody_without_an_answer() {
        let (together, gate) = (Arc::new(Together::new(8)), Arc::new(Semaphore::new(0)));
        let spawn = |what| {
            let (together, gate) = (together.clone(), gate.clone());
            tokio::spawn(async move { ask(&together, what, &gate).await })
        };
        let first = spawn(1);
        tokio::time::sleep(Duration::from_millis(20)).await;
        let others = [spawn(2), spawn(3), spawn(4)];
        tokio::time::sleep(Duration::from_millis(20)).await;
        // It asks for itself; then one asks for all of the others, and goes away over that.
        first.abort();
        tokio::time::sleep(Duration::from_millis(20)).await;
        others[0].abort();
        tokio::time::sleep(Duration::from_millis(20)).await;
        gate.add_permits(8);
        let [_, three, four] = others;
        let answers = [three.await.unwrap(), four.await.unwrap()];
        assert!(answers[0].contains(&3) && answers[1].contains(&4), "{answers:?}");
    }
}
