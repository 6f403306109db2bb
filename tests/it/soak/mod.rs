//! Soaks: a plan of misfortunes drawn from a seed, producers that never stop, and an account of every publish at the end.
//!
//! [`plan`] is pure: the same seed makes the same deeds. A test carries them out on its own processes and servers (see
//! `controllers::soak` and `torture`), where [`Fates`] remember who sleeps and who is dead, while a [`Ledger`]'s producers
//! publish; at the end the ledger says where everything is.
//!
//! `SLUICE_SOAK_SEED` repeats a plan, `SLUICE_SOAK_SECONDS` makes it as long as one likes.

mod fates;
mod ledger;
mod message;
mod report;

pub use fates::{Fates, Turn};
pub use ledger::{Account, Ledger, Pace};
pub use report::Report;

use rand::prelude::*;
use std::time::Duration;

/// A kind of deed: how long it is between two of them on average (never, where that is zero), and what one is.
pub struct Kind<D> {
    every: Duration,
    draw: Box<dyn Fn(&mut StdRng) -> D>,
}

impl<D> Kind<D> {
    pub fn new(every: Duration, draw: impl Fn(&mut StdRng) -> D + 'static) -> Self {
        Self { every, draw: Box::new(draw) }
    }
}

/// The deeds of a soak, each with its moment, in order. Those of a kind come between half and one and a half times its
/// time after one another.
pub fn plan<D>(seed: u64, lasts: Duration, kinds: &[Kind<D>]) -> Vec<(Duration, D)> {
    let mut dice = StdRng::seed_from_u64(seed);
    let mut deeds = Vec::new();
    for Kind { every, draw } in kinds.iter().filter(|kind| !kind.every.is_zero()) {
        let mut at = every.mul_f64(dice.random_range(0.25..1.0));
        while at < lasts {
            deeds.push((at, draw(&mut dice)));
            at += every.mul_f64(dice.random_range(0.5..1.5));
        }
    }
    deeds.sort_by_key(|(at, _)| *at);
    deeds
}

/// Some time within this range.
pub fn millis(dice: &mut StdRng, range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(dice.random_range(range))
}

/// The seed from `SLUICE_SOAK_SEED`, else another each time.
pub fn seed() -> u64 {
    std::env::var("SLUICE_SOAK_SEED").ok().map_or_else(rand::random, |seed| seed.parse().expect("SLUICE_SOAK_SEED is a number"))
}

/// How long from `SLUICE_SOAK_SECONDS`, else `short`.
pub fn lasts(short: Duration) -> Duration {
    let seconds = std::env::var("SLUICE_SOAK_SECONDS").ok();
    seconds.map_or(short, |seconds| Duration::from_secs(seconds.parse().expect("SLUICE_SOAK_SECONDS is a number")))
}

#[test]
fn the_same_seed_makes_the_same_plan() {
    let seconds = Duration::from_secs;
    let plan = |seed| {
        let kinds = [
            Kind::new(seconds(6), |dice: &mut StdRng| ("kill", dice.random_range(0..1_000))),
            Kind::new(Duration::ZERO, |_| ("never", 0)),
            Kind::new(seconds(60), |_| ("add", 0)),
        ];
        plan(seed, seconds(600), &kinds)
    };
    assert_eq!(plan(7), plan(7));
    assert_ne!(plan(7), plan(8));
    assert!(plan(7).len() > 80 && plan(7).is_sorted_by_key(|(at, _)| *at));
    assert!(!plan(7).iter().any(|(_, deed)| deed.0 == "never"), "what takes no time never comes");
    let adds = plan(7).iter().filter(|(_, deed)| deed.0 == "add").count();
    assert!((6..=20).contains(&adds), "{adds}");
}
