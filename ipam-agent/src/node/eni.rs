//! The ENIs of this node: found by MAC, brought up, and kept true in the `ENIS` map; with them the destinations that
//! belong to the host stack.
//!
//! Wanted are the attached ENIs of the node's `NodeENIConfig`. Until the API has answered they are those of the
//! journal, so that a restarted agent needs no API to keep its pods connected. An ENI is given up only when the API
//! says that it is no longer the node's and no attachment names it.

mod slots;

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use futures::{FutureExt as _, StreamExt as _};
use ipam_common::{Eni, Mac};
use ipnet::Ipv4Net;
use kube::{
    Api, Client,
    runtime::{WatchStreamExt as _, watcher},
};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::{
    api::{EniState, EniStatus, NodeENIConfig},
    netlink::{Event, Events, Link, MacText, Neighbour, parse_mac, sysctl},
    node::{
        context::Node,
        journal::{Change, EniRecord},
        names::HOST_IFNAME_PREFIX,
    },
};

/// Everything is looked at this often even when no event comes.
const PERIOD: Duration = Duration::from_secs(5);
/// Events of one cause come in bursts: what comes within this time is one look.
const SETTLE: Duration = Duration::from_millis(20);
/// Kinds of devices that bear the MAC of another.
const STACKED_KINDS: [&str; 5] = ["vlan", "macvlan", "macvtap", "ipvlan", "bridge"];

/// An ENI of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EniView {
    /// The cloud's name.
    pub id: String,
    /// Slot in the `ENIS` map.
    pub slot: u32,
    /// What it waits for; `None`: it can carry pods.
    pub waits_for: Option<String>,
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
                Err(error) => warn!(%error, "cannot watch the NodeENIConfig; the last known ENIs stay"),
            }
        }
    };
    (wanted, task)
}

/// Keeps the ENIs true until the process ends.
pub async fn keep(node: Arc<Node>, mut wanted: watch::Receiver<Wanted>, mut events: Events) {
    let mut tick = tokio::time::interval(PERIOD);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            changed = wanted.changed() => if changed.is_err() { return },
            event = events.next() => match event {
                Some(event) if concerns(&node, &event) => {}
                Some(_) => continue,
                None => return warn!("no more netlink events"),
            },
        }
        tokio::time::sleep(SETTLE).await;
        while let Some(Some(_)) = events.next().now_or_never() {}
        let now = wanted.borrow_and_update().clone();
        if let Err(error) = reconcile(&node, &now).await {
            warn!(error = format!("{error:#}"), "ENIs are not as they should be; trying again");
        }
    }
}

/// Pods come and go: their veths and neighbours are nothing to look at.
fn concerns(node: &Node, event: &Event) -> bool {
    match event {
        Event::Link { name } => !name.starts_with(HOST_IFNAME_PREFIX),
        Event::Neighbour { ip, .. } => node.journal.book().enis.values().any(|eni| eni.gateway == *ip),
        Event::Address | Event::Overrun => true,
    }
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
        give_up(node, enis).await.unwrap_or_else(&mut keep_first);
    }
    let links = node.net.links().await?;
    let neighbours = node.net.neighbours().await?;
    let addresses = node.net.ipv4_addresses().await?;
    let mut views = Vec::new();
    for record in node.journal.book().enis.values() {
        let link = find_link(record, &links);
        let result = bring_up(node, record, link, &neighbours, &addresses).await;
        let waits_for = result.unwrap_or_else(|error| {
            let reason = format!("{error:#}");
            keep_first(error.context(format!("ENI {}", record.id)));
            Some(reason)
        });
        let mtu = link.map_or(0, |link| link.mtu);
        views.push(EniView { id: record.id.clone(), slot: record.slot, waits_for, mtu });
    }
    node.enis.send_if_modified(|old| {
        let changed = **old != views;
        if changed {
            info!(enis = ?views, "ENIs");
            *old = Arc::new(views);
        }
        changed
    });
    let own = addresses.into_iter().map(|(_, ip)| ip);
    let stack_cidrs = stack_cidrs(own, &node.config.stack_cidrs);
    if let Err(error) = node.dataplane().set_stack_cidrs(&stack_cidrs) {
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
        let named = book.attachments.values().any(|attachment| attachment.eni_slot == record.slot);
        if listed || named {
            continue;
        }
        info!(eni = record.id, slot = record.slot, "ENI is no longer this node's");
        node.dataplane().set_eni(record.slot, &Eni::EMPTY)?;
        let links = node.net.links().await?;
        if let Some(link) = find_link(record, &links) {
            node.dataplane().detach(&link.name)?;
        }
        node.journal.change(Change::ForgetEni(record.slot)).await?;
    }
    Ok(())
}

