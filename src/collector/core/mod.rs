//! The sans-I/O core: decides everything, does nothing.
//!
//! `on(event, now, effects)` takes what happened and appends what is to be done; time, randomness and the state of the
//! world come in, so that a simulator can drive it. What always holds: a message is acknowledged only after a reply that
//! says its document is durable, terminated only after its dead letter is stored, and past its lease nothing is sent for
//! it; what is held is bounded in messages and bytes. By batch: no allocation per message in steady state.
//!
//! `batch` fills and sends batches, `check` looks into previous targets, `settle` reads replies, `refusal` has the rules of
//! blame, `series` those of time-series collections, `aside` keeps what cannot simply be stored, `lease` renews,
//! `pull` asks for more, `stop` ends. Driven by the driver.

mod aside;
mod batch;
mod breaker;
mod check;
mod group;
mod lease;
mod pull;
mod refusal;
mod series;
mod settle;
mod stop;
#[cfg(test)]
mod tests;
mod types;

pub use pull::FLOW_EXPIRES;
pub use types::{
    Arrival, Batches, Effect, Entry, Event, Gate, GroupId, Kind, Limits, MS, Nanos, Now, Outcome, Part, SECOND, Target, Totals, Troubles,
};

use crate::collector::classify::Class;
use aside::Burials;
use breaker::Breaker;
use group::{Group, Stage};
use pull::Pulls;
use series::Series;
use std::collections::{BTreeMap, VecDeque};

/// Vectors kept for the next batches.
const SPARE: usize = 8;

/// The core of one collector.
#[derive(Debug)]
pub struct Core {
    batches: Batches,
    limits: Limits,
    groups: BTreeMap<GroupId, Group>,
    /// The batch that is being filled; not in `groups`.
    forming: Group,
    forming_id: GroupId,
    next_id: u64,
    /// Groups in `Stage::Ready`, in the order in which they go.
    ready: VecDeque<GroupId>,
    /// Inserts under way.
    in_flight: u32,
    /// Look-ups in previous targets under way.
    checking: u32,
    /// Look-ups of suspects under way.
    resolving: u32,
    /// Of a time-series collection.
    series: Option<Series>,
    breaker: Breaker,
    pulls: Pulls,
    burials: Burials,
    target: Target,
    proven: bool,
    /// Messages and bytes not released yet.
    in_hand: u64,
    in_hand_bytes: u64,
    /// Messages in groups that wait aside.
    aside: u64,
    stopping: Option<Nanos>,
    /// When it was told to stop, and when it took its requests back.
    stopped_at: Nanos,
    withdrawn_at: Option<Nanos>,
    finished: bool,
    totals: Totals,
    random: u64,
    spare: Vec<Vec<Entry>>,
    wake: Nanos,
}

impl Core {
    /// A core that holds nothing. `proven`: a document of this config was stored before. `seed`: of all its randomness.
    pub fn new(batches: Batches, limits: Limits, proven: bool, seed: u64) -> Self {
        Self {
            batches,
            limits,
            groups: BTreeMap::new(),
            forming: Group::new(Stage::Ready, Vec::new()),
            forming_id: GroupId(0),
            next_id: 1,
            ready: VecDeque::new(),
            in_flight: 0,
            checking: 0,
            resolving: 0,
            series: None,
            breaker: Breaker::new(),
            pulls: Pulls::new(),
            burials: Burials::default(),
            target: Target::Unknown,
            proven,
            in_hand: 0,
            in_hand_bytes: 0,
            aside: 0,
            stopping: None,
            stopped_at: 0,
            withdrawn_at: None,
            finished: false,
            totals: Totals::default(),
            random: seed,
            spare: Vec::new(),
            wake: Nanos::MAX,
        }
    }

