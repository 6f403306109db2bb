//! The figures as a table of medians for people and as JSON for programs.

use super::{
    bare,
    contender::{Figures, SLUICE},
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
    servers: Vec<String>,
    runs: Vec<(String, Vec<Figures>)>,
}

/// Median, least and most.
struct Spread {
    median: f64,
    min: f64,
    max: f64,
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
    pub fn new(documents: u64, size: usize, rounds: usize, _running: &Servers) -> Self {
        Self { documents, size, rounds, servers: Servers::versions(), runs: Vec::new() }
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

    /// `value` of `name` by that of the bare loop `way`, round by round.
    fn ratio(&self, name: &str, way: &str, value: impl Fn(&Figures) -> f64) -> Option<Spread> {
        let bare = self.of(&format!("bare-{way}"));
        Spread::of(self.of(name).iter().zip(bare).map(|(one, bare)| value(one) / value(bare)))
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
            "docs/s ÷ insert_many",
            "docs/s ÷ command",
            "CPU ÷ insert_many",
            "CPU ÷ command",
        ]);
        for (name, runs) in &self.runs {
            let median = |value: &dyn Fn(&Figures) -> f64| Spread::of(runs.iter().map(value)).map_or(f64::NAN, |s| s.median);
            let million = self.documents as f64 / 1e6;
            let ratio = |way, value: &dyn Fn(&Figures) -> f64| self.ratio(name, way, value).map_or("–".to_owned(), |s| s.ratio());
            let rate = |f: &Figures| f.documents_per_second(self.documents);
            let cpu = |f: &Figures| f.cpu_seconds;
            table.add_row([
                name.clone(),
                format!("{:.0}", median(&rate)),
                format!("{:.2}", median(&cpu) / million),
                format!("{:.1}", median(&|f| f.peak_memory as f64) / f64::from(1 << 20)),
                format!("{:.2}", median(&|f| f.nats_cpu_seconds) / million),
                format!("{:.2}", median(&|f| f.database_cpu_seconds) / million),
                ratio(bare::INSERT_MANY, &rate),
                ratio(bare::COMMAND, &rate),
                ratio(bare::INSERT_MANY, &cpu),
                ratio(bare::COMMAND, &cpu),
            ]);
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        format!(
            "\n{} documents of {} bytes, batches of 1000, medians of {} interleaved rounds; ratios are per round: median (least–most).\n{}\n{table}\n",
            self.documents,
            self.size,
            self.rounds,
            self.servers.join("; "),
        )
    }

    /// Writes everything as JSON.
    pub fn write(&self, path: &Path) -> Result<()> {
        let ratios = |way: &str| {
            json!({
                "documents_per_second": self.ratio(SLUICE, way, |f| 1.0 / f.seconds).map(|s| s.json()),
                "cpu": self.ratio(SLUICE, way, |f| f.cpu_seconds).map(|s| s.json()),
            })
        };
        let runs: serde_json::Map<String, Value> = self.runs.iter().map(|(name, runs)| (name.clone(), json!(runs))).collect();
        let report = json!({
            "schema": 1,
            "documents": self.documents,
            "document_bytes": self.size,
            "rounds": self.rounds,
            "servers": self.servers,
            "cores": std::thread::available_parallelism().map_or(0, usize::from),
            "runs": runs,
            "sluice_to_bare": {bare::INSERT_MANY: ratios(bare::INSERT_MANY), bare::COMMAND: ratios(bare::COMMAND)},
        });
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(path, serde_json::to_string_pretty(&report)?)?;
        println!("{}", path.display());
        Ok(())
    }
}
