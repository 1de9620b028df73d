//! Since when this process has watched a thing being in a state: the monotonic clock that stands beside every time read
//! from an object.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

/// By the thing's UID and the state.
#[derive(Debug, Default)]
pub struct Watches(Mutex<HashMap<String, HashMap<&'static str, Stay>>>);

/// A thing's stay in a state.
#[derive(Debug)]
struct Stay {
    watched_from: Instant,
    /// When it began by the API's word, which tells one stay from another and counts for nothing else.
    began: Option<Timestamp>,
}

impl Watches {
    /// How long a thing has been watched being in a state; the first call starts the clock. Where the API says when this
    /// began, another time is another stay: what lay between may have gone unseen.
    pub fn watched_for(&self, uid: &str, state: &'static str, began: Option<Timestamp>) -> Duration {
        let mut watches = self.lock();
        let stays = watches.entry(uid.to_owned()).or_default();
        let new = || Stay { watched_from: Instant::now(), began };
        let stay = stays.entry(state).or_insert_with(new);
        if stay.began != began {
            *stay = new();
        }
        stay.watched_from.elapsed()
    }

    /// Whether it is watched.
    pub fn is_watched(&self, uid: &str, state: &'static str) -> bool {
        self.lock().get(uid).is_some_and(|stays| stays.contains_key(state))
    }

    /// The thing is no longer in that state.
    pub fn stop(&self, uid: &str, state: &'static str) {
        let mut watches = self.lock();
        if let Some(stays) = watches.get_mut(uid) {
            stays.remove(state);
            if stays.is_empty() {
                watches.remove(uid);
            }
        }
    }

    /// Drops what is known of all other things.
    pub fn keep_only(&self, exist: impl Fn(&str) -> bool) {
        self.lock().retain(|uid, _| exist(uid));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, HashMap<&'static str, Stay>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(20);

    #[test]
    fn a_stay_is_watched_from_its_first_look() {
        let watches = Watches::default();
        watches.watched_for("a", "silent", None);
        std::thread::sleep(SHORT);
        assert!(watches.watched_for("a", "silent", None) >= SHORT);
        assert!(watches.watched_for("b", "silent", None) < SHORT && watches.is_watched("b", "silent"));
        assert!(!watches.is_watched("a", "unused"));
        watches.stop("a", "silent");
        assert!(!watches.is_watched("a", "silent"));
        assert!(watches.watched_for("a", "silent", None) < SHORT);
    }

    #[test]
    fn what_is_gone_is_not_remembered() {
        let watches = Watches::default();
        for state in ["unused", "ended"] {
            watches.watched_for("gone", state, None);
            watches.watched_for("there", state, None);
        }
        watches.keep_only(|uid| uid == "there");
        assert!(watches.is_watched("there", "unused") && watches.is_watched("there", "ended"));
        assert_eq!(watches.lock().len(), 1);
        watches.stop("there", "unused");
        watches.stop("there", "ended");
        assert!(watches.lock().is_empty());
    }

    #[test]
    fn another_stay_is_watched_anew_though_nobody_saw_the_first_one_end() {
        let watches = Watches::default();
        let began = |second| Some(Timestamp::from_second(second).unwrap());
        watches.watched_for("a", "silent", began(1));
        std::thread::sleep(SHORT);
        assert!(watches.watched_for("a", "silent", began(1)) >= SHORT);
        assert!(watches.watched_for("a", "silent", began(2)) < SHORT);
    }
}
