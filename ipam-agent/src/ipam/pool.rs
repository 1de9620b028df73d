//! Where addresses come from and which ENI carries them: pack the fullest ENI first, then a new ENI in the
//! same-zone subnet with most free addresses. The addresses of one pod are all on one ENI.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::net::IpAddr;

use super::family::{Families, Family};

pub mod collect;
mod name;
mod shortage;
mod subnet;
pub mod warm;

pub use name::eni_name;
pub use shortage::Shortage;
pub use subnet::{NetView, Reservation, SubnetView};

/// An ENI that may carry pods of the node.
#[derive(Clone, Debug)]
pub struct EniView {
    /// The cloud's name.
    pub id: String,
    /// Its subnet.
    pub subnet_id: String,
    /// Its secondary addresses, of all families.
    pub ips: BTreeSet<IpAddr>,
    /// Those of them that nobody owns: they are given first, for they cost no call of the cloud.
    pub warm: BTreeSet<IpAddr>,
    /// The only addresses it can be given; `None`: any of its subnet.
    pub assignable: Option<BTreeSet<IpAddr>>,
}

/// A node.
#[derive(Clone, Debug)]
pub struct NodeView {
    /// Its zone.
    pub zone: String,
    /// Secondary ENIs that it can take.
    pub max_enis: usize,
    /// Secondary addresses of one ENI, of each family.
    pub max_ips_per_eni: usize,
    /// The secondary ENIs it has.
    pub enis: Vec<EniView>,
}

impl NodeView {
    /// Addresses of an ENI that is full: its own and its pods'.
    fn eni_quota(&self) -> u64 {
        self.max_ips_per_eni as u64 + 1
    }
}

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// The families of which the pod shall have an address.
    pub families: Families,
    /// The claim holds these addresses already. Their families are asked for too.
    pub held: Vec<IpAddr>,
    /// Subnets of held addresses. They count even where the subnet's CIDR says otherwise, or it has none any more.
    pub homes: Vec<(IpAddr, String)>,
    /// The pod wants these addresses and no others of their families.
    pub nominated: Vec<IpAddr>,
    /// The pod wants addresses of these subnets; empty: any.
    pub subnets: Vec<String>,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
    /// These addresses, on this ENI of the node.
    OnEni {
        /// The ENI.
        eni_id: String,
        /// Its subnet.
        subnet_id: String,
        /// The addresses, one of each family that is asked for.
        ips: Vec<IpAddr>,
    },
    /// The node needs another ENI, in this subnet. Ask again when it has it.
    NewEni {
        /// The subnet.
        subnet_id: String,
        /// A free address for the ENI itself.
        primary: IpAddr,
    },
}

/// One family of a wish: this address, or any.
type Wanted = (Family, Option<IpAddr>);

impl Wish {
    /// What is wanted of each family.
    fn wanted(&self, node: &NodeView, taken: &BTreeSet<IpAddr>) -> Result<Vec<Wanted>, Shortage> {
        let taken = |ip: &IpAddr| taken.contains(ip) && node.enis.iter().all(|eni| !eni.warm.contains(ip));
        for ip in &self.nominated {
            if !self.families.contains(Family::of(*ip)) {
                return Err(Shortage::OtherFamily(*ip, self.families.clone()));
            }
        }
        let families: Families =
            self.families.iter().chain(self.held.iter().map(|ip| Family::of(*ip))).collect();
        let of = |ips: &[IpAddr], family| ips.iter().copied().find(|ip| Family::of(*ip) == family);
        families
            .iter()
            .map(|family| match (of(&self.held, family), of(&self.nominated, family)) {
                (Some(held), _) => Ok((family, Some(held))),
                (None, Some(nominated)) if taken(&nominated) => Err(Shortage::Taken(nominated)),
                (None, nominated) => Ok((family, nominated)),
            })
            .collect()
    }
}

impl EniView {
    /// Addresses of one family.
    fn count(&self, family: Family) -> usize {
        self.ips.iter().filter(|ip| Family::of(**ip) == family).count()
    }

    /// An address for what is wanted; `None`: it has none.
    fn serve(
        &self,
        (family, wanted): Wanted,
        subnet: &SubnetView,
        max: usize,
        taken: &BTreeSet<IpAddr>,
        salt: u64,
    ) -> Option<IpAddr> {
        if let Some(ip) = wanted.filter(|ip| self.ips.contains(ip)) {
            return Some(ip);
        }
        let warm = self.warm.iter().copied().find(|ip| Family::of(*ip) == family && !subnet.closed);
        if wanted.is_none() && warm.is_some() {
            return warm;
        }
        let net = subnet.net(family).filter(|_| self.count(family) < max)?;
        match (wanted, &self.assignable) {
            (Some(ip), None) => Some(ip),
            (Some(ip), Some(list)) => Some(ip).filter(|ip| list.contains(ip)),
            (None, Some(list)) => {
                let free: Vec<_> =
                    list.difference(taken).filter(|ip| Family::of(**ip) == family).copied().collect();
                let at = salt.checked_rem(free.len() as u64)?;
                free.get(usize::try_from(at).ok()?).copied()
            }
            (None, None) if net.available == 0 || subnet.closed => None,
            (None, None) => net.pick(taken, salt),
        }
    }
}

