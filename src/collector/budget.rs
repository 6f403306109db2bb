//! The byte budget that all pipelines of a process share: bytes received and not yet settled. Above it nobody pulls.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts bytes against a limit.
#[derive(Debug)]
pub struct ByteBudget {
    limit: u64,
    used: AtomicU64,
}

impl ByteBudget {
    /// A budget of `limit` bytes.
    pub fn new(limit: u64) -> Self {
        Self { limit, used: AtomicU64::new(0) }
    }

    /// Counts `bytes` that were received.
    pub fn take(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts `bytes` that were settled or dropped.
    pub fn give(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes held now.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Bytes that may still be pulled; 0 above the limit.
    pub fn free(&self) -> u64 {
        self.limit.saturating_sub(self.used())
    }
}
