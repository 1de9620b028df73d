//! Files that change in one step, and stay changed when the power fails.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::Outcome;

/// Makes the file be of that content and mode (permission bits), with its directories. It is replaced and never
/// written to: a plugin that is being run, or read, stays whole.
pub fn put(path: &Path, content: &[u8], mode: u32) -> Result<Outcome> {
    if is_already(path, content, mode) {
        return Ok(Outcome::Unchanged);
    }
    let dir = directory(path);
    fs::create_dir_all(dir).with_context(|| format!("cannot make the directory {}", dir.display()))?;
    let temporary = temporary(path);
    let placed = write(&temporary, content, mode).and_then(|()| fs::rename(&temporary, path));
    if placed.is_err() {
        // The first error is the one to tell; what is left is a hidden file that the next try overwrites.
        let _ = fs::remove_file(&temporary);
    }
    placed.and_then(|()| sync(dir)).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(Outcome::Written)
}

/// Makes the file not be.
pub fn take_away(path: &Path) -> Result<Outcome> {
    match fs::remove_file(path) {
        Ok(()) => {
            let dir = directory(path);
            sync(dir).with_context(|| format!("cannot sync {}", dir.display()))?;
            Ok(Outcome::Removed)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Outcome::Unchanged),
        Err(error) => Err(error).with_context(|| format!("cannot remove {}", path.display())),
    }
}

fn is_already(path: &Path, content: &[u8], mode: u32) -> bool {
    let regular =
        fs::symlink_metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o7777 == mode);
    regular && fs::read(path).is_ok_and(|found| found == content)
}

fn write(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    // Not by the mode of the open call, from which the umask takes bits away.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.sync_all()
}

/// Beside the file, hidden, and with an ending that no runtime takes for a configuration.
fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.tmp"))
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
