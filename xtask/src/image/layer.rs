//! The one layer of the image: files, and the same bytes for the same files, whoever makes it and when.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

use anyhow::Result;
use flate2::{Compression, GzBuilder};
use tar::{EntryType, Header};

/// A file of the image.
#[derive(Clone, Debug)]
pub struct File {
    /// Permissions.
    pub mode: u32,
    /// What is in it.
    pub content: Vec<u8>,
}

/// The files of the image by their paths, which do not begin with a slash.
pub type Files = BTreeMap<String, File>;

/// A tar archive of the files and the folders above them, all of root's and of the epoch.
///
/// # Errors
/// A path that tar cannot hold.
pub fn archive(files: &Files) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut folders = BTreeMap::new();
    for path in files.keys() {
        for folder in Path::new(path).ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty()) {
            folders.insert(format!("{}/", folder.display()), ());
        }
    }
    for folder in folders.keys() {
        tar.append_data(&mut header(EntryType::Directory, 0o755, 0), folder, &b""[..])?;
    }
    for (path, file) in files {
        tar.append_data(
            &mut header(EntryType::Regular, file.mode, file.content.len()),
            path,
            &file.content[..],
        )?;
    }
    Ok(tar.into_inner()?)
}

fn header(kind: EntryType, mode: u32, size: usize) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size as u64);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// The archive compressed. No name and no time are in its head.
///
/// # Errors
/// None that memory could have.
pub fn compress(archive: &[u8]) -> Result<Vec<u8>> {
    let mut gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    gzip.write_all(archive)?;
    Ok(gzip.finish()?)
}
