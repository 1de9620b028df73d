//! Where an address comes from and which ENI carries it: pack the fullest ENI first, then a new ENI in the
//! same-zone subnet with most free addresses.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// A subnet.
#[derive(Clone, Debug)]
pub struct SubnetView {
    /// The cloud's name.
    pub id: String,
    /// Its zone.
    pub zone: String,
    /// All its addresses.
    pub cidr: Ipv4Net,
    /// Next hop; no pod can have it.
    pub gateway: Ipv4Addr,
    /// Addresses that the cloud says are free; it knows of users outside the cluster.
    pub available: u64,
}

/// An ENI that may carry pods of the node.
#[derive(Clone, Debug)]
pub struct EniView {
    /// The cloud's name.
    pub id: String,
    /// Its subnet.
    pub subnet_id: String,
    /// Its secondary addresses.
    pub ips: BTreeSet<Ipv4Addr>,
    /// The only addresses it can be given; `None`: any of its subnet.
    pub assignable: Option<BTreeSet<Ipv4Addr>>,
}

/// A node.
#[derive(Clone, Debug)]
pub struct NodeView {
    /// Its zone.
    pub zone: String,
    /// Secondary ENIs that it can take.
    pub max_enis: usize,
    /// Secondary addresses of one ENI.
    pub max_ips_per_eni: usize,
    /// The secondary ENIs it has.
    pub enis: Vec<EniView>,
}

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// The claim holds this address already.
    pub held: Option<Ipv4Addr>,
    /// The pod wants this address and no other.
    pub nominated_ip: Option<Ipv4Addr>,
    /// The pod wants an address of these subnets; empty: any.
    pub subnets: Vec<String>,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
    /// This address, on this ENI of the node.
    OnEni {
        /// The ENI.
        eni_id: String,
        /// Its subnet.
        subnet_id: String,
        /// The address.
        ip: Ipv4Addr,
    },
    /// The node needs another ENI, in this subnet. Ask again when it has it.
    NewEni {
        /// The subnet.
        subnet_id: String,
    },
}

/// Why there is no place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Shortage {
    /// A nominated or held address that lies in no subnet of ours.
    #[error("address {0} lies in no configured subnet; nominate one of {1}, or add its subnet")]
    Outside(Ipv4Addr, String),
    /// The nominated address is one that no pod can have.
    #[error("address {0} is reserved by the cloud in subnet {1}; nominate another")]
    Reserved(Ipv4Addr, String),
    /// The nominated address has another owner.
    #[error("address {0} is taken; nominate another or release its owner (kubectl get vip {0})")]
    Taken(Ipv4Addr),
    /// The address's subnet lies in another zone than the node.
    #[error("address {ip} belongs to subnet {subnet} of zone {subnet_zone}, the node is in zone {node_zone}")]
    OtherZone {
        /// The address.
        ip: Ipv4Addr,
        /// Its subnet.
        subnet: String,
        /// Zone of the subnet.
        subnet_zone: String,
        /// Zone of the node.
        node_zone: String,
    },
    /// No subnet that may be used has a free address.
    #[error("no free address: {0}")]
    SubnetsExhausted(String),
    /// The node's ENIs are full, and it can take no more.
    #[error(
        "the node's {enis} ENIs (of {max_enis}) hold {ips} addresses (of {max_ips}) and none can take one more{hint}"
    )]
    NodeFull {
        /// ENIs it has.
        enis: usize,
        /// ENIs it can have.
        max_enis: usize,
        /// Addresses on them.
        ips: usize,
        /// Addresses they could have.
        max_ips: usize,
        /// More about the one subnet that was asked for.
        hint: String,
    },
}

impl SubnetView {
    /// Addresses that a pod or an ENI can have: all but the first two and the last (the cloud's), and the
    /// gateway.
    fn is_usable(&self, ip: Ipv4Addr) -> bool {
        let (first, last) = (u32::from(self.cidr.network()), u32::from(self.cidr.broadcast()));
        let ip = u32::from(ip);
        ip >= first + 2 && ip < last && ip != u32::from(self.gateway)
    }

    /// Free addresses: what we know to be taken, and what the cloud knows.
    #[must_use]
    pub fn free(&self, taken: &BTreeSet<Ipv4Addr>) -> u64 {
        let (first, last) =
            (u64::from(u32::from(self.cidr.network())), u64::from(u32::from(self.cidr.broadcast())));
        let usable = (last + 1 - first).saturating_sub(3);
        let taken = taken
            .range(self.cidr.network()..=self.cidr.broadcast())
            .filter(|ip| self.is_usable(**ip))
            .count();
        usable.saturating_sub(taken as u64).min(self.available)
    }

    /// A free address, found by walking from a place that `salt` chooses: two controllers that choose at the
    /// same time seldom collide, and an address given back is seldom the next one given out.
    fn pick(&self, taken: &BTreeSet<Ipv4Addr>, salt: u64) -> Option<Ipv4Addr> {
        let first = u32::from(self.cidr.network());
        let size = u64::from(u32::from(self.cidr.broadcast()) - first) + 1;
        (0..size)
            .map(|step| {
                Ipv4Addr::from(first + u32::try_from((salt % size + step) % size).expect("below 2^32"))
            })
            .find(|ip| self.is_usable(*ip) && !taken.contains(ip))
    }
}

