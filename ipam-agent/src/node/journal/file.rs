//! The journal's redb file. Read once, when it is opened; then only written.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{ErrorKind, Read as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

use redb::{
    Database, DatabaseError, Durability, ReadableDatabase as _, ReadableTable as _, TableDefinition,
    TableHandle as _,
};

use tracing::warn;

use super::{JournalError, record::Book};
use crate::api::VpcIP;

/// `format`; and [`REBUILDING`], while that is so.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("node-journal");
/// Key of an attachment as JSON → record as JSON.
const ATTACHMENTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("attachments");
/// Slot → ENI as JSON.
const ENIS: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("enis");
/// Name of a `VpcIP` → the object as JSON. Builds before it knew neither this table nor the next one, and leave them as
/// they are: what is in them is as old as [`CONTACT`] says.
const BINDINGS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("bindings");
/// [`HEARD`] → when, as JSON.
const CONTACT: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("contact");
const HEARD: &str = "api";
/// In [`META`] of a new journal until the node was searched for what a lost one knew.
const REBUILDING: &str = "rebuilding";
/// Raised whenever what is in the tables changes its meaning.
const FORMAT: u64 = 1;
/// First bytes of every redb file (redb's `docs/design.md`, "super-header").
const MAGIC: [u8; 9] = *b"redb\x1A\x0A\xA9\x0D\x0A";
/// Pages that redb keeps in memory, in bytes: nothing is read twice.
const CACHE: usize = 1 << 20;

/// An open file, locked against other processes.
pub struct JournalFile {
    database: Database,
    path: PathBuf,
}

impl JournalFile {
    /// Opens the file, or makes one where there is none, and reads it.
    pub fn open(path: &Path) -> Result<(Self, Book), JournalError> {
        let error =
            |problem: String, remedy| JournalError::Unusable { path: path.to_owned(), problem, remedy };
        match fs::symlink_metadata(path) {
            Err(absent) if absent.kind() == ErrorKind::NotFound => create(path).map_err(|cause| {
                error(
                    format!("cannot be created: {cause:#}"),
                    "give a path in a directory that can be written",
                )
            })?,
            Err(cause) => return Err(error(cause.to_string(), "make it readable")),
            Ok(_) => check(path)?,
        }
        let database = open_checked(path, path)?;
        let book = read_checked(&database, path)?;
        Ok((Self { database, path: path.to_owned() }, book))
    }

    /// Writes the difference of two books, all or none of it. It is on the disk when this returns.
    pub fn write(&self, old: &Book, new: &Book) -> Result<(), JournalError> {
        self.try_write(old, new)
            .map_err(|cause| JournalError::Write { path: self.path.clone(), cause: format!("{cause:#}") })
    }

    fn try_write(&self, old: &Book, new: &Book) -> anyhow::Result<()> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        {
            let mut table = transaction.open_table(ATTACHMENTS)?;
            for key in old.attachments.keys().filter(|key| !new.attachments.contains_key(key)) {
                table.remove(serde_json::to_string(key)?.as_str())?;
            }
            for (key, record) in &new.attachments {
                if old.attachments.get(key).is_some_and(|old| Arc::ptr_eq(old, record)) {
                    continue;
                }
                table.insert(
                    serde_json::to_string(key)?.as_str(),
                    serde_json::to_vec(&**record)?.as_slice(),
                )?;
            }
        }
        if old.enis != new.enis {
            let mut table = transaction.open_table(ENIS)?;
            for slot in old.enis.keys().filter(|slot| !new.enis.contains_key(slot)) {
                table.remove(slot)?;
            }
            for (slot, eni) in &new.enis {
                table.insert(slot, serde_json::to_vec(eni)?.as_slice())?;
            }
        }
        if old.bindings != new.bindings {
            let mut table = transaction.open_table(BINDINGS)?;
            for name in old.bindings.keys().filter(|name| !new.bindings.contains_key(*name)) {
                table.remove(name.as_str())?;
            }
            for (name, vpc_ip) in &new.bindings {
                if old.bindings.get(name) != Some(vpc_ip) {
                    table.insert(name.as_str(), serde_json::to_vec(&**vpc_ip)?.as_slice())?;
                }
            }
        }
        if let Some(heard) = new.heard.as_ref().filter(|heard| old.heard.as_ref() != Some(heard)) {
            transaction.open_table(CONTACT)?.insert(HEARD, serde_json::to_vec(heard)?.as_slice())?;
        }
        if old.rebuilding && !new.rebuilding {
            transaction.open_table(META)?.remove(REBUILDING)?;
        }
        Ok(transaction.commit()?)
    }
}

