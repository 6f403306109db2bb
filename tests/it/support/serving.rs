//! A script of `deploy/local` that serves an engine until its stdin ends, which this process's end is, however it comes; and
//! the image of this very binary, kept from one run to the next.

use super::{random_name, temp_dir};
use sha2::{Digest, Sha256};
use std::{
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// An engine of our own; put away when dropped.
pub(super) struct Serving {
    child: Child,
    said: Vec<String>,
    /// Where everything of it is.
    pub dir: PathBuf,
    // Goes after it.
    _temp: tempfile::TempDir,
}

impl Serving {
    /// `deploy/local/{name} serve DIR FLAGS…`, once it has said its first `lines` lines: `field=value`.
    pub fn start(name: &str, flags: &[String], lines: usize) -> Self {
        let temp = temp_dir(name.trim_end_matches(".sh"));
        let dir = temp.path().to_owned();
        let mut command = script(name);
        command.arg("serve").arg(&dir).args(flags).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        // Ctrl-C ends this process; the end of its stdin then tells the script to put everything away.
        command.process_group(0);
        let mut child = command.spawn().expect("bash starts");
        let output = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let said = output.map_while(Result::ok).take(lines).collect();
        Self { child, said, dir, _temp: temp }
    }

    /// What it said of `field`.
    pub fn field(&self, field: &str) -> &str {
        let value = self.said.iter().find_map(|line| line.strip_prefix(field)?.strip_prefix('='));
        value.unwrap_or_else(|| panic!("no {field}= in {:?}", self.said))
    }

    /// Kills one of its processes at once.
    pub fn kill9(&self, process: &str) {
        succeeds(Command::new("sh").args(["-c", &format!("kill -KILL {}", self.pid(process))]));
    }

    /// The id of one of its processes.
    pub fn pid(&self, process: &str) -> String {
        fs::read_to_string(self.dir.join(format!("{process}.pid"))).expect("it runs").trim().to_owned()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // Its directory goes after it.
        let _ = self.child.wait();
    }
}

/// The name of the image of this very binary, and the tar that holds it: `make` makes that of a name where it is not kept under
/// `target` already. `sources` (below the crate's root) are what it follows from, beside the binary.
pub(super) fn kept_image(place: &str, sources: &[&str], make: impl FnOnce(&Path, &str, &Path)) -> (String, PathBuf) {
    let binary = Path::new(env!("CARGO_BIN_EXE_sluice"));
    let mut hash = Sha256::new();
    for file in sources.iter().map(|file| root().join(file)).chain([binary.to_owned()]) {
        hash.update(fs::read(file).expect("a file of the image"));
    }
    let hash: String = hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    let name = format!("sluice:it-{hash}");
    let kept = binary.parent().expect("a directory").join(place);
    let tar = kept.join(format!("{hash}.tar"));
    if !tar.exists() {
        // What earlier binaries were is of no use any more; another test may be making the same for another engine.
        let earlier = fs::read_dir(&kept).into_iter().flatten().flatten();
        for image in earlier.filter(|image| !image.file_name().to_string_lossy().starts_with(&hash)) {
            let _ = fs::remove_file(image.path());
        }
        fs::create_dir_all(&kept).expect("a directory");
        let made = kept.join(format!("{hash}.{}", random_name("made")));
        make(binary, &name, &made);
        fs::rename(&made, &tar).expect("the image is kept");
    }
    (name, tar)
}

pub(super) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub(super) fn script(name: &str) -> Command {
    let mut command = Command::new("bash");
    command.arg(root().join("deploy/local").join(name)).stdin(Stdio::null());
    command
}

pub(super) fn succeeds(command: &mut Command) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the command starts");
    let mut said = String::new();
    // Daemons that it leaves running must not keep its output open for us: they have logs of their own.
    let _ = child.stderr.take().map(|mut stderr| stderr.read_to_string(&mut said));
    let status = child.wait().expect("the command ends");
    assert!(status.success(), "{command:?}: {said}");
}

pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}