/// Finds a place for an address on a node. `taken` are all addresses known to have an owner, the held one
/// included.
///
/// # Errors
/// Why there is none, with the numbers.
pub fn place(
    node: &NodeView,
    subnets: &[SubnetView],
    taken: &BTreeSet<Ipv4Addr>,
    wish: &Wish,
    salt: u64,
) -> Result<Placement, Shortage> {
    let wanted = match (wish.held, wish.nominated_ip) {
        (Some(held), _) => Some(held),
        (None, Some(nominated)) if taken.contains(&nominated) => return Err(Shortage::Taken(nominated)),
        (None, nominated) => nominated,
    };
    let allowed: Vec<&SubnetView> = match wanted {
        Some(ip) => vec![subnet_of(ip, node, subnets, wish.held.is_some())?],
        None => subnets
            .iter()
            .filter(|subnet| subnet.zone == node.zone)
            .filter(|subnet| wish.subnets.is_empty() || wish.subnets.contains(&subnet.id))
            .collect(),
    };
    if let Some(eni) = wanted.and_then(|ip| node.enis.iter().find(|eni| eni.ips.contains(&ip))) {
        return Ok(on(eni, wanted.expect("just used")));
    }

    let mut by_fullness: Vec<(&EniView, &SubnetView)> = node
        .enis
        .iter()
        .filter(|eni| eni.ips.len() < node.max_ips_per_eni)
        .filter_map(|eni| Some((eni, *allowed.iter().find(|subnet| subnet.id == eni.subnet_id)?)))
        .collect();
    by_fullness.sort_by_key(|(eni, _)| (std::cmp::Reverse(eni.ips.len()), eni.id.clone()));
    for (eni, subnet) in by_fullness {
        let fits = |ip: &Ipv4Addr| eni.assignable.as_ref().is_none_or(|list| list.contains(ip));
        let found = match (wanted, &eni.assignable) {
            (Some(ip), _) => Some(ip).filter(fits),
            (None, Some(list)) => {
                let free: Vec<_> = list.difference(taken).collect();
                (!free.is_empty())
                    .then(|| *free[usize::try_from(salt % free.len() as u64).expect("an index")])
            }
            (None, None) if subnet.available == 0 => None,
            (None, None) => subnet.pick(taken, salt),
        };
        if let Some(ip) = found {
            return Ok(on(eni, ip));
        }
    }

    // A new ENI takes one address for itself.
    let needs = if wanted.is_some() { 1 } else { 2 };
    let best = allowed.iter().max_by_key(|subnet| (subnet.free(taken), std::cmp::Reverse(&subnet.id)));
    match best {
        Some(best) if best.free(taken) >= needs && node.enis.len() < node.max_enis => {
            Ok(Placement::NewEni { subnet_id: best.id.clone() })
        }
        Some(best) if best.free(taken) >= needs => Err(Shortage::NodeFull {
            enis: node.enis.len(),
            max_enis: node.max_enis,
            ips: node.enis.iter().map(|eni| eni.ips.len()).sum(),
            max_ips: node.max_enis * node.max_ips_per_eni,
            hint: wanted.map(|ip| format!(" in subnet {}, where {ip} lives", best.id)).unwrap_or_default(),
        }),
        Some(_) => Err(Shortage::SubnetsExhausted(
            allowed
                .iter()
                .map(|s| {
                    format!(
                        "subnet {} ({}) has {} free, an ENI and its pod need {needs}",
                        s.id,
                        s.cidr,
                        s.free(taken)
                    )
                })
                .collect::<Vec<_>>()
                .join("; "),
        )),
        None if wish.subnets.is_empty() => {
            Err(Shortage::SubnetsExhausted(format!("no subnet of zone {} is configured; add one", node.zone)))
        }
        None => Err(Shortage::SubnetsExhausted(format!(
            "none of the nominated subnets ({}) is a configured subnet of zone {}",
            wish.subnets.join(", "),
            node.zone
        ))),
    }
}

fn on(eni: &EniView, ip: Ipv4Addr) -> Placement {
    Placement::OnEni { eni_id: eni.id.clone(), subnet_id: eni.subnet_id.clone(), ip }
}

fn subnet_of<'a>(
    ip: Ipv4Addr,
    node: &NodeView,
    subnets: &'a [SubnetView],
    held: bool,
) -> Result<&'a SubnetView, Shortage> {
    let Some(subnet) = subnets.iter().find(|subnet| subnet.cidr.contains(&ip)) else {
        let known: Vec<String> = subnets.iter().map(|subnet| subnet.cidr.to_string()).collect();
        return Err(Shortage::Outside(ip, known.join(", ")));
    };
    if !held && !subnet.is_usable(ip) {
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
    Ok(subnet)
}

#[cfg(test)]
mod tests;
