//! The IPv6 side of an ENI: on, with a link-local address to ask its next hop from, and the next hop watched.

use std::net::{IpAddr, Ipv6Addr};

use ipam_common::Mac;

use crate::{
    netlink::{Link, Neighbour, sysctl},
    node::{
        context::Node,
        drift::{Kind, settings},
    },
};

/// Makes an ENI able to carry pods' IPv6 addresses, as far as that needs no answer of the next hop. With `repair` it was
/// so before, and what is not any more has been changed by somebody.
///
/// # Errors
/// When the kernel refuses.
pub async fn bring_up(
    node: &Node,
    link: &Link,
    gateway: Ipv6Addr,
    addresses: &[(u32, IpAddr)],
    neighbours: &[Neighbour],
    repair: bool,
) -> anyhow::Result<()> {
    if sysctl::enable_ipv6_forwarding()? && repair {
        node.repairs.done(Kind::Forwarding, "net.ipv6.conf.all.forwarding", 0);
    }
    let found = sysctl::prepare_v6(&link.name)?;
    if repair && !found.is_empty() {
        settings::note_ipv6(node, &link.name, &found);
    }
    if !addresses.iter().any(|(index, ip)| *index == link.index && is_link_local(*ip)) {
        // The kernel makes one of its own as a rule, but not where it was told to leave that to a network manager.
        node.net.add_link_local(link.index, link_local_of(link.mac)).await?;
    }
    let gateway = IpAddr::V6(gateway);
    let known = neighbours.iter().find(|known| known.ifindex == link.index && known.ip == gateway);
    // A device that was down has lost it. A kernel that does not keep it fresh forgets it, and has to be asked each time.
    let right = known.is_some_and(|known| known.managed);
    if !link.up || !right || !node.net.keeps_neighbours().await {
        node.net.manage_neighbour(link.index, gateway).await?;
        if link.up && repair && !right && known.is_some() {
            node.repairs.done(
                Kind::Neighbour,
                format_args!("{gateway} on {}", link.name),
                format_args!("{known:?}"),
            );
        }
    }
    Ok(())
}

/// Whether an address is one of a link and not of the node.
pub fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

/// The link-local address of an interface by its MAC (RFC 4291, appendix A).
fn link_local_of(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.octets;
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_local_address_is_made_as_the_kernel_makes_it() {
        let mac = Mac { octets: [0x02, 0x0e, 0, 0, 0, 0x2a] };
        assert_eq!(link_local_of(mac).to_string(), "fe80::e:ff:fe00:2a");
        assert!(is_link_local("fe80::1".parse().unwrap()));
        assert!(!is_link_local("169.254.1.1".parse().unwrap()) && !is_link_local("fd00::1".parse().unwrap()));
    }
}
