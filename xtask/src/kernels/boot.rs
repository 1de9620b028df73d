//! Booting a machine and reading what it says.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::process::{Signal, set_parent_process_death_signal};

/// A machine to be.
#[derive(Debug)]
pub struct Machine<'a> {
    /// The kernel's image.
    pub image: &'a Path,
    /// Its first file system.
    pub archive: &'a Path,
    /// Where the kernel's own messages go.
    pub console: &'a Path,
    /// Where everything that the tests print goes.
    pub transcript: &'a Path,
    /// The machine is switched off after this time.
    pub limit: Duration,
}

impl Machine<'_> {
    /// Runs until the machine switches itself off, or the time is up. Each line is given to `line` as it comes, with
    /// the time since the start.
    ///
    /// # Errors
    /// QEMU cannot be started or the transcript not be written.
    pub fn run(&self, mut line: impl FnMut(Duration, &str)) -> Result<()> {
        let mut transcript = std::fs::File::create(self.transcript)?;
        let mut qemu = Running(self.command().spawn().context("qemu-system-x86_64")?);
        let stdout = qemu.0.stdout.take().context("QEMU has no standard output")?;
        let (sender, lines) = mpsc::channel();
        let reader = thread::spawn(move || {
            for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
                let text = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
                if sender.send(text).is_err() {
                    return;
                }
            }
        });
        let start = Instant::now();
        loop {
            match lines.recv_timeout(self.limit.saturating_sub(start.elapsed())) {
                Ok(text) => {
                    writeln!(transcript, "{text}")?;
                    line(start.elapsed(), &text);
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    writeln!(transcript, "switched off after {:?}", self.limit)?;
                    break;
                }
            }
        }
        drop(qemu);
        let _ = reader.join();
        Ok(())
    }

    fn command(&self) -> Command {
        let mut qemu = Command::new("qemu-system-x86_64");
        // Not KVM where it exists either: the figures and limits are those of every machine.
        qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2048"]);
        qemu.args(["-nodefaults", "-display", "none", "-no-reboot"]);
        qemu.arg("-kernel").arg(self.image).arg("-initrd").arg(self.archive);
        qemu.args(["-append", "console=ttyS0 panic=-1 quiet"]);
        qemu.arg("-serial").arg(format!("file:{}", self.console.display()));
        qemu.args(["-serial", "stdio"]);
        qemu.stdin(Stdio::null()).stdout(Stdio::piped());
        let end_with_us = || Ok(set_parent_process_death_signal(Some(Signal::KILL))?);
        // SAFETY: between fork and exec the closure makes one system call; it neither allocates nor locks.
        unsafe { qemu.pre_exec(end_with_us) };
        qemu
    }
}

/// A process that does not outlive this value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