    /// Takes in what happened and appends what is to be done about it.
    pub fn on(&mut self, event: Event<'_>, now: Now, out: &mut Vec<Effect>) {
        if self.finished {
            return;
        }
        let at = now.at;
        match event {
            Event::Delivered { messages, pending } => self.delivered(messages, pending, at, out),
            Event::Inserted(group, outcome) => self.inserted(group, outcome, at, out),
            Event::LookedUp(group, outcome) => self.looked_up(group, outcome, at, out),
            Event::Checked(group, outcome) => self.checked(group, outcome, at, out),
            Event::Resolved(group, outcome) => self.resolved(group, outcome, at, out),
            Event::Reserved(failure) => self.reserved(failure, at),
            Event::Part(part) => self.play(part),
            Event::Acked(group, all) => self.acked(group, all, at, out),
            Event::Renewed(group, sent, all) => self.renewed(group, sent, all, at),
            Event::Buried(group, stored) => self.buried(group, stored, at, out),
            Event::Disowned(group) => self.disowned(group, out),
            Event::Pinged(failure) => match failure {
                None => self.breaker.answered(),
                Some(class) => {
                    let random = self.random();
                    self.breaker.failed(class, at, random);
                }
            },
            Event::Gate(gate) => self.breaker.gate(gate),
            Event::Gap => self.pulls.gap(at),
            Event::PullRefused => {
                let random = self.random();
                self.pulls.refused(at, random);
            }
            Event::Consumer(there) => self.pulls.consumer(there, at),
            Event::Limits(limits) => self.limit(limits),
            Event::OtherStream => {
                self.forget_series(at);
                self.forget_all(out);
            }
            Event::Target(target) => self.target = target,
            Event::Stop(deadline) => {
                if self.stopping.is_none() {
                    self.stopped_at = at;
                }
                self.stopping = Some(self.stopping.map_or(deadline, |old| old.min(deadline)));
            }
            Event::Tick => {}
        }
        self.advance(now, out);
    }

    /// Everything that time or the last event made due.
    fn advance(&mut self, now: Now, out: &mut Vec<Effect>) {
        // Past the deadline of a stop nothing begins any more: it would be about what is forgotten in the same breath.
        if self.stopping.is_none_or(|deadline| now.at < deadline) {
            self.keep_leases(now.at, out);
            self.step_back(now, out);
            self.retry_aside(now.at, out);
            self.close_when_due(now.at);
            self.reserve_more(out);
            self.start_inserts(now.at, out);
            self.bury_doomed(now.at, out);
            self.pull_more(now, out);
        }
        self.end_when_done(now, out);
        self.wake = self.next_wake(now);
    }

    /// When to call again with [`Event::Tick`] if nothing else happens; `Nanos::MAX`: never.
    pub fn next_deadline(&self) -> Nanos {
        self.wake
    }

    fn next_wake(&self, now: Now) -> Nanos {
        let forming = &self.forming;
        let renew = if forming.renewing.is_some() { forming.lease_ends } else { forming.renew_at };
        let mut wake = self.forming_due().min(renew);
        for group in self.groups.values() {
            let renews = group.renewing.is_none() && !matches!(group.stage, Stage::Acking | Stage::AckAgain);
            for at in [if renews { group.renew_at } else { group.lease_ends }, group.lease_ends, group.due] {
                // What is due already waits for an event.
                if at > now.at {
                    wake = wake.min(at);
                }
            }
        }
        // One that is due and could not begin waits for an event, too.
        if let Some(probe) = self.breaker.probe_at().filter(|probe| *probe > now.at) {
            wake = wake.min(probe);
        }
        wake = wake.min(self.series.as_ref().map(|series| series.quiet_until()).filter(|until| *until > now.at).unwrap_or(Nanos::MAX));
        wake = wake.min(self.pulls.due(now.at)).min(self.burials.due(now.at));
        if let Some(deadline) = self.stopping {
            wake = wake.min(deadline).min(now.at + 50 * MS);
        }
        if self.finished {
            return Nanos::MAX;
        }
        // What is due but cannot be done yet waits for its event, not for a spinning clock.
        wake.max(now.at + MS)
    }

    /// The messages of a group that an effect names.
    pub fn entries(&self, group: GroupId) -> &[Entry] {
        if group == self.forming_id {
            return &self.forming.entries;
        }
        self.groups.get(&group).map_or(&[], |group| &group.entries)
    }

    /// When the oldest message of a group was published, nanoseconds since the epoch.
    pub fn oldest(&self, group: GroupId) -> u64 {
        self.groups.get(&group).map_or(u64::MAX, |group| group.oldest_ns)
    }

    /// Takes back the vector of [`Effect::Release`] or [`Effect::Nak`].
    pub fn recycle(&mut self, mut entries: Vec<Entry>) {
        if self.spare.len() < SPARE && entries.capacity() > 0 {
            entries.clear();
            self.spare.push(entries);
        }
    }

