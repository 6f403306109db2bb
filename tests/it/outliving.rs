//! What every backend promises whose executions outlive the controller, beside the contract of all: `docker` and `kubernetes`
//! run it against theirs.

use crate::executor::{PLAIN, SOON, World, id, observed, runs};
use crate::support::eventually;
use sluice::executor::Executor;
use sluice::pipeline::report::Trouble;
use sluice::pipeline::spec::ExecutionSpec;
use sluice::pipeline::status::Reason;
use std::sync::Arc;
use std::time::Duration;

/// Another version of what [`PLAIN`] is.
pub fn newer() -> String {
    PLAIN.replace("1000", "900")
}

pub async fn is_stopped(backend: &dyn Executor) {
    eventually("it is stopped", SOON, || async { observed(backend).await.is_some_and(|seen| !seen.running) }).await;
}

/// Waits until the backend says what is in the way; `word` is in the message.
pub async fn says(backend: &dyn Executor, reason: Reason, word: &str) {
    let last = std::sync::Mutex::new(None);
    let said = || async {
        let seen = observed(backend).await;
        let right = |trouble: &Trouble| trouble.reason == reason && trouble.message.contains(word);
        let said = seen.as_ref().is_some_and(|seen| seen.troubles.iter().any(right));
        *last.lock().unwrap() = seen;
        said
    };
    let limit = tokio::time::timeout(2 * SOON, async {
        while !said().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(limit.await.is_ok(), "{reason:?} with '{word}' is not said: {:#?}", last.lock().unwrap());
}

/// Without the lease nothing is changed; `left` lists what the engine has.
pub async fn changes_nothing_without_the_lease(backend: &dyn Executor, one: &ExecutionSpec, left: impl AsyncFn() -> Vec<String>) {
    backend.permit(Arc::new(|| None));
    backend.ensure(one).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(left().await.is_empty());
    assert_eq!(observed(backend).await, None);
}

/// While its engine is away, what runs goes on and the backend says since when; once it is back, what was asked for meanwhile
/// is done. `one` and `two` are versions of one pipeline.
pub async fn waits_for_its_engine(
    backend: &dyn Executor,
    world: &World,
    [one, two]: [&ExecutionSpec; 2],
    kill: impl FnOnce(),
    restart: impl AsyncFnOnce(),
) {
    backend.ensure(one).await.unwrap();
    runs(backend, one).await;
    let mut events = backend.events();
    kill();
    world.send(0..100).await;
    world.stored(100).await;
    eventually("it is said to be away", SOON, || async {
        let asked = backend.observe(&id()).await;
        asked.is_err_and(|error| error.reason == Reason::EngineUnavailable && error.retry && error.message.contains("since"))
    })
    .await;
    backend.ensure(two).await.unwrap();
    while events.try_recv().is_ok() {}
    restart().await;
    runs(backend, two).await;
    eventually("an event hints at it", SOON, || {
        let hinted = events.try_recv().is_ok();
        async move { hinted }
    })
    .await;
    world.send(100..200).await;
    world.stored(200).await;
}
