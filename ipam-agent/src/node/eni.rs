//! The ENIs of this node: found by MAC, brought up, and kept true in the `ENIS` map; with them the destinations that
//! belong to the host stack.
//!
//! Wanted are the attached ENIs of the node's `NodeENIConfig`. Until the API has answered they are those of the
//! journal, so that a restarted agent needs no API to keep its pods connected. An ENI is given up only when the API
//! says that it is no longer the node's and no attachment names it.

mod changed_mac;
mod egress;
mod ipv6;
mod slots;

use std::{
    fmt::Display,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use futures::StreamExt as _;
use ipam_common::{Eni, Mac};
use ipnet::{IpNet, Ipv4Net};
use kube::{
    Api, Client,
    runtime::{WatchStreamExt as _, watcher},
};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::{
    api::{EniState, EniStatus, NodeENIConfig},
    client::is_refusal,
    dataplane::Program,
    netlink::{Link, MacText, Neighbour, parse_mac},
    node::{
        context::Node,
        drift::{Kind, settings, tables},
        journal::{Change, EniRecord},
        masquerade,
    },
};

/// Kinds of devices that bear the MAC of another.
const STACKED_KINDS: [&str; 5] = ["vlan", "macvlan", "macvtap", "ipvlan", "bridge"];

/// An ENI of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EniView {
    /// The cloud's name.
    pub id: String,
    /// Slot in the `ENIS` map.
    pub slot: u32,
    /// What it waits for; `None`: it can carry pods' IPv4 addresses.
    pub waits_for: Option<String>,
    /// Likewise for IPv6.
    pub waits_for_v6: Option<String>,
    /// Index of its device, if it is there.
    pub ifindex: Option<u32>,
    /// MTU in bytes.
    pub mtu: u32,
}

/// The wanted ENIs by the API; `None`: not heard of yet.
pub type Wanted = Option<Vec<EniStatus>>;

/// Follows the node's `NodeENIConfig`. An object that does not exist, or no longer, changes nothing.
pub fn watch_wanted(
    client: Client,
    node_name: &str,
) -> (watch::Receiver<Wanted>, impl Future<Output = ()> + Send + 'static) {
    let (publish, wanted) = watch::channel(None);
    let api: Api<NodeENIConfig> = Api::all(client);
    let name = node_name.to_owned();
    let task = async move {
        let mut objects = watcher::watch_object(api, &name).default_backoff().boxed();
        while let Some(object) = objects.next().await {
            match object {
                Ok(Some(config)) => {
                    if let Some(status) = config.status {
                        publish.send_replace(Some(status.enis));
                    }
                }
                Ok(None) => {}
                Err(error) if is_refusal(&error) => {}
                Err(error) => warn!(%error, "cannot watch the NodeENIConfig; the last known ENIs stay"),
            }
        }
    };
    (wanted, task)
}

/// Looks at everything once and repairs what differs.
///
/// # Errors
/// The first error; everything else was done nevertheless.
pub async fn reconcile(node: &Node, wanted: &Wanted) -> anyhow::Result<()> {
    let mut result = Ok(());
    let mut keep_first = |error: anyhow::Error| {
        if result.is_ok() {
            result = Err(error);
        }
    };
    if let Some(enis) = wanted {
        for eni in enis.iter().filter(|eni| eni.state == EniState::Attached) {
            give_slot(node, eni).await.unwrap_or_else(&mut keep_first);
        }
        match give_up(node, enis).await {
            Ok(()) => node.tables.all_enis_are_known(),
            Err(error) => keep_first(error),
        }
    }
    let links = node.net.links().await?;
    let neighbours = node.net.neighbours().await?;
    let addresses = node.net.addresses().await?;
    let mut views = Vec::new();
    for record in node.journal.book().enis.values() {
        let link = match find_link(record, &links) {
            Some(link) => Some(link.clone()),
            None => changed_mac::restore(node, record, &links).await.unwrap_or_else(|error| {
                keep_first(error.into());
                None
            }),
        };
        let link = link.as_ref();
        let result = bring_up(node, record, link, &neighbours, &addresses).await;
        let (waits_for, waits_for_v6) = result.unwrap_or_else(|error| {
            let reason = format!("{error:#}");
            keep_first(error.context(format!("ENI {}", record.id)));
            (Some(reason.clone()), Some(reason))
        });
        let (ifindex, mtu) = (link.map(|link| link.index), link.map_or(0, |link| link.mtu));
        let (id, slot) = (record.id.clone(), record.slot);
        views.push(EniView { id, slot, waits_for, waits_for_v6, ifindex, mtu });
    }
    let indices: Vec<u32> = views.iter().filter_map(|view| view.ifindex).collect();
    tables::forget_others(node, Program::FromEni, &indices);
    node.enis.send_if_modified(|old| {
        let changed = **old != views;
        if changed {
            info!(enis = ?views, "ENIs");
            *old = Arc::new(views);
        }
        changed
    });
    egress::keep(node, &links, &addresses).await.unwrap_or_else(&mut keep_first);
    let own = addresses.into_iter().map(|(_, ip)| ip);
    let mut stack_cidrs = stack_cidrs(own, &node.config.stack_cidrs);
    masquerade::keep(node).unwrap_or_else(&mut keep_first);
    match masquerade::stack_cidrs(node) {
        Ok(outside) => stack_cidrs.extend(outside),
        Err(error) => keep_first(error),
    }
    if let Err(error) = tables::set_stack_cidrs(node, &stack_cidrs) {
        keep_first(error.into());
    }
    result
}

