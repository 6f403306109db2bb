//! How long to wait before the next try: doubling from a first delay to a cap, with jitter that the caller brings.
//!
//! Pure, so that the queue, the watches, the sink and the simulator all back off alike.

use std::time::Duration;

/// Doubling delays with a cap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The first delay.
    pub first: Duration,
    /// The longest delay.
    pub cap: Duration,
}

impl Backoff {
    /// Delays from `first`, doubled each time, to `cap`.
    pub const fn new(first: Duration, cap: Duration) -> Self {
        Self { first, cap }
    }

    /// The delay before try `failures` (1 after the first failure). `random` in `0..=1` spreads it over the upper half
    /// of the delay, so that many who failed together do not try together.
    pub fn delay(&self, failures: u32, random: f64) -> Duration {
        let doubled = self.first.saturating_mul(1u32 << failures.saturating_sub(1).min(20));
        let full = doubled.min(self.cap);
        full.mul_f64(0.5 + 0.5 * random.clamp(0.0, 1.0))
    }
}

/// `every` within a fifth more or less, by a `random` number in `0..1`: what many do at intervals is not to fall together.
pub fn jittered(every: Duration, random: f64) -> Duration {
    every.mul_f64(0.8 + 0.4 * random)
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn a_delay_lies_between_half_and_all_of_the_doubled_one(failures in 0u32..200, random in 0.0f64..=1.0) {
            let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
            let delay = backoff.delay(failures, random);
            proptest::prop_assert!(delay >= Duration::from_millis(50) && delay <= Duration::from_secs(30));
            proptest::prop_assert!(backoff.delay(failures, 1.0) >= delay);
        }
    }
}
