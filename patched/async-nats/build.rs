//! Makes the source of `src/lib.rs`: finds upstream's, which cargo has fetched as a dependency, copies it into `OUT_DIR` and
//! applies `lenient-parser.patch` to the copy.
//!
//! What always holds: a patch whose lines are not found where they are expected fails the build, naming file and line.

use serde_json::Value;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What differs from upstream.
const PATCH: &str = "lenient-parser.patch";
/// Upstream's directory, for builds that do not find it.
const SOURCE: &str = "SLUICE_ASYNC_NATS_SOURCE";

fn main() -> Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={PATCH}");
    println!("cargo::rerun-if-env-changed={SOURCE}");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let source = find(&out)?;
    let to = out.join("async_nats");
    if to.exists() {
        fs::remove_dir_all(&to)?;
    }
    copy(&source.join("src"), &to)?;
    for file in parse(&fs::read_to_string(PATCH)?)? {
        let path = to.join(&file.path);
        let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        fs::write(&path, file.apply(&text)?)?;
    }
    // What `include!` takes has no inner attributes and no inner documentation.
    let root = to.join("lib.rs");
    let text = fs::read_to_string(&root)?;
    let kept = text.lines().filter(|line| !line.starts_with("//!") && !line.starts_with("#!["));
    fs::write(&root, kept.flat_map(|line| [line, "\n"]).collect::<String>())?;
    Ok(())
}

/// The directory of upstream's source, in the version of this crate.
fn find(out: &Path) -> Result<PathBuf> {
    if let Some(given) = env::var_os(SOURCE) {
        return Ok(PathBuf::from(given));
    }
    let version = env::var("CARGO_PKG_VERSION")?;
    let asked = ask_cargo(out, &version);
    let found = asked.as_ref().ok().cloned().or_else(|| unpacked(&version));
    found.filter(|found| found.join("src/lib.rs").is_file()).ok_or_else(|| {
        let why = asked.err().map_or(String::new(), |error| format!("; cargo says: {error}"));
        format!("the source of async-nats {version} was not found: set {SOURCE} to its directory{why}").into()
    })
}

/// Asks cargo, which knows about vendored sources and mirrors, through a package of its own: that of the whole build may
/// need more than was fetched.
fn ask_cargo(out: &Path, version: &str) -> Result<PathBuf> {
    let package = out.join("find");
    fs::create_dir_all(&package)?;
    let manifest = package.join("Cargo.toml");
    let dependency = format!("async-nats = {{ version = \"={version}\", default-features = false, features = [\"ring\"] }}");
    let text =
        format!("[package]\nname = \"find\"\nedition = \"2021\"\n[lib]\npath = \"lib.rs\"\n[dependencies]\n{dependency}\n[workspace]\n");
    fs::write(&manifest, text)?;
    fs::write(package.join("lib.rs"), "")?;
    // With the versions of the build that this is a part of, since those are there.
    let here = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let lock =
        out.ancestors().chain(here.ancestors()).map(|above| above.join("Cargo.lock")).find(|lock| {
            fs::read_to_string(lock).is_ok_and(|text| text.contains(&format!("name = \"async-nats\"\nversion = \"{version}\"")))
        });
    if let Some(lock) = lock {
        fs::write(package.join("Cargo.lock"), fs::read(lock)?)?;
    }
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["metadata", "--format-version", "1", "--offline", "--filter-platform", &env::var("TARGET")?, "--manifest-path"]);
    // The configuration is looked for from here on upwards.
    let output = cargo.arg(&manifest).current_dir(here).output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().replace('\n', " ").into());
    }
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"].as_array().ok_or("cargo names no packages")?;
    let upstream = packages.iter().find(|package| package["name"] == "async-nats" && package["version"] == version);
    let manifest = upstream.and_then(|upstream| upstream["manifest_path"].as_str()).ok_or("cargo does not name it")?;
    Ok(Path::new(manifest).parent().ok_or("its manifest has no directory")?.to_owned())
}

/// Looks where cargo unpacks what it has fetched.
fn unpacked(version: &str) -> Option<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")))?;
    let registries = fs::read_dir(home.join("registry/src")).ok()?;
    registries.flatten().map(|registry| registry.path().join(format!("async-nats-{version}"))).find(|path| path.is_dir())
}

/// Copies a directory with what is in it.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).map_err(|error| format!("{}: {error}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            // Not `fs::copy`: what cargo has fetched may be read-only.
            fs::write(target, fs::read(entry.path())?)?;
        }
    }
    Ok(())
}

/// What a patch does to one file.
struct FilePatch {
    /// Below `src`.
    path: String,
    hunks: Vec<Hunk>,
}

/// Lines that stand together.
struct Hunk {
    /// The first of them, counted from 0.
    start: usize,
    /// Each with ' ', '-' or '+' in front.
    lines: Vec<String>,
}

/// Reads a unified difference.
fn parse(patch: &str) -> Result<Vec<FilePatch>> {
    let mut files: Vec<FilePatch> = Vec::new();
    for (number, line) in patch.lines().enumerate() {
        let odd = || format!("{PATCH}:{}: not understood: {line}", number + 1);
        if let Some(path) = line.strip_prefix("+++ b/src/") {
            files.push(FilePatch { path: path.to_owned(), hunks: Vec::new() });
        } else if let Some(range) = line.strip_prefix("@@ -") {
            let start: usize = range.split([',', ' ']).next().and_then(|start| start.parse().ok()).ok_or_else(odd)?;
            let start = start.checked_sub(1).ok_or_else(odd)?;
            files.last_mut().ok_or_else(odd)?.hunks.push(Hunk { start, lines: Vec::new() });
        } else if !line.starts_with("--- ") && line.starts_with([' ', '-', '+']) {
            let hunk = files.last_mut().and_then(|file| file.hunks.last_mut()).ok_or_else(odd)?;
            hunk.lines.push(line.to_owned());
        }
    }
    Ok(files)
}

impl FilePatch {
    /// The file afterwards.
    fn apply(&self, text: &str) -> Result<String> {
        let old: Vec<&str> = text.lines().collect();
        let (mut new, mut at): (Vec<&str>, usize) = (Vec::new(), 0);
        for hunk in &self.hunks {
            new.extend(old.get(at..hunk.start).ok_or_else(|| format!("{PATCH}: {} has no line {}", self.path, hunk.start))?);
            at = hunk.start;
            for line in &hunk.lines {
                let (mark, line) = line.split_at(1);
                if mark != "+" {
                    if old.get(at) != Some(&line) {
                        return Err(format!("{PATCH} does not apply: {} differs in line {}: {line}", self.path, at + 1).into());
                    }
                    at += 1;
                }
                if mark != "-" {
                    new.push(line);
                }
            }
        }
        new.extend(old.get(at..).unwrap_or_default());
        Ok(new.into_iter().flat_map(|line| [line, "\n"]).collect())
    }
}
