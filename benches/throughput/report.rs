//! The figures as a table of medians for people and as JSON for programs.

use super::{
    bare,
    contender::{BARE, Figures, SLUICE},
    servers::Servers,
};
use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};
use serde_json::{Value, json};
use std::{fs, path::Path};

/// Everything that was measured.
pub struct Report {
    documents: u64,
    size: usize,
    rounds: usize,
    time_series: bool,
    servers: Vec<String>,
    runs: Vec<(String, Vec<Figures>)>,
}

/// Median, least and most.
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

/// One line of measured beside wanted.
pub fn verdict(what: &str, measured: f64, least: bool, goal: f64) -> String {
    let good = if least { measured >= goal } else { measured <= goal };
    let (sign, verdict) = (if least { '≥' } else { '≤' }, if good { "met" } else { "MISSED" });
    format!("{what:<40} {measured:>6.2}   goal {sign} {goal:<5} {verdict}\n")
}

/// Writes a report of any mode.
pub fn write_json(path: &Path, report: &Value) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, serde_json::to_string_pretty(report)?)?;
    println!("{}", path.display());
    Ok(())
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let upper = *values.get(values.len() / 2)?;
        let lower = *values.get((values.len() - 1) / 2)?;
        Some(Self { median: (lower + upper) / 2.0, min, max })
    }

    fn ratio(&self) -> String {
        format!("{:.2} ({:.2}–{:.2})", self.median, self.min, self.max)
    }

    fn json(&self) -> Value {
        json!({"median": self.median, "min": self.min, "max": self.max})
    }
}

impl Report {
    pub fn new(documents: u64, size: usize, rounds: usize, time_series: bool) -> Self {
        Self { documents, size, rounds, time_series, servers: Servers::versions(), runs: Vec::new() }
    }

    pub fn add(&mut self, name: &str, figures: Figures) {
        match self.runs.iter_mut().find(|(known, _)| known == name) {
            Some((_, runs)) => runs.push(figures),
            None => self.runs.push((name.to_owned(), vec![figures])),
        }
    }

    fn of(&self, name: &str) -> &[Figures] {
        self.runs.iter().find(|(known, _)| known == name).map_or(&[], |(_, runs)| runs)
    }

    /// `value` of `name` by that of `other`, round by round.
    fn ratio(&self, name: &str, other: &str, value: impl Fn(&Figures) -> f64) -> Option<Spread> {
        Spread::of(self.of(name).iter().zip(self.of(other)).map(|(one, other)| value(one) / value(other)))
    }

    pub fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED).set_header([
            "contender",
            "docs/s",
            "CPU-s/M docs",
            "peak RSS MiB",
            "nats CPU-s/M",
            "database CPU-s/M",
            "sluice's docs/s ÷ its",
            "sluice's CPU ÷ its",
        ]);
        for (name, runs) in &self.runs {
            let median = |value: &dyn Fn(&Figures) -> f64| Spread::of(runs.iter().map(value)).map_or(f64::NAN, |s| s.median);
            let million = self.documents as f64 / 1e6;
            let ratio = |value: &dyn Fn(&Figures) -> f64| match name == SLUICE {
                true => "–".to_owned(),
                false => self.ratio(SLUICE, name, value).map_or("–".to_owned(), |spread| spread.ratio()),
            };
            let rate = |f: &Figures| f.documents_per_second(self.documents);
            let cpu = |f: &Figures| f.cpu_seconds;
            table.add_row([
                name.clone(),
                format!("{:.0}", median(&rate)),
                format!("{:.2}", median(&cpu) / million),
                format!("{:.1}", median(&|f| f.peak_memory as f64) / f64::from(1 << 20)),
                format!("{:.2}", median(&|f| f.nats_cpu_seconds) / million),
                format!("{:.2}", median(&|f| f.database_cpu_seconds) / million),
                ratio(&rate),
                ratio(&cpu),
            ]);
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let goals = self.goals();
        format!(
            "\n{} {} of {} bytes, batches of 1000, medians of {} interleaved rounds; ratios are per round: median (least–most).\n{}\n{table}\n{goals}",
            self.documents,
            if self.time_series { "measurements" } else { "documents" },
            self.size,
            self.rounds,
            self.servers.join("; "),
        )
    }

    /// The goals beside what was measured; those whose contender was not there say nothing.
    fn goals(&self) -> String {
        let rate = |f: &Figures| 1.0 / f.seconds;
        let cpu = |f: &Figures| f.cpu_seconds;
        let mut lines = String::new();
        let mut line = |what: String, measured: Option<f64>, least: bool, goal: f64| {
            if let Some(measured) = measured {
                lines += &verdict(&what, measured, least, goal);
            }
        };
        for (name, _) in self.runs.iter().filter(|(name, _)| name != SLUICE) {
            let (rate_goal, cpu_goal) = match name.strip_prefix(BARE) {
                Some(bare::COMMAND) => (0.95, 1.05),
                // It inserts in another way.
                Some(_) => continue,
                None => (1.25, 0.6),
            };
            line(format!("docs/s ÷ {name}'s"), self.ratio(SLUICE, name, rate).map(|s| s.median), true, rate_goal);
            line(format!("CPU a document ÷ {name}'s"), self.ratio(SLUICE, name, cpu).map(|s| s.median), false, cpu_goal);
        }
        let memory = Spread::of(self.of(SLUICE).iter().map(|f| f.peak_memory as f64 / f64::from(1 << 20)));
        line("peak RSS, MiB".into(), memory.map(|spread| spread.median), false, 32.0);
        lines
    }

    /// Writes everything as JSON.
    pub fn write(&self, path: &Path) -> Result<()> {
        let ratios = |name: &str| {
            json!({
                "documents_per_second": self.ratio(SLUICE, name, |f| 1.0 / f.seconds).map(|s| s.json()),
                "cpu": self.ratio(SLUICE, name, |f| f.cpu_seconds).map(|s| s.json()),
            })
        };
        let others = self.runs.iter().map(|(name, _)| name).filter(|name| *name != SLUICE);
        let ratios: serde_json::Map<String, Value> = others.map(|name| (name.clone(), ratios(name))).collect();
        let runs: serde_json::Map<String, Value> = self.runs.iter().map(|(name, runs)| (name.clone(), json!(runs))).collect();
        let report = json!({
            "schema": 2,
            "documents": self.documents,
            "document_bytes": self.size,
            "rounds": self.rounds,
            "time_series": self.time_series,
            "servers": self.servers,
            "cores": std::thread::available_parallelism().map_or(0, usize::from),
            "runs": runs,
            "sluice_to": ratios,
        });
        write_json(path, &report)
    }
}
