//! The torture: real processes killed and stopped at random instants, lines between them cut, stalled and broken off at any
//! byte, a database that fails with every code there is, durables that are reset and deleted, all at once and under load. At
//! the end every acknowledged publish is in the collection once, or among the dead letters once with its reason.
//!
//! Three `sluice run`s (each decides if the others cannot, each executes), a nats-server that syncs what it acknowledges, a
//! database that keeps what it confirmed. `make torture` runs it for ten minutes, `SLUICE_SOAK_SECONDS` for as long as one
//! likes, `SLUICE_SOAK_SEED` repeats a plan; the report is under `target/torture`.

mod codes;
mod plan;
mod report;

use crate::controllers::{foreign_durable, foreign_stream, health};
use crate::pipelines::plain;
use crate::soak::{self, Account, Fates, Ledger, Pace, Report, Turn};
use crate::support::{Mongo, Nats, Proxy, Run, Sluice, eventually, skipped};
use async_nats::jetstream;
use plan::{DATABASE, Deed, LINES, MEMBERS, NATS};
use report::Done;
use serde_json::Value;
use std::time::{Duration, Instant};

const PIPELINES: [&str; 2] = ["one", "two"];
/// Leases so short that sleepers outlive them and a kill costs seconds.
const LEASE: Duration = Duration::from_secs(8);
/// Longer than anything takes once everybody is well again.
const LONG: Duration = Duration::from_secs(180);

struct Torture {
    nats: Nats,
    mongo: Mongo,
    lines: Vec<Proxy>,
    members: Vec<Sluice>,
    fates: Fates,
    /// When each line is let alone again.
    troubled: Vec<Option<Instant>>,
    done: Done,
}

impl Torture {
    async fn begin() -> Self {
        let (nats, mongo) = tokio::join!(Nats::start_synced(), Mongo::start_durable());
        let (mut lines, to_mongo) = (vec![Proxy::start(nats.port()).await], Proxy::start(mongo.port()).await);
        let mut members = Vec::new();
        for _ in 0..MEMBERS {
            let to_nats = Proxy::start(nats.port()).await;
            let run = Run { nats_url: nats.url_through(&to_nats), mongo_url: mongo.url_through(&to_mongo), ..Run::new(&nats, &mongo) };
            members.push(run.spawn());
            lines.push(to_nats);
        }
        lines.push(to_mongo);
        for member in &mut members {
            member.wait_ready().await;
        }
        let (fates, troubled) = (Fates::of(MEMBERS + 2), vec![None; LINES]);
        Self { nats, mongo, lines, members, fates, troubled, done: Done::default() }
    }

    async fn jetstream(&self) -> jetstream::Context {
        self.nats.jetstream().await
    }

    /// Streams with short leases, and what writes them away.
    async fn publish_pipelines(&self) {
        let jetstream = self.jetstream().await;
        for id in PIPELINES {
            foreign_stream(&jetstream, id, LEASE).await;
            let file = self.members[0].dir.join(format!("{id}.yml"));
            std::fs::write(&file, plain(id).replace("1000", "200")).unwrap();
            self.members[0].cli_ok(&["publish", id, "-f", file.to_str().unwrap(), "--wait"]).await;
        }
    }

