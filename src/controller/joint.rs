//! One answer for all who ask at the same time, never older than the question: of many reconciles that run together, each
//! needs to know when the bucket was created, and none needs an answer of its own.
//!
//! A question that is asked while another is on its way waits for that to come back, and then shares the next one. Used by
//! the controller.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Mutex;

/// A question that many ask.
#[derive(Debug, Default)]
pub(super) struct Joint<T> {
    asked: AtomicU64,
    /// The last answer, and the last asker who had asked before it was sought.
    answer: Mutex<(u64, Option<T>)>,
}

impl<T: Clone> Joint<T> {
    /// The answer that `seek` finds, or one that was sought by somebody else after this was called. An error goes to the one
    /// who sought; the others seek themselves. Cancel-safe.
    pub(super) async fn ask<E, F: Future<Output = Result<T, E>>>(&self, seek: impl FnOnce() -> F) -> Result<T, E> {
        let mine = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let mut last = self.answer.lock().await;
        if let (sought_for, Some(answer)) = &*last
            && *sought_for >= mine
        {
            return Ok(answer.clone());
        }
        let sought_for = self.asked.load(Ordering::SeqCst);
        let answer = seek().await?;
        *last = (sought_for, Some(answer.clone()));
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use std::sync::Arc;
    use tokio::sync::Semaphore;

    #[tokio::test]
    async fn those_who_ask_meanwhile_share_the_next_answer_and_never_an_older_one() {
        let (joint, sought, go) = (Arc::new(Joint::<u64>::default()), Arc::new(AtomicU64::new(0)), Arc::new(Semaphore::new(0)));
        let ask = || {
            let (joint, sought, go) = (joint.clone(), sought.clone(), go.clone());
            tokio::spawn(async move {
                let seek = || async {
                    let answer = sought.fetch_add(1, Ordering::SeqCst);
                    go.acquire().await.unwrap().forget();
                    Ok::<_, Infallible>(answer)
                };
                joint.ask(seek).await.unwrap()
            })
        };
        let first = ask();
        while sought.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        let others: Vec<_> = (0..10).map(|_| ask()).collect();
        while joint.asked.load(Ordering::SeqCst) < 11 {
            tokio::task::yield_now().await;
        }
        go.add_permits(100);
        assert_eq!(first.await.unwrap(), 0);
        for other in others {
            assert_eq!(other.await.unwrap(), 1, "sought once for all, after they had asked");
        }
        assert_eq!(ask().await.unwrap(), 2);
    }

    #[tokio::test]
    async fn an_error_is_nobody_elses() {
        let joint = Joint::<u64>::default();
        assert_eq!(joint.ask(|| async { Err("away") }).await, Err("away"));
        assert_eq!(joint.ask(|| async { Ok::<_, &str>(7) }).await, Ok(7));
    }
}
