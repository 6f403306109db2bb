//! Three controllers that are restarted, killed and put to sleep at random while producers publish, versions and targets
//! change, and producers of the first parent start again: at the end every acknowledged publish is in exactly one place.
//!
//! `one` and `two` have versions of ours and move between collections and databases. The stream and the durable of `one`
//! are reset now and then by a producer's `Add`, also in the middle of a target change, and its version stays; those of
//! `two` are nobody's but ours, with leases so short that a sleeper outlives them. `three` is there by such `Add`s only.
//!
//! `make soak-controllers` runs it for ten minutes; `SLUICE_SOAK_SEED` repeats a plan.

use super::*;
use crate::pipelines::drop_in::Producer;
use crate::soak::{self, Account, Fates, Kind, Ledger, Pace, Turn};
use futures_util::{StreamExt, stream};
use rand::prelude::*;
use std::fmt;

const PIPELINES: [&str; 3] = ["one", "two", "three"];
/// How many of them have versions.
const VERSIONED: usize = 2;
/// Those that a producer of the first parent adds.
const ADDED: [&str; 2] = ["one", "three"];
/// `ack_wait` where no such producer has reset it: a kill costs seconds.
const LEASE: Duration = Duration::from_secs(8);

/// One misfortune, or one edit.
#[derive(Debug, Clone, Copy)]
enum Deed {
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

/// How often each of them comes. Target changes: what a dead owner holds is waited for up to 2 × ack_wait, so that with more
/// of them none would be over before the next.
fn kinds(members: usize, lasts: Duration) -> Vec<Kind<Deed>> {
    let seconds = Duration::from_secs_f64;
    vec![
        Kind::new(seconds(4.4), move |dice| Deed::Restart(dice.random_range(0..members))),
        Kind::new(seconds(4.4), move |dice| Deed::Kill(dice.random_range(0..members), soak::millis(dice, 0..2_000))),
        // Longer than a lease now and then.
        Kind::new(seconds(6.6), move |dice| Deed::Sleep(dice.random_range(0..members), soak::millis(dice, 200..14_000))),
        Kind::new(seconds(4.4), |dice| Deed::Version(dice.random_range(0..VERSIONED))),
        Kind::new(seconds(28.0).min(lasts / 2), |dice| Deed::Target(dice.random_range(0..VERSIONED))),
        Kind::new(seconds(4.0), |dice| Deed::Add(dice.random_range(0..ADDED.len()))),
    ]
}

/// What was done.
#[derive(Debug, Default)]
struct Done {
    restarts: usize,
    kills: usize,
    sleeps: usize,
    versions: usize,
    targets: usize,
    /// Target changes that were through before the next one of the pipeline, or the end.
    through: usize,
    adds: usize,
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { restarts, kills, sleeps, versions, targets, through, adds } = self;
        write!(
            f,
            "{restarts} restarts, {kills} kills, {sleeps} sleeps, {versions} versions, {targets} targets ({through} through in time), \
             {adds} adds"
        )
    }
}

/// What was published last of a pipeline.
#[derive(Debug, Clone, Default)]
struct Last {
    /// The target's place among [`places`].
    place: usize,
    version: String,
}

/// The databases and collections that a pipeline's documents go to in turn.
fn places(database: &str, id: &str) -> Vec<(String, String)> {
    let of = |database: &str, number: u32| (database.to_owned(), format!("{id}_{number}"));
    vec![of(database, 0), of(database, 1), of(&format!("{database}_other"), 0)]
}

/// A soak's controllers, and who edits their pipelines.
struct Soak {
    fleet: Fleet,
    producers: Vec<Producer>,
    last: [Last; VERSIONED],
    done: Done,
    fates: Fates,
}

impl Soak {
    async fn on(fleet: Fleet) -> Self {
        let mut producers = Vec::new();
        for id in ADDED {
            // Nowhere, as far as an entry of ours counts.
            let collection = if PIPELINES[..VERSIONED].contains(&id) { "theirs".to_owned() } else { format!("{id}_0") };
            producers.push(Producer::with(fleet.nats.client().await, id).into(&collection));
        }
        let fates = Fates::of(fleet.members.len());
        Self { fleet, producers, last: Default::default(), done: Done::default(), fates }
    }

