//! Whole lives of time-series pipelines, one a seed, and the rules of which each is needed: `SLUICE_SEED=n` repeats one,
//! `SLUICE_SEEDS=n` runs more of them.

use super::process::Process;
use super::*;

/// When a burst comes, and how long after the one before it.
const BURST: Nanos = 40 * SECOND;
const BURSTS: Nanos = 41 * SECOND;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Runs one life to its end; what was wrong with it.
fn run(seed: u64, mutation: Mutation) -> Result<(), String> {
    let faults_until = 150 * SECOND;
    let mut world = World {
        seed,
        random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        mutation,
        now: 0,
        crashes: !seed.is_multiple_of(4),
        resets: seed.is_multiple_of(2),
        zombies: seed.is_multiple_of(3),
        bursts: seed % 7 == 6,
        forgets_at: Nanos::MAX,
        faults_until,
        messages: Vec::new(),
        page: None,
        records: Vec::new(),
        copies: Vec::new(),
        doubled: 0,
        coming: BinaryHeap::new(),
        things: BTreeMap::new(),
        order: 0,
        next_id: 0,
    };
    for _ in 0..300 {
        let from = if world.bursts { BURST + BURSTS * world.random(3) } else { world.random(120) * SECOND };
        world.messages.push(Message { from, ..Message::default() });
    }
    // Sequences ascend with the time of publishing.
    world.messages.sort_by_key(|message| message.from);
    let mut lives = 0;
    let mut processes: Vec<Process> = Vec::new();
    for number in 0..1 + world.random(3) as usize {
        lives += 1;
        processes.push(Process::start(&mut world, number, lives));
    }
    let mut next_turn = 0;
    // Until long after the last look at a record.
    let (end, patience) = (9_000 * SECOND, 1_500 * SECOND);
    while world.now < end {
        let settled = world.messages.iter().all(|message| message.settled);
        if settled && world.records.is_empty() && world.coming.is_empty() && world.now > faults_until {
            break;
        }
        if !settled && world.now > patience {
            let left = world.messages.iter().filter(|message| !message.settled).count();
            return Err(format!("{left} messages are not settled"));
        }
        let coming = world.coming.peek().map_or(Nanos::MAX, |Reverse((at, _))| *at);
        let due = processes.iter().map(Process::due).min().unwrap_or(Nanos::MAX);
        world.now = coming.min(due).min(next_turn).max(world.now);
        if world.now >= next_turn {
            next_turn = world.now + if settled { 60 * SECOND } else { 20 * MS };
            turn(&mut world, &mut processes, &mut lives)?;
        }
        if coming <= world.now
            && let Some(Reverse((_, order))) = world.coming.pop()
            && let Some(thing) = world.things.remove(&order)
        {
            happen(&mut world, &mut processes, thing)?;
        }
        for process in processes.iter_mut().filter(|process| !process.gone) {
            if process.suspended_until <= world.now && process.due() <= world.now {
                process.event(&mut world, Event::Tick)?;
                process.keep(&mut world)?;
            }
        }
    }
    judge(&world)
}

/// Deliveries, and what befalls servers and processes.
fn turn(world: &mut World, processes: &mut [Process], lives: &mut u64) -> Result<(), String> {
    for process in processes.iter_mut().filter(|process| !process.gone && process.outstanding > 0) {
        process.pull(world);
    }
    if world.now >= world.forgets_at || world.resets && world.chance(2) {
        world.forgets_at = Nanos::MAX;
        // The server has forgotten what it delivered, and nobody notices.
        for message in &mut world.messages {
            message.leased_until = 0;
        }
    }
    for (number, process) in processes.iter_mut().enumerate() {
        if process.gone || (world.crashes && world.chance(2)) {
            *lives += 1;
            // What was on its way arrives all the same.
            *process = Process::start(world, number, *lives);
        } else if world.crashes && !process.leaving && world.chance(1) {
            process.leaving = true;
            let deadline = world.now + 10 * SECOND;
            process.event(world, Event::Stop(deadline))?;
        } else if world.bursts && process.keeper.term().is_some() && world.now % BURSTS >= BURST - SECOND && world.chance(60) {
            process.suspended_until = world.now + (16 + world.random(10)) * SECOND;
            world.forgets_at = process.suspended_until + world.random(40) * MS;
        } else if world.zombies && world.chance(1) {
            process.suspended_until = world.now + world.random(90) * SECOND;
        }
    }
    Ok(())
}

fn happen(world: &mut World, processes: &mut [Process], thing: Coming) -> Result<(), String> {
    match thing {
        Coming::Arrives(process, life, request) => {
            let lost = world.chance(10);
            let failed = request.failed();
            let reply = world.carry_out(request);
            let (reply, delay) = if lost { (failed, 12 * SECOND) } else { (reply, MS) };
            world.later(delay, Coming::Returns(process, life, reply));
        }
        Coming::Returns(process, life, reply) => {
            let Some(process) = processes.get_mut(process).filter(|process| process.life == life && !process.gone) else { return Ok(()) };
            if process.suspended_until > world.now {
                let delay = process.suspended_until - world.now;
                world.later(delay, Coming::Returns(process.number, life, reply));
                return Ok(());
            }
            process.hear(world, reply)?;
            process.keep(world)?;
        }
    }
    Ok(())
}

fn judge(world: &World) -> Result<(), String> {
    let mut copies = vec![0; world.messages.len()];
    for copy in &world.copies {
        copies[copy.message] += 1;
    }
    let (lost, twice) = (copies.iter().filter(|count| **count == 0).count(), copies.iter().filter(|count| **count > 1).count());
    let harmless = !(world.zombies || world.bursts || world.crashes && world.resets);
    match (lost, twice) {
        (0, 0) if world.doubled > 0 && harmless => Err(format!("{} doubled before repair, without any zombie", world.doubled)),
        (0, 0) => Ok(()),
        _ => Err(format!("{lost} lost, {twice} doubled after repair")),
    }
}

#[test]
fn whoever_crashes_leaves_or_wakes_up_each_measurement_is_there_once_after_repair() {
    let seeds: Vec<u64> = match number("SLUICE_SEED") {
        Some(seed) => vec![seed],
        None => (1..=number("SLUICE_SEEDS").unwrap_or(150)).collect(),
    };
    for seed in seeds {
        if let Err(what) = run(seed, Mutation::None) {
            panic!("seed {seed}: {what}");
        }
    }
}

#[test]
fn every_rule_of_the_ledger_is_needed() {
    for mutation in [
        Mutation::TakeOverKnowsNothing,
        Mutation::NothingReserved,
        Mutation::RedeliveriesAreNew,
        Mutation::LookUpIsBlind,
        Mutation::NoBarrier,
        Mutation::LeaseIgnored,
        Mutation::RepairKeepsAny,
        Mutation::NothingRecorded,
        Mutation::OneId,
        Mutation::TakenByBoth,
        Mutation::NobodyStepsBack,
        Mutation::ReservedInAnyTerm,
    ] {
        let caught = (1..=400).find(|seed| run(*seed, mutation).is_err());
        eprintln!("{mutation:?}: caught by seed {caught:?}");
        assert!(caught.is_some(), "nobody notices {mutation:?}");
    }
}
