//! Keeps an ADD and the acknowledgement of a detach from crossing: once the agent has said that nothing uses a binding,
//! no ADD that read an older state may take it into use.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

#[derive(Debug, Default)]
struct State {
    /// ADDs under way, by UID of the `VpcIP` and epoch.
    entered: HashMap<(String, i64), usize>,
    /// Highest epoch that was closed, by UID of the `VpcIP`.
    closed: HashMap<String, i64>,
}

/// The fence. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Fence(Arc<Mutex<State>>);

/// An ADD that is under way: until it is dropped, the binding is not closed.
#[derive(Debug)]
pub struct Entered {
    fence: Fence,
    binding: (String, i64),
}

impl Fence {
    /// Begins an ADD of a binding. `None`: it was closed.
    #[must_use]
    pub fn enter(&self, vpc_ip_uid: &str, epoch: i64) -> Option<Entered> {
        let mut state = self.lock();
        if state.closed.get(vpc_ip_uid).is_some_and(|closed| *closed >= epoch) {
            return None;
        }
        let binding = (vpc_ip_uid.to_owned(), epoch);
        *state.entered.entry(binding.clone()).or_default() += 1;
        Some(Entered { fence: self.clone(), binding })
    }

    /// Closes a binding and every older one, unless an ADD is under way or `in_use` says that one has completed.
    /// Answers whether it is closed.
    pub fn close(&self, vpc_ip_uid: &str, epoch: i64, in_use: impl FnOnce() -> bool) -> bool {
        let mut state = self.lock();
        let under_way = state.entered.keys().any(|(uid, entered)| uid == vpc_ip_uid && *entered <= epoch);
        if under_way || in_use() {
            return false;
        }
        let closed = state.closed.entry(vpc_ip_uid.to_owned()).or_insert(epoch);
        *closed = epoch.max(*closed);
        true
    }

    /// Takes back that a binding was closed: nobody has been told. A later one that was closed stays so.
    pub fn reopen(&self, vpc_ip_uid: &str, epoch: i64) {
        self.lock().closed.retain(|uid, closed| uid != vpc_ip_uid || *closed > epoch);
    }

    /// Forgets what was closed of addresses that are no longer of this node.
    pub fn retain(&self, known: impl Fn(&str) -> bool) {
        self.lock().closed.retain(|uid, _| known(uid));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut state = self.fence.lock();
        if let Some(count) = state.entered.get_mut(&self.binding) {
            *count -= 1;
            if *count == 0 {
                state.entered.remove(&self.binding);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_add_and_an_acknowledgement_never_cross() {
        let fence = Fence::default();
        let first = fence.enter("uid", 4).unwrap();
        let second = fence.enter("uid", 4).unwrap();
        assert!(!fence.close("uid", 4, || false), "an ADD is under way");
        assert!(!fence.close("uid", 5, || false), "an ADD of an older epoch is under way");
        assert!(fence.close("uid", 3, || false), "the ADD is of a later epoch");
        drop(first);
        assert!(!fence.close("uid", 4, || false), "one more");
        drop(second);
        assert!(!fence.close("uid", 4, || true), "an attachment is in the journal");
        assert!(fence.close("uid", 4, || false));
        assert!(fence.enter("uid", 4).is_none());
        assert!(fence.enter("uid", 3).is_none());
        assert!(fence.enter("uid", 5).is_some(), "the next binding");
        assert!(fence.enter("other", 1).is_some(), "another address");
        fence.reopen("uid", 3);
        assert!(fence.enter("uid", 4).is_none(), "epoch 4 was closed for good");
        fence.reopen("uid", 4);
        assert!(fence.enter("uid", 4).is_some(), "nobody was told");
    }
}