/// Makes an empty file under another name and then gives it its own, so that a crash leaves no half of it.
fn create(path: &Path) -> anyhow::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Beside the socket, which is root's alone.
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let draft = path.with_extension(format!("{}.new", std::process::id()));
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    let database = Database::builder().set_cache_size(CACHE).create(&draft)?;
    let transaction = database.begin_write()?;
    transaction.open_table(ATTACHMENTS)?;
    transaction.open_table(ENIS)?;
    {
        let mut meta = transaction.open_table(META)?;
        meta.insert("format", FORMAT)?;
        meta.insert(REBUILDING, 1)?;
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

/// Refuses what cannot be used before the file is opened for good: redb repairs a file that was not closed, and writes
/// to any that it opens, so a copy of it is tried first.
fn check(path: &Path) -> Result<(), JournalError> {
    check_header(path)?;
    let copy = path.with_extension(format!("{}.check", std::process::id()));
    let tried = (|| {
        fs::copy(path, &copy).map_err(|cause| JournalError::Unusable {
            path: path.to_owned(),
            problem: format!("cannot be copied to `{}` to be checked: {cause}", copy.display()),
            remedy: "make room on the disk",
        })?;
        read_checked(&open_checked(&copy, path)?, path)
    })();
    // What is left of a copy is in nobody's way.
    let _ = fs::remove_file(&copy);
    tried.map(|_| ())
}

/// Refuses what is no redb file, and one that is in use, whose copy would be torn.
fn check_header(path: &Path) -> Result<(), JournalError> {
    let error = |problem: String, remedy| JournalError::Unusable { path: path.to_owned(), problem, remedy };
    let mut file = File::open(path).map_err(|cause| error(cause.to_string(), "make it readable"))?;
    let metadata = file.metadata().map_err(|cause| error(cause.to_string(), "make it readable"))?;
    if !metadata.is_file() {
        return Err(error("is no regular file".into(), "give the path of a file"));
    }
    if metadata.len() == 0 {
        return Err(error("is empty, so its content was lost".into(), LOST));
    }
    let mut start = [0; MAGIC.len()];
    if file.read_exact(&mut start).is_err() || start != MAGIC {
        return Err(error("is no journal".into(), "give another path, or move the file away"));
    }
    // redb locks its file in the same way.
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(error(IN_USE.into(), STOP_THE_OTHER)),
        Err(TryLockError::Error(cause)) => {
            Err(error(format!("cannot be locked: {cause}"), "use a local disk"))
        }
    }
}

const IN_USE: &str = "another process has it open";
const STOP_THE_OTHER: &str = "stop the other agent, or give another path";

/// The remedy for a journal that cannot be trusted any more.
const LOST: &str = "restore a copy or move the file away, and start again: an agent without its journal takes over the \
                    pods that it finds in its map";

/// Opens a file, or a copy of the one that errors shall name.
fn open_checked(path: &Path, named: &Path) -> Result<Database, JournalError> {
    let error = |problem: String, remedy| JournalError::Unusable { path: named.to_owned(), problem, remedy };
    // Every page's checksum is verified: a torn file must be found now, not at some later read. In debug builds redb
    // asserts where release builds return an error; both mean the same to us.
    let opened = catch_unwind(AssertUnwindSafe(|| {
        Database::builder().set_cache_size(CACHE).set_check_integrity_on_open(true).open(path)
    }));
    match opened {
        Ok(Ok(database)) => Ok(database),
        Ok(Err(DatabaseError::DatabaseAlreadyOpen)) => Err(error(IN_USE.into(), STOP_THE_OTHER)),
        Ok(Err(DatabaseError::UpgradeRequired(version))) => Err(error(
            format!("has redb's file format {version}, which this program cannot read"),
            "use the program that wrote it",
        )),
        Ok(Err(cause)) => Err(error(format!("is damaged or truncated: {cause}"), LOST)),
        Err(_) => Err(error("is damaged".into(), LOST)),
    }
}

fn read_checked(database: &Database, named: &Path) -> Result<Book, JournalError> {
    read(database).map_err(|cause| JournalError::Unusable {
        path: named.to_owned(),
        problem: format!("{cause:#}"),
        remedy: "use the program that wrote it, or drain the node and move the file away",
    })
}

fn read(database: &Database) -> anyhow::Result<Book> {
    use anyhow::Context as _;
    let transaction = database.begin_read()?;
    let tables: Vec<_> = transaction.list_tables()?.map(|table| table.name().to_owned()).collect();
    if !tables.iter().any(|name| name == META.name()) {
        anyhow::bail!("is a redb database, but no journal (its tables are {tables:?})");
    }
    let meta = transaction.open_table(META)?;
    let format = meta.get("format")?.map(|value| value.value());
    if format != Some(FORMAT) {
        let found = format.map_or("missing".to_owned(), |format| format.to_string());
        anyhow::bail!("field format is {found}, and this program reads {FORMAT}");
    }
    let mut book = Book::default();
    for entry in transaction.open_table(ATTACHMENTS)?.iter()? {
        let (key, value) = entry?;
        let key = key.value();
        let record = serde_json::from_slice(value.value()).with_context(|| format!("attachment {key}"))?;
        let key = serde_json::from_str(key).with_context(|| format!("key {key:?}"))?;
        book.attachments.insert(key, Arc::new(record));
    }
    for entry in transaction.open_table(ENIS)?.iter()? {
        let (slot, value) = entry?;
        let eni = serde_json::from_slice(value.value()).with_context(|| format!("ENI {}", slot.value()))?;
        book.enis.insert(slot.value(), eni);
    }
    book.rebuilding = meta.get(REBUILDING)?.is_some();
    let has = |name: &str| tables.iter().any(|table| table == name);
    // Of use only while the API is away: what cannot be read is not worth an agent that does not start.
    if has(CONTACT.name()) {
        let heard = transaction.open_table(CONTACT)?.get(HEARD)?;
        book.heard = heard.and_then(|value| serde_json::from_slice(value.value()).ok());
    }
    if has(BINDINGS.name()) {
        book.bindings = read_bindings(&transaction.open_table(BINDINGS)?)?;
    }
    Ok(book)
}

fn read_bindings(
    table: &impl redb::ReadableTable<&'static str, &'static [u8]>,
) -> anyhow::Result<BTreeMap<String, Arc<VpcIP>>> {
    let mut bindings = BTreeMap::new();
    for entry in table.iter()? {
        let (name, value) = entry?;
        match serde_json::from_slice::<VpcIP>(value.value()) {
            Ok(vpc_ip) => _ = bindings.insert(name.value().to_owned(), Arc::new(vpc_ip)),
            Err(error) => warn!(name = name.value(), %error, "the journal's copy of a VpcIP cannot be read"),
        }
    }
    Ok(bindings)
}
