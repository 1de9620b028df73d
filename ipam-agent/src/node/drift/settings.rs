//! Settings of the host stack that pods' packets depend on. networkd, NetworkManager and systemd-sysctl write them too,
//! when they start and when a device comes.
//!
//! Those of a device are written by netlink, which also works where `/proc/sys` is read-only. Nothing is written on a
//! device that carries no pods.

use crate::{
    netlink::{Link, NetlinkError, RP_FILTER_LOOSE, sysctl},
    node::{context::Node, drift::Kind},
};

/// Lets the host stack forward, for the node as a whole. Where it cannot be written, the devices of pods forward
/// nevertheless: see [`keep_forwarding`].
pub fn keep_ip_forward(node: &Node, repair: bool) {
    const OBJECT: &str = "net.ipv4.ip_forward";
    match sysctl::enable_ipv4_forwarding() {
        Ok(false) => {}
        Ok(true) if repair => node.repairs.done(Kind::Forwarding, OBJECT, 0),
        Ok(true) => {}
        Err(error) => node.repairs.failed(
            Kind::Forwarding,
            OBJECT,
            format_args!("{error}; set {OBJECT}=1 on the host, such as in /etc/sysctl.d, or let this agent write /proc/sys"),
        ),
    }
}

/// Has a pod's or an ENI's device forward what comes in by it. With `repair`, one that does not has been changed by
/// somebody.
///
/// # Errors
/// When the kernel refuses.
pub async fn keep_forwarding(node: &Node, link: &Link, repair: bool) -> Result<(), NetlinkError> {
    if link.settings.forwarding {
        return Ok(());
    }
    // That of the node as a whole sets those of all devices.
    keep_ip_forward(node, repair);
    let now = node.net.link_by_index(link.index).await?;
    if now.is_none_or(|now| now.settings.forwarding) {
        return Ok(());
    }
    node.net.set_forwarding(link.index).await?;
    if repair {
        node.repairs.done(Kind::Forwarding, format_args!("forwarding of {}", link.name), 0);
    }
    Ok(())
}

/// Keeps the node's end of a pod's link ready for IPv6.
pub fn keep_ipv6(node: &Node, ifname: &str) {
    match sysctl::prepare_v6(ifname) {
        Ok(found) if found.is_empty() => {}
        Ok(found) => note_ipv6(node, ifname, &found),
        Err(error) => node.repairs.failed(
            Kind::Ipv6,
            ifname,
            format_args!("{error}; find out who writes it, or let this agent write /proc/sys"),
        ),
    }
}

/// Counts that a device was not ready for IPv6 any more.
pub fn note_ipv6(node: &Node, ifname: &str, found: &[String]) {
    node.repairs.done(Kind::Ipv6, format_args!("IPv6 of {ifname}"), found.join(", "));
}

/// Makes the reverse-path filter of an ENI loose, whatever that of `all` is now or will be.
///
/// # Errors
/// When the kernel refuses.
pub async fn keep_rp_filter(node: &Node, link: &Link, repair: bool) -> Result<(), NetlinkError> {
    if link.settings.rp_filter == RP_FILTER_LOOSE {
        return Ok(());
    }
    node.net.loosen_rp_filter(link.index).await?;
    if repair {
        node.repairs.done(
            Kind::RpFilter,
            format_args!("rp_filter of {}", link.name),
            link.settings.rp_filter,
        );
    }
    Ok(())
}
