//! Makes a failing life as small as it can be and still fail: fewer faults, fewer documents, shorter faults, one process.

use super::mutants::Mutant;
use super::plan::{PROOF, Plan, Publish};
use super::world::live;

/// The smallest plan that is found to fail in the same way, which is what the first words of the failure say.
pub fn shrink(plan: &Plan, mutant: Option<Mutant>) -> Plan {
    let way = |plan: &Plan| live(plan, mutant, false).err().map(|failure| failure.message.split(' ').take(2).collect::<String>());
    let failed = way(plan);
    let fails = |plan: &Plan| way(plan) == failed;
    let mut best = plan.clone();
    loop {
        let before = (best.faults.len(), best.publishes.len(), best.processes);
        best = without(best, |plan| &mut plan.faults, &fails);
        // Without those at the end a plan may never prove its config.
        let proof: Vec<Publish> = best.publishes.iter().filter(|publish| publish.at >= PROOF).copied().collect();
        best.publishes.retain(|publish| publish.at < PROOF);
        let whole = |plan: &Plan| Plan { publishes: plan.publishes.iter().chain(&proof).copied().collect(), ..plan.clone() };
        best = whole(&without(best, |plan| &mut plan.publishes, &|plan| fails(&whole(plan))));
        if best.processes > 1 {
            let fewer = Plan { processes: best.processes - 1, faults: in_seats(&best), ..best.clone() };
            if fails(&fewer) {
                best = fewer;
            }
        }
        for number in 0..best.faults.len() {
            let mut shorter = best.clone();
            shorter.faults[number].lasts /= 2;
            if fails(&shorter) {
                best = shorter;
            }
        }
        if before == (best.faults.len(), best.publishes.len(), best.processes) {
            return best;
        }
    }
}

/// Takes out halves, quarters … of a list as long as it still fails.
fn without<T: Clone>(mut best: Plan, list: impl Fn(&mut Plan) -> &mut Vec<T>, fails: &impl Fn(&Plan) -> bool) -> Plan {
    let mut size = list(&mut best).len().div_ceil(2);
    while size > 0 {
        let mut at = 0;
        while at < list(&mut best).len() {
            let mut fewer = best.clone();
            let items = list(&mut fewer);
            let end = (at + size).min(items.len());
            items.drain(at..end);
            if fails(&fewer) {
                best = fewer;
            } else {
                at += size;
            }
        }
        size = if size == 1 { 0 } else { size.div_ceil(2) };
    }
    best
}

/// The faults of a plan with one seat less.
fn in_seats(plan: &Plan) -> Vec<super::plan::Fault> {
    use super::plan::What;
    let seats = plan.processes - 1;
    let seat = |of: usize| of.min(seats - 1);
    let mut faults = plan.faults.clone();
    for fault in &mut faults {
        fault.what = match fault.what {
            What::Cut(of) => What::Cut(seat(of)),
            What::Crash(of) => What::Crash(seat(of)),
            What::Sleep(of) => What::Sleep(seat(of)),
            What::Frozen(of) => What::Frozen(seat(of)),
            What::Jump(of) => What::Jump(seat(of)),
            What::Restart(of) => What::Restart(seat(of)),
            what => what,
        };
    }
    faults
}
