//! The directory of the pins: `DIR/<map>` and `DIR/links/<link>`.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    path::Path,
};

use rustix::{
    fs::statfs,
    mount::{MountFlags, mount},
    process::geteuid,
};

use super::DataplaneError;

/// Name of the directory of the links' pins.
pub const LINKS: &str = "links";

/// Name of the directory of the maps of another version, while there is one: see [`super::migration`].
pub const NEXT: &str = "next";

/// `BPF_FS_MAGIC` of `linux/magic.h`.
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// Nobody but the agent's user may open a map: who can write one decides where packets go.
const MODE: u32 = 0o700;

/// Makes the directory if it is missing, with the one of the links, both for this user alone.
pub fn prepare(dir: &Path) -> Result<(), DataplaneError> {
    check_mount(dir)?;
    create(dir)?;
    create(&dir.join(LINKS))
}

/// Makes one directory if it is missing, for this user alone.
pub fn create(dir: &Path) -> Result<(), DataplaneError> {
    let at = |action| move |source| DataplaneError::Io { action, path: dir.to_owned(), source };
    DirBuilder::new().recursive(true).mode(MODE).create(dir).map_err(at("create"))?;
    let metadata = fs::metadata(dir).map_err(at("read"))?;
    let expected = geteuid().as_raw();
    if metadata.uid() != expected {
        return Err(DataplaneError::ForeignOwner { path: dir.to_owned(), found: metadata.uid(), expected });
    }
    if metadata.mode() & 0o777 != MODE {
        fs::set_permissions(dir, Permissions::from_mode(MODE)).map_err(at("set the mode of"))?;
    }
    Ok(())
}

/// Mounts a bpffs where there was one, as systemd does at boot: on the nearest directory that exists.
pub fn remount(dir: &Path) -> Result<(), DataplaneError> {
    let point = dir.ancestors().find(|ancestor| ancestor.is_dir()).unwrap_or(dir);
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("bpf", point, "bpf", flags, c"mode=700").map_err(|errno| DataplaneError::Io {
        action: "mount a bpffs (`mount -t bpf bpf DIR`) on",
        path: point.to_owned(),
        source: errno.into(),
    })
}

/// Removes a directory and what is pinned in it; none is fine.
pub fn remove(dir: &Path) -> Result<(), DataplaneError> {
    if !dir.exists() {
        return Ok(());
    }
    for name in names(dir)? {
        unlink(&dir.join(name))?;
    }
    fs::remove_dir(dir).map_err(|source| DataplaneError::Io {
        action: "remove",
        path: dir.to_owned(),
        source,
    })
}

/// Removes a pin; none is fine.
pub fn unlink(path: &Path) -> Result<(), DataplaneError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(DataplaneError::Io { action: "remove", path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Names of what is in a directory. On a bpffs they are ASCII, for nothing else is ours.
pub fn names(dir: &Path) -> Result<Vec<String>, DataplaneError> {
    let read = || -> io::Result<Vec<_>> {
        let names = fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        names.collect()
    };
    read().map_err(|source| DataplaneError::Io { action: "read", path: dir.to_owned(), source })
}

/// The nearest directory that exists must be on a bpffs: making `dir` elsewhere would only fail later and leave
/// an empty directory behind.
fn check_mount(dir: &Path) -> Result<(), DataplaneError> {
    for ancestor in dir.ancestors() {
        match statfs(if ancestor.as_os_str().is_empty() { Path::new(".") } else { ancestor }) {
            Ok(stat) if u64::try_from(stat.f_type) == Ok(BPF_FS_MAGIC) => return Ok(()),
            Err(rustix::io::Errno::NOENT) => {}
            Ok(_) | Err(rustix::io::Errno::NOTDIR) => break,
            Err(errno) => {
                let source = io::Error::from(errno);
                return Err(DataplaneError::Io { action: "read", path: ancestor.to_owned(), source });
            }
        }
    }
    Err(DataplaneError::NotBpffs { path: dir.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinary_file_system_is_refused_and_left_as_it_was() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("a/b");
        let error = prepare(&dir).unwrap_err();
        assert!(matches!(&error, DataplaneError::NotBpffs { path } if *path == dir), "{error}");
        assert!(error.to_string().contains("mount -t bpf"), "{error}");
        assert!(!root.path().join("a").exists());
    }
}
