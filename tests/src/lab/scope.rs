//! What a lab leaves outside its process, and that nothing of it outlives the lab.
//!
//! Everything a lab makes carries the lab's prefix: namespaces in `/run/netns`, directories in the BPF file
//! system, its own directory in `/run/ipam-lab`. The lab holds a lock on `/run/ipam-lab/PREFIX.lock` for as long
//! as it lives; the kernel drops the lock with the process, however it ends. So a prefix whose lock can be taken
//! is a leftover, and the first lab of a process sweeps those.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Once,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::Context;
use rustix::{
    fs::{FlockOperation, flock},
    mount::{UnmountFlags, unmount},
    process::{Pid, Signal, kill_process},
};

/// Directory of namespaces with a name, as iproute2 has it.
pub(super) const NETNS_DIR: &str = "/run/netns";
/// Locks and state of labs.
const LAB_DIR: &str = "/run/ipam-lab";
/// BPF file system, where the nodes' maps and links are pinned.
const BPF_DIR: &str = "/sys/fs/bpf";

/// The life of one lab. The last reference removes what is left of the lab.
#[derive(Debug)]
pub struct Scope {
    prefix: String,
    keep: AtomicBool,
    /// Locked; never read.
    _lock: File,
}

impl Scope {
    /// Starts a lab's life, after sweeping what dead labs left (once per process).
    ///
    /// With `LAB_KEEP` in the environment, nothing is removed at the end.
    ///
    /// # Errors
    /// `/run/ipam-lab` cannot be written, most likely for want of root.
    pub fn new(test: &str) -> anyhow::Result<Arc<Self>> {
        static SWEEP: Once = Once::new();
        fs::create_dir_all(LAB_DIR).with_context(|| format!("{LAB_DIR}: the lab needs root"))?;
        SWEEP.call_once(|| {
            for prefix in sweep() {
                eprintln!("lab: removed {prefix}, left by a process that is gone");
            }
        });
        let prefix = format!("{}-{:06x}", short(test), rand::random::<u32>() & 0x00ff_ffff);
        let lock = lock_new(&lock_path(&prefix)).with_context(|| format!("{LAB_DIR}/{prefix}.lock"))?;
        let scope =
            Self { prefix, keep: AtomicBool::new(std::env::var_os("LAB_KEEP").is_some()), _lock: lock };
        fs::create_dir(scope.dir()).with_context(|| scope.dir().display().to_string())?;
        Ok(Arc::new(scope))
    }

    /// What the names of everything in this lab start with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The lab's directory: state and logs, one directory per machine.
    pub fn dir(&self) -> PathBuf {
        Path::new(LAB_DIR).join(&self.prefix)
    }

    /// A directory of the BPF file system for one machine's pins. It is the machine's to create.
    pub fn bpf_dir(&self, role: &str) -> PathBuf {
        Path::new(BPF_DIR).join(format!("{}-{role}", self.prefix))
    }

    /// Leaves the lab standing when it ends: namespaces, processes, pins and logs. Every [`sweep`] spares it too;
    /// [`kept`] finds it, [`remove`] ends it.
    pub fn keep(&self) {
        self.keep.store(true, Ordering::Relaxed);
    }

    /// Is the lab to be left standing?
    pub fn kept(&self) -> bool {
        self.keep.load(Ordering::Relaxed)
    }

    /// Ends the lab now, whatever still refers to it (a server's task that holds the fabric, say).
    pub(super) fn end(&self) {
        if !self.kept() {
            remove(&self.prefix);
        } else if fs::remove_file(lock_path(&self.prefix)).is_ok() {
            // Without a lock file no sweep looks at it.
            eprintln!("lab: kept, with state and logs in {}", self.dir().display());
            for namespace in entries_with(NETNS_DIR, &format!("{}-", self.prefix)) {
                eprintln!("lab: nsenter --net={}", namespace.display());
            }
        }
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        self.end();
    }
}