/// Gives an ENI of the API a slot, and keeps in the journal what it takes to bring it up without the API.
async fn give_slot(node: &Node, eni: &EniStatus) -> anyhow::Result<()> {
    use anyhow::Context as _;
    let invalid =
        |field: &str, value: &str| format!("NodeENIConfig: ENI {}: {field} {value:?} is invalid", eni.id);
    let mac = parse_mac(&eni.mac).with_context(|| invalid("mac", &eni.mac))?;
    let book = node.journal.book();
    let map = node.dataplane().enis()?;
    let slot = slots::slot_for(mac, &book.enis, &map)
        .with_context(|| format!("ENI {}: every slot of the map ENIS is taken", eni.id))?;
    let record = EniRecord {
        slot,
        id: eni.id.clone(),
        mac: MacText(mac).to_string(),
        gateway: eni.gateway.parse().with_context(|| invalid("gateway", &eni.gateway))?,
        primary_ip: eni.primary_ip.parse().with_context(|| invalid("primaryIP", &eni.primary_ip))?,
        gateway_v6: match &eni.gateway_ipv6 {
            Some(gateway) => Some(gateway.parse().with_context(|| invalid("gatewayIPv6", gateway))?),
            None => None,
        },
    };
    if book.enis.get(&slot) != Some(&record) {
        node.journal.change(Change::SetEni(record)).await?;
    }
    Ok(())
}

/// Frees the slots of ENIs that the API no longer lists and that no attachment names.
async fn give_up(node: &Node, wanted: &[EniStatus]) -> anyhow::Result<()> {
    let book = node.journal.book();
    for record in book.enis.values() {
        let listed = wanted.iter().any(|eni| parse_mac(&eni.mac).is_some_and(|mac| slots::is(record, mac)));
        let named = book.attachments.values().any(|attachment| attachment.uses_slot(record.slot));
        if listed || named {
            continue;
        }
        info!(eni = record.id, slot = record.slot, "ENI is no longer this node's");
        tables::set_eni(node, record.slot, &Eni::EMPTY)?;
        let links = node.net.links().await?;
        if let Some(link) = find_link(record, &links) {
            node.dataplane().detach(&link.name)?;
        }
        node.journal.change(Change::ForgetEni(record.slot)).await?;
    }
    Ok(())
}

/// The device of an ENI: among those with its MAC the one that is not stacked on another.
pub fn find_link<'a>(record: &EniRecord, links: &'a [Link]) -> Option<&'a Link> {
    links.iter().find(|link| slots::is(record, link.mac) && !STACKED_KINDS.contains(&link.kind.as_str()))
}

