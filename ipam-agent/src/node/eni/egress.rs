//! `to_eni` where packets leave the node, and the node's own addresses, which it needs to know.

use std::{collections::BTreeMap, net::IpAddr};

use crate::{
    dataplane::Program,
    netlink::Link,
    node::{
        context::Node,
        drift::tables,
        eni::{find_link, ipv6::is_link_local},
        names::HOST_IFNAME_PREFIX,
    },
};

/// Attaches `to_eni` to every ENI of pods and to every interface with a default route, which is where the stack sends
/// what has no better route; takes it from all others.
///
/// # Errors
/// When the kernel refuses.
pub async fn keep(node: &Node, links: &[Link], addresses: &[(u32, IpAddr)]) -> anyhow::Result<()> {
    let book = node.journal.book();
    let slots: BTreeMap<u32, u32> = book
        .enis
        .values()
        .filter_map(|record| Some((find_link(record, links)?.index, record.slot)))
        .collect();
    let own = addresses.iter().filter(|(_, ip)| !ip.is_loopback() && !is_link_local(*ip));
    let node_addrs = own.map(|(index, ip)| (*ip, slots.get(index).copied().unwrap_or(0))).collect();
    tables::set_node_addrs(node, node_addrs)?;

    let defaults = node.net.default_route_interfaces().await?;
    let wanted = |link: &&Link| {
        node.config.stack_affinity
            && !link.name.starts_with(HOST_IFNAME_PREFIX)
            && (slots.contains_key(&link.index) || defaults.contains(&link.index))
    };
    let wanted: Vec<&Link> = links.iter().filter(wanted).collect();
    for link in &wanted {
        tables::attach(node, Program::ToEni, link)?;
    }
    let indices: Vec<u32> = wanted.iter().map(|link| link.index).collect();
    tables::forget_others(node, Program::ToEni, &indices);
    let mut dataplane = node.dataplane();
    for pin in dataplane.links()?.iter().filter(|pin| pin.program == Program::ToEni) {
        if !wanted.iter().any(|link| link.index == pin.ifindex) {
            dataplane.detach_link(pin)?;
        }
    }
    Ok(())
}
