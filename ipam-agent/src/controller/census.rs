//! How many pod addresses stand where: what an operator needs to know when none is free. And who waits for one.

use std::fmt;
use std::sync::Arc;

use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;

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

/// The claims to wake when this address has made room, in the order in which they were made: it has left its ENI, or
/// its object is gone (the last state seen of it is then a cooldown).
pub fn waiting_for_room(ip: &VpcIP, claims: &[Arc<VpcIPClaim>]) -> Vec<ObjectRef<VpcIPClaim>> {
    if !matches!(ip.state().phase, IpPhase::Cooldown | IpPhase::Quarantined) {
        return Vec::new();
    }
    let mut waiting: Vec<_> = claims.iter().filter(|claim| waits_for_room(claim)).collect();
    waiting.sort_by_key(|claim| claim.creation_timestamp().map(|time| time.0));
    waiting.into_iter().map(|claim| ObjectRef::from_obj(&**claim)).collect()
}

fn waits_for_room(claim: &VpcIPClaim) -> bool {
    let conditions = claim.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    conditions.iter().any(|known| {
        known.type_ == condition::READY
            && matches!(known.reason.as_str(), reason::POOL_EXHAUSTED | reason::ADDRESS_CONFLICT)
    })
}