/// The device of an ENI: among those with its MAC the one that is not stacked on another.
fn find_link<'a>(record: &EniRecord, links: &'a [Link]) -> Option<&'a Link> {
    links.iter().find(|link| slots::is(record, link.mac) && !STACKED_KINDS.contains(&link.kind.as_str()))
}

/// Makes an ENI able to carry pods. Answers what it still waits for.
async fn bring_up(
    node: &Node,
    record: &EniRecord,
    link: Option<&Link>,
    neighbours: &[Neighbour],
    addresses: &[(u32, Ipv4Addr)],
) -> anyhow::Result<Option<String>> {
    let old = node.dataplane().enis()?.into_iter().find(|(slot, _)| *slot == record.slot);
    let Some(link) = link else {
        if old.is_some() {
            warn!(eni = record.id, "the ENI's device is gone");
            node.dataplane().set_eni(record.slot, &Eni::EMPTY)?;
        }
        return Ok(Some(format!("a device with MAC {}", record.mac)));
    };
    if !link.up {
        node.net.set_up(link.index).await?;
    }
    if !addresses.iter().any(|(index, _)| *index == link.index) {
        node.net.add_host_address(link.index, record.primary_ip).await?;
    }
    sysctl::loosen_rp_filter(&link.name)?;
    node.net.manage_neighbour(link.index, record.gateway).await?;

    let resolved = neighbours
        .iter()
        .find(|neighbour| neighbour.ifindex == link.index && neighbour.ip == record.gateway)
        .map(|neighbour| neighbour.mac);
    // A gateway that does not answer for a while has most likely kept its MAC.
    let kept = old.filter(|(_, eni)| eni.ifindex == link.index && eni.mac == link.mac);
    let gateway_mac = resolved.or(kept.map(|(_, eni)| eni.gateway_mac)).unwrap_or(Mac::ZERO);
    let eni = Eni { ifindex: link.index, mtu: link.mtu, flags: 0, mac: link.mac, gateway_mac };
    let mut dataplane = node.dataplane();
    if old.map(|(_, eni)| eni) != Some(eni) {
        dataplane.set_eni(record.slot, &eni)?;
    }
    dataplane.attach_eni(link.index, &link.name)?;
    Ok((gateway_mac == Mac::ZERO).then(|| format!("the MAC of its gateway {}", record.gateway)))
}

/// What pods reach through the host stack: the node itself, link-local services, and what was configured.
fn stack_cidrs(own: impl Iterator<Item = Ipv4Addr>, configured: &[Ipv4Net]) -> Vec<Ipv4Net> {
    let link_local = Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16);
    let own = own.filter(|ip| !ip.is_loopback()).map(Ipv4Net::from);
    own.chain([link_local]).chain(configured.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stack_has_the_node_and_what_was_configured() {
        let own = [Ipv4Addr::LOCALHOST, Ipv4Addr::new(10, 0, 0, 4)];
        let services = Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 16);
        let text: Vec<_> =
            stack_cidrs(own.into_iter(), &[services]).iter().map(ToString::to_string).collect();
        assert_eq!(text, ["10.0.0.4/32", "169.254.0.0/16", "172.16.0.0/16"]);
    }
}
