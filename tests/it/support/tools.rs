//! Where the programs are that tests run beside Sluice: asked of `deploy/local/tools.sh` once per test process.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{Mutex, OnceLock},
};

static FOUND: OnceLock<Mutex<BTreeMap<String, Result<PathBuf, String>>>> = OnceLock::new();

/// The path of `name` (a word that `deploy/local/tools.sh` knows), installed if need be, or why it cannot be had.
pub fn tool(name: &str) -> Result<PathBuf, String> {
    // A test that panics while it holds the lock leaves a map that is still whole.
    let mut found = FOUND.get_or_init(Mutex::default).lock().unwrap_or_else(|e| e.into_inner());
    found.entry(name.to_owned()).or_insert_with(|| ask(name)).clone()
}

/// What is missing among `names`; an external MongoDB counts as a database, a cluster's kubeconfig as Kubernetes.
pub fn missing(names: &[&str]) -> Option<String> {
    let problems: Vec<_> = names
        .iter()
        .filter(|name| !given(name))
        .filter_map(|name| tool(name).err().map(|why| format!("{name} cannot be had: {why}")))
        .collect();
    (!problems.is_empty()).then(|| problems.join("; "))
}

/// Whether the environment names one that is there already.
fn given(name: &str) -> bool {
    let variable = match name {
        "database" => "SLUICE_TEST_MONGO_URL",
        "kubernetes" => "SLUICE_TEST_KUBECONFIG",
        _ => return false,
    };
    std::env::var_os(variable).is_some()
}

fn ask(name: &str) -> Result<PathBuf, String> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/local/tools.sh");
    let output =
        Command::new("bash").args([script, name]).stdin(Stdio::null()).output().map_err(|e| format!("bash cannot be started: {e}"))?;
    let path = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() && !path.is_empty() {
        return Ok(path.into());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(stderr.lines().rev().take(3).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join(" | "))
}
