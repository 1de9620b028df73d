//! Counts repairs, remembers the last ones, and logs each once, also when something undoes it again and again.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fmt::Display,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tracing::{debug, error, info, warn};

/// How many of the last repairs are remembered.
const REMEMBERED: usize = 64;
/// What is undone again within this time is undone by something. After as long without, it rests.
const REST: Duration = Duration::from_secs(60);
/// How often a repair that fails in the same way is logged.
const REMIND: Duration = Duration::from_secs(600);

/// What kind of thing was other than it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The node's end of a pod's veth: down, renamed, or with another MAC or MTU.
    PodLink,
    /// A pod's route in the main table.
    PodRoute,
    /// An ENI's device: down, or with another MAC.
    EniLink,
    /// The primary address of an ENI.
    EniAddress,
    /// The neighbour entry of an ENI's gateway.
    Neighbour,
    /// `rp_filter` of an ENI.
    RpFilter,
    /// `ip_forward`, or `forwarding` of a device.
    Forwarding,
    /// IPv6 of an ENI or of the node's end of a pod's veth: off, or heeding router advertisements.
    Ipv6,
    /// A program that was not attached, or another in its place.
    Program,
    /// An entry of an eBPF map: missing, wrong or too many.
    MapEntry,
    /// The pin of an eBPF map.
    Pin,
    /// The table of nftables that masquerades pods.
    Masquerade,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 12] = [
        Self::PodLink,
        Self::PodRoute,
        Self::EniLink,
        Self::EniAddress,
        Self::Neighbour,
        Self::RpFilter,
        Self::Forwarding,
        Self::Ipv6,
        Self::Program,
        Self::MapEntry,
        Self::Pin,
        Self::Masquerade,
    ];

    /// Its name in the log and in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PodLink => "pod_link",
            Self::PodRoute => "pod_route",
            Self::EniLink => "eni_link",
            Self::EniAddress => "eni_address",
            Self::Neighbour => "neighbour",
            Self::RpFilter => "rp_filter",
            Self::Forwarding => "forwarding",
            Self::Ipv6 => "ipv6",
            Self::Program => "program",
            Self::MapEntry => "map_entry",
            Self::Pin => "pin",
            Self::Masquerade => "masquerade",
        }
    }
}

/// How often, since the agent started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Things that were put right.
    pub repaired: u64,
    /// Attempts that failed.
    pub failed: u64,
}

/// A repair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    /// When.
    pub at: jiff::Timestamp,
    /// Of what kind.
    pub kind: Kind,
    /// Of what: a device, an address, a map's key.
    pub object: String,
    /// What was found.
    pub found: String,
}

/// The same thing, repaired more than once.
struct Contest {
    times: u64,
    last: Instant,
}

/// An attempt that failed.
struct Failed {
    why: String,
    logged: Instant,
    last: Instant,
}

#[derive(Default)]
struct State {
    counts: BTreeMap<Kind, Count>,
    recent: VecDeque<Repair>,
    contests: HashMap<(Kind, String), Contest>,
    failures: HashMap<(Kind, String), Failed>,
}

/// The repairs of this agent since it started.
#[derive(Default)]
pub struct Repairs(Mutex<State>);

impl Repairs {
    /// Something was put right.
    pub fn done(&self, kind: Kind, object: impl Display, found: impl Display) {
        let (object, found) = (object.to_string(), found.to_string());
        let mut state = self.lock();
        state.counts.entry(kind).or_default().repaired += 1;
        let now = Instant::now();
        state.tidy(now);
        let key = (kind, object.clone());
        state.failures.remove(&key);
        let contest = state.contests.entry(key).or_insert(Contest { times: 0, last: now });
        (contest.times, contest.last) = (contest.times + 1, now);
        match contest.times {
            1 => warn!(kind = kind.name(), object, found, "repaired"),
            2 => warn!(
                kind = kind.name(),
                object,
                found,
                "repaired again: something undoes it; find out what, it is repaired and counted every time, but no \
                 longer logged until it has rested for a minute"
            ),
            times => debug!(kind = kind.name(), object, found, times, "repaired"),
        }
        if state.recent.len() == REMEMBERED {
            state.recent.pop_front();
        }
        state.recent.push_back(Repair { at: jiff::Timestamp::now(), kind, object, found });
    }

    /// Something is other than it should be, and cannot be put right. `why` names the remedy.
    pub fn failed(&self, kind: Kind, object: impl Display, why: impl Display) {
        let (object, why) = (object.to_string(), why.to_string());
        let mut state = self.lock();
        state.counts.entry(kind).or_default().failed += 1;
        let now = Instant::now();
        state.tidy(now);
        let failed = state.failures.entry((kind, object.clone())).or_insert_with(|| Failed {
            why: String::new(),
            logged: now,
            last: now,
        });
        failed.last = now;
        if failed.why != why || now - failed.logged > REMIND {
            error!(kind = kind.name(), object, why, "cannot repair; trying again");
            (failed.why, failed.logged) = (why, now);
        }
    }

    /// How often, by kind; every kind is in it.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<Kind, Count> {
        let state = self.lock();
        Kind::ALL
            .into_iter()
            .map(|kind| (kind, state.counts.get(&kind).copied().unwrap_or_default()))
            .collect()
    }

    /// The last repairs, the latest last.
    #[must_use]
    pub fn recent(&self) -> Vec<Repair> {
        self.lock().recent.iter().cloned().collect()
    }

    /// How many there were.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.lock().counts.values().map(|count| count.repaired).sum()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Forgets what rests, so that it is logged when it comes again.
    fn tidy(&mut self, now: Instant) {
        self.contests.retain(|(kind, object), contest| {
            let rests = now - contest.last > REST;
            if rests && contest.times > 1 {
                info!(kind = kind.name(), object, times = contest.times, "is no longer undone");
            }
            !rests
        });
        self.failures.retain(|_, failed| now - failed.last < REMIND);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repairs_are_counted_and_the_last_remembered() {
        let repairs = Repairs::default();
        for n in 0..REMEMBERED + 1 {
            repairs.done(Kind::PodRoute, format!("10.0.0.{n}"), "none");
        }
        repairs.failed(Kind::Forwarding, "net.ipv4.ip_forward", "read-only file system");
        assert_eq!(repairs.counts()[&Kind::PodRoute], Count { repaired: 65, failed: 0 });
        assert_eq!(repairs.counts()[&Kind::Forwarding], Count { repaired: 0, failed: 1 });
        assert_eq!(repairs.counts().len(), Kind::ALL.len());
        assert_eq!(repairs.total(), 65);
        let recent = repairs.recent();
        assert_eq!((recent.len(), recent[0].object.as_str()), (REMEMBERED, "10.0.0.1"));
    }

    #[test]
    fn what_rests_is_forgotten() {
        let mut state = State::default();
        let long_ago = Instant::now();
        let key = |object: &str| (Kind::PodLink, object.to_owned());
        state.contests.insert(key("old"), Contest { times: 7, last: long_ago });
        state.contests.insert(key("new"), Contest { times: 7, last: long_ago + REST });
        state.tidy(long_ago + REST + Duration::from_secs(1));
        assert_eq!(state.contests.keys().collect::<Vec<_>>(), [&key("new")]);
    }
}
