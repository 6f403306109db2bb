//! Soaks: a plan of misfortunes drawn from a seed, producers that never stop, and an account of every publish at the end.
//!
//! [`plan`] is pure: the same seed makes the same deeds. A test carries them out on its own processes and servers (see
//! `controllers::soak`), while a [`Ledger`]'s producers publish; at the end the ledger says where everything is.
//!
//! `SLUICE_SOAK_SEED` repeats a plan, `SLUICE_SOAK_SECONDS` makes it as long as one likes.

mod ledger;

pub use ledger::{Account, Ledger};

use rand::prelude::*;
use std::time::Duration;

/// One misfortune, or one edit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// Ends a process as its operator would, and starts it again.
    Restart(usize),
    /// Kills a process, and starts it again after a while.
    Kill(usize, Duration),
    /// Stops a process where it stands, for a while.
    Sleep(usize, Duration),
    /// Publishes another version of a pipeline.
    Version(usize),
    /// Publishes a version that writes to another collection.
    Target(usize),
}

/// How often each kind of deed comes, relative to the others.
#[derive(Debug, Clone, Copy)]
pub struct Mix {
    pub restarts: u32,
    pub kills: u32,
    pub sleeps: u32,
    pub versions: u32,
    pub targets: u32,
}

/// The deeds of a soak, each with its moment, in order. Every so often one comes, between half and one and a half times
/// `every` after the one before.
pub fn plan(seed: u64, lasts: Duration, every: Duration, mix: Mix, (processes, pipelines): (usize, usize)) -> Vec<(Duration, Deed)> {
    let mut dice = StdRng::seed_from_u64(seed);
    let mut deeds = Vec::new();
    let mut at = every;
    while at < lasts {
        let (process, pipeline) = (dice.random_range(0..processes), dice.random_range(0..pipelines));
        // Longer than a lease now and then.
        let long = Duration::from_millis(dice.random_range(200..14_000));
        let short = Duration::from_millis(dice.random_range(0..2_000));
        let deeds_by_weight = [
            (mix.restarts, Deed::Restart(process)),
            (mix.kills, Deed::Kill(process, short)),
            (mix.sleeps, Deed::Sleep(process, long)),
            (mix.versions, Deed::Version(pipeline)),
            (mix.targets, Deed::Target(pipeline)),
        ];
        let mut drawn = dice.random_range(0..deeds_by_weight.iter().map(|(weight, _)| weight).sum());
        for (weight, deed) in deeds_by_weight {
            if drawn < weight {
                deeds.push((at, deed));
                break;
            }
            drawn -= weight;
        }
        at += every.mul_f64(dice.random_range(0.5..1.5));
    }
    deeds
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
    let mix = Mix { restarts: 1, kills: 1, sleeps: 1, versions: 1, targets: 0 };
    let plan = |seed| plan(seed, Duration::from_secs(600), Duration::from_secs(1), mix, (3, 2));
    assert_eq!(plan(7), plan(7));
    assert_ne!(plan(7), plan(8));
    assert!(plan(7).len() > 300 && plan(7).is_sorted_by_key(|(at, _)| *at));
    assert!(!plan(7).iter().any(|(_, deed)| matches!(deed, Deed::Target(_))), "what weighs nothing never comes");
}