    /// What is wrong.
    pub fn troubles(&self) -> Troubles {
        let class = self.breaker.trouble();
        let stored = self.stored();
        let lonely = |of: fn(&Group) -> bool| self.groups.values().any(|group| of(group) && group.stored_nothing_since(stored));
        let any = |stage| self.groups.values().any(|group| group.stage == stage);
        Troubles {
            unavailable: class == Some(Class::Transient) || any(Stage::LookUpAgain) || any(Stage::Busy(Class::Transient)),
            refuses: class.is_some_and(|class| class != Class::Transient)
                || any(Stage::Busy(Class::Operator))
                || lonely(|group| group.stage == Stage::Puzzling && group.puzzle.of_command),
            nothing_stored: !self.proven && self.aside > 0 && self.groups.values().any(|group| group.stage.refused()),
            lonely: self.proven && lonely(|group| group.stage == Stage::Held),
            // Also while it is being asked again.
            previous: self.groups.values().any(|group| group.unchecked && group.failures > 0),
            dead_letters: self.burials.failing(),
            memory: self.pulls.starved(),
            aside: self.pulls.blocked_by_aside() && !any(Stage::Doomed) && !any(Stage::CheckAgain),
        }
    }

    /// What was done since the start.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Whether there is something to write, and nothing but the database in the way.
    pub fn wants_to_write(&self) -> bool {
        let waits = !self.ready.is_empty() || !self.forming.entries.is_empty();
        waits && self.target == Target::Good && !self.stands_by()
    }

    /// Messages held.
    pub fn in_hand(&self) -> u64 {
        self.in_hand
    }

    /// Whether as many inserts are under way as may be, and how many batches wait for them.
    pub fn saturation(&self) -> (bool, usize) {
        (self.in_flight >= self.batches.max_in_flight, self.ready.len())
    }

    /// Bytes held, as [`Entry::bytes`] counts them.
    pub fn in_hand_bytes(&self) -> u64 {
        self.in_hand_bytes
    }

    /// Whether a document of this config was ever stored.
    pub fn proven(&self) -> bool {
        self.proven
    }

    /// The limits in force.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    fn new_group(&mut self, group: Group) -> GroupId {
        let id = GroupId(self.next_id);
        self.next_id += 1;
        if group.stage.aside() {
            self.aside += group.entries.len() as u64;
        }
        self.groups.insert(id, group);
        id
    }

    /// Takes a group out of the map, keeping count.
    fn take(&mut self, id: GroupId) -> Option<Group> {
        let group = self.groups.remove(&id)?;
        if group.stage.aside() {
            self.aside = self.aside.saturating_sub(group.entries.len() as u64);
        }
        Some(group)
    }

    fn release(&mut self, entries: Vec<Entry>, out: &mut Vec<Effect>) {
        if entries.is_empty() {
            self.recycle(entries);
            return;
        }
        self.count_out(&entries);
        out.push(Effect::Release(entries));
    }

    fn expire(&mut self, entries: Vec<Entry>, out: &mut Vec<Effect>) {
        self.totals.expired += entries.len() as u64;
        self.release(entries, out);
    }

    fn count_out(&mut self, entries: &[Entry]) {
        self.in_hand = self.in_hand.saturating_sub(entries.len() as u64);
        self.in_hand_bytes = self.in_hand_bytes.saturating_sub(entries.iter().map(|e| u64::from(e.bytes)).sum());
    }

    fn vector(&mut self) -> Vec<Entry> {
        self.spare.pop().unwrap_or_default()
    }

    /// A number in `0..1` (splitmix64).
    fn random(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// How long a lease is held to last: shorter than `ack_wait`, since what is sent takes time to arrive.
    fn lease(&self) -> Nanos {
        let wait = self.limits.ack_wait;
        wait - (wait / 10).min(SECOND)
    }

    /// Documents a batch.
    pub fn batch_count(&self) -> u64 {
        let count = u64::from(self.batches.count.max(1));
        let Ok(pending @ 1..) = u64::try_from(self.limits.max_ack_pending) else { return count };
        let shares = u64::from(self.batches.max_in_flight + 1) * u64::from(self.limits.live.max(1));
        count.min((pending / shares).max(1))
    }
}