    async fn suffer(&mut self, plan: &[(Duration, Deed)]) {
        let begun = Instant::now();
        for (at, deed) in plan {
            let due = begun + *at;
            while Instant::now() < due {
                self.relieve(Instant::now()).await;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            self.carry_out(*deed).await;
        }
    }

    async fn carry_out(&mut self, deed: Deed) {
        let now = Instant::now();
        match deed {
            Deed::Kill(victim, down) if !self.fates.is_dead(victim) => {
                self.kill(victim);
                self.fates.dies(victim, now + down);
            }
            Deed::Sleep(victim, long) if self.fates.is_well(victim) => {
                self.stop(victim);
                self.fates.sleeps(victim, now + long);
            }
            Deed::Cut(line, long) => self.trouble(line, now + long, Proxy::cut).cuts += 1,
            Deed::Stall(line, long) => self.trouble(line, now + long, Proxy::stall).stalls += 1,
            Deed::StallReplies(line, long) => self.trouble(line, now + long, Proxy::stall_replies).stalls += 1,
            Deed::Break(line, side, after) => {
                self.lines[line].break_off(side, after);
                self.done.broken_off += 1;
            }
            Deed::Fail(failure, times, also) if self.fates.is_well(DATABASE) => {
                self.mongo.fail_command(failure.document(times, also)).await;
                self.done.failures_of_the_database += 1;
            }
            Deed::Reset(pipeline) if self.fates.is_well(NATS) => {
                let client = self.nats.client().await;
                let subject = format!("$JS.API.CONSUMER.RESET.alpha_{}.default", PIPELINES[pipeline]);
                // Not answered where it was deleted a moment ago.
                let answer = tokio::time::timeout(Duration::from_secs(1), client.request(subject, "".into())).await;
                let reset = matches!(answer, Ok(Ok(answer)) if !String::from_utf8_lossy(&answer.payload).contains("\"error\""));
                self.done.resets_of_durables += usize::from(reset);
            }
            Deed::Delete(pipeline) if self.fates.is_well(NATS) => {
                if let Ok(stream) = self.jetstream().await.get_stream(format!("alpha_{}", PIPELINES[pipeline])).await {
                    self.done.deletions_of_durables += usize::from(stream.delete_consumer("default").await.is_ok());
                }
            }
            _ => {}
        }
    }

    fn trouble(&mut self, line: usize, until: Instant, make: impl Fn(&Proxy)) -> &mut Done {
        make(&self.lines[line]);
        self.troubled[line] = Some(until);
        &mut self.done
    }

    fn kill(&mut self, victim: usize) {
        match victim {
            NATS => {
                self.nats.kill9();
                self.done.kills_of_nats += 1;
            }
            DATABASE => {
                self.mongo.kill9();
                self.done.kills_of_the_database += 1;
            }
            member => {
                self.members[member].kill9();
                self.done.kills_of_sluice += 1;
            }
        }
    }

    fn stop(&mut self, victim: usize) {
        match victim {
            NATS => {
                self.nats.sigstop();
                self.done.stops_of_nats += 1;
            }
            DATABASE => {
                self.mongo.sigstop();
                self.done.stops_of_the_database += 1;
            }
            member => {
                self.members[member].signal("STOP");
                self.done.stops_of_sluice += 1;
            }
        }
    }

    /// Ends what has lasted long enough by `now`.
    async fn relieve(&mut self, now: Instant) {
        for (line, until) in self.lines.iter().zip(&mut self.troubled) {
            if until.take_if(|until| *until <= now).is_some() {
                line.resume();
            }
        }
        for (victim, turn) in self.fates.due(now) {
            match (victim, turn) {
                (NATS, Turn::Wake) => self.nats.sigcont(),
                (NATS, Turn::Rise) => self.nats.restart().await,
                (DATABASE, Turn::Wake) => self.mongo.sigcont(),
                (DATABASE, Turn::Rise) => self.mongo.restart().await,
                (member, Turn::Wake) => self.members[member].signal("CONT"),
                (member, Turn::Rise) => self.members[member].respawn(),
            }
        }
    }

    /// Ends everything that still troubles anybody.
    async fn heal(&mut self) {
        for member in 0..MEMBERS {
            let ended = if self.fates.is_dead(member) { None } else { self.members[member].ended() };
            assert!(ended.is_none(), "a sluice run ended by itself: {ended:?}\n{}", self.members[member].log());
        }
        self.relieve(Instant::now() + Duration::from_secs(3600)).await;
        self.mongo.heal().await;
    }

    async fn waiting(&self, id: &str) -> u64 {
        let stream = self.jetstream().await.get_stream(format!("alpha_{id}")).await.expect("the stream is there");
        stream.cached_info().state.messages
    }

    /// Waits until nothing waits in any stream; how long that took, or what it looks like if it never comes.
    async fn settle(&self) -> Result<Duration, String> {
        let begun = Instant::now();
        // Whoever woke up has finished, or given up, what it was about to write: from now on the leases of durables that were
        // made anew may be short again, so that what the killed held comes soon.
        tokio::time::sleep(Duration::from_secs(3)).await;
        for id in PIPELINES {
            foreign_durable(&self.jetstream().await, id, LEASE).await;
        }
        for id in PIPELINES {
            while self.waiting(id).await > 0 {
                if begun.elapsed() > LONG {
                    let status = self.members[0].get(&format!("/api/v1/pipelines/{id}")).await.1;
                    return Err(format!("{} messages of {id} still wait: {status}", self.waiting(id).await));
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        Ok(begun.elapsed())
    }

    async fn account(&self, ledger: &Ledger) -> Account {
        let place = |id: &str| vec![(self.mongo.database().to_owned(), id.to_owned())];
        ledger.account(&self.jetstream().await, &self.mongo, place).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_dies_sleeps_fails_or_is_cut_each_acknowledged_publish_is_stored_once_or_is_a_dead_letter_once() {
    require!("nats-server", "database");
    let (seed, lasts) = (soak::seed(), soak::lasts(Duration::from_secs(30)));
    eprintln!("TORTURE seed {seed} begins");
    let mut torture = Torture::begin().await;
    if !torture.mongo.is_own() {
        return skipped("the server of SLUICE_TEST_MONGO_URL is not ours to kill");
    }
    torture.publish_pipelines().await;
    let servers = [torture.nats.url_through(&torture.lines[0])];
    let pace = Pace { together: 20, pause: Duration::from_millis(60), most: 1_000_000, answer: Duration::from_secs(2) };
    let mut ledger = Ledger::open(&servers, &PIPELINES, 2, pace).await;
    torture.suffer(&soak::plan(seed, lasts, &plan::kinds(PIPELINES.len()))).await;
    torture.heal().await;
    ledger.end().await;
    let settled = torture.settle().await;
    let mut waiting = 0;
    for id in PIPELINES {
        waiting += torture.waiting(id).await;
    }
    let account = torture.account(&ledger).await;
    let settled_after_seconds = settled.as_ref().ok().map(Duration::as_secs_f64);
    let report =
        Report { seed, seconds: lasts.as_secs(), settled_after_seconds, waiting, done: std::mem::take(&mut torture.done), account };
    let (line, file) = (report.to_string(), report.write(&seed.to_string()));
    eprintln!("{line}\nreport: {}", file.display());
    settled.unwrap_or_else(|why| panic!("{why}\n{line}"));
    report.account.assert_exactly_once(&line);
    assert!(report.account.published > 2_000 && report.account.dead > 0, "{line}");
    // And all are well afterwards.
    for member in &torture.members {
        eventually("all are well", LONG, || async { health(member).await["ready"] == Value::Bool(true) }).await;
    }
}

#[test]
fn a_plan_of_the_torture_is_repeated_by_its_seed_and_touches_everything() {
    let plan = |seed| soak::plan(seed, Duration::from_secs(600), &plan::kinds(PIPELINES.len()));
    assert_eq!(plan(7), plan(7));
    assert_ne!(plan(7), plan(8));
    let any = |what: &dyn Fn(&Deed) -> bool| assert!(plan(7).iter().any(|(_, deed)| what(deed)));
    (0..=DATABASE).for_each(|victim| any(&|deed| matches!(deed, Deed::Kill(of, _) if *of == victim)));
    (0..=DATABASE).for_each(|victim| any(&|deed| matches!(deed, Deed::Sleep(of, _) if *of == victim)));
    (0..LINES).for_each(|line| any(&|deed| matches!(deed, Deed::Break(of, ..) if *of == line)));
    (0..PIPELINES.len()).for_each(|pipeline| any(&|deed| *deed == Deed::Reset(pipeline)));
}
