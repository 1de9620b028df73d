//! How many pods of a node can have an address: what [`super::pool::place`] could still give out, counted instead of tried.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use super::family::{Families, Family};
use super::pool::{EniView, NodeView, SubnetView};

pub mod standing;

/// Free addresses of a subnet.
#[derive(Clone, Debug)]
pub struct SubnetRoom {
    /// The cloud's name.
    pub id: String,
    /// Its zone.
    pub zone: String,
    /// Free IPv4 addresses, of which every ENI takes one.
    pub v4: u64,
    /// Free IPv6 addresses; none where the subnet has no IPv6.
    pub v6: Option<u64>,
    /// Addresses that new ENIs can reserve; none where they reserve nothing.
    pub reservable: Option<u64>,
    /// Whether pods that nominate nothing get its addresses.
    pub open: bool,
}

/// What keeps the number below the node's limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Limit {
    /// No subnet of the node's zone is configured.
    NoSubnet(String),
    /// The subnets of the zone have no more; the text has the numbers.
    Subnets(String),
    /// No further ENI could be had; the cloud's words.
    Enis(String),
}

/// How many pods of a node can have an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Pods whose addresses are on the node's ENIs, warm ones included, and those that could come.
    pub pods: u64,
    /// What the node's limits allow.
    pub limit: u64,
    /// Why there are fewer.
    pub below: Option<Limit>,
}

impl SubnetRoom {
    /// Counts what is free. `taken` are all addresses known to have an owner.
    #[must_use]
    pub fn of(subnet: &SubnetView, taken: &BTreeSet<IpAddr>) -> Self {
        Self {
            id: subnet.id.clone(),
            zone: subnet.zone.clone(),
            v4: subnet.free(taken),
            v6: subnet.net(Family::V6).map(|net| net.free(taken)),
            reservable: subnet.reservable(),
            open: !subnet.closed && !subnet.nominated_only,
        }
    }

    /// Pods that addresses are left for.
    fn pods(&self, families: &Families) -> u64 {
        let free = |family| match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6.unwrap_or(0),
        };
        families.iter().map(free).min().unwrap_or(0)
    }

    fn take(&mut self, pods: u64, families: &Families) {
        if families.contains(Family::V4) {
            self.v4 -= pods;
        }
        if families.contains(Family::V6) {
            self.v6 = self.v6.map(|v6| v6 - pods);
        }
    }

    /// Whether pods of a node that nominate nothing can have its addresses.
    fn serves(&self, node: &NodeView) -> bool {
        self.open && self.zone == node.zone
    }

    /// What is left when an ENI of so many addresses has taken its own; nothing when then no pod could follow.
    fn with_eni(&self, quota: u64, families: &Families) -> Option<Self> {
        let reservable = match self.reservable {
            Some(left) => Some(left.checked_sub(quota)?),
            None => None,
        };
        let rest = Self { v4: self.v4.checked_sub(1)?, reservable, ..self.clone() };
        (rest.pods(families) > 0).then_some(rest)
    }
}

/// Counts. `no_eni` has the cloud's words when it has lately refused another ENI.
#[must_use]
pub fn capacity(
    node: &NodeView,
    subnets: &[SubnetRoom],
    taken: &BTreeSet<IpAddr>,
    families: &Families,
    no_eni: Option<&str>,
) -> Capacity {
    let mut rooms: Vec<SubnetRoom> = subnets.iter().filter(|subnet| subnet.serves(node)).cloned().collect();
    let used: u64 = node.enis.iter().map(used_of).sum();
    let mut more = 0;
    for eni in &node.enis {
        let Some(room) = rooms.iter_mut().find(|room| room.id == eni.subnet_id) else { continue };
        let places = (node.max_ips_per_eni as u64).saturating_sub(used_of(eni));
        match &eni.assignable {
            Some(list) => more += places.min(listed(list, taken, families)),
            None => {
                let pods = places.min(room.pods(families));
                room.take(pods, families);
                more += pods;
            }
        }
    }
    // ENIs that carry listed addresses are those that there are.
    let can_grow = no_eni.is_none() && node.enis.iter().all(|eni| eni.assignable.is_none());
    let mut places = if can_grow { node.max_enis.saturating_sub(node.enis.len()) } else { 0 };
    let quota = node.max_ips_per_eni as u64 + 1;
    while places > 0 {
        // As `place` chooses: the subnet with most free addresses.
        let with_eni =
            |(at, room): (usize, &SubnetRoom)| Some((at, room.v4, room.with_eni(quota, families)?));
        let best = rooms
            .iter()
            .enumerate()
            .filter_map(with_eni)
            .max_by_key(|(at, v4, _)| (*v4, std::cmp::Reverse(*at)));
        let Some((at, _, mut left)) = best else { break };
        let pods = (node.max_ips_per_eni as u64).min(left.pods(families));
        left.take(pods, families);
        rooms[at] = left;
        (more, places) = (more + pods, places - 1);
    }
    let (pods, limit) = (used + more, node.max_enis as u64 * node.max_ips_per_eni as u64);
    let below = (pods < limit).then(|| below(node, subnets, families, no_eni));
    Capacity { pods, limit, below }
}

fn below(node: &NodeView, subnets: &[SubnetRoom], families: &Families, no_eni: Option<&str>) -> Limit {
    let of_zone: Vec<&SubnetRoom> = subnets.iter().filter(|subnet| subnet.serves(node)).collect();
    if let Some(words) = no_eni {
        return Limit::Enis(words.to_owned());
    }
    if of_zone.is_empty() {
        return Limit::NoSubnet(node.zone.clone());
    }
    let count = |subnet: &&SubnetRoom| {
        let v6 = subnet.v6.filter(|_| families.contains(Family::V6));
        let v6 = v6.map(|v6| format!(" and {v6} IPv6")).unwrap_or_default();
        let reserve =
            subnet.reservable.map(|left| format!(", {left} of them for ENIs to reserve")).unwrap_or_default();
        format!("subnet {} has {}{v6} free{reserve}", subnet.id, subnet.v4)
    };
    Limit::Subnets(of_zone.iter().map(count).collect::<Vec<_>>().join(", "))
}

/// Pods whose addresses an ENI has, or has ready.
fn used_of(eni: &EniView) -> u64 {
    let v4 = eni.ips.iter().filter(|ip| ip.is_ipv4()).count();
    v4.max(eni.ips.len() - v4) as u64
}

/// Pods that a list has free addresses for.
fn listed(list: &BTreeSet<IpAddr>, taken: &BTreeSet<IpAddr>, families: &Families) -> u64 {
    let free = |family| list.difference(taken).filter(|ip| Family::of(**ip) == family).count() as u64;
    families.iter().map(free).min().unwrap_or(0)
}

impl fmt::Display for Capacity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pods, limit, below } = self;
        write!(f, "{pods} pods can have an address, of {limit} that the node's limits allow")?;
        match below {
            None => Ok(()),
            Some(Limit::NoSubnet(zone)) => write!(f, ": no subnet of zone {zone} is configured"),
            Some(Limit::Subnets(numbers)) => write!(f, ": {numbers}"),
            Some(Limit::Enis(words)) => write!(f, ": no further ENI: {words}"),
        }
    }
}

#[cfg(test)]
mod tests;
