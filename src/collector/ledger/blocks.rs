//! How many sequences an owner reserves at once: few in a trickle, since what is reserved and not used is suspect after a crash; under
//! load so many that a write of the ledger serves ten thousand messages. Pure; used by the core.

use std::time::Duration;

/// How many sequences are reserved at once.
#[derive(Debug, Clone, Copy)]
pub struct Blocks {
    size: u64,
}

impl Blocks {
    /// Of a stream that nothing is known of.
    pub const SMALLEST: u64 = 1_000;
    /// Under load: half of it is used up before the next one is asked for, so that nothing waits; a write for 10,000 messages.
    pub const LARGEST: u64 = 20_000;
    /// A block that lasts shorter is too small.
    const SHORT: Duration = Duration::from_secs(20);

    /// The first one is small: what is reserved and not used is suspect after a crash.
    pub fn new() -> Self {
        Self { size: Self::SMALLEST }
    }

    /// Up to which sequence to reserve where `arrived` is the highest that arrived; `None` where `reserved` still suffices.
    pub fn wanted(&self, arrived: u64, reserved: u64) -> Option<u64> {
        (arrived.saturating_add(self.size / 2) > reserved).then(|| arrived.saturating_add(self.size))
    }

    /// A block was reserved; the one before it lasted for `lasted`.
    pub fn reserved(&mut self, lasted: Duration) {
        self.size = if lasted < Self::SHORT { (self.size * 4).min(Self::LARGEST) } else { (self.size / 4).max(Self::SMALLEST) };
    }
}

impl Default for Blocks {
    fn default() -> Self {
        Self::new()
    }
}
