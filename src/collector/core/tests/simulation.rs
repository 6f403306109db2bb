//! Whole lives of the core in a simulated world, one a seed: a JetStream stream and consumer, a database, dead letters and
//! processes, all of which do what the real ones were seen to do, and faults in all of them.
//!
//! ```text
//! seed ── plan: settings, publishes, faults ── world ─┬─ stream, database: what the servers do
//!                                                      ├─ process: the core and what the driver keeps around it
//!                                                      └─ carry: each effect is looked at before it is carried out
//! ```
//!
//! Checked at each step: nothing is acknowledged before a reply said that it is stored, nothing terminated before its dead
//! letter is, nothing sent past a lease, nothing given back that was sent, no budget overdrawn, no pull in an outage, and
//! none in one that another pipeline of the process found, in which a try of the database takes a turn. At
//! the end: every document whose publish was acknowledged is in one collection once or among the dead letters once, and
//! where neither NATS nor a process had a fault, nothing was delivered twice. `mutants` are cores with a fault inside, each
//! of which these checks have to find.
//!
//! Not in this world, because not promised: a clock that stands still while the target changes, the tail of a stream lost
//! behind the backs of clients that keep their connection. A database task ends once, so its reply comes once; NATS's
//! replies come again now and then.
//!
//! `SLUICE_SIMULATION_SEED=n` runs one life and, if it fails, prints it shrunk; `SLUICE_SIMULATION_SEEDS=n` runs as many
//! (`make soak SEEDS=n`).

mod carry;
mod database;
mod doubts;
mod gate;
mod mutants;
mod plan;
mod process;
mod seats;
mod servers;
mod shrink;
mod stream;
mod world;

use mutants::Mutant;
use plan::Plan;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use world::{Failure, Tally, live};

/// Lives in a normal run of the tests.
const LIVES: u64 = 2_000;
/// Lives within which each mutant has to be caught.
const CAUGHT_WITHIN: u64 = 2_000;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Runs the lives of `seeds` on all cores, until one fails: which one, and the sum of all.
fn first_failure(seeds: std::ops::RangeInclusive<u64>, mutant: Option<Mutant>) -> (Option<u64>, Tally) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let failed = AtomicU64::new(u64::MAX);
    let (first, last) = (*seeds.start(), *seeds.end());
    let run = |thread: u64| {
        let mut sum = Tally::default();
        for seed in (first + thread..=last).step_by(threads as usize) {
            if seed > failed.load(Relaxed) {
                break;
            }
            match live(&Plan::of(seed), mutant, false) {
                Ok(tally) => sum = sum.plus(tally),
                Err(_) => {
                    failed.fetch_min(seed, Relaxed);
                }
            }
        }
        sum
    };
    let sum = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|thread| scope.spawn(move || run(thread))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).fold(Tally::default(), Tally::plus)
    });
    (Some(failed.into_inner()).filter(|seed| *seed < u64::MAX), sum)
}

/// A failing life, shrunk, for people.
fn explain(seed: u64, mutant: Option<Mutant>) -> String {
    let plan = shrink::shrink(&Plan::of(seed), mutant);
    let Failure { message, trace } = live(&plan, mutant, true).unwrap_err();
    let mut text = format!("seed {seed}: {message}\n");
    let _ = writeln!(
        text,
        "shrunk to {} documents, {} faults, {} processes; {:?}",
        plan.publishes.len(),
        plan.faults.len(),
        plan.processes,
        plan.batches
    );
    for line in &trace[trace.len().saturating_sub(300)..] {
        let _ = writeln!(text, "  {line}");
    }
    let _ = writeln!(text, "again: SLUICE_SIMULATION_SEED={seed} cargo test --lib simulation::under_any_faults -- --nocapture");
    text
}

#[test]
fn under_any_faults_every_acknowledged_publish_is_stored_once_or_a_dead_letter_once() {
    if let Some(seed) = number("SLUICE_SIMULATION_SEED") {
        assert!(live(&Plan::of(seed), None, false).is_ok(), "{}", explain(seed, None));
        return;
    }
    let lives = number("SLUICE_SIMULATION_SEEDS").unwrap_or(LIVES);
    let first = number("SLUICE_SIMULATION_FROM").unwrap_or(1);
    let (failed, sum) = first_failure(first..=first + lives - 1, None);
    if let Some(seed) = failed {
        panic!("{}", explain(seed, None));
    }
    eprintln!("{lives} lives: {sum:?}");
    assert!(sum.redelivered > lives / 4 && sum.buried > lives / 2, "the world is too kind: {sum:?}");
}

#[test]
fn each_core_that_is_wrong_on_purpose_is_caught() {
    let mut caught = Vec::new();
    let mut missed = Vec::new();
    for mutant in mutants::ALL {
        match first_failure(1..=CAUGHT_WITHIN, Some(mutant)).0 {
            Some(seed) => caught.push((mutant, seed)),
            None => missed.push(mutant),
        }
    }
    for (mutant, seed) in &caught {
        let message = live(&Plan::of(*seed), Some(*mutant), false).unwrap_err().message;
        eprintln!("{mutant:?}: caught by seed {seed}: {}", message.chars().take(160).collect::<String>());
    }
    eprintln!("{} of {} mutants caught", caught.len(), mutants::ALL.len());
    assert!(missed.is_empty(), "not caught within {CAUGHT_WITHIN} lives: {missed:?}");
}

#[test]
fn a_seed_makes_the_same_life_each_time_and_a_failing_one_is_shrunk_to_a_few_faults() {
    for seed in 1..20 {
        let trace = || match live(&Plan::of(seed), Some(Mutant::AckBeforeReply), true) {
            Ok(_) => Vec::new(),
            Err(failure) => failure.trace,
        };
        assert_eq!(trace(), trace());
    }
    let (seed, _) = first_failure(1..=CAUGHT_WITHIN, Some(Mutant::UnmetWriteConcernTakenAsDone));
    let shrunk = shrink::shrink(&Plan::of(seed.unwrap()), Some(Mutant::UnmetWriteConcernTakenAsDone));
    assert!(
        shrunk.faults.len() <= 2 && shrunk.publishes.len() <= 12,
        "{} faults, {} documents",
        shrunk.faults.len(),
        shrunk.publishes.len()
    );
}
