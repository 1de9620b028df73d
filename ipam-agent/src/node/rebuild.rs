//! A journal that is lost while pods live. What leads to a pod is evidence enough: an entry of the map and the veth that
//! it names. An agent that starts with a new journal takes them over and cuts nobody.
//!
//! What the kernel does not know comes later. Whose pod it is, the API tells by the address. The runtime's name of the
//! attachment cannot be found; but the veth's name is made from it, so that the first call that names it is recognized.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use ipam_cni::protocol::AttachmentKey;
use ipam_common::{Eni, Mac, PodRoute};
use tracing::{info, warn};

use crate::{
    api::{IpPhase, VpcIP},
    netlink::{Link, MacText, Neighbour},
    node::{
        context::Node,
        failure::Failure,
        journal::{Book, BoundAddress, Change, EniRecord, JournalError, Record, State},
        names::{self, HOST_IFNAME_PREFIX, is_host_ifname},
    },
};

/// How often attachments that are not identified are looked at when the API says nothing new.
const PERIOD: Duration = Duration::from_secs(10);

/// Writes into the journal what can be seen of ENIs and pods. Before anything is compared with it. What an earlier start
/// wrote that did not come to its end is left as it is.
///
/// # Errors
/// When the kernel or the journal refuse.
pub async fn find(node: &Node) -> Result<(), Failure> {
    let links = node.net.links().await?;
    let (neighbours, addresses) = (node.net.neighbours().await?, node.net.addresses().await?);
    let (enis, routes) = {
        let dataplane = node.dataplane();
        (dataplane.enis()?, dataplane.routes()?)
    };
    for (slot, eni) in enis {
        if let Some(record) = eni_record(slot, &eni, &links, &neighbours, &addresses) {
            node.journal.change(Change::SetEni(record)).await?;
        }
    }
    let mut of_link: BTreeMap<u32, Vec<(IpAddr, PodRoute)>> = BTreeMap::new();
    for (ip, route) in routes {
        of_link.entry(route.ifindex).or_default().push((ip, route));
    }
    for (ifindex, routes) in of_link {
        let Some(link) = links.iter().find(|link| link.index == ifindex && is_pod_link(link)) else {
            continue;
        };
        let eni_id = |slot: u32| node.journal.book().enis.get(&slot).map(|eni| eni.id.clone());
        if let Some(record) =
            record(link, &routes, eni_id).filter(|record| !is_known(&node.journal.book(), record))
        {
            warn!(link = link.name, ip = %record.ip, epoch = record.epoch, "taking over a pod that no journal knows");
            node.journal.change(Change::Adopt { was: None, record: Box::new(record) }).await?;
        }
    }
    Ok(())
}

/// Whether the journal has what was found, be it by its name.
fn is_known(book: &Book, found: &Record) -> bool {
    book.attachments.values().any(|record| record.host_ifname == found.host_ifname)
}

fn is_pod_link(link: &Link) -> bool {
    link.kind == "veth" && is_host_ifname(&link.name)
}

/// An ENI by its slot of the map and what the kernel has for it. The API corrects it by the MAC.
fn eni_record(
    slot: u32,
    eni: &Eni,
    links: &[Link],
    neighbours: &[Neighbour],
    addresses: &[(u32, IpAddr)],
) -> Option<EniRecord> {
    let link = links.iter().find(|link| link.index == eni.ifindex && link.mac == eni.mac)?;
    let gateways = |mac: Mac| {
        let of_link = neighbours.iter().filter(move |neighbour| neighbour.ifindex == link.index);
        of_link.filter(move |neighbour| neighbour.mac == Some(mac)).map(|neighbour| neighbour.ip)
    };
    let mut primary = addresses.iter().filter(|(index, _)| *index == link.index);
    let mac = MacText(eni.mac).to_string();
    Some(EniRecord {
        slot,
        id: format!("with MAC {mac}"),
        mac,
        gateway: gateways(eni.gateway_mac).find_map(|ip| match ip {
            IpAddr::V4(ip) => Some(ip),
            IpAddr::V6(_) => None,
        })?,
        primary_ip: primary.find_map(|(_, ip)| match ip {
            IpAddr::V4(ip) => Some(*ip),
            IpAddr::V6(_) => None,
        })?,
        gateway_v6: gateways(eni.gateway_mac_v6).find_map(|ip| match ip {
            IpAddr::V4(_) => None,
            IpAddr::V6(ip) => Some(ip),
        }),
    })
}

