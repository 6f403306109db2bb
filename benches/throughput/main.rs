//! `make bench`: documents per second, CPU, memory and what the servers pay, of Sluice and of two bare loops without any
//! safety, in interleaved rounds on servers of the benchmark's own.
//!
//! Each contender is a process of its own, drains a work-queue stream of its own that was filled beforehand, and is done
//! when every message is acknowledged; then every document must be in MongoDB exactly once. Ratios are what counts:
//! absolute figures move from machine to machine.
//!
//! `--idle N` measures N published pipelines that nothing happens in instead (`idle`), `--latency` the time from publish to
//! visible at a steady trickle (`latency`). Everything is bounded in time and number, and on loopback. Another build of
//! Sluice is measured with `BENCH_SLUICE=/path/to/sluice`.

#![allow(missing_docs, clippy::print_stdout, clippy::print_stderr)]

mod bare;
mod contender;
mod idle;
mod idle_report;
mod installation;
mod latency;
mod measure;
mod report;
mod servers;
mod stream;

use anyhow::{Context, Result};
use clap::Parser;
use contender::Contender;
use servers::Servers;
use std::path::{Path, PathBuf};

/// Compares Sluice with bare loops on filled work-queue streams.
#[derive(Debug, Parser)]
#[command(name = "throughput")]
struct Args {
    /// Documents in each stream
    #[arg(long, default_value_t = 400_000)]
    documents: u64,
    /// Bytes of each document
    #[arg(long, default_value_t = 130)]
    size: usize,
    /// Rounds; each runs every contender once, in a rotated order
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// A further contender, `name=command`: sh runs it with NATS_URL, MONGO_URL, STREAM, SUBJECT, CONSUMER, DATABASE, COLLECTION
    /// and COUNT, and it is ended by SIGTERM once everything is acknowledged
    #[arg(long, value_name = "NAME=COMMAND")]
    contender: Vec<String>,
    /// Only these contenders, by name
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Into time-series collections
    #[arg(long)]
    time_series: bool,
    /// Instead: so many published pipelines in one process that nothing happens in; time until all pull, memory, idle CPU,
    /// connections, KV edit to pulling
    #[arg(long, value_name = "PIPELINES", num_args = 0..=1, default_missing_value = "1000",
        value_parser = clap::value_parser!(u32).range(1..=10_000), conflicts_with = "latency")]
    idle: Option<u32>,
    /// KV edits that are timed with `--idle`
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=2000))]
    edits: u32,
    /// Seconds over which `--idle` measures CPU, and `--latency` publishes
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=300))]
    seconds: u64,
    /// Instead: from publish to visible at 100 messages a second, with `linger: 5ms` and with `linger: 0s`
    #[arg(long)]
    latency: bool,
    /// Seconds after which a contender is given up
    #[arg(long, default_value_t = 120)]
    timeout: u64,
    /// Further arguments for secantusd-rs, `--sync-on-commit`
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    database_args: String,
    /// Where the figures go as JSON; by default target/bench/throughput.json, idle.json or latency.json
    #[arg(long)]
    json: Option<PathBuf>,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    // The bare loops are this very program, started again.
    if let Ok(way) = std::env::var(bare::WAY) {
        return runtime()?.block_on(bare::run(&way));
    }
    let args = Args::parse();
    runtime()?.block_on(async {
        let json = |name: &str| args.json.clone().unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench").join(name));
        match args.idle {
            Some(pipelines) => {
                let plan = idle::Plan { pipelines, edits: args.edits, seconds: args.seconds, timeout: args.timeout };
                idle::measure(&Servers::start(&args.database_args)?, &plan, &json("idle.json")).await
            }
            None if args.latency => latency::measure(&Servers::start(&args.database_args)?, args.seconds, &json("latency.json")).await,
            None => compare(&args, &json("throughput.json")).await,
        }
    })
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

async fn compare(args: &Args, json: &Path) -> Result<()> {
    let mut contenders = vec![Contender::bare(bare::INSERT_MANY)?, Contender::bare(bare::COMMAND)?, Contender::sluice()];
    for contender in &args.contender {
        contenders.push(Contender::command(contender)?);
    }
    contenders.retain(|c| args.only.is_empty() || args.only.contains(&c.name));
    anyhow::ensure!(!contenders.is_empty(), "--only names no contender");

    let servers = Servers::start(&args.database_args)?;
    let mut report = report::Report::new(args.documents, args.size, args.rounds, args.time_series);
    for round in 0..args.rounds {
        for place in 0..contenders.len() {
            let contender = &contenders[(round + place) % contenders.len()];
            let job = stream::Job::prepare(&servers, &contender.name, round, args.size, (args.documents, args.time_series)).await?;
            let figures = contender.run(&servers, &job, args.timeout).await;
            let figures = figures.with_context(|| format!("{} in round {}", contender.name, round + 1))?;
            job.clean_up().await?;
            eprintln!("round {}: {:<12} {:>8.0} docs/s", round + 1, contender.name, figures.documents_per_second(args.documents));
            report.add(&contender.name, figures);
        }
    }
    print!("{}", report.table());
    report.write(json)
}
