//! A cpio archive as the kernel unpacks it into its first file system.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use cpio::newc::{Builder, ModeFileType, trailer};

/// What is at a path.
#[derive(Debug)]
enum Node {
    Directory,
    Link(PathBuf),
    /// A copy of a file of this machine.
    Copy(PathBuf),
    Text(String),
}

/// A file system to be.
#[derive(Debug, Default)]
pub struct Tree(BTreeMap<PathBuf, Node>);

impl Tree {
    /// An empty directory.
    pub fn directory(&mut self, path: &str) {
        self.put(Path::new(path), Node::Directory);
    }

    /// A symbolic link.
    pub fn link(&mut self, path: impl AsRef<Path>, target: impl Into<PathBuf>) {
        self.put(path.as_ref(), Node::Link(target.into()));
    }

    /// A copy of `source`, with its permissions.
    pub fn copy(&mut self, path: impl AsRef<Path>, source: impl Into<PathBuf>) {
        self.put(path.as_ref(), Node::Copy(source.into()));
    }

    /// An executable text.
    pub fn text(&mut self, path: &str, text: impl Into<String>) {
        self.put(Path::new(path), Node::Text(text.into()));
    }

    /// Everything beneath a directory of this machine.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn copy_all(&mut self, path: &Path, source: &Path) -> Result<()> {
        for entry in fs::read_dir(source).with_context(|| source.display().to_string())? {
            let entry = entry?;
            let (path, source) = (path.join(entry.file_name()), entry.path());
            if entry.file_type()?.is_dir() {
                self.copy_all(&path, &source)?;
            } else {
                self.copy(path, fs::canonicalize(&source).with_context(|| source.display().to_string())?);
            }
        }
        Ok(())
    }

    /// Parents are directories unless something else was put there first (`/lib` is a link).
    fn put(&mut self, path: &Path, node: Node) {
        for parent in path.ancestors().skip(1).filter(|parent| parent.parent().is_some()) {
            self.0.entry(parent.to_owned()).or_insert(Node::Directory);
        }
        self.0.insert(path.to_owned(), node);
    }

    /// Writes the archive.
    ///
    /// # Errors
    /// A file cannot be read, or the archive not be written.
    pub fn write(&self, archive: &Path) -> Result<()> {
        let out = File::create(archive).with_context(|| archive.display().to_string())?;
        let mut out = BufWriter::new(out);
        for (number, (path, node)) in (1..).zip(&self.0) {
            let entry = Builder::new(&path.strip_prefix("/").unwrap_or(path).to_string_lossy()).ino(number);
            self.entry(entry, node, &mut out).with_context(|| path.display().to_string())?;
        }
        trailer(&mut out)?;
        out.flush()?;
        Ok(())
    }

    fn entry(&self, entry: Builder, node: &Node, out: &mut impl Write) -> io::Result<()> {
        match node {
            Node::Directory => {
                entry.mode(0o755).set_mode_file_type(ModeFileType::Directory).write(out, 0).finish()?;
            }
            Node::Link(target) => {
                let target = target.to_string_lossy();
                let entry = entry.mode(0o777).set_mode_file_type(ModeFileType::Symlink);
                bytes(entry, target.as_bytes(), out)?;
            }
            Node::Copy(source) => {
                let mode = fs::metadata(source)?.permissions().mode() & 0o777;
                let entry = entry.mode(mode).set_mode_file_type(ModeFileType::Regular);
                bytes(entry, &fs::read(source)?, out)?;
            }
            Node::Text(text) => {
                let entry = entry.mode(0o755).set_mode_file_type(ModeFileType::Regular);
                bytes(entry, text.as_bytes(), out)?;
            }
        }
        Ok(())
    }
}

fn bytes(entry: Builder, bytes: &[u8], out: &mut impl Write) -> io::Result<()> {
    let size = u32::try_from(bytes.len()).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    let mut writer = entry.write(out, size);
    writer.write_all(bytes)?;
    writer.finish().map(|_| ())
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Read as _};

    use super::Tree;

    #[test]
    fn parents_come_before_what_is_in_them() {
        let mut tree = Tree::default();
        tree.link("/lib", "usr/lib");
        tree.text("/etc/lab/plan", "text");
        let path = std::env::temp_dir().join(format!("kernels-archive-{}", std::process::id()));
        tree.write(&path).expect("written");
        let mut rest = Cursor::new(std::fs::read(&path).expect("read"));
        std::fs::remove_file(&path).expect("removed");
        let mut found = Vec::new();
        loop {
            let mut entry = cpio::newc::Reader::new(rest).expect("an entry");
            if entry.entry().is_trailer() {
                break;
            }
            let (name, mode) = (entry.entry().name().to_owned(), entry.entry().mode());
            let mut content = String::new();
            entry.read_to_string(&mut content).expect("text");
            found.push((name, mode, content));
            rest = entry.finish().expect("the next entry");
        }
        let wanted = [
            ("etc", 0o040_755, ""),
            ("etc/lab", 0o040_755, ""),
            ("etc/lab/plan", 0o100_755, "text"),
            ("lib", 0o120_777, "usr/lib"),
        ];
        assert_eq!(found, wanted.map(|(name, mode, content)| (name.to_owned(), mode, content.to_owned())));
    }
}
