//! Why there is no place for a pod's addresses, in words that name the family and the numbers.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::subnet::{Reservation, needs};
use super::{NodeView, SubnetView, Wanted, Wish};
use crate::ipam::family::{Families, Family};

/// Why there is no place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Shortage {
    /// A nominated or held address that lies in no subnet of ours.
    #[error("address {0} lies in no configured subnet; nominate one of {1}, or add its subnet")]
    Outside(IpAddr, String),
    /// The address's subnet is not configured any more, and the node has no ENI there.
    #[error(
        "address {0} belongs to subnet {1}, which is not configured any more: it is kept, and served where an ENI of \
         that subnet is; configure the subnet again, or delete the claim to have another address"
    )]
    SubnetRemoved(IpAddr, String),
    /// The nominated address is one that no pod can have.
    #[error("address {0} is reserved by the cloud in subnet {1}; nominate another")]
    Reserved(IpAddr, String),
    /// The nominated address has another owner.
    #[error("address {0} is taken; nominate another or release its owner (kubectl get vip {name})", name = crate::api::VpcIP::name_of(*.0))]
    Taken(IpAddr),
    /// The nominated address is of a family that pods do not have.
    #[error("address {0} is of a family that pods do not have here (--ip-families {1}); nominate another")]
    OtherFamily(IpAddr, Families),
    /// The address's subnet lies in another zone than the node.
    #[error("address {ip} belongs to subnet {subnet} of zone {subnet_zone}, the node is in zone {node_zone}")]
    OtherZone {
        /// The address.
        ip: IpAddr,
        /// Its subnet.
        subnet: String,
        /// Zone of the subnet.
        subnet_zone: String,
        /// Zone of the node.
        node_zone: String,
    },
    /// The pod's addresses lie in different subnets, so that no ENI can carry both.
    #[error(
        "address {ip} belongs to subnet {subnet} and {other} to subnet {other_subnet}, but a pod's addresses \
         are on one ENI; nominate addresses of one subnet"
    )]
    Apart {
        /// One address.
        ip: IpAddr,
        /// Its subnet.
        subnet: String,
        /// The other.
        other: IpAddr,
        /// And its subnet.
        other_subnet: String,
    },
    /// No subnet that may be used has addresses of the family.
    #[error("no free {0} address: subnet {1} has no {0} CIDR; add one, or choose another subnet")]
    NoCidr(Family, String),
    /// No subnet that may be used has room.
    #[error("no free {0}address: {1}", family.map(|family| format!("{family} ")).unwrap_or_default(), .reason)]
    SubnetsExhausted {
        /// The family that is short; absent where pods have but one.
        family: Option<Family>,
        /// The numbers.
        reason: String,
    },
    /// The node's ENIs are full, and it can take no more.
    #[error(
        "the node's {enis} ENIs (of {max_enis}) hold {ips} {addresses} (of {max_ips}) and none can take one more{hint}"
    )]
    NodeFull {
        /// ENIs it has.
        enis: usize,
        /// ENIs it can have.
        max_enis: usize,
        /// What is counted: addresses, or those of the family that is short.
        addresses: String,
        /// Addresses on them.
        ips: usize,
        /// Addresses they could have.
        max_ips: usize,
        /// More about the one subnet that was asked for.
        hint: String,
    },
}

impl Shortage {
    pub(super) fn node_full(node: &NodeView, subnet: &SubnetView, wanted: &[Wanted]) -> Self {
        let count = |family| node.enis.iter().map(|eni| eni.count(family)).sum::<usize>();
        let ips = wanted.iter().map(|(family, _)| (count(*family), *family)).max_by_key(|(ips, _)| *ips);
        let (ips, family) = ips.unwrap_or((0, Family::V4));
        let addresses = if wanted.len() > 1 { format!("{family} addresses") } else { "addresses".to_owned() };
        let given = wanted.iter().find_map(|(_, ip)| *ip);
        Self::NodeFull {
            enis: node.enis.len(),
            max_enis: node.max_enis,
            addresses,
            ips,
            max_ips: node.max_enis * node.max_ips_per_eni,
            hint: given.map(|ip| format!(" in subnet {}, where {ip} lives", subnet.id)).unwrap_or_default(),
        }
    }

    /// Of all families that are wanted, the first that is short everywhere.
    pub(super) fn subnets_exhausted(
        subnets: &[&SubnetView],
        wanted: &[Wanted],
        taken: &BTreeSet<IpAddr>,
    ) -> Self {
        let free = |subnet: &SubnetView, family| subnet.net(family).map_or(0, |net| net.free(taken));
        let short =
            |family: &Family| subnets.iter().all(|subnet| free(subnet, *family) < needs(*family, wanted));
        // An ENI has an IPv4 address of its own even where pods have none.
        let families = wanted.iter().map(|(family, _)| *family).chain([Family::V4]);
        let family = families.clone().find(short).or(families.last()).unwrap_or(Family::V4);
        let needs = needs(family, wanted);
        let count = |subnet: &&SubnetView| {
            let cidr = subnet.net(family).map(|net| net.cidr.to_string()).unwrap_or_default();
            let free = free(subnet, family);
            format!("subnet {} ({cidr}) has {free} free, an ENI and its pod need {needs}", subnet.id)
        };
        let reason = subnets.iter().map(count).collect::<Vec<_>>().join("; ");
        Self::SubnetsExhausted { family: (wanted.len() > 1).then_some(family), reason }
    }

    /// No subnet can hold one more ENI with all its addresses.
    pub(super) fn fully_reserved(subnets: &[&SubnetView], quota: u64) -> Self {
        let count = |subnet: &&SubnetView| {
            let Reservation { enis, addresses } = subnet.reservation.unwrap_or_default();
            let cidr = subnet.net(Family::V4).map(|net| net.cidr.to_string()).unwrap_or_default();
            let size = subnet.size();
            format!(
                "subnet {} ({cidr}) has {size} addresses, of which {enis} ENIs reserve {addresses}",
                subnet.id
            )
        };
        let counts = subnets.iter().map(count).collect::<Vec<_>>().join("; ");
        let reason = format!(
            "{counts}; one more ENI reserves {quota} (1 of its own and {} for pods): add a subnet, or do without \
             --reserve-eni-quota",
            quota - 1
        );
        Self::SubnetsExhausted { family: None, reason }
    }

    pub(super) fn no_subnet(node: &NodeView, wish: &Wish) -> Self {
        let reason = if wish.subnets.is_empty() {
            format!("no subnet of zone {} is configured; add one", node.zone)
        } else {
            format!(
                "none of the nominated subnets ({}) is a configured subnet of zone {}",
                wish.subnets.join(", "),
                node.zone
            )
        };
        Self::SubnetsExhausted { family: None, reason }
    }
}
