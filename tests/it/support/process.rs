//! A child process that never outlives its handle, signals for it, and free ports.

use super::PATIENCE;
use std::{
    fs::{self, File},
    net::TcpListener,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

/// A running child; killed and reaped when dropped.
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with stdout and stderr appended to `log`.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Self {
        let out = File::options().create(true).append(true).open(log).expect("the log file opens");
        command.stdin(Stdio::null()).stdout(out.try_clone().expect("a second handle")).stderr(out);
        // A group of its own: Ctrl-C in a terminal ends the test process, whose own end must not race with it.
        command.process_group(0);
        let child = command.spawn().unwrap_or_else(|e| panic!("{name} does not start ({command:?}): {e}"));
        Self { child, name: name.to_owned(), log: log.to_owned() }
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("our own child can be waited for")
    }

    /// Sends a signal by its name, `TERM`.
    pub fn signal(&self, signal: &str) {
        // By the shell's own `kill`: std has no signals but KILL, and unsafe code is forbidden.
        let status = Command::new("sh").args(["-c", &format!("kill -{signal} {}", self.pid())]).status();
        assert!(status.expect("sh runs").success(), "kill -{signal} {} ({})", self.pid(), self.name);
    }

    /// Kills it at once and reaps it.
    pub fn kill9(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits for its end, which should take no longer than `expected`.
    pub async fn wait(&mut self, expected: Duration) -> ExitStatus {
        let (start, timeout) = (Instant::now(), PATIENCE * expected);
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(start.elapsed() < timeout, "{} still runs after {timeout:?}\n{}", self.name, self.log_tail());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// All that it has written so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The last 40 lines of it.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        format!("--- the end of {}'s log\n{}", self.name, lines[lines.len().saturating_sub(40)..].join("\n"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill9();
        if std::thread::panicking() {
            eprintln!("{}", self.log_tail());
        }
    }
}

/// A free port below the range that outgoing connections take theirs from: a server that is down for a while finds its
/// port free again, and a client that dials it meanwhile cannot connect to itself.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..2000 {
        // Test processes that run side by side begin at different places.
        let n = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(std::process::id().wrapping_mul(61));
        let port = 12_000 + (n % 20_000) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between 12000 and 32000");
}
