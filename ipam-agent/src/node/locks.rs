//! One lock per attachment (or address): calls for one come one after the other, others at the same time.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::sync::OwnedMutexGuard;

/// A lock, held.
pub type Locked = OwnedMutexGuard<()>;

/// The locks. Those that nobody holds or waits for are forgotten.
#[derive(Debug)]
pub struct Locks<K>(Mutex<HashMap<K, Weak<tokio::sync::Mutex<()>>>>);

impl<K> Default for Locks<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Clone + Eq + Hash> Locks<K> {
    /// Waits for the lock of `key`.
    pub async fn lock(&self, key: &K) -> Locked {
        self.of(key).lock_owned().await
    }

    /// The lock of `key`, unless somebody holds it.
    #[must_use]
    pub fn try_lock(&self, key: &K) -> Option<Locked> {
        self.of(key).try_lock_owned().ok()
    }

    fn of(&self, key: &K) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = locks.get(key).and_then(Weak::upgrade) {
            return lock;
        }
        locks.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::default();
        locks.insert(key.clone(), Arc::downgrade(&lock));
        lock
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_key_waits_and_another_does_not() {
        let locks = Locks::default();
        let held = locks.lock(&"a").await;
        assert!(locks.try_lock(&"a").is_none());
        assert!(locks.try_lock(&"b").is_some());
        drop(held);
        assert!(locks.try_lock(&"a").is_some());
    }
}
