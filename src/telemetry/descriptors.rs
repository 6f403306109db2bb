//! File descriptors: how many this process may have open, and how many it has. Every connection is one, and who has none
//! left reaches neither NATS nor MongoDB again.
//!
//! Raised once at the start, looked at every second since; health, the log and two metrics say it where they run out.

use super::metrics::Metrics;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// More are of no use, and some systems call a billion their limit.
const ENOUGH: u64 = 1 << 20;
const LOOK: Duration = Duration::from_secs(1);

/// Raises the limit as far as the system lets this process.
pub fn raise() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.unwrap_or(ENOUGH).min(ENOUGH);
    if current.is_none_or(|current| current >= wanted) {
        return;
    }
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }) {
        warn!(%error, limit = current, "the limit of file descriptors could not be raised");
    }
}

/// How many this process may have open; `None` for any number.
pub fn limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// How many are open, as of the last look.
#[derive(Debug, Default)]
pub struct Descriptors {
    open: AtomicU64,
    /// 0 for no limit.
    limit: AtomicU64,
}

impl Descriptors {
    /// Looks every second until `stop`.
    pub async fn watch(self: Arc<Self>, metrics: Arc<Metrics>, stop: CancellationToken) {
        let mut scarce = false;
        loop {
            self.note(open(), limit());
            let (open, limit) = self.get();
            metrics.descriptors(open, limit);
            if scarce != self.scarce() {
                scarce = !scarce;
                if scarce {
                    warn!(open, limit, "file descriptors are running out, connections will fail; raise the limit (ulimit -n, LimitNOFILE)");
                } else {
                    info!(open, limit, "there are enough file descriptors again");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// What is open, and the limit; 0 for none, or before the first look.
    pub fn get(&self) -> (u64, u64) {
        (self.open.load(Ordering::Relaxed), self.limit.load(Ordering::Relaxed))
    }

    /// Whether nine of ten are in use.
    pub fn scarce(&self) -> bool {
        let (open, limit) = self.get();
        limit > 0 && open >= limit - limit / 10
    }

    fn note(&self, open: Option<u64>, limit: Option<u64>) {
        let limit = limit.unwrap_or(0);
        // Counting them takes one, too: where there is none left, all are in use.
        self.open.store(open.unwrap_or(limit), Ordering::Relaxed);
        self.limit.store(limit, Ordering::Relaxed);
    }
}

/// How many are open; `None` where that cannot be found out because there is none left.
fn open() -> Option<u64> {
    match std::fs::read_dir("/proc/self/fd") {
        Ok(all) => Some(all.count() as u64),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Some(0),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_scarce_where_a_tenth_is_left_or_counting_needs_one_more() {
        let descriptors = Descriptors::default();
        assert!(!descriptors.scarce(), "not looked at yet");
        for (open, limit, scarce) in
            [(Some(900), Some(1024), false), (Some(930), Some(1024), true), (None, Some(1024), true), (Some(930), None, false)]
        {
            descriptors.note(open, limit);
            assert_eq!(descriptors.scarce(), scarce, "{open:?} of {limit:?}");
        }
    }

    #[test]
    fn what_is_open_is_counted() {
        let before = open().unwrap();
        let files: Vec<_> = (0..50).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        assert!(open().unwrap() + 10 >= before + files.len() as u64, "other tests open and close some, too");
    }
}
