//! The one thread that writes. It takes all writes that wait, decides them one after the other, and puts them
//! on the disk in one transaction, so that many writers share one fsync.
//!
//! A transaction that fails ends it: redb writes no more to a file that has failed once before it is opened anew.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use anyhow::Context;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};

use super::disk::Disk;
use super::failure::Failure;
use super::registry::Registry;
use super::store::{Change, Key, KindId, Object, Store};

/// Most writes of one transaction.
const BATCH: usize = 256;
/// Writes that may wait before their callers do.
const QUEUE: usize = 1024;

/// What shall become of an object.
pub(super) enum Verdict {
    /// It stays as it is.
    Keep,
    /// It is created or replaced.
    Put(Value),
    /// It is removed; the value is its last state.
    Remove(Value),
}

/// Decides over an object, or its absence. Runs on the writer thread: nothing changes the object meanwhile.
pub(super) type Decide = Box<dyn FnOnce(Option<&Object>) -> Result<Verdict, Failure> + Send>;

/// What has become of an object.
#[derive(Clone)]
pub(super) struct Outcome {
    pub object: Arc<Object>,
    pub removed: bool,
}

/// Where the outcome of a write goes.
type Asker = oneshot::Sender<Result<Outcome, Failure>>;

struct Write {
    kind: KindId,
    key: Key,
    dry_run: bool,
    decide: Decide,
    answer: Asker,
}

enum Order {
    Write(Write),
    Close(oneshot::Sender<()>),
}

/// The way to the writer thread, which ends when the last of these is dropped.
#[derive(Clone)]
pub(super) struct Writer {
    orders: mpsc::Sender<Order>,
    failure: watch::Receiver<Option<String>>,
}

impl Writer {
    /// Starts the thread, after writing those of `first` that are not there yet.
    pub fn start(
        disk: Disk,
        store: Arc<Store>,
        registry: Arc<Registry>,
        first: Vec<(KindId, Key, Value)>,
    ) -> anyhow::Result<Self> {
        let (sender, queue) = mpsc::channel(QUEUE);
        let desk = Desk { disk, store, registry };
        let mut batch = Batch::new(&desk.store);
        for (kind, key, value) in first {
            if desk.store.get(kind, &key).is_none() {
                batch.stage(kind, key, None, value, false);
            }
        }
        batch.persist(&desk.disk, &desk.store, &desk.registry)?;
        let (fail, failure) = watch::channel(None);
        std::thread::Builder::new()
            .name("api-writer".to_owned())
            .spawn(move || desk.run(queue, &fail))
            .context("cannot start the API's writer thread")?;
        Ok(Self { orders: sender, failure })
    }

    /// Decides and writes. The answer comes when the disk has it; when the caller gives up waiting, the write
    /// happens all the same.
    pub async fn write(
        &self,
        kind: KindId,
        key: Key,
        dry_run: bool,
        decide: Decide,
    ) -> Result<Outcome, Failure> {
        let (answer, receiver) = oneshot::channel();
        let write = Write { kind, key, dry_run, decide, answer };
        self.orders.send(Order::Write(write)).await.map_err(|_| Failure::closed())?;
        receiver.await.map_err(|_| Failure::closed())?
    }

    /// Finishes the writes that wait, and closes the file.
    pub async fn close(&self) {
        let (answer, receiver) = oneshot::channel();
        if self.orders.send(Order::Close(answer)).await.is_ok() {
            // An error means that the thread has ended, which is what was asked for.
            let _ = receiver.await;
        }
    }

    /// Waits for a write that fails, and says why it did. For ever if the file is closed before.
    pub async fn failed(&self) -> String {
        let mut failure = self.failure.clone();
        let failed = failure.wait_for(Option::is_some).await.ok().and_then(|why| why.clone());
        match failed {
            Some(why) => why,
            None => std::future::pending().await,
        }
    }
}

struct Desk {
    disk: Disk,
    store: Arc<Store>,
    registry: Arc<Registry>,
}

impl Desk {
    fn run(self, mut queue: mpsc::Receiver<Order>, fail: &watch::Sender<Option<String>>) {
        let (mut closing, mut failed) = (None, None);
        while closing.is_none()
            && failed.is_none()
            && let Some(order) = queue.blocking_recv()
        {
            let mut batch = Batch::new(&self.store);
            let mut next = Some(order);
            while let Some(order) = next.take() {
                match order {
                    Order::Write(write) => batch.decide(write, &self.store, &self.registry),
                    Order::Close(answer) => {
                        closing = Some(answer);
                        break;
                    }
                }
                if batch.answers.len() < BATCH {
                    next = queue.try_recv().ok();
                }
            }
            failed = batch.commit(&self.disk, &self.store, &self.registry).err();
        }
        self.store.close();
        drop(self.disk);
        if failed.is_some() {
            fail.send_replace(failed);
        }
        if let Some(answer) = closing {
            // Whoever closed may have gone.
            let _ = answer.send(());
        }
    }
}