    /// Carries a plan out.
    async fn suffer(&mut self, plan: &[(Duration, Deed)]) {
        let begun = Instant::now();
        for (at, deed) in plan {
            let due = begun + *at;
            while Instant::now() < due {
                self.wake(Instant::now());
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            self.carry_out(*deed).await;
        }
        for member in &mut self.fleet.members {
            assert!(member.ended().is_none_or(|status| status.code() != Some(1)), "{}", member.log());
        }
        self.wake(Instant::now() + Duration::from_secs(3600));
    }

    async fn carry_out(&mut self, deed: Deed) {
        match deed {
            Deed::Restart(place) if !self.fates.is_dead(place) => {
                self.wake_one(place);
                let member = &mut self.fleet.members[place];
                let status = member.sigterm().await;
                // One that has only just been started may not have come to listen to signals yet.
                let log = member.log();
                assert!(status.code() == Some(0) || !log.contains("controller started"), "{status}\n{log}");
                member.respawn();
                self.done.restarts += 1;
            }
            Deed::Kill(place, down) if !self.fates.is_dead(place) => {
                self.fleet.members[place].kill9();
                self.fates.dies(place, Instant::now() + down);
                self.done.kills += 1;
            }
            Deed::Sleep(place, long) if self.fates.is_well(place) => {
                self.fleet.members[place].signal("STOP");
                self.fates.sleeps(place, Instant::now() + long);
                self.done.sleeps += 1;
            }
            Deed::Version(pipeline) => {
                self.publish(pipeline).await;
                self.done.versions += 1;
            }
            Deed::Target(pipeline) => {
                self.note_whether_through(pipeline).await;
                self.last[pipeline].place += 1;
                self.publish(pipeline).await;
                self.done.targets += 1;
            }
            Deed::Add(producer) => {
                self.producers[producer].add().await;
                self.done.adds += 1;
            }
            _ => {}
        }
    }

    fn wake_one(&mut self, place: usize) {
        if self.fates.wake(place) {
            self.fleet.members[place].signal("CONT");
        }
    }

    /// Wakes who has slept enough, and starts who was dead long enough.
    fn wake(&mut self, now: Instant) {
        for (place, turn) in self.fates.due(now) {
            match turn {
                Turn::Wake => self.fleet.members[place].signal("CONT"),
                Turn::Rise => self.fleet.members[place].respawn(),
            }
        }
    }

    fn target(&self, pipeline: usize) -> (String, String) {
        let places = places(self.fleet.mongo.database(), PIPELINES[pipeline]);
        places[self.last[pipeline].place % places.len()].clone()
    }

    /// Counts the pipeline's last target change, where there was one and it is over.
    async fn note_whether_through(&mut self, pipeline: usize) {
        let status = self.fleet.status(PIPELINES[pipeline]).await;
        let over = is_at(&status, &self.target(pipeline)) && status["admitted"]["phase"] == "run";
        self.done.through += usize::from(self.last[pipeline].place > 0 && over);
    }

    /// Publishes another version of the pipeline, for the target that it is to have.
    async fn publish(&mut self, pipeline: usize) {
        let (id, (database, collection)) = (PIPELINES[pipeline], self.target(pipeline));
        let count = 100 + (self.done.versions + self.done.targets) % 900;
        let config = format!(
            "schema: 1\noutput:\n  mongodb:\n    database: {database}\n    collection: {collection}\n    \
             batching: {{count: {count}, period: 1s, linger: 20ms}}\n"
        );
        let operator = &self.fleet.operator;
        let file = operator.dir.join(format!("{id}.yml"));
        std::fs::write(&file, config).unwrap();
        let said = operator.cli_ok(&["publish", id, "-f", file.to_str().unwrap(), "-o", "json"]).await;
        let said: Value = serde_json::from_str(&said).unwrap();
        self.last[pipeline].version = said["version"].as_str().unwrap().to_owned();
    }

    /// Starts the pipelines, has the plan carried out under load, and counts.
    async fn run(&mut self, seed: u64, lasts: Duration) -> Account {
        for (pipeline, id) in PIPELINES.iter().enumerate().take(VERSIONED) {
            self.fleet.foreign_stream(id, LEASE).await;
            self.publish(pipeline).await;
        }
        for (producer, _) in self.producers.iter().zip(ADDED).filter(|(_, id)| !PIPELINES[..VERSIONED].contains(id)) {
            producer.add().await;
        }
        let mut ledger = Ledger::open(&[self.fleet.nats.url()], &PIPELINES, 2, Pace::default()).await;
        self.suffer(&soak::plan(seed, lasts, &kinds(self.fleet.members.len(), lasts))).await;
        for pipeline in 0..VERSIONED {
            self.note_whether_through(pipeline).await;
        }
        ledger.end().await;
        self.settle().await;
        ledger.account(&self.fleet.nats.jetstream().await, &self.fleet.mongo, |id| places(self.fleet.mongo.database(), id)).await
    }

    /// Waits until nothing waits in any stream, and the pipelines run what was published last.
    async fn settle(&self) {
        let answer = stream::iter(&self.fleet.members)
            .for_each_concurrent(None, |member| eventually("all answer", LONG, || async { health(member).await != Value::Null }));
        answer.await;
        // Whoever woke up has finished, or given up, what it was about to write: from now on the leases that producers have
        // made long may be short again, so that what the killed held comes soon.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let jetstream = self.fleet.nats.jetstream().await;
        for id in ADDED {
            foreign_durable(&jetstream, id, LEASE).await;
        }
        for (pipeline, id) in PIPELINES.iter().enumerate() {
            let begun = Instant::now();
            while self.fleet.waiting(id).await > 0 || !self.is_as_published(pipeline).await {
                let (waiting, status) = (self.fleet.waiting(id).await, self.fleet.status(id).await);
                assert!(begun.elapsed() < LONG, "{id} does not settle: {waiting} messages wait; {}; {status:#}", self.done);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }

    /// Whether the pipeline runs the version that was published last, into its target; or a derived one, where there is none.
    async fn is_as_published(&self, pipeline: usize) -> bool {
        let status = self.fleet.status(PIPELINES[pipeline]).await;
        let (spec, phase) = (&status["admitted"]["spec"], &status["admitted"]["phase"]);
        let is_last = match self.last.get(pipeline) {
            None => spec["version"].as_str().is_some_and(|version| version.starts_with("derived-")),
            Some(last) => spec["version"] == last.version.as_str() && is_at(&status, &self.target(pipeline)),
        };
        is_last && phase == "run"
    }
}

/// Whether what is admitted writes to this database and collection.
fn is_at(status: &Value, (database, collection): &(String, String)) -> bool {
    let target = &status["admitted"]["spec"]["target"];
    target["database"] == database.as_str() && target["collection"] == collection.as_str()
}

#[tokio::test(flavor = "multi_thread")]
async fn controllers_that_come_and_go_at_random_leave_every_acknowledged_publish_in_exactly_one_place() {
    require!("nats-server", "database");
    let (seed, lasts) = (soak::seed(), soak::lasts(Duration::from_secs(18)));
    eprintln!("SOAK seed {seed} begins");
    let mut soak = Soak::on(Fleet::of(3).await).await;
    let account = soak.run(seed, lasts).await;
    let line = format!("SOAK seed {seed}, {lasts:?}: {}; {account}", soak.done);
    eprintln!("{line}");
    assert!(account.published > 1_000, "{line}");
    account.assert_exactly_once(&line);
    assert_eq!(soak.fleet.mongo.count("theirs").await, 0, "a producer's entry does not count where there is one of ours");
    // And all are well afterwards.
    stream::iter(soak.fleet.members.iter_mut()).for_each_concurrent(None, Sluice::wait_ready).await;
}
