//! Real servers and the real binary for the integration tests: each started on a free port in a directory of its own,
//! each killed when its handle is dropped, also by a panic; never anything that the test did not start.
//!
//! `SLUICE_TEST_MONGO_URL` makes the tests use a MongoDB that is there already, in databases of random names.
//! `SLUICE_TEST_KUBECONFIG` does so with a Kubernetes cluster, see `kubernetes.rs`.
//! `SLUICE_TEST_KEEP=1` keeps the directories (logs, data) for a look afterwards.

// A toolbox: not everything in it is in use at every time.
#![allow(dead_code, unused_imports)]

mod commands;
mod docker;
mod http;
mod kubernetes;
mod mongo;
mod nats;
mod nats_cluster;
mod process;
mod proxy;
pub mod raw;
pub mod replies;
mod serving;
mod sluice;
mod tools;
pub mod wire;

pub use commands::Commands;
pub use docker::{Cleaning, Docker};
pub use http::http_get;
pub use kubernetes::{Cluster, Component, Namespace};
pub use mongo::{Mongo, Server, certificate};
pub use nats::Nats;
pub use nats_cluster::NatsCluster;
pub use process::{Process, free_port};
pub use proxy::{Proxy, Side, Tap};
pub use raw::RawProducer;
pub use sluice::{Run, Sluice};
pub use tools::{missing, tool};

use std::time::{Duration, Instant};

/// Ends the test where one of the named programs cannot be had: loudly, and as a failure where `CI=true`.
macro_rules! require {
    ($($tool:literal),+ $(,)?) => {
        if let Some(what) = $crate::support::missing(&[$($tool),+]) {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "{what}");
            $crate::support::skipped(&what);
            return;
        }
    };
}

/// Says that the running test is skipped, and why. The test harness keeps back what the print macros write; this goes to
/// the real stderr.
pub fn skipped(why: &str) {
    use std::io::Write;
    let thread = std::thread::current();
    // A runtime's own threads have other names; tests begin on the thread that bears theirs.
    let line = format!("SKIPPED {}: {why}\n", thread.name().unwrap_or("a test"));
    // Nothing can be said where stderr is closed.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// How many times as long as it should take is waited before a test is given up: a machine that is busy with other things
/// proves nothing. What is promised within a time is asked for by [`within`], or measured.
pub const PATIENCE: u32 = 3;

/// Asks `condition` again and again until it holds, which should take no longer than `expected`; panics with `what` when it
/// took [`PATIENCE`] times as long.
pub async fn eventually<F, Fut>(what: &str, expected: Duration, condition: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    within(what, PATIENCE * expected, condition).await;
}

/// Asks `condition` again and again until it holds; panics with `what` after `timeout`, on however slow a machine.
pub async fn within<F, Fut>(what: &str, timeout: Duration, mut condition: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let start = Instant::now();
    loop {
        // A condition that hangs (a server that is down) must not hang the test.
        if let Ok(true) = tokio::time::timeout(timeout.saturating_sub(start.elapsed()), condition()).await {
            return;
        }
        assert!(start.elapsed() < timeout, "not within {timeout:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A short random name, for databases and namespaces.
pub fn random_name(prefix: &str) -> String {
    format!("{prefix}_{}", &uuid::Uuid::new_v4().simple().to_string()[..12])
}

/// A directory that goes when it is dropped, unless `SLUICE_TEST_KEEP` is set.
pub fn temp_dir(what: &str) -> tempfile::TempDir {
    let mut dir = tempfile::Builder::new().prefix(&format!("sluice-{what}-")).tempdir().expect("a temporary directory");
    if std::env::var_os("SLUICE_TEST_KEEP").is_some() {
        eprintln!("kept: {}", dir.path().display());
        dir.disable_cleanup(true);
    }
    dir
}
