//! Whole lives in the simulated world, one a seed: `SLUICE_SEED=n` repeats one, `SLUICE_SEEDS=n` runs more of them.

use super::*;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Runs one life to its end.
fn run(seed: u64) {
    let mut world = World {
        seed,
        random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        now: 0,
        messages: Vec::new(),
        slots: BTreeMap::new(),
        cleared: BTreeSet::new(),
        next_slot: 0,
        pulls: Vec::new(),
        coming: BinaryHeap::new(),
        order: 0,
        faults_until: 100 * SECOND,
        batches: Batches { count: 0, bytes: 0, period: 5 * SECOND, linger: 0, max_in_flight: 2, first_half_only: seed.is_multiple_of(3) },
        max_ack_pending: 0,
        most_held: 0,
    };
    world.batches.count = [1, 10, 50, 100][world.random(4) as usize];
    world.batches.bytes = [2_000, 20_000, 1 << 24][world.random(3) as usize];
    world.batches.max_in_flight = 1 + world.random(4) as u32;
    world.max_ack_pending = [0, 40, 1000][world.random(3) as usize];
    // A bad one in twenty: fewer than may wait aside, so that the good ones are reached.
    for number in 0..800 {
        // The last hundred come slowly, so that the others have neighbours for a while.
        let from = if number < 700 { 0 } else { (number - 700) * 10 * SECOND };
        let bad = world.random(20) == 0 && number > 0 && number < 700;
        let nature = match (bad, world.random(12)) {
            (false, _) => Nature::Good,
            (true, 0) => Nature::Poison,
            (true, 1..4) => Nature::Refused,
            (true, 4..7) => Nature::Unreadable,
            (true, 7..9) => Nature::Stored,
            (true, _) => Nature::Taken,
        };
        // The target changed in the middle of every second life.
        let check = seed.is_multiple_of(2) && number < 400;
        let elsewhere = check && nature == Nature::Good && world.random(3) == 0;
        let bytes = 20 + world.random(400) as u32;
        world.messages.push(Message {
            nature,
            bytes,
            from,
            check,
            elsewhere,
            leased_until: None,
            settled: false,
            stored: false,
            buried: false,
        });
    }
    let limits = Limits { ack_wait: ACK_WAIT, max_ack_pending: world.max_ack_pending, live: 1, max_batch: 0 };
    let mut core = Core::new(world.batches, limits, false, seed);
    let mut out = Vec::new();
    core.on(Event::Target(Target::Good), Now { at: 0, free: 1 << 30, outstanding: 0 }, &mut out);
    let end = 3_000 * SECOND;
    let mut next_deliver = 0;
    while world.now < end {
        for effect in std::mem::take(&mut out) {
            world.carry(&core, effect);
        }
        world.most_held = world.most_held.max(core.in_hand());
        let coming = world.coming.peek().map_or(Nanos::MAX, |Reverse((at, ..))| *at);
        if world.messages.iter().all(|m| m.settled) && core.in_hand() == 0 {
            break;
        }
        world.now = coming.min(core.next_deadline()).min(next_deliver).max(world.now);
        if world.now >= next_deliver {
            next_deliver = world.now + 3 * MS;
            world.deliver();
            if world.pulls.is_empty()
                || world.messages.iter().all(|m| m.settled || m.from > world.now || m.leased_until.is_some_and(|u| u > world.now))
            {
                // Nothing to deliver for now: look again when a lease may have ended.
                next_deliver = world.now + 200 * MS;
            }
            if world.chance(1) {
                world.pulls.clear();
                core.on(Event::Gap, Now { at: world.now, free: 1 << 30, outstanding: 0 }, &mut out);
            }
            if world.random(4) == 0 && world.chance(1) {
                core.on(Event::OtherStream, Now { at: world.now, free: 1 << 30, outstanding: world.outstanding() }, &mut out);
            }
        }
        if coming <= world.now
            && let Some(Reverse((_, _, coming))) = world.coming.pop()
        {
            world.happen(&mut core, coming, &mut out);
            continue;
        }
        let now = Now { at: world.now, free: 1 << 30, outstanding: world.outstanding() };
        core.on(Event::Tick, now, &mut out);
    }
    let batch = core.batch_count();
    let bound = (batch * u64::from(world.batches.max_in_flight + 5)).max(256) + 300 + 1000.max(4 * batch);
    assert!(world.most_held <= bound, "seed {seed}: held {} of {bound}", world.most_held);
    for (number, message) in world.messages.iter().enumerate() {
        let bad = matches!(message.nature, Nature::Refused | Nature::Unreadable | Nature::Taken | Nature::Poison);
        assert!(message.settled, "seed {seed}: message {number} {message:?} is not settled; {core:?}");
        assert_eq!(message.buried, bad, "seed {seed}: message {number} {message:?}");
        assert!(message.stored != message.elsewhere || message.nature != Nature::Good, "seed {seed}: message {number} {message:?}");
    }
    assert!(world.slots.is_empty(), "seed {seed}: slots are left");
}

#[test]
fn under_any_faults_nothing_is_lost_and_nothing_is_settled_without_proof() {
    let seeds: BTreeSet<u64> = match number("SLUICE_SEED") {
        Some(seed) => [seed].into(),
        None => (1..=number("SLUICE_SEEDS").unwrap_or(60)).collect(),
    };
    for seed in seeds {
        run(seed);
    }
}
