//! The journal: every attachment of this node, on disk before the runtime hears of it.
//!
//! One thread writes. It takes all changes that wait, writes them in one transaction with one fsync, and only then
//! shows them to readers and acknowledges each: many ADDs at once share an fsync, and no reader ever sees what a crash
//! could take back.
//!
//! A write that fails ends the thread and with it the agent: redb writes no more to a file that has failed once before it
//! is opened anew, whatever becomes of the disk. What was acknowledged is on it.

mod file;
mod record;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use ipam_cni::protocol::AttachmentKey;
use tokio::sync::{mpsc, oneshot, watch};

use self::file::JournalFile;
pub use self::record::{Book, BoundAddress, Change, EniRecord, Record, Refused, State};

/// Changes that can wait for the writer before callers have to.
const QUEUE: usize = 256;

/// An error of the journal.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JournalError {
    /// The file cannot be used; it was left as it is.
    #[error("journal `{}`: {problem}; {remedy}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A write failed; nothing of it is on the disk.
    #[error(
        "journal `{}`: write failed: {cause}; check the disk for space and errors: the agent ends, and its next start \
         goes on with what was written",
        path.display()
    )]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// The change does not fit what the journal holds.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The writer is gone.
    #[error("journal: closed")]
    Closed,
}

type Waiting = (Change, oneshot::Sender<Result<(), JournalError>>);

/// The journal. Clones share it; the file is closed when the last is gone.
#[derive(Clone, Debug)]
pub struct Journal {
    queue: mpsc::Sender<Waiting>,
    book: watch::Receiver<Arc<Book>>,
    failure: watch::Receiver<Option<JournalError>>,
}

impl Journal {
    /// Opens the journal, or makes one where there is none.
    ///
    /// # Errors
    /// When the file is truncated, foreign, of another version or in use. It is then as it was before.
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        let (file, book) = JournalFile::open(path)?;
        let (publish, book) = watch::channel(Arc::new(book));
        let (fail, failure) = watch::channel(None);
        let (queue, changes) = mpsc::channel(QUEUE);
        std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || {
                if let Err(error) = serve(&file, changes, &publish) {
                    fail.send_replace(Some(error));
                }
            })
            .map_err(|cause| JournalError::Write { path: path.to_owned(), cause: cause.to_string() })?;
        Ok(Self { queue, book, failure })
    }

    /// Makes a change; it is on the disk when this returns, unless it is a [`Change::Begin`], which gets there with the
    /// next change: an ADD costs one fsync. A caller that stops waiting does not undo it.
    ///
    /// # Errors
    /// When the change does not fit or cannot be written; nothing is changed then.
    pub async fn change(&self, change: Change) -> Result<(), JournalError> {
        let (done, result) = oneshot::channel();
        match self.queue.send((change, done)).await {
            Ok(()) => match result.await {
                Ok(result) => result,
                Err(_) => Err(self.failed().await),
            },
            Err(_) => Err(self.failed().await),
        }
    }

    /// Waits until nothing can be written any more, and says why.
    pub async fn failed(&self) -> JournalError {
        let mut failure = self.failure.clone();
        let failed = failure.wait_for(Option::is_some).await;
        failed.ok().and_then(|error| error.clone()).unwrap_or(JournalError::Closed)
    }

    /// Why nothing can be written any more, if that is so.
    #[must_use]
    pub fn failure(&self) -> Option<JournalError> {
        self.failure.borrow().clone()
    }

    /// What the journal holds now.
    #[must_use]
    pub fn book(&self) -> Arc<Book> {
        self.book.borrow().clone()
    }

    /// An attachment.
    #[must_use]
    pub fn get(&self, key: &AttachmentKey) -> Option<Arc<Record>> {
        self.book.borrow().attachments.get(key).cloned()
    }

    /// A receiver that wakes at each change.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<Book>> {
        self.book.clone()
    }
}

/// Writes until the last handle is gone, or a write fails.
fn serve(
    file: &JournalFile,
    mut changes: mpsc::Receiver<Waiting>,
    publish: &watch::Sender<Arc<Book>>,
) -> Result<(), JournalError> {
    let mut on_disk = publish.borrow().clone();
    while let Some(first) = changes.blocking_recv() {
        let mut batch = vec![first];
        while let Ok(next) = changes.try_recv() {
            batch.push(next);
        }
        let mut book = Book::clone(&publish.borrow());
        let (mut applied, mut refused) = (Vec::new(), Vec::new());
        let mut durable = false;
        for (change, done) in batch {
            let needs_disk = change.is_durable();
            match book.apply(change) {
                Ok(()) => {
                    durable |= needs_disk;
                    applied.push(done);
                }
                Err(error) => refused.push((done, error)),
            }
        }
        let book = Arc::new(book);
        let result = if durable && *on_disk != *book {
            file.write(&on_disk, &book).map(|()| on_disk = Arc::clone(&book))
        } else {
            Ok(())
        };
        if result.is_ok() && !applied.is_empty() {
            publish.send_replace(book);
        }
        // A caller that no longer waits has nothing to be told.
        for done in applied {
            let _ = done.send(result.clone());
        }
        for (done, error) in refused {
            let _ = done.send(Err(error.into()));
        }
        result?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
