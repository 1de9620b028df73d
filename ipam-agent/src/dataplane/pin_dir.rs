//! The directory of the pins: `DIR/<map>` and `DIR/links/<link>`.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    path::Path,
};

use rustix::{fs::statfs, process::geteuid};

use super::DataplaneError;

/// Name of the directory of the links' pins.
pub const LINKS: &str = "links";

/// `BPF_FS_MAGIC` of `linux/magic.h`.
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// Nobody but the agent's user may open a map: who can write one decides where packets go.
const MODE: u32 = 0o700;

/// Makes the directory if it is missing, with the one of the links, both for this user alone.
pub fn prepare(dir: &Path) -> Result<(), DataplaneError> {
    check_mount(dir)?;
    for dir in [dir, &dir.join(LINKS)] {
        let at = |action| move |source| DataplaneError::Io { action, path: dir.to_owned(), source };
        DirBuilder::new().recursive(true).mode(MODE).create(dir).map_err(at("create"))?;
        let metadata = fs::metadata(dir).map_err(at("read"))?;
        let expected = geteuid().as_raw();
        if metadata.uid() != expected {
            return Err(DataplaneError::ForeignOwner {
                path: dir.to_owned(),
                found: metadata.uid(),
                expected,
            });
        }
        if metadata.mode() & 0o777 != MODE {
            fs::set_permissions(dir, Permissions::from_mode(MODE)).map_err(at("set the mode of"))?;
        }
    }
    Ok(())
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
