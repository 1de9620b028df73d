//! Processes of the lab: the controller, node agents and whatever else a test starts.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::{patience::patient, permissions, scope::Scope};

/// A process that ends with the lab, and whose output a failing test shows.
#[derive(Debug)]
pub struct LabProcess {
    name: String,
    child: Child,
    log_path: PathBuf,
    /// Open for reading too: a failing test may remove the lab's directory before it drops the process.
    log: File,
    scope: Arc<Scope>,
}

impl LabProcess {
    /// Starts a command with its output appended to `DIR/NAME.log`, so that a restart's follows on.
    pub(super) fn start(
        scope: &Arc<Scope>,
        dir: &Path,
        name: &str,
        mut command: Command,
    ) -> anyhow::Result<Self> {
        let log_path = dir.join(format!("{name}.log"));
        let log = OpenOptions::new().create(true).read(true).append(true).open(&log_path);
        let log = log.with_context(|| log_path.display().to_string())?;
        let program = command.get_program().display().to_string();
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log.try_clone()?);
        let child = command.spawn().with_context(|| format!("{name}: cannot start {program}"))?;
        Ok(Self { name: name.to_owned(), child, log_path, log, scope: scope.clone() })
    }

    /// The process's id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What the process, and those of the same name before it on the same machine, wrote.
    pub fn log(&self) -> String {
        // The processes share this descriptor's offset, but they append.
        let length = self.log.metadata().map_or(0, |file| file.len());
        let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
        let read = self.log.read_exact_at(&mut bytes, 0);
        if let Err(e) = read { format!("{}: {e}", self.log_path.display()) } else { lossy(&bytes) }
    }

    /// Where the log is.
    pub fn log_path(&self) -> &Path {
        &self.log_path
    }

    /// Does it run?
    ///
    /// # Errors
    /// The kernel does not know the process: a bug of the lab.
    pub fn is_running(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Kills the process at once and waits for its end.
    ///
    /// # Errors
    /// As [`Self::is_running`].
    pub fn kill9(&mut self) -> anyhow::Result<ExitStatus> {
        self.child.kill()?;
        Ok(self.child.wait()?)
    }

    /// Asks the process to end (SIGTERM) and waits.
    ///
    /// # Errors
    /// It still runs after `timeout`.
    pub fn terminate(&mut self, timeout: Duration) -> anyhow::Result<ExitStatus> {
        if self.is_running()? {
            // Not yet waited for, so the id is still this process's.
            kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        }
        self.wait(timeout)
    }

    /// Waits for the process to end by itself.
    ///
    /// # Errors
    /// It still runs after `timeout`.
    pub fn wait(&mut self, timeout: Duration) -> anyhow::Result<ExitStatus> {
        let timeout = patient(timeout);
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                bail!("{} (pid {}) still runs after {timeout:?}", self.name, self.pid());
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for LabProcess {
    fn drop(&mut self) {
        if !self.scope.kept() {
            let _ = self.kill9();
        }
        permissions::keep(&self.log());
        if thread::panicking() {
            eprintln!("--- {} ({}) ---\n{}---", self.name, self.log_path.display(), tail(&self.log(), 200));
        }
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn tail(text: &str, lines: usize) -> String {
    let skip = text.lines().count().saturating_sub(lines);
    text.lines().skip(skip).flat_map(|line| [line, "\n"]).collect()
}

/// A binary of this workspace: in `IPAM_BIN_DIR`, or else where cargo puts it beside the running executable.
///
/// # Errors
/// It is not built.
pub fn binary(name: &str) -> anyhow::Result<PathBuf> {
    let dirs: Vec<PathBuf> = match std::env::var_os("IPAM_BIN_DIR") {
        Some(dir) => vec![dir.into()],
        // target/PROFILE/deps/test-HASH, or target/PROFILE/xtask.
        None => std::env::current_exe()?.ancestors().skip(1).take(2).map(Path::to_owned).collect(),
    };
    let found = dirs.iter().map(|dir| dir.join(name)).find(|path| path.is_file());
    found.with_context(|| {
        format!("{name} is in none of {dirs:?}: `cargo build --workspace`, or set IPAM_BIN_DIR")
    })
}