/// Makes an ENI able to carry pods. Answers what it still waits for, for IPv4 and for IPv6.
async fn bring_up(
    node: &Node,
    record: &EniRecord,
    link: Option<&Link>,
    neighbours: &[Neighbour],
    addresses: &[(u32, IpAddr)],
) -> anyhow::Result<(Option<String>, Option<String>)> {
    let old = node.dataplane().enis()?.into_iter().find(|(slot, _)| *slot == record.slot);
    let Some(link) = link else {
        if old.is_some() {
            warn!(eni = record.id, "the ENI's device is gone");
            tables::set_eni(node, record.slot, &Eni::EMPTY)?;
        }
        let device = Some(format!("a device with MAC {}", record.mac));
        return Ok((device.clone(), device));
    };
    // What was brought up before, by this agent or the one before it, has been changed by somebody.
    let before =
        node.enis.borrow().iter().find(|view| view.slot == record.slot).and_then(|view| view.ifindex);
    let repair = before == Some(link.index) || old.is_some_and(|(_, eni)| eni.ifindex == link.index);
    let note = |kind, found: &dyn Display| {
        if repair {
            node.repairs.done(kind, format_args!("ENI {} ({})", record.id, link.name), found);
        }
    };
    if !link.up {
        node.net.set_up(link.index).await?;
        note(Kind::EniLink, &"down");
    }
    if !addresses.contains(&(link.index, record.primary_ip.into())) {
        node.net.add_host_address(link.index, record.primary_ip).await?;
        note(Kind::EniAddress, &format_args!("without {}", record.primary_ip));
    }
    settings::keep_rp_filter(node, link, repair).await?;
    settings::keep_forwarding(node, link, repair).await?;
    let find_gateway = |gateway: IpAddr| {
        neighbours.iter().find(|neighbour| neighbour.ifindex == link.index && neighbour.ip == gateway)
    };
    let neighbour = find_gateway(record.gateway.into());
    // A device that was down has lost it. A kernel that does not keep it fresh forgets it, and has to be asked each time.
    let right = neighbour.is_some_and(|neighbour| neighbour.managed);
    let kept_fresh = node.net.keeps_neighbours().await;
    if !link.up || !right || !kept_fresh {
        node.net.manage_neighbour(link.index, record.gateway.into()).await?;
        if link.up && !right && (kept_fresh || neighbour.is_some()) {
            note(Kind::Neighbour, &neighbour.map_or("none".to_owned(), |found| format!("{found:?}")));
        }
    }
    let no_ipv6 = match record.gateway_v6 {
        Some(gateway) => ipv6::bring_up(node, link, gateway, addresses, neighbours, repair).await.err(),
        None => Some(anyhow::anyhow!("an IPv6 gateway: the NodeENIConfig names none")),
    };

    // What anybody wrote into the table is not the gateway's word.
    let resolved =
        |gateway: IpAddr| find_gateway(gateway).filter(|found| found.managed).and_then(|found| found.mac);
    // A gateway that does not answer for a while has most likely kept its MAC.
    let written = node.tables.eni(record.slot).or(old.map(|(_, eni)| eni));
    let kept = written.filter(|eni| eni.ifindex == link.index && eni.mac == link.mac);
    let kept = kept.unwrap_or(Eni::EMPTY);
    let gateway_mac = resolved(record.gateway.into()).unwrap_or(kept.gateway_mac);
    let gateway_mac_v6 = match record.gateway_v6 {
        Some(gateway) => resolved(gateway.into()).unwrap_or(kept.gateway_mac_v6),
        None => Mac::ZERO,
    };
    let (ifindex, mtu, mac) = (link.index, link.mtu, link.mac);
    let eni = Eni { ifindex, mtu, mac, gateway_mac, gateway_mac_v6, ..Eni::EMPTY };
    tables::set_eni(node, record.slot, &eni)?;
    tables::attach(node, Program::FromEni, link)?;
    let unresolved =
        |mac: Mac, gateway: IpAddr| (mac == Mac::ZERO).then(|| format!("the MAC of its gateway {gateway}"));
    let waits_for = unresolved(gateway_mac, record.gateway.into());
    let waits_for_v6 = match (no_ipv6, record.gateway_v6) {
        (Some(error), _) => Some(format!("{error:#}")),
        (None, gateway) => gateway.and_then(|gateway| unresolved(gateway_mac_v6, gateway.into())),
    };
    Ok((waits_for, waits_for_v6))
}

/// Whether an address is a next hop of an ENI.
pub fn is_gateway(eni: &EniRecord, ip: IpAddr) -> bool {
    IpAddr::V4(eni.gateway) == ip || eni.gateway_v6.is_some_and(|gateway| IpAddr::V6(gateway) == ip)
}

/// What pods reach through the host stack: the node itself, link-local services, and what was configured. IPv6's
/// link-local addresses are no destination that the programs would ask for.
fn stack_cidrs(own: impl Iterator<Item = IpAddr>, configured: &[IpNet]) -> Vec<IpNet> {
    let link_local = Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16);
    let own = own.filter(|ip| !ip.is_loopback() && !ipv6::is_link_local(*ip)).map(IpNet::from);
    own.chain([link_local.into()]).chain(configured.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stack_has_the_node_and_what_was_configured() {
        let own = ["127.0.0.1", "10.0.0.4", "::1", "fe80::4", "fd00::4"].map(|ip| ip.parse().unwrap());
        let services = Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 16);
        let text: Vec<_> =
            stack_cidrs(own.into_iter(), &[services.into()]).iter().map(ToString::to_string).collect();
        assert_eq!(text, ["10.0.0.4/32", "fd00::4/128", "169.254.0.0/16", "172.16.0.0/16"]);
    }
}