/// An attachment by its link and the map's entries. Its key stands in for the one that the runtime knows.
fn record(
    link: &Link,
    routes: &[(IpAddr, PodRoute)],
    eni_id: impl Fn(u32) -> Option<String>,
) -> Option<Record> {
    let mut addresses = routes.iter().map(|(ip, route)| BoundAddress {
        vpc_ip: VpcIP::name_of(*ip),
        vpc_ip_uid: String::new(),
        ip: *ip,
        epoch: route.epoch.into(),
        eni_id: eni_id(route.eni.into()).unwrap_or_default(),
        eni_slot: route.eni.into(),
    });
    let first = addresses.next()?;
    Some(Record {
        key: AttachmentKey { network: String::new(), container_id: link.name.clone(), ifname: String::new() },
        state: State::Committed,
        sequence: 0,
        pod_namespace: String::new(),
        pod_name: String::new(),
        pod_uid: None,
        owns_pod: false,
        vpc_ip: first.vpc_ip,
        vpc_ip_uid: first.vpc_ip_uid,
        ip: first.ip,
        epoch: first.epoch,
        eni_id: first.eni_id,
        eni_slot: first.eni_slot,
        more: addresses.collect(),
        host_ifname: link.name.clone(),
        host_ifindex: Some(link.index),
        host_mac: MacText(link.mac).to_string(),
        pod_mac: MacText(routes.first()?.1.mac).to_string(),
        mtu: link.mtu,
        netns: String::new(),
        created_at: jiff::Timestamp::now(),
    })
}

/// Whether the runtime's name of an attachment is not known.
fn is_unnamed(record: &Record) -> bool {
    record.key.network.is_empty() && record.key.container_id.starts_with(HOST_IFNAME_PREFIX)
}

/// Whether there are attachments of which the pod is not known.
pub fn has_unknown(node: &Node) -> bool {
    node.journal.book().attachments.values().any(|record| record.pod_name.is_empty())
}

impl Node {
    /// The attachment of this key. One that was found without a record is recognized by its link's name and bears the
    /// key from then on.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub async fn known(&self, key: &AttachmentKey) -> Result<Option<Arc<Record>>, JournalError> {
        if let Some(record) = self.journal.get(key) {
            return Ok(Some(record));
        }
        let name = names::host_ifname(key);
        let book = self.journal.book();
        let found = book.attachments.values().find(|record| is_unnamed(record) && record.host_ifname == name);
        let Some(found) = found else { return Ok(None) };
        // The repair may be at work on it.
        let _locked = self.locks.lock(&found.key).await;
        let record = Record { key: key.clone(), ..Record::clone(found) };
        let was = Some(found.key.clone());
        match self.journal.change(Change::Adopt { was, record: Box::new(record) }).await {
            // It went meanwhile.
            Err(JournalError::Refused(_)) => {}
            changed => changed?,
        }
        Ok(self.journal.get(key))
    }
}

/// Learns from the API whose the attachments are that were found, and by which object an address is recorded when that
/// was made anew. Until the process ends.
pub async fn keep(node: Arc<Node>) {
    let mut bindings = node.bindings.watch();
    loop {
        bindings.mark_unchanged();
        if node.bindings.synced()
            && let Err(error) = identify_all(&node).await
        {
            warn!(%error, "cannot write down whose attachments were found");
        }
        tokio::select! {
            changed = bindings.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(PERIOD) => {}
        }
    }
}

async fn identify_all(node: &Node) -> Result<(), JournalError> {
    let all = node.bindings.all();
    for key in node.journal.book().attachments.keys() {
        let Some(_locked) = node.locks.try_lock(key) else { continue };
        let Some(record) = node.journal.get(key).filter(|record| record.state == State::Committed) else {
            continue;
        };
        if let Some(identified) = identified(&record, &all, &node.config.node_name) {
            info!(
                ip = %record.ip, namespace = identified.pod_namespace, pod = identified.pod_name,
                "the API knows this attachment"
            );
            let change = Change::Adopt { was: Some(record.key.clone()), record: Box::new(identified) };
            node.journal.change(change).await?;
        }
    }
    Ok(())
}

/// The record with what the API knows of it, if that is new and sure: the same binding of this node, by its epoch, and by
/// the pod where that is known.
fn identified(record: &Record, all: &[Arc<VpcIP>], node_name: &str) -> Option<Record> {
    let mut known = record.clone();
    let mut addresses = record.addresses();
    for address in &mut addresses {
        let Some(vpc_ip) = all.iter().find(|vpc_ip| vpc_ip.metadata.name.as_ref() == Some(&address.vpc_ip))
        else {
            continue;
        };
        let status = vpc_ip.state();
        let same_pod = record.pod_uid.is_none() || record.pod_uid == status.pod_uid;
        let is_it = status.node_name.as_deref() == Some(node_name)
            && matches!(status.phase, IpPhase::Bound | IpPhase::Detaching)
            && status.epoch == address.epoch
            && same_pod;
        let (true, Some(claim), Some(uid)) = (is_it, &vpc_ip.spec.claim_ref, &vpc_ip.metadata.uid) else {
            continue;
        };
        address.vpc_ip_uid.clone_from(uid);
        if let Some(eni_id) = status.eni_id {
            address.eni_id = eni_id;
        }
        known.pod_namespace.clone_from(&claim.namespace);
        known.pod_name.clone_from(&claim.name);
        known.pod_uid = status.pod_uid.or(known.pod_uid);
    }
    let first = addresses.remove(0);
    (known.vpc_ip_uid, known.eni_id) = (first.vpc_ip_uid, first.eni_id);
    known.more = addresses;
    (known != *record).then_some(known)
}

#[cfg(test)]
mod tests;
