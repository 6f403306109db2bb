//! Many published pipelines in one process that nothing happens in: how soon all of them pull, what they weigh, what they
//! cost while nothing happens, and how soon one more pulls after its entry was edited.
//!
//! Streams, durables, collections, configs and entries are there before the program starts. A pipeline counts as pulling
//! when its first pull request is seen on NATS, which the benchmark listens to: nothing is asked of the program, and
//! nothing of the servers that would cost them something. Measured twice: the first start of an installation, where
//! everything is decided and its status written, and a second one, where the statuses are there.

use super::{
    contender::Running,
    idle_report::{Figures, write},
    installation::{Installation, entry},
    measure,
    servers::Servers,
    stream::CONSUMER,
};
use anyhow::{Context, Result, bail, ensure};
use async_nats::{Client, Subscriber, jetstream};
use futures_util::StreamExt;
use std::{
    collections::HashSet,
    path::Path,
    time::{Duration, Instant},
};

const NAMESPACE: &str = "idle";
/// How long nothing is measured after the start: statuses and reports follow the pulls.
const SETTLE: Duration = Duration::from_secs(10);
/// Between two edits.
const BETWEEN: Duration = Duration::from_millis(20);

/// What to measure.
pub struct Plan {
    pub pipelines: u32,
    pub edits: u32,
    pub seconds: u64,
    pub timeout: u64,
}

/// Measures and reports.
pub async fn measure(servers: &Servers, plan: &Plan, json: &Path) -> Result<()> {
    let installation = Installation::new(servers, NAMESPACE, &servers.path().join(NAMESPACE))?;
    let published = ids('p', plan.pipelines);
    let drafts = ids('e', plan.edits);
    eprintln!("making {} pipelines", plan.pipelines + plan.edits);
    installation.prepare(servers, &published, "published", "").await?;
    installation.prepare(servers, &drafts, "draft", "").await?;
    let nats = async_nats::connect(&servers.nats_url).await?;
    let figures = figures(&nats, servers, &installation, plan, &published, &drafts).await;
    write(&figures.with_context(|| installation.log().lines().rev().take(20).collect::<Vec<_>>().join("\n"))?, plan, json)
}

fn ids(kind: char, count: u32) -> Vec<String> {
    (0..count).map(|number| format!("{kind}{number:05}")).collect()
}

async fn figures(
    nats: &Client,
    servers: &Servers,
    installation: &Installation,
    plan: &Plan,
    published: &[String],
    drafts: &[String],
) -> Result<Figures> {
    let timeout = Duration::from_secs(plan.timeout);
    let mut pulls = Pulls::listen(nats).await?;
    let servers_before = (measure::cpu(servers.nats_pid), measure::cpu(servers.database_pid));
    let (mut first, first_start) = start(installation, &mut pulls, published, timeout).await?;
    let start_cpu = measure::cpu(first.0.id());
    let servers_start = (measure::cpu(servers.nats_pid) - servers_before.0, measure::cpu(servers.database_pid) - servers_before.1);
    tokio::time::sleep(SETTLE).await;
    first.end().await;
    drop(first);

    let mut pulls = Pulls::listen(nats).await?;
    let (mut running, second_start) = start(installation, &mut pulls, published, timeout).await?;
    tokio::time::sleep(SETTLE).await;
    let pid = running.0.id();
    let (cpu, servers_cpu) = (measure::cpu(pid), (measure::cpu(servers.nats_pid), measure::cpu(servers.database_pid)));
    let (begun, switches) = (Instant::now(), measure::switches(pid));
    tokio::time::sleep(Duration::from_secs(plan.seconds)).await;
    let share = |now: Duration, before: Duration| 100.0 * (now - before).as_secs_f64() / begun.elapsed().as_secs_f64();
    let idle_cpu = share(measure::cpu(pid), cpu);
    let idle_switches = (measure::switches(pid) - switches) as f64 / begun.elapsed().as_secs_f64();
    let idle_nats = share(measure::cpu(servers.nats_pid), servers_cpu.0);
    let idle_database = share(measure::cpu(servers.database_pid), servers_cpu.1);
    let (memory, peak_memory) = (measure::memory(pid), measure::peak_memory(pid));
    let [nats_connections, database_connections] = measure::connections(pid, [port(&servers.nats_url)?, port(&servers.mongo_url)?]);

    let mut edits = edits(nats, installation, &mut pulls, drafts).await?;
    edits.sort_unstable();
    running.end().await;
    Ok(Figures {
        first_start,
        second_start,
        start_cpu,
        nats_start_cpu: servers_start.0,
        database_start_cpu: servers_start.1,
        memory,
        peak_memory,
        idle_cpu,
        idle_switches,
        idle_nats,
        idle_database,
        nats_connections,
        database_connections,
        edits,
    })
}

/// Starts the program and waits until every one of `ids` pulls: how long that took.
async fn start(installation: &Installation, pulls: &mut Pulls, ids: &[String], timeout: Duration) -> Result<(Running, Duration)> {
    let begun = Instant::now();
    let mut running = installation.run()?;
    let mut missing: HashSet<String> = ids.iter().map(|id| installation.stream(id)).collect();
    while !missing.is_empty() {
        let left = timeout.saturating_sub(begun.elapsed());
        match tokio::time::timeout(left.min(Duration::from_secs(1)), pulls.next()).await {
            Ok(stream) => {
                missing.remove(&stream?);
            }
            Err(_) => {
                if let Some(status) = running.0.try_wait()? {
                    bail!("it ended: {status}");
                }
                ensure!(begun.elapsed() < timeout, "{} pipelines do not pull after {timeout:?}", missing.len());
            }
        }
    }
    let took = begun.elapsed();
    eprintln!("{} pipelines pull after {:.2} s", ids.len(), took.as_secs_f64());
    Ok((running, took))
}

/// Publishes one draft after the other; how long each took until it pulled.
async fn edits(nats: &Client, installation: &Installation, pulls: &mut Pulls, drafts: &[String]) -> Result<Vec<Duration>> {
    let entries = installation.entries(&jetstream::new(nats.clone())).await?;
    let mut took = Vec::with_capacity(drafts.len());
    for id in drafts {
        let stream = installation.stream(id);
        let begun = Instant::now();
        entries.put(id, entry("published").into()).await?;
        let pulled = async {
            while pulls.next().await? != stream {}
            anyhow::Ok(())
        };
        tokio::time::timeout(Duration::from_secs(10), pulled).await.with_context(|| format!("{id} does not pull"))??;
        took.push(begun.elapsed());
        tokio::time::sleep(BETWEEN).await;
    }
    Ok(took)
}

/// The pull requests of everybody.
struct Pulls(Subscriber);

impl Pulls {
    async fn listen(nats: &Client) -> Result<Self> {
        let subscriber = nats.subscribe(format!("$JS.API.CONSUMER.MSG.NEXT.*.{CONSUMER}")).await?;
        nats.flush().await?;
        Ok(Self(subscriber))
    }

    /// The stream of the next one.
    async fn next(&mut self) -> Result<String> {
        let request = self.0.next().await.context("the subscription ended")?;
        Ok(request.subject.split('.').nth(5).context("a pull request without a stream")?.to_owned())
    }
}

fn port(url: &str) -> Result<u16> {
    let address = url.split("://").nth(1).and_then(|rest| rest.split(['/', '?']).next());
    Ok(address.and_then(|address| address.rsplit_once(':')).context("an address without a port")?.1.parse()?)
}