/// Writes that have been decided and are not yet on the disk.
struct Batch {
    revision: u64,
    /// What the changes below leave of each object.
    staged: HashMap<(KindId, Key), Option<Arc<Object>>>,
    changes: Vec<Arc<Change>>,
    answers: Vec<(Asker, Result<Outcome, Failure>)>,
    /// By how many objects each kind grows.
    growth: HashMap<KindId, isize>,
}

impl Batch {
    fn new(store: &Store) -> Self {
        Self {
            revision: store.revision(),
            staged: HashMap::new(),
            changes: Vec::new(),
            answers: Vec::new(),
            growth: HashMap::new(),
        }
    }

    fn current(&self, store: &Store, kind: KindId, key: &Key) -> Option<Arc<Object>> {
        match self.staged.get(&(kind, key.clone())) {
            Some(staged) => staged.clone(),
            None => store.get(kind, key),
        }
    }

    fn decide(&mut self, write: Write, store: &Store, registry: &Registry) {
        let Write { kind, key, dry_run, decide, answer } = write;
        let current = self.current(store, kind, &key);
        let verdict = catch_unwind(AssertUnwindSafe(|| decide(current.as_deref()))).unwrap_or_else(|_| {
            Err(Failure::internal("the request made the server panic; its log has more"))
        });
        let outcome = verdict.and_then(|verdict| match verdict {
            Verdict::Keep => {
                let object = current.ok_or_else(|| Failure::internal("nothing to keep"))?;
                Ok(Outcome { object, removed: false })
            }
            // A dry run shows what would be, at the revision that is.
            Verdict::Put(value) if dry_run => {
                Ok(Outcome { object: Arc::new(Object::at(self.revision, value)), removed: false })
            }
            Verdict::Remove(value) if dry_run => {
                Ok(Outcome { object: Arc::new(Object::at(self.revision, value)), removed: true })
            }
            Verdict::Put(value) => {
                let grows = current.is_none();
                let object = self.stage(kind, key, current, value, false);
                if grows {
                    self.evict(kind, store, registry);
                }
                Ok(Outcome { object, removed: false })
            }
            Verdict::Remove(value) => {
                Ok(Outcome { object: self.stage(kind, key, current, value, true), removed: true })
            }
        });
        self.answers.push((answer, outcome));
    }

    fn stage(
        &mut self,
        kind: KindId,
        key: Key,
        before: Option<Arc<Object>>,
        value: Value,
        removed: bool,
    ) -> Arc<Object> {
        self.revision += 1;
        let object = Arc::new(Object::at(self.revision, value));
        *self.growth.entry(kind).or_default() += match (removed, before.is_some()) {
            (true, true) => -1,
            (false, false) => 1,
            _ => 0,
        };
        self.staged.insert((kind, key.clone()), (!removed).then(|| object.clone()));
        self.changes.push(Arc::new(Change { kind, key, before, object: object.clone(), removed }));
        object
    }

    /// Keeps a kind with a limit within it, by removing the object that was written longest ago.
    fn evict(&mut self, kind: KindId, store: &Store, registry: &Registry) {
        let Some(capacity) = registry.storages[kind].capacity else { return };
        let mut excess = store
            .count(kind)
            .saturating_add_signed(self.growth.get(&kind).copied().unwrap_or(0))
            .saturating_sub(capacity);
        while excess > 0
            && let Some((key, oldest)) =
                store.oldest(kind, |key| !self.staged.contains_key(&(kind, key.clone())))
        {
            let last = oldest.value.clone();
            self.stage(kind, key, Some(oldest), last, true);
            excess -= 1;
        }
    }

    /// Puts the changes on the disk, and then where everybody sees them.
    fn persist(&mut self, disk: &Disk, store: &Store, registry: &Registry) -> anyhow::Result<()> {
        if self.changes.is_empty() {
            return Ok(());
        }
        let named: Vec<_> = self
            .changes
            .iter()
            .map(|change| (&**change, registry.storages[change.kind].name.as_str()))
            .collect();
        disk.commit(&named, self.revision)?;
        store.apply(self.changes.drain(..), self.revision);
        Ok(())
    }

    /// Persists, and answers everybody.
    fn commit(mut self, disk: &Disk, store: &Store, registry: &Registry) -> Result<(), String> {
        let persisted = self.persist(disk, store, registry).map_err(|error| {
            tracing::error!("{error:#}");
            format!("{error:#}")
        });
        let failure = |why: String| Failure::internal(format!("{why}; nothing was changed"));
        for (answer, outcome) in self.answers {
            // The caller may have gone.
            let persisted = persisted.clone().map_err(failure);
            let _ = answer.send(outcome.and_then(|outcome| persisted.map(|()| outcome)));
        }
        persisted
    }
}
