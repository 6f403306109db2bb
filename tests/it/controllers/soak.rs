//! Three controllers that are restarted, killed and put to sleep at random while producers publish and versions change:
//! at the end every acknowledged publish is in exactly one place.
//!
//! `make soak-controllers` runs it for ten minutes; `SLUICE_SOAK_SEED` repeats a plan.

use super::*;
use crate::soak::{self, Account, Deed, Ledger, Mix};
use futures_util::{StreamExt, stream};

const PIPELINES: [&str; 2] = ["one", "two"];
const MIX: Mix = Mix { restarts: 3, kills: 3, sleeps: 2, versions: 3, targets: 0 };

/// What was done.
#[derive(Debug, Default)]
struct Done {
    restarts: usize,
    kills: usize,
    sleeps: usize,
    versions: usize,
}

impl Fleet {
    /// Carries a plan out.
    async fn suffer(&mut self, plan: &[(Duration, Deed)]) -> Done {
        let (begun, mut done) = (Instant::now(), Done::default());
        // Until when each sleeps.
        let mut asleep: Vec<Option<Instant>> = vec![None; self.members.len()];
        // When each is to be started again.
        let mut dead: Vec<Option<Instant>> = asleep.clone();
        for (at, deed) in plan {
            let due = begun + *at;
            while Instant::now() < due {
                self.wake(&mut asleep, &mut dead, Instant::now());
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            match *deed {
                Deed::Restart(place) if dead[place].is_none() => {
                    self.wake_one(&mut asleep, place);
                    let status = self.members[place].sigterm().await;
                    // One that has only just been started may not have come to listen to signals yet.
                    let log = self.members[place].log();
                    assert!(status.code() == Some(0) || !log.contains("controller started"), "{status}\n{log}");
                    self.members[place].respawn();
                    done.restarts += 1;
                }
                Deed::Kill(place, down) if dead[place].is_none() => {
                    asleep[place] = None;
                    self.members[place].kill9();
                    dead[place] = Some(Instant::now() + down);
                    done.kills += 1;
                }
                Deed::Sleep(place, long) if dead[place].is_none() && asleep[place].is_none() => {
                    self.members[place].signal("STOP");
                    asleep[place] = Some(Instant::now() + long);
                    done.sleeps += 1;
                }
                Deed::Version(pipeline) | Deed::Target(pipeline) => {
                    done.versions += 1;
                    self.version(PIPELINES[pipeline], done.versions, matches!(deed, Deed::Target(_))).await;
                }
                _ => {}
            }
        }
        for member in &mut self.members {
            assert!(member.ended().is_none_or(|status| status.code() != Some(1)), "{}", member.log());
        }
        let end = Instant::now() + Duration::from_secs(3600);
        self.wake(&mut asleep, &mut dead, end);
        done
    }

    fn wake_one(&self, asleep: &mut [Option<Instant>], place: usize) {
        if asleep[place].take().is_some() {
            self.members[place].signal("CONT");
        }
    }

    /// Wakes who has slept enough, and starts who was dead long enough.
    fn wake(&mut self, asleep: &mut [Option<Instant>], dead: &mut [Option<Instant>], now: Instant) {
        for place in 0..self.members.len() {
            if asleep[place].is_some_and(|until| until <= now) {
                self.wake_one(asleep, place);
            }
            if dead[place].take_if(|until| *until <= now).is_some() {
                self.members[place].respawn();
            }
        }
    }

    async fn version(&self, id: &str, number: usize, other_target: bool) {
        let collection = if other_target { format!("{id}_{}", number % 2) } else { format!("{id}_0") };
        let config = plain(&collection).replace("1000", &(100 + number % 900).to_string());
        let file = self.operator.dir.join(format!("{id}.yml"));
        std::fs::write(&file, config).unwrap();
        self.operator.cli_ok(&["publish", id, "-f", file.to_str().unwrap()]).await;
    }

    async fn soak(&mut self, seed: u64, lasts: Duration) -> (Done, Account) {
        for id in PIPELINES {
            // Somebody else's durable, with leases so short that a kill costs seconds.
            self.foreign_stream(id, Duration::from_secs(8)).await;
            self.version(id, 0, false).await;
        }
        let ledger = Ledger::open(&self.nats, &PIPELINES, 2, Duration::from_millis(40)).await;
        let plan = soak::plan(seed, lasts, Duration::from_millis(1_200), MIX, (self.members.len(), PIPELINES.len()));
        let done = self.suffer(&plan).await;
        let collections = |id: &str| vec![format!("{id}_0"), format!("{id}_1")];
        (done, ledger.close(&self.nats, &self.mongo, collections, LONG).await)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn controllers_that_come_and_go_at_random_leave_every_acknowledged_publish_in_exactly_one_place() {
    require!("nats-server", "database");
    let (seed, lasts) = (soak::seed(), soak::lasts(Duration::from_secs(16)));
    let mut fleet = Fleet::of(3).await;
    let (done, account) = fleet.soak(seed, lasts).await;
    let Done { restarts, kills, sleeps, versions } = done;
    let line = format!("SOAK seed {seed}, {lasts:?}: {restarts} restarts, {kills} kills, {sleeps} sleeps, {versions} versions; {account}");
    eprintln!("{line}");
    assert!(account.published > 1_000, "{line}");
    assert_eq!((account.lost, account.doubled), (0, 0), "{line}");
    assert_eq!(account.published, account.stored + account.dead, "{line}");
    // And all are well afterwards.
    stream::iter(fleet.members.iter_mut()).for_each_concurrent(None, Sluice::wait_ready).await;
}
