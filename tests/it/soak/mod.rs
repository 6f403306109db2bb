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
    /// Publishes a version that writes somewhere else.
    Target(usize),
    /// Lets a producer of the first parent start.
    Add(usize),
}

/// How long it is between two deeds of a kind, on average; zero for kinds that never come.
#[derive(Debug, Clone, Copy)]
pub struct Mix {
    pub restarts: Duration,
    pub kills: Duration,
    pub sleeps: Duration,
    pub versions: Duration,
    pub targets: Duration,
    pub adds: Duration,
}

/// How many there are of those that deeds happen to.
#[derive(Debug, Clone, Copy)]
pub struct Cast {
    pub processes: usize,
    /// Pipelines that have versions.
    pub versioned: usize,
    /// Producers of the first parent.
    pub producers: usize,
}

/// The deeds of a soak, each with its moment, in order. Those of a kind come between half and one and a half times its
/// time after one another.
pub fn plan(seed: u64, lasts: Duration, mix: Mix, cast: Cast) -> Vec<(Duration, Deed)> {
    let Cast { processes, versioned, producers } = cast;
    type Draw = fn(usize, &mut StdRng) -> Deed;
    let kinds: [(Duration, usize, Draw); 6] = [
        (mix.restarts, processes, |process, _| Deed::Restart(process)),
        (mix.kills, processes, |process, dice| Deed::Kill(process, Duration::from_millis(dice.random_range(0..2_000)))),
        // Longer than a lease now and then.
        (mix.sleeps, processes, |process, dice| Deed::Sleep(process, Duration::from_millis(dice.random_range(200..14_000)))),
        (mix.versions, versioned, |pipeline, _| Deed::Version(pipeline)),
        (mix.targets, versioned, |pipeline, _| Deed::Target(pipeline)),
        (mix.adds, producers, |producer, _| Deed::Add(producer)),
    ];
    let mut dice = StdRng::seed_from_u64(seed);
    let mut deeds = Vec::new();
    for (every, places, draw) in kinds.into_iter().filter(|(every, ..)| !every.is_zero()) {
        let mut at = every.mul_f64(dice.random_range(0.25..1.0));
        while at < lasts {
            let place = dice.random_range(0..places);
            deeds.push((at, draw(place, &mut dice)));
            at += every.mul_f64(dice.random_range(0.5..1.5));
        }
    }
    deeds.sort_by_key(|(at, _)| *at);
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
    let seconds = Duration::from_secs;
    let (every, cast) = (seconds(6), Cast { processes: 3, versioned: 2, producers: 1 });
    let mix = Mix { restarts: every, kills: every, sleeps: every, versions: every, targets: Duration::ZERO, adds: seconds(60) };
    let plan = |seed| plan(seed, seconds(600), mix, cast);
    assert_eq!(plan(7), plan(7));
    assert_ne!(plan(7), plan(8));
    assert!(plan(7).len() > 300 && plan(7).is_sorted_by_key(|(at, _)| *at));
    assert!(!plan(7).iter().any(|(_, deed)| matches!(deed, Deed::Target(_))), "what takes no time never comes");
    let adds = plan(7).iter().filter(|(_, deed)| matches!(deed, Deed::Add(0))).count();
    assert!((6..=20).contains(&adds), "{adds}");
}
