//! Looks at everything that a pod has on the node. Changes nothing.

use std::net::IpAddr;

use ipam_common::{Mac, PodRoute};

use crate::{
    dataplane::{Hook, LinkPin, Program, hook_programs},
    inspect::{AddressView, AttachmentView, EniEntry, EniView, Entry, LinkView, NodeView, PodId, Target},
    netlink::{Link, MacText, PodHostRoute, parse_mac, sysctl},
    node::{
        attach::pod_route,
        context::{Node, is_host_link},
        eni,
        failure::Failure,
        inspect::trial,
        journal::{BoundAddress, EniRecord, Record, State},
    },
};

/// What the kernel has, listed once for all attachments.
struct Seen {
    links: Vec<Link>,
    routes: Vec<PodHostRoute>,
    pins: Vec<LinkPin>,
}

/// A pod, its attachments and their ENIs, and what becomes of a packet `to` somewhere.
///
/// # Errors
/// When the kernel refuses to be looked at.
pub async fn view(node: &Node, pod: &PodId, to: Option<Target>) -> Result<NodeView, Failure> {
    let pins = node.dataplane().links()?;
    let seen = Seen { links: node.net.links().await?, routes: node.net.pod_routes().await?, pins };
    let book = node.journal.book();
    let mut records: Vec<_> = book
        .attachments
        .values()
        .filter(|record| record.pod_namespace == pod.namespace && record.pod_name == pod.name)
        .collect();
    records.sort_by_key(|record| std::cmp::Reverse(record.sequence));
    let enis = book.enis.values().filter(|eni| records.iter().any(|record| record.uses_slot(eni.slot)));
    let attachments = records.iter().map(|record| attachment(node, record, &seen));
    let mut view = NodeView {
        node: node.config.node_name.clone(),
        attachments: attachments.collect::<Result<_, _>>()?,
        enis: enis.map(|record| eni_view(node, record, &seen)).collect::<Result<_, _>>()?,
        api_synced: node.bindings.synced(),
        forwards: records.first().and_then(|record| {
            let setting = format!("ipv4/conf/{}/forwarding", record.host_ifname);
            sysctl::read(&setting).map(|value| value == "1")
        }),
        trials: Vec::new(),
    };
    if let (Some(to), Some(record)) = (to, records.first()) {
        view.trials = trial::all(node, record, &view, to)?;
    }
    Ok(view)
}

fn attachment(node: &Node, record: &Record, seen: &Seen) -> Result<AttachmentView, Failure> {
    let link = seen.links.iter().find(|link| is_host_link(record, link));
    let wanted = node.pod_programs();
    let runs = |program: &&Program| link.is_some_and(|link| runs(link, **program, seen));
    Ok(AttachmentView {
        container_id: record.key.container_id.clone(),
        ifname: record.key.ifname.clone(),
        state: record.state,
        netns: record.netns.clone(),
        pod_uid: record.pod_uid.clone(),
        host_ifname: record.host_ifname.clone(),
        host_mac: record.host_mac.clone(),
        link: link.map(link_view),
        programs_wanted: wanted.iter().map(|program| program.name().to_owned()).collect(),
        programs: wanted.iter().filter(runs).map(|program| program.name().to_owned()).collect(),
        rp_filter: sysctl::rp_filter(&record.host_ifname),
        addresses: record
            .addresses()
            .iter()
            .map(|bound| address(node, record, bound, link, seen))
            .collect::<Result<_, _>>()?,
    })
}

fn address(
    node: &Node,
    record: &Record,
    bound: &BoundAddress,
    link: Option<&Link>,
    seen: &Seen,
) -> Result<AddressView, Failure> {
    let book = node.journal.book();
    let ip = bound.ip;
    let owner = book.owner_of(ip).map(|owner| owner.key.clone());
    let others = book.attachments.values().filter(|other| other.has(ip) && other.key != record.key);
    let route = seen.routes.iter().find(|route| route.ip == ip);
    let wanted = link.map(|link| pod_route(record, bound, link.index)).transpose()?;
    Ok(AddressView {
        ip,
        epoch: bound.epoch,
        eni_id: bound.eni_id.clone(),
        eni_slot: bound.eni_slot,
        others: others
            .map(|other| (other.key.container_id.clone(), Some(&other.key) == owner.as_ref()))
            .collect(),
        entry_wanted: wanted.filter(|_| record.state == State::Committed).map(entry),
        entry: node.dataplane().route(ip)?.map(entry),
        route: route.map(|route| route.ifindex),
    })
}

fn eni_view(node: &Node, record: &EniRecord, seen: &Seen) -> Result<EniView, Failure> {
    let link = eni::find_link(record, &seen.links);
    let entry = node.dataplane().enis()?.into_iter().find(|(slot, _)| *slot == record.slot);
    let known = |mac: Mac| (mac != Mac::ZERO).then(|| MacText(mac).to_string());
    Ok(EniView {
        id: record.id.clone(),
        slot: record.slot,
        mac: record.mac.clone(),
        gateway: record.gateway.into(),
        gateway_v6: record.gateway_v6.map(IpAddr::from),
        link: link.map(link_view),
        entry: entry.map(|(_, eni)| EniEntry {
            ifindex: eni.ifindex,
            gateway_mac: known(eni.gateway_mac),
            gateway_mac_v6: known(eni.gateway_mac_v6),
        }),
        from_eni: link.is_some_and(|link| runs(link, Program::FromEni, seen)),
        rp_filter: link.and_then(|link| sysctl::rp_filter(&link.name)),
    })
}

/// Whether a program runs at a device. The kernel tells only those with CAP_SYS_ADMIN; to others the pins must do.
fn runs(link: &Link, program: Program, seen: &Seen) -> bool {
    let hook: Hook = program.hook();
    match hook_programs(link.index, hook) {
        Ok(programs) => programs.iter().any(|name| name == program.name()),
        Err(_) => seen.pins.iter().any(|pin| (pin.program, pin.ifindex) == (program, link.index)),
    }
}

fn link_view(link: &Link) -> LinkView {
    LinkView { index: link.index, name: link.name.clone(), up: link.up }
}

fn entry(route: PodRoute) -> Entry {
    let PodRoute { ifindex, epoch, eni, mac, .. } = route;
    Entry { ifindex, epoch, eni, mac: MacText(mac).to_string() }
}

/// A MAC of the journal, which this program wrote.
pub fn mac_of(text: &str) -> Mac {
    parse_mac(text).unwrap_or(Mac::ZERO)
}
