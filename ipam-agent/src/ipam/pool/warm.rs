//! Warm addresses: on a node's ENIs before a pod asks for them, so that a burst of pods costs no call of the cloud.
//!
//! Between the least and the most nothing is done: an address that comes and goes with its pod moves nothing.

use std::net::IpAddr;
use std::time::Duration;

use super::EniView;
use crate::ipam::family::{Families, Family};

/// How many warm addresses a node shall have. The default is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WarmTarget {
    /// Fewer are filled up.
    pub min: usize,
    /// What is above is taken back after a while. Never below `min`.
    pub max: usize,
}

/// What bears on a node's warm addresses.
#[derive(Clone, Debug)]
pub struct WarmView {
    /// Its ENIs in subnets that are configured.
    pub enis: Vec<EniView>,
    /// Secondary addresses of one ENI, of each family.
    pub max_ips_per_eni: usize,
    /// Families of which each pod has an address.
    pub families: Families,
    /// Pods that can still come to the node before it has as many as it may.
    pub pods_to_come: usize,
    /// Free addresses of each of the ENIs' subnets that nobody waits for.
    pub spare: Vec<(String, u64)>,
    /// Claims somewhere in the cluster wait because a subnet has no address left.
    pub others_wait: bool,
    /// How long there have been more than the most.
    pub surplus_for: Duration,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warming {
    /// Nothing.
    Rest,
    /// So many addresses of each family are to be put on this ENI.
    Fill {
        /// The ENI.
        eni_id: String,
        /// How many.
        count: usize,
    },
    /// These are to be taken off this ENI.
    Drain {
        /// The ENI.
        eni_id: String,
        /// Which.
        ips: Vec<IpAddr>,
    },
    /// There are more than the most, but not for long enough: look again when they are.
    Wait,
}

/// Pods that could be served from what is warm on an ENI: each needs an address of every family.
fn pods_of(eni: &EniView, families: &Families) -> usize {
    let count = |family| eni.warm.iter().filter(|ip| Family::of(**ip) == family).count();
    families.iter().map(count).min().unwrap_or(0)
}

/// Pods that could be served from what is warm on the node.
#[must_use]
pub fn warm_pods(view: &WarmView) -> usize {
    view.enis.iter().map(|eni| pods_of(eni, &view.families)).sum()
}

/// Decides. `patience` is how long a surplus is left.
#[must_use]
pub fn decide(view: &WarmView, target: WarmTarget, patience: Duration) -> Warming {
    let warm = warm_pods(view);
    let min = target.min.min(view.pods_to_come);
    // Who waits for an address elsewhere is served before anybody who may come here.
    let max = if view.others_wait { 0 } else { target.max.max(target.min).min(view.pods_to_come) };
    let excess: Vec<(&EniView, Vec<IpAddr>)> = surplus(view, max);
    if !excess.is_empty() {
        if !view.others_wait && view.surplus_for < patience {
            return Warming::Wait;
        }
        // From the emptiest ENI first: it may become free.
        let from = excess.into_iter().min_by_key(|(eni, _)| (eni.ips.len(), eni.id.clone()));
        return from.map_or(Warming::Rest, |(eni, ips)| Warming::Drain { eni_id: eni.id.clone(), ips });
    }
    if view.others_wait || warm >= min {
        return Warming::Rest;
    }
    let room = |eni: &EniView| {
        let spare = view.spare.iter().find(|(id, _)| *id == eni.subnet_id).map_or(0, |(_, spare)| *spare);
        let place = |family| view.max_ips_per_eni.saturating_sub(eni.count(family));
        let places = view.families.iter().map(place).min().unwrap_or(0);
        places.min(usize::try_from(spare).unwrap_or(usize::MAX))
    };
    let fits = view.enis.iter().filter(|eni| eni.assignable.is_none() && room(eni) > 0);
    // The fullest first, as pods are packed.
    match fits.max_by_key(|eni| (eni.ips.len(), std::cmp::Reverse(eni.id.clone()))) {
        Some(eni) => Warming::Fill { eni_id: eni.id.clone(), count: (min - warm).min(room(eni)) },
        None => Warming::Rest,
    }
}

/// The warm addresses beyond those that `max` pods need, by ENI. What serves no pod for want of its fellow of the other
/// family is beyond.
fn surplus(view: &WarmView, max: usize) -> Vec<(&EniView, Vec<IpAddr>)> {
    // Those of the fullest ENI stay.
    let mut enis: Vec<&EniView> = view.enis.iter().collect();
    enis.sort_by_key(|eni| (std::cmp::Reverse(eni.ips.len()), eni.id.clone()));
    let mut left = max;
    let mut surplus = Vec::new();
    for eni in enis {
        let keep = pods_of(eni, &view.families).min(left);
        left -= keep;
        let mut ips = Vec::new();
        for family in [Family::V4, Family::V6] {
            let keep = if view.families.contains(family) { keep } else { 0 };
            ips.extend(eni.warm.iter().copied().filter(|ip| Family::of(*ip) == family).skip(keep));
        }
        if !ips.is_empty() {
            surplus.push((eni, ips));
        }
    }
    surplus
}

#[cfg(test)]
mod tests;