/// Finds a place for a pod's addresses on a node: all of them, or none. `taken` are all addresses known to be in use: those
/// with an owner, the held ones included, and those on an ENI, the warm ones included.
///
/// # Errors
/// Why there is none, with the numbers.
pub fn place(
    node: &NodeView,
    subnets: &[SubnetView],
    taken: &BTreeSet<IpAddr>,
    wish: &Wish,
    salt: u64,
) -> Result<Placement, Shortage> {
    let wanted = wish.wanted(node, taken)?;
    let allowed = allowed(node, subnets, &wanted, wish)?;

    let mut candidates: Vec<(&EniView, &SubnetView)> = node
        .enis
        .iter()
        .filter_map(|eni| Some((eni, *allowed.iter().find(|subnet| subnet.id == eni.subnet_id)?)))
        .collect();
    candidates.sort_by_key(|(eni, _)| {
        let there = wanted.iter().filter(|(_, ip)| ip.is_some_and(|ip| eni.ips.contains(&ip))).count();
        let warm = wanted.iter().all(|(family, _)| eni.warm.iter().any(|ip| Family::of(*ip) == *family));
        (Reverse(there), Reverse(warm), Reverse(eni.ips.len()), eni.id.clone())
    });
    for (eni, subnet) in candidates {
        let serve = |wanted: &Wanted| eni.serve(*wanted, subnet, node.max_ips_per_eni, taken, salt);
        if let Some(ips) = wanted.iter().map(serve).collect() {
            return Ok(Placement::OnEni { eni_id: eni.id.clone(), subnet_id: eni.subnet_id.clone(), ips });
        }
    }

    let quota = node.eni_quota();
    let best = allowed.iter().max_by_key(|subnet| {
        let room = subnet.has_room_for_eni(&wanted, taken);
        (room && subnet.can_reserve(quota), room, subnet.free(taken), Reverse(&subnet.id))
    });
    match best {
        None => Err(Shortage::no_subnet(node, wish)),
        Some(best) if !best.has_room_for_eni(&wanted, taken) => {
            Err(Shortage::subnets_exhausted(&allowed, &wanted, taken))
        }
        Some(best) if node.enis.len() >= node.max_enis => Err(Shortage::node_full(node, best, &wanted)),
        Some(best) if !best.can_reserve(quota) => Err(Shortage::fully_reserved(&allowed, quota)),
        Some(best) => {
            let mut taken = taken.clone();
            taken.extend(wanted.iter().filter_map(|(_, ip)| *ip));
            let primary = best.net(Family::V4).and_then(|net| net.pick(&taken, salt));
            match primary {
                Some(primary) => Ok(Placement::NewEni { subnet_id: best.id.clone(), primary }),
                None => Err(Shortage::subnets_exhausted(&allowed, &wanted, &taken)),
            }
        }
    }
}

/// The subnets that may be used: of the node's zone, with all the families, and where an address is given, its own.
fn allowed<'a>(
    node: &NodeView,
    subnets: &'a [SubnetView],
    wanted: &[Wanted],
    wish: &Wish,
) -> Result<Vec<&'a SubnetView>, Shortage> {
    let mut given: Option<(IpAddr, &SubnetView)> = None;
    for ip in wanted.iter().filter_map(|(_, ip)| *ip) {
        let subnet = subnet_of(ip, node, subnets, wish)?;
        match given {
            Some((other, at)) if at.id != subnet.id => {
                return Err(Shortage::Apart {
                    ip: other,
                    subnet: at.id.clone(),
                    other: ip,
                    other_subnet: subnet.id.clone(),
                });
            }
            _ => given = Some((ip, subnet)),
        }
    }
    let mut allowed: Vec<&SubnetView> = match given {
        Some((_, subnet)) => vec![subnet],
        None => subnets
            .iter()
            .filter(|subnet| subnet.zone == node.zone && !subnet.closed)
            .filter(|subnet| match wish.subnets.is_empty() {
                true => !subnet.nominated_only,
                false => wish.subnets.contains(&subnet.id),
            })
            .collect(),
    };
    for (family, _) in wanted {
        let before: Vec<String> = allowed.iter().map(|subnet| subnet.id.clone()).collect();
        allowed.retain(|subnet| subnet.net(*family).is_some());
        if allowed.is_empty() && !before.is_empty() {
            return Err(Shortage::NoCidr(*family, before.join(", ")));
        }
    }
    Ok(allowed)
}

fn subnet_of<'a>(
    ip: IpAddr,
    node: &NodeView,
    subnets: &'a [SubnetView],
    wish: &Wish,
) -> Result<&'a SubnetView, Shortage> {
    let held = wish.held.contains(&ip);
    let home = wish.homes.iter().find(|(of, _)| *of == ip).map(|(_, subnet)| subnet);
    let contains =
        |subnet: &&SubnetView| subnet.net(Family::of(ip)).is_some_and(|net| net.cidr.contains(&ip));
    let by_id = home.and_then(|home| subnets.iter().find(|subnet| subnet.id == *home));
    let Some(subnet) = by_id.or_else(|| subnets.iter().find(contains)) else {
        if let Some(home) = home {
            return Err(Shortage::SubnetRemoved(ip, home.clone()));
        }
        let known = subnets.iter().filter(|subnet| !subnet.closed);
        let known: Vec<String> =
            known.filter_map(|subnet| Some(subnet.net(Family::of(ip))?.cidr.to_string())).collect();
        return Err(Shortage::Outside(ip, known.join(", ")));
    };
    if !held && !subnet.net(Family::of(ip)).is_some_and(|net| net.is_usable(ip)) {
        return Err(Shortage::Reserved(ip, subnet.id.clone()));
    }
    if subnet.zone != node.zone {
        return Err(Shortage::OtherZone {
            ip,
            subnet: subnet.id.clone(),
            subnet_zone: subnet.zone.clone(),
            node_zone: node.zone.clone(),
        });
    }
    let on_an_eni = || node.enis.iter().any(|eni| eni.subnet_id == subnet.id);
    if subnet.closed && (!held || !on_an_eni()) {
        return Err(Shortage::SubnetRemoved(ip, subnet.id.clone()));
    }
    Ok(subnet)
}

#[cfg(test)]
mod tests;
