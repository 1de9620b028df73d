//! Objects by phase, and subnets by how full they are, counted in the caches when a scrape comes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::PoisonError;

use kube::runtime::reflector::Store;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use super::super::context::Stores;
use super::cloud_calls::SubnetsSeen;
use crate::api::{ClaimPhase, IpPhase, VpcIP, VpcIPClaim, VpcIPType, condition};
use crate::metrics::{Kind::Gauge, Sample, encode};

/// Every phase, so that one that nothing is in shows a zero.
const CLAIM_PHASES: [ClaimPhase; 5] = [
    ClaimPhase::Pending,
    ClaimPhase::Bound,
    ClaimPhase::Detaching,
    ClaimPhase::Retained,
    ClaimPhase::Releasing,
];
const IP_PHASES: [IpPhase; 7] = [
    IpPhase::Allocated,
    IpPhase::Attaching,
    IpPhase::Bound,
    IpPhase::Detaching,
    IpPhase::Retained,
    IpPhase::Cooldown,
    IpPhase::Quarantined,
];

/// Reads the caches, which it does not keep.
pub struct Census {
    claims: Store<VpcIPClaim>,
    ips: Store<VpcIP>,
    subnets: SubnetsSeen,
}

impl fmt::Debug for Census {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Census").finish_non_exhaustive()
    }
}

impl Census {
    pub fn new(stores: &Stores, subnets: SubnetsSeen) -> Self {
        Self { claims: stores.claims.clone(), ips: stores.ips.clone(), subnets }
    }

    fn claims(&self) -> impl Iterator<Item = Sample<1>> {
        let mut counts = CLAIM_PHASES.map(|phase| (phase, 0));
        for claim in self.claims.state() {
            let phase = claim.status.as_ref().map(|status| status.phase).unwrap_or_default();
            counts.iter_mut().filter(|(known, _)| *known == phase).for_each(|(_, count)| *count += 1);
        }
        counts.into_iter().map(|(phase, count)| ([("phase", format!("{phase:?}"))], count))
    }

    /// Claims by what they wait for.
    fn waiting(&self) -> impl Iterator<Item = Sample<1>> {
        let mut counts = condition::WAITS.map(|reason| (reason, 0));
        for claim in self.claims.state() {
            for waits in claim.status.iter().flat_map(|status| condition::waits(&status.conditions)) {
                counts.iter_mut().filter(|(known, _)| *known == waits).for_each(|(_, count)| *count += 1);
            }
        }
        counts.into_iter().map(|(reason, count)| ([("reason", reason.to_owned())], count))
    }

    /// Pods' addresses by phase, and all addresses by subnet. Primary addresses of ENIs have no phase.
    fn addresses(&self) -> (Vec<Sample<1>>, BTreeMap<String, u64>) {
        let mut by_phase = IP_PHASES.map(|phase| (phase, 0));
        let mut by_subnet = BTreeMap::new();
        for ip in self.ips.state() {
            *by_subnet.entry(ip.spec.subnet_id.clone()).or_default() += 1;
            if ip.spec.type_ == VpcIPType::Pod {
                let phase = ip.status.as_ref().map(|status| status.phase).unwrap_or_default();
                by_phase.iter_mut().filter(|(known, _)| *known == phase).for_each(|(_, count)| *count += 1);
            }
        }
        let by_phase = by_phase.into_iter().map(|(phase, count)| ([("phase", format!("{phase:?}"))], count));
        (by_phase.collect(), by_subnet)
    }
}

impl Collector for Census {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        encode(&mut encoder, Gauge, ("claims", "VpcIPClaims by phase"), self.claims())?;
        let help = "VpcIPClaims that are not ready, or are to be deleted while their pod lives, by reason";
        encode(&mut encoder, Gauge, ("claims_waiting", help), self.waiting())?;
        let (by_phase, by_subnet) = self.addresses();
        encode(&mut encoder, Gauge, ("vpc_ips", "Pods' addresses (VpcIPs of type Pod) by phase"), by_phase)?;
        let seen = self.subnets.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let used = seen
            .keys()
            .map(|subnet| ([("subnet", subnet.clone())], by_subnet.get(subnet).copied().unwrap_or_default()));
        let help = "Addresses that this cluster has taken of a configured subnet, those of ENIs included";
        encode(&mut encoder, Gauge, ("subnet_addresses_used", help), used)?;
        let free = seen.iter().map(|(subnet, free)| ([("subnet", subnet.clone())], *free));
        let help = "Addresses of a configured subnet that the cloud last said are free";
        encode(&mut encoder, Gauge, ("subnet_addresses_available", help), free)
    }
}
