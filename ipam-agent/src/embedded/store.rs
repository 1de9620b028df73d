//! The index of all objects in memory, and the log of the latest changes that watches read.
//!
//! Only the writer thread changes it, after the disk has the change: nothing is ever seen here that a crash
//! could take back.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use serde_json::Value;
use tokio::sync::watch;

use super::failure::Failure;
use super::object;

/// Which of the store's kinds; an index into [`super::registry::Registry::storages`].
pub(super) type KindId = usize;

/// Where an object stands among those of its kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key {
    /// Empty for cluster-scoped objects.
    pub namespace: String,
    pub name: String,
}

impl Key {
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

/// An object at one revision. `metadata.resourceVersion` says the same as `revision`.
#[derive(Debug)]
pub(super) struct Object {
    pub revision: u64,
    pub value: Value,
}

impl Object {
    /// The object as it is written at `revision`.
    pub fn at(revision: u64, mut value: Value) -> Self {
        object::set_meta(&mut value, "resourceVersion", Value::String(revision.to_string()));
        Self { revision, value }
    }

    pub fn key(&self) -> Key {
        Key::new(object::meta_str(&self.value, "namespace"), object::meta_str(&self.value, "name"))
    }
}

/// One write.
#[derive(Debug)]
pub(super) struct Change {
    pub kind: KindId,
    pub key: Key,
    /// What was there before.
    pub before: Option<Arc<Object>>,
    /// What is there now; of a removed object its last state, with the revision of the removal.
    pub object: Arc<Object>,
    pub removed: bool,
}

type Objects = BTreeMap<Key, Arc<Object>>;

struct State {
    revision: u64,
    kinds: Vec<Objects>,
    log: VecDeque<Arc<Change>>,
    /// Revision of the newest change that is no longer in the log.
    forgotten: u64,
    closed: bool,
}

/// See the module.
pub(super) struct Store {
    state: RwLock<State>,
    log_capacity: usize,
    revision: watch::Sender<u64>,
}

/// A page of a list.
pub(super) struct Page {
    pub objects: Vec<Arc<Object>>,
    /// The revision that all of them are of.
    pub revision: u64,
}

impl Store {
    pub fn new(kinds: Vec<Objects>, revision: u64, log_capacity: usize) -> Self {
        let state = State { revision, kinds, log: VecDeque::new(), forgotten: revision, closed: false };
        Self { state: RwLock::new(state), log_capacity, revision: watch::Sender::new(revision) }
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        // No code panics while it holds the lock for writing half-way through a change.
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes whoever waits for a newer revision, or for the end.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    pub fn revision(&self) -> u64 {
        self.read().revision
    }

    pub fn get(&self, kind: KindId, key: &Key) -> Option<Arc<Object>> {
        self.read().kinds[kind].get(key).cloned()
    }

    pub fn count(&self, kind: KindId) -> usize {
        self.read().kinds[kind].len()
    }

    /// The object of this kind that was written longest ago, among those `eligible`.
    pub fn oldest(&self, kind: KindId, eligible: impl Fn(&Key) -> bool) -> Option<(Key, Arc<Object>)> {
        let state = self.read();
        let candidates = state.kinds[kind].iter().filter(|(key, _)| eligible(key));
        candidates
            .min_by_key(|(_, object)| object.revision)
            .map(|(key, object)| (key.clone(), object.clone()))
    }

    /// Whether any kind but `except` has an object in the namespace.
    pub fn namespace_in_use(&self, namespace: &str, except: impl Fn(KindId) -> bool) -> bool {
        let state = self.read();
        state.kinds.iter().enumerate().any(|(kind, objects)| {
            !except(kind)
                && objects
                    .range(Key::new(namespace, "")..)
                    .next()
                    .is_some_and(|(key, _)| key.namespace == namespace)
        })
    }

    /// All objects of a kind (and namespace) behind `after`, as they were at revision `at` (now, if `None`).
    ///
    /// # Errors
    /// Expired when the log does not reach back to `at`; a timeout when `at` is yet to come.
    pub fn list(
        &self,
        kind: KindId,
        namespace: Option<&str>,
        after: Option<Key>,
        at: Option<u64>,
    ) -> Result<Page, Failure> {
        let state = self.read();
        let revision = at.unwrap_or(state.revision);
        if revision > state.revision {
            return Err(Failure::from_the_future(revision, state.revision));
        }
        if revision < state.forgotten {
            return Err(Failure::expired(revision, state.forgotten));
        }
        let first = after
            .map_or_else(|| Bound::Included(Key::new(namespace.unwrap_or_default(), "")), Bound::Excluded);
        let inside = |key: &Key| namespace.is_none_or(|namespace| key.namespace == namespace);
        let now = state.kinds[kind].range((first.clone(), Bound::Unbounded));
        let now = now.take_while(|(key, _)| inside(key));
        if revision == state.revision {
            return Ok(Page { objects: now.map(|(_, object)| object.clone()).collect(), revision });
        }
        // Undo the newer changes, the newest first.
        let mut then: Objects = now.map(|(key, object)| (key.clone(), object.clone())).collect();
        for change in state.log.iter().rev().take_while(|change| change.object.revision > revision) {
            let behind = match &first {
                Bound::Excluded(after) => change.key > *after,
                _ => true,
            };
            if change.kind == kind && inside(&change.key) && behind {
                match &change.before {
                    Some(before) => then.insert(change.key.clone(), before.clone()),
                    None => then.remove(&change.key),
                };
            }
        }
        Ok(Page { objects: then.into_values().collect(), revision })
    }

    /// At most `limit` changes behind a revision, the oldest first, and the revision up to which that is all.
    ///
    /// # Errors
    /// Expired when the log does not reach back to `behind`, or never had it.
    pub fn changes(&self, behind: u64, limit: usize) -> Result<(Vec<Arc<Change>>, u64), Failure> {
        let state = self.read();
        // A revision of the future means that the file was replaced since: list again.
        if behind < state.forgotten || behind > state.revision {
            return Err(Failure::expired(behind, state.forgotten));
        }
        let start = state.log.partition_point(|change| change.object.revision <= behind);
        let changes: Vec<_> = state.log.range(start..).take(limit).cloned().collect();
        let complete = start + changes.len() == state.log.len();
        let upto = match changes.last() {
            Some(last) if !complete => last.object.revision,
            _ => state.revision,
        };
        Ok((changes, upto))
    }

    /// Takes over changes that are on the disk.
    pub fn apply(&self, changes: impl IntoIterator<Item = Arc<Change>>, revision: u64) {
        {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            for change in changes {
                let objects = &mut state.kinds[change.kind];
                if change.removed {
                    objects.remove(&change.key);
                } else {
                    objects.insert(change.key.clone(), change.object.clone());
                }
                state.log.push_back(change);
                if state.log.len() > self.log_capacity
                    && let Some(oldest) = state.log.pop_front()
                {
                    state.forgotten = oldest.object.revision;
                }
            }
            state.revision = revision;
        }
        self.revision.send_replace(revision);
    }

    /// Ends every watch.
    pub fn close(&self) {
        self.state.write().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.revision.send_modify(|_| {});
    }

    pub fn is_closed(&self) -> bool {
        self.read().closed
    }
}
