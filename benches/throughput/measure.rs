//! CPU time and memory of processes, from /proc.

use std::{fs, path::PathBuf, time::Duration};

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

/// The resident memory of a process now, in bytes.
pub fn memory(pid: u32) -> u64 {
    of_status(pid, "VmRSS:").unwrap_or(0)
}

/// How often a process's threads have given up a processor of their own accord.
pub fn switches(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let of = |status: String| status.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"))?.trim().parse::<u64>().ok();
    tasks.filter_map(|task| of(fs::read_to_string(task.path().join("status")).ok()?)).sum()
}

/// How many established TCP connections a process has to each of `ports`.
pub fn connections<const N: usize>(pid: u32, ports: [u16; N]) -> [usize; N] {
    let inode = |link: PathBuf| link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse::<u64>().ok();
    let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let own: Vec<u64> = open.filter_map(|entry| inode(fs::read_link(entry.path()).ok()?)).collect();
    let tables = ["tcp", "tcp6"].map(|table| fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default());
    let rows = tables.iter().flat_map(|table| table.lines().skip(1));
    let remote = rows.filter_map(|row| {
        let fields: Vec<&str> = row.split_whitespace().collect();
        // sl local remote state … inode; 01 is established.
        let port = u16::from_str_radix(fields.get(2)?.rsplit_once(':')?.1, 16).ok()?;
        (*fields.get(3)? == "01" && own.contains(&fields.get(9)?.parse().ok()?)).then_some(port)
    });
    let remote: Vec<u16> = remote.collect();
    ports.map(|port| remote.iter().filter(|remote| **remote == port).count())
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
    of_status(pid, "VmHWM:")
}

fn of_status(pid: u32, key: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix(key))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
}
