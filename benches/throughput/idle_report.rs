//! The figures of idle pipelines as a table for people, beside the goals, and as JSON for programs.

use super::{
    idle::Plan,
    report::{verdict, write_json},
    servers::Servers,
};
use anyhow::Result;
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use serde_json::json;
use std::{path::Path, time::Duration};

/// Everything that was measured.
pub struct Figures {
    /// Until all pull, where nothing was decided before.
    pub first_start: Duration,
    /// Until all pull, where every status is there.
    pub second_start: Duration,
    /// CPU of the program and of the servers until all pulled the first time.
    pub start_cpu: Duration,
    pub nats_start_cpu: Duration,
    pub database_start_cpu: Duration,
    /// Resident bytes while idle, and the most until then.
    pub memory: u64,
    pub peak_memory: u64,
    /// Percent of one core while idle.
    pub idle_cpu: f64,
    /// Context switches a second while idle.
    pub idle_switches: f64,
    pub idle_nats: f64,
    pub idle_database: f64,
    pub nats_connections: usize,
    pub database_connections: usize,
    /// From KV edit to pulling, ascending.
    pub edits: Vec<Duration>,
}

/// The value that `share` of the ascending `values` do not exceed.
pub fn quantile(values: &[Duration], share: f64) -> Duration {
    let place = (share * values.len() as f64).ceil() as usize;
    values.get(place.saturating_sub(1)).copied().unwrap_or_default()
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Prints the table and writes the JSON.
pub fn write(figures: &Figures, plan: &Plan, path: &Path) -> Result<()> {
    let f = figures;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| ms(quantile(&f.edits, share)));
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header([
        "all pull after (first start)",
        "(statuses there)",
        "CPU-s until then",
        "RSS MiB (peak)",
        "idle CPU",
        "switches/s",
        "nats, database idle CPU",
        "connections",
        "edit → pulling p50, p99, max",
    ]);
    table.add_row([
        format!("{:.2} s", f.first_start.as_secs_f64()),
        format!("{:.2} s", f.second_start.as_secs_f64()),
        format!(
            "{:.2} (nats {:.2}, database {:.2})",
            f.start_cpu.as_secs_f64(),
            f.nats_start_cpu.as_secs_f64(),
            f.database_start_cpu.as_secs_f64()
        ),
        format!("{:.1} ({:.1})", mib(f.memory), mib(f.peak_memory)),
        format!("{:.2} %", f.idle_cpu),
        format!("{:.0}", f.idle_switches),
        format!("{:.2} %, {:.2} %", f.idle_nats, f.idle_database),
        format!("{} NATS, {} MongoDB", f.nats_connections, f.database_connections),
        format!("{p50:.1}, {p99:.1}, {max:.1} ms"),
    ]);
    println!("\n{} idle pipelines in one process; {} edits.\n{}\n{table}", plan.pipelines, f.edits.len(), Servers::versions().join("; "));
    // The goals name two sizes.
    let (start, memory) = if plan.pipelines <= 1000 { (0.6, 40.0) } else { (3.0, 150.0) };
    print!("{}", verdict("all pull after, s", f.first_start.as_secs_f64(), false, start));
    print!("{}", verdict("RSS, MiB", mib(f.memory), false, memory));
    if plan.pipelines <= 1000 {
        print!("{}", verdict("idle CPU, %", f.idle_cpu, false, 1.0));
    }
    print!("{}", verdict("KV edit → pulling p50, ms", p50, false, 4.0));
    print!("{}", verdict("KV edit → pulling p99, ms", p99, false, 10.0));
    let report = json!({
        "schema": 1,
        "pipelines": plan.pipelines,
        "servers": Servers::versions(),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "first_start_seconds": f.first_start.as_secs_f64(),
        "second_start_seconds": f.second_start.as_secs_f64(),
        "start_cpu_seconds": {
            "sluice": f.start_cpu.as_secs_f64(),
            "nats": f.nats_start_cpu.as_secs_f64(),
            "database": f.database_start_cpu.as_secs_f64(),
        },
        "memory": f.memory,
        "peak_memory": f.peak_memory,
        "idle_seconds": plan.seconds,
        "idle_cpu_percent": {"sluice": f.idle_cpu, "nats": f.idle_nats, "database": f.idle_database},
        "idle_switches_per_second": f.idle_switches,
        "connections": {"nats": f.nats_connections, "database": f.database_connections},
        "edit_to_pulling_ms": {"edits": f.edits.len(), "p50": p50, "p99": p99, "max": max},
    });
    write_json(path, &report)
}
