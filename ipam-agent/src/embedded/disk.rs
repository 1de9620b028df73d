//! The redb file: every object as JSON, and the revision. Read once, at open; then only written.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use redb::{Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use serde_json::Value;

use super::store::{Change, Key};

/// `format` and `revision`.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// (resource such as `vpcips.eni-ipam.dev`, namespace, name) → JSON.
const OBJECTS: TableDefinition<'_, (&str, &str, &str), &[u8]> = TableDefinition::new("objects");
/// Raised whenever what is in the tables changes its meaning.
const FORMAT: u64 = 1;
/// First bytes of every redb file (redb's `docs/design.md`, "super-header").
const MAGIC: [u8; 9] = *b"redb\x1A\x0A\xA9\x0D\x0A";
/// Pages of the file that redb keeps in memory, in bytes. Little: objects are read from our own index.
const CACHE: usize = 16 << 20;

/// An open file; no other process can open it meanwhile.
pub(super) struct Disk {
    database: Database,
    path: PathBuf,
}

/// An object as it is on disk.
pub(super) struct Stored {
    /// Such as `vpcips.eni-ipam.dev`.
    pub resource: String,
    pub key: Key,
    pub value: Value,
}

impl Disk {
    /// Opens the file, or makes a new one where there is none. Gives everything in it, and its revision.
    ///
    /// # Errors
    /// Name the file, what is wrong with it and the remedy. The file is then as it was before.
    pub fn open(path: &Path) -> Result<(Self, Vec<Stored>, u64)> {
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                create(path).with_context(|| format!("API file {}: cannot be created", path.display()))?;
            }
            Err(error) => return Err(error).with_context(|| format!("API file {}", path.display())),
            Ok(_) => check_header(path)?,
        }
        let database = open_checked(path)?;
        let (objects, revision) = read(&database).with_context(|| {
            format!(
                "API file {}: {}",
                path.display(),
                "its content cannot be used; move it away to start empty"
            )
        })?;
        Ok((Self { database, path: path.to_owned() }, objects, revision))
    }

    /// Writes changes, all or none. They are on the disk when this returns.
    ///
    /// # Errors
    /// Name the file. Nothing has been written then.
    pub fn commit(&self, changes: &[(&Change, &str)], revision: u64) -> Result<()> {
        self.write(changes, revision)
            .with_context(|| format!("API file {}: write failed", self.path.display()))
    }

    fn write(&self, changes: &[(&Change, &str)], revision: u64) -> Result<()> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        {
            let mut objects = transaction.open_table(OBJECTS)?;
            for (change, resource) in changes {
                let key = (*resource, change.key.namespace.as_str(), change.key.name.as_str());
                if change.removed {
                    objects.remove(key)?;
                } else {
                    objects.insert(key, serde_json::to_vec(&change.object.value)?.as_slice())?;
                }
            }
            transaction.open_table(META)?.insert("revision", revision)?;
        }
        Ok(transaction.commit()?)
    }
}

/// Makes an empty file under another name and then gives it its own, so that a crash leaves no half of it.
fn create(path: &Path) -> Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().ok_or_else(|| anyhow!("the path names no file"))?.to_string_lossy();
    let draft = directory.join(format!(".{name}.{}.new", std::process::id()));
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    let database = Database::builder().set_cache_size(CACHE).create(&draft)?;
    let transaction = database.begin_write()?;
    transaction.open_table(OBJECTS)?;
    {
        let mut meta = transaction.open_table(META)?;
        meta.insert("format", FORMAT)?;
        meta.insert("revision", 0)?;
    }
    transaction.commit()?;
    database.close()?;
    File::open(&draft)?.sync_all()?;
    // A link, unlike a rename, never replaces a file that another process made meanwhile.
    let linked = fs::hard_link(&draft, path);
    fs::remove_file(&draft)?;
    linked?;
    Ok(File::open(directory)?.sync_all()?)
}

/// Refuses what is no redb file before redb, which would write to an empty one, sees it.
fn check_header(path: &Path) -> Result<()> {
    let name = path.display();
    let mut file = File::open(path).with_context(|| format!("API file {name}: cannot be opened"))?;
    let metadata = file.metadata().with_context(|| format!("API file {name}"))?;
    if !metadata.is_file() {
        bail!("API file {name}: is no regular file; give the path of a file");
    }
    if metadata.len() == 0 {
        bail!(
            "API file {name}: is empty, so its content was lost; restore a copy, or remove it to start empty"
        );
    }
    let mut start = [0; MAGIC.len()];
    if file.read_exact(&mut start).is_err() || start != MAGIC {
        bail!("API file {name}: is no database of this program; give another path, or move the file away");
    }
    Ok(())
}

fn open_checked(path: &Path) -> Result<Database> {
    let name = path.display();
    // Every page's checksum is verified at open: a torn file must be found now, not at some later read. In
    // debug builds redb asserts in places where release builds return an error; both mean the same to us.
    let opened = catch_unwind(AssertUnwindSafe(|| {
        Database::builder().set_cache_size(CACHE).set_check_integrity_on_open(true).open(path)
    }));
    match opened {
        Ok(Ok(database)) => Ok(database),
        Ok(Err(DatabaseError::DatabaseAlreadyOpen)) => {
            bail!("API file {name}: another process has it open; stop that process, or give another path")
        }
        Ok(Err(DatabaseError::UpgradeRequired(version))) => {
            bail!(
                "API file {name}: has redb's file format {version}, which this program cannot read; use the program that wrote it"
            )
        }
        Ok(Err(error)) => Err(error).with_context(|| {
            format!(
                "API file {name}: is damaged or truncated; restore a copy, or move it away to start empty"
            )
        }),
        Err(_) => bail!("API file {name}: is damaged; restore a copy, or move it away to start empty"),
    }
}

fn read(database: &Database) -> Result<(Vec<Stored>, u64)> {
    let transaction = database.begin_read()?;
    let meta = transaction.open_table(META).context("it is a redb database, but not of this program")?;
    let format = meta.get("format")?.map(|value| value.value());
    if format != Some(FORMAT) {
        bail!(
            "field meta.format is {format:?}, and this program reads {FORMAT}; use the program that wrote it"
        );
    }
    let revision = meta.get("revision")?.ok_or_else(|| anyhow!("field meta.revision is missing"))?.value();
    let table = transaction.open_table(OBJECTS)?;
    let mut objects = Vec::new();
    for entry in table.iter()? {
        let (key, value) = entry?;
        let (resource, namespace, name) = key.value();
        let value = serde_json::from_slice(value.value())
            .with_context(|| format!("object {resource} {namespace}/{name} is no JSON"))?;
        objects.push(Stored { resource: resource.to_owned(), key: Key::new(namespace, name), value });
    }
    Ok((objects, revision))
}
