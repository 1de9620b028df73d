//! Subnets: which addresses there are, and which are free.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::Wanted;
use crate::ipam::family::Family;

/// A subnet.
#[derive(Clone, Debug, Default)]
pub struct SubnetView {
    /// The cloud's name.
    pub id: String,
    /// Its zone.
    pub zone: String,
    /// Its addresses: IPv4, and IPv6 where it has any.
    pub nets: Vec<NetView>,
    /// Not configured any more: what is there stays and is served by the ENIs that are there; nothing new comes.
    pub closed: bool,
    /// Only for pods that nominate the subnet or an address of it.
    pub nominated_only: bool,
    /// What its ENIs reserve; absent where full quotas are not reserved.
    pub reservation: Option<Reservation>,
}

/// Full quotas reserved in a subnet: each ENI's own address and all that its pods could have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reservation {
    /// ENIs.
    pub enis: u64,
    /// Their addresses together.
    pub addresses: u64,
}

/// A subnet's addresses of one family.
#[derive(Clone, Debug)]
pub struct NetView {
    /// All of them.
    pub cidr: IpNet,
    /// Next hop; no pod can have it.
    pub gateway: IpAddr,
    /// Addresses at the beginning that nobody can have: the network's own, the cloud's, and what IPv6 calls the anycast
    /// address of the routers. Nor can anybody have the last one.
    pub reserved: u32,
    /// Addresses that the cloud says are free; it knows of users outside the cluster.
    pub available: u64,
}

impl SubnetView {
    /// Its addresses of a family.
    #[must_use]
    pub fn net(&self, family: Family) -> Option<&NetView> {
        self.nets.iter().find(|net| Family::of(net.cidr.addr()) == family)
    }

    /// Free IPv4 addresses, of which an ENI takes one whatever its pods have.
    pub fn free(&self, taken: &BTreeSet<IpAddr>) -> u64 {
        self.net(Family::V4).map_or(0, |net| net.free(taken))
    }

    /// All its IPv4 addresses, those that the cloud keeps for itself included: full quotas are counted against them, as
    /// TKE does. So the last ENI of a subnet can be a few addresses short.
    pub(super) fn size(&self) -> u64 {
        let range = self.net(Family::V4).map(NetView::range);
        range.map_or(0, |(first, last)| u64::try_from(last - first + 1).unwrap_or(u64::MAX))
    }

    /// Addresses that ENIs can still reserve; nothing where full quotas are not reserved.
    #[must_use]
    pub fn reservable(&self) -> Option<u64> {
        self.reservation.map(|reserved| self.size().saturating_sub(reserved.addresses))
    }

    /// Whether an ENI with so many addresses can be reserved whole, if that is asked for.
    pub(super) fn can_reserve(&self, quota: u64) -> bool {
        self.reservable().is_none_or(|left| quota <= left)
    }

    /// Whether there is room for one more ENI and these addresses.
    pub(super) fn has_room_for_eni(&self, wanted: &[Wanted], taken: &BTreeSet<IpAddr>) -> bool {
        !self.closed
            && self.free(taken) >= needs(Family::V4, wanted)
            && wanted.iter().all(|(family, _)| {
                self.net(*family).is_some_and(|net| net.free(taken) >= needs(*family, wanted))
            })
    }
}

/// Free addresses of a family that a new ENI takes with these addresses: one for itself, an IPv4 one, and those that
/// nobody has yet.
pub(super) fn needs(family: Family, wanted: &[Wanted]) -> u64 {
    let fresh = wanted.iter().any(|(of, ip)| *of == family && ip.is_none());
    u64::from(family == Family::V4) + u64::from(fresh)
}

impl NetView {
    /// The first and the last address as numbers.
    fn range(&self) -> (u128, u128) {
        (number(self.cidr.network()), number(self.cidr.broadcast()))
    }

    /// Addresses that a pod or an ENI can have: neither reserved nor the gateway.
    pub(super) fn is_usable(&self, ip: IpAddr) -> bool {
        let (first, last) = self.range();
        let at = number(ip);
        self.cidr.contains(&ip) && at >= first + u128::from(self.reserved) && at < last && ip != self.gateway
    }

    /// Free addresses: what we know to be taken, and what the cloud knows.
    #[must_use]
    pub fn free(&self, taken: &BTreeSet<IpAddr>) -> u64 {
        let (first, last) = self.range();
        let usable =
            u64::try_from((last - first).saturating_sub(u128::from(self.reserved))).unwrap_or(u64::MAX);
        let (lowest, highest) = (self.cidr.network(), self.cidr.broadcast());
        let taken = taken.range(lowest..=highest).filter(|ip| self.is_usable(**ip)).count();
        usable.saturating_sub(taken as u64).min(self.available)
    }

    /// A free address, found by walking from a place that `salt` chooses: two controllers that choose at the
    /// same time seldom collide, and an address given back is seldom the next one given out.
    pub fn pick(&self, taken: &BTreeSet<IpAddr>, salt: u64) -> Option<IpAddr> {
        let (first, last) = self.range();
        let size = last - first + 1;
        // Of so many in a row at least one is usable and free.
        let steps = size.min(taken.len() as u128 + u128::from(self.reserved) + 3);
        (0..steps)
            .map(|step| self.address(first + (u128::from(salt) % size + step) % size))
            .find(|ip| self.is_usable(*ip) && !taken.contains(ip))
    }

    /// The address that a number stands for, of this family.
    fn address(&self, number: u128) -> IpAddr {
        match self.cidr {
            IpNet::V4(_) => IpAddr::from(u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes()),
            IpNet::V6(_) => IpAddr::from(number.to_be_bytes()),
        }
    }
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => ip.into(),
    }
}