/// Prefixes of the labs that were left standing on purpose.
pub fn kept() -> Vec<String> {
    let dirs = entries_with(LAB_DIR, "").into_iter().filter(|path| path.is_dir());
    let prefixes = dirs.filter_map(|path| path.file_name()?.to_str().map(str::to_owned));
    prefixes.filter(|prefix| !lock_path(prefix).exists()).collect()
}

/// Removes what labs of dead processes left; returns their prefixes. Labs kept on purpose stay.
pub fn sweep() -> Vec<String> {
    let Ok(entries) = fs::read_dir(LAB_DIR) else { return Vec::new() };
    let names = entries.filter_map(|e| e.ok()?.file_name().into_string().ok());
    let prefixes = names.filter_map(|n| n.strip_suffix(".lock").map(str::to_owned));
    prefixes
        .filter(|prefix| {
            let Ok(lock) = File::open(lock_path(prefix)) else { return false };
            let dead = flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok();
            if dead {
                remove(prefix);
            }
            dead
        })
        .collect()
}

/// Removes everything with a lab's prefix: processes in its namespaces, the namespaces, pins and directory.
pub fn remove(prefix: &str) {
    let mine = format!("{prefix}-");
    let namespaces = entries_with(NETNS_DIR, &mine);
    remove_netns(&namespaces);
    for pins in entries_with(BPF_DIR, &mine) {
        let _ = fs::remove_dir_all(pins);
    }
    let _ = fs::remove_dir_all(Path::new(LAB_DIR).join(prefix));
    let _ = fs::remove_file(lock_path(prefix));
}

/// Takes namespaces' names away and kills the processes inside. A namespace itself ends with its last socket and
/// descriptor.
pub(super) fn remove_netns(paths: &[impl AsRef<Path>]) {
    kill_inside(&paths.iter().filter_map(|path| identity(path.as_ref())).collect::<Vec<_>>());
    for path in paths.iter().map(AsRef::as_ref) {
        let _ = unmount(path, UnmountFlags::DETACH);
        let _ = fs::remove_file(path);
    }
}

/// Kills the processes, this one aside, whose network namespace is among `namespaces`.
fn kill_inside(namespaces: &[(u64, u64)]) {
    let own = std::process::id().cast_signed();
    let Ok(processes) = fs::read_dir("/proc") else { return };
    let pids = processes.filter_map(|p| p.ok()?.file_name().to_str()?.parse::<i32>().ok());
    for pid in pids.filter(|pid| *pid != own) {
        let theirs = identity(Path::new(&format!("/proc/{pid}/ns/net")));
        let inside = theirs.is_some_and(|ns| namespaces.contains(&ns));
        if let (true, Some(pid)) = (inside, Pid::from_raw(pid)) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// Device and inode: what two names of one namespace have in common, and a plain file with nothing.
fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

fn entries_with(dir: &str, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let paths = entries.filter_map(|e| Some(e.ok()?.path()));
    paths.filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(prefix))).collect()
}

fn lock_path(prefix: &str) -> PathBuf {
    Path::new(LAB_DIR).join(format!("{prefix}.lock"))
}

/// Creates and locks a lock file. A sweep may take a file between its creation and the lock: then another is made.
fn lock_new(path: &Path) -> io::Result<File> {
    loop {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() && file.metadata()?.nlink() > 0 {
            return Ok(file);
        }
    }
}

/// The part of a test's name that goes into a lab's prefix: what file and namespace names may hold, 24 bytes.
fn short(test: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    test.rsplit("::").next().unwrap_or_default().chars().take(24).map(safe).collect()
}

#[cfg(test)]
mod tests {
    use super::short;

    #[test]
    fn prefixes_are_short_and_safe() {
        assert_eq!(short("fabric::migrate_moves/Traffic"), "migrate-moves-traffic");
        assert_eq!(short(&"x".repeat(99)).len(), 24);
    }
}
