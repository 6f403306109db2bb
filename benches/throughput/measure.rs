//! CPU time and memory of processes, from /proc.

use std::{fs, time::Duration};

/// Clock ticks of /proc/PID/stat per second: USER_HZ is 100 on every Linux that Rust runs on.
const TICKS: u64 = 100;

/// CPU time (user and system) of a process and all its descendants, ended and reaped ones included.
pub fn cpu(pid: u32) -> Duration {
    let stats = all();
    let ticks: u64 = descendants(pid, &stats).map(|s| s.ticks).sum();
    Duration::from_millis(ticks * 1000 / TICKS)
}

/// The highest resident memory that a process and its descendants have had so far, in bytes.
pub fn peak_memory(pid: u32) -> u64 {
    let stats = all();
    descendants(pid, &stats).filter_map(|s| high_water(s.pid)).sum()
}

struct Stat {
    pid: u32,
    parent: u32,
    ticks: u64,
}

fn all() -> Vec<Stat> {
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| stat(entry.file_name().to_str()?)).collect()
}

fn stat(pid: &str) -> Option<Stat> {
    let pid: u32 = pid.parse().ok()?;
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, the program's name, may hold spaces and brackets.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |i: usize| fields.get(i).and_then(|f| f.parse::<u64>().ok());
    // state ppid … utime(14) stime(15) cutime(16) cstime(17), counted from the third field.
    Some(Stat { pid, parent: fields.get(1)?.parse().ok()?, ticks: number(11)? + number(12)? + number(13)? + number(14)? })
}

fn descendants(pid: u32, stats: &[Stat]) -> impl Iterator<Item = &Stat> {
    let mut family = vec![pid];
    let mut next = 0;
    while next < family.len() {
        let parent = family[next];
        family.extend(stats.iter().filter(|s| s.parent == parent).map(|s| s.pid));
        next += 1;
    }
    stats.iter().filter(move |s| family.contains(&s.pid))
}

fn high_water(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
}
