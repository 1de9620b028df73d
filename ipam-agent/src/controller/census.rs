//! How many pod addresses stand where: what an operator needs to know when none is free. And who waits for one.

use std::fmt;
use std::sync::Arc;

use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;

use super::context::Stores;
use crate::api::condition::{self, reason};
use crate::api::{IpPhase, VpcIP, VpcIPClaim, VpcIPType};

/// Pod addresses of the cluster, by what keeps them from others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// In use, or on their way into or out of use.
    pub bound: usize,
    /// Kept for the next pod of their claim.
    pub retained: usize,
    /// In their cooldown or quarantine.
    pub cooling: usize,
}

impl Census {
    /// Counts.
    pub fn of(ips: &[Arc<VpcIP>]) -> Self {
        let mut census = Self::default();
        for ip in ips.iter().filter(|ip| ip.spec.type_ == VpcIPType::Pod) {
            match ip.state().phase {
                IpPhase::Retained => census.retained += 1,
                IpPhase::Cooldown | IpPhase::Quarantined => census.cooling += 1,
                IpPhase::Allocated | IpPhase::Attaching | IpPhase::Bound | IpPhase::Detaching => {
                    census.bound += 1
                }
            }
        }
        census
    }
}

impl fmt::Display for Census {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bound, retained, cooling } = self;
        write!(f, "pod addresses of the cluster: {bound} bound, {retained} retained, {cooling} cooling")
    }
}

/// The key of [`Stores::waiting`]: of a claim that waits for an address to become free.
pub fn waits_for_room(claim: &VpcIPClaim) -> Option<String> {
    let conditions = claim.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let waits = conditions.iter().any(|known| {
        known.type_ == condition::READY
            && matches!(known.reason.as_str(), reason::POOL_EXHAUSTED | reason::ADDRESS_CONFLICT)
    });
    waits.then(String::new)
}

/// The claims that wait for an address to become free, in the order in which they were made.
pub fn waiting_for_room(stores: &Stores) -> Vec<ObjectRef<VpcIPClaim>> {
    let waiting = stores.waiting.get("").into_iter();
    let mut waiting: Vec<_> = waiting.filter_map(|claim| Some((stores.claims.get(&claim)?, claim))).collect();
    waiting.sort_by_key(|(claim, _)| claim.creation_timestamp().map(|time| time.0));
    waiting.into_iter().map(|(_, claim)| claim).collect()
}
