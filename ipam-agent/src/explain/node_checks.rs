//! What the node has of the pod: attachment, interface, programs, map entries, routes, ENI.

use std::net::IpAddr;

use crate::{
    explain::{Check, Finding, View, on_host_network},
    inspect::{AddressView, AttachmentView, EniView},
    node::journal::State,
};

/// Every check, from the agent outwards.
pub const ALL: [Check; 13] = [
    agent_answers,
    node_is_the_pods,
    attached,
    attachment_state,
    one_holder,
    epoch,
    link,
    programs,
    map_entry,
    host_route,
    eni,
    rp_filter,
    forwarding,
];

/// What heals by itself: the agent's repair.
const REPAIR: &str = "the agent repairs it within 10 s; see its log if it stays so";

fn agent_answers(view: &View) -> Vec<Finding> {
    let Err(error) = &view.node else { return Vec::new() };
    let remedy = "see that the node agent runs on this machine, and give --socket if it is elsewhere";
    vec![Finding::fault("agent", format!("the node agent does not answer: {error}"), remedy)]
}

fn node_is_the_pods(view: &View) -> Vec<Finding> {
    let (Ok(node), Some(own)) = (&view.node, view.node_of_pod()) else { return Vec::new() };
    if node.node == own {
        return Vec::new();
    }
    let what = format!("the pod is on node {own}, and this is node {}", node.node);
    vec![Finding::warning("node", what, format!("run this on {own} to see its interface"))]
}

fn attached(view: &View) -> Vec<Finding> {
    let Some(node) = view.own_node().filter(|_| !on_host_network(view)) else { return Vec::new() };
    let lives = view.api.as_ref().is_ok_and(|api| api.pod.is_some() && api.claim.is_some());
    if !lives || !node.attachments.is_empty() {
        return Vec::new();
    }
    let what = format!(
        "the journal of node {} has no attachment of the pod: CNI ADD has not come, or failed",
        node.node
    );
    let remedy = "see the pod's events for the error of its sandbox, and that the runtime has this network's configuration";
    vec![Finding::fault("attachment", what, remedy)]
}

fn attachment_state(view: &View) -> Vec<Finding> {
    let what = match view.attachment().map(|attachment| attachment.state) {
        Some(State::Intent) => "CNI ADD is under way",
        Some(State::Detaching) => "CNI DEL has come: the attachment is being taken away",
        Some(State::Committed) | None => return Vec::new(),
    };
    vec![Finding::fault("attachment-state", what, "look again; if it stays so, see the agent's log")]
}

fn one_holder(view: &View) -> Vec<Finding> {
    let mut findings = Vec::new();
    for address in addresses(view) {
        for (container, has_it) in &address.others {
            let ip = address.ip;
            let what = if *has_it {
                format!("{ip} has two attachments, and that of container {container} has it now")
            } else {
                format!(
                    "{ip} has two attachments: this one, which has it, and a former one of container {container}"
                )
            };
            let remedy = "the runtime ends a former sandbox with DEL; see `crictl pods`";
            findings.push(match has_it {
                true => Finding::fault("one-holder", what, remedy),
                false => Finding::warning("one-holder", what, remedy),
            });
        }
    }
    findings
}

fn epoch(view: &View) -> Vec<Finding> {
    let Ok(api) = &view.api else { return Vec::new() };
    let mut findings = Vec::new();
    for address in addresses(view) {
        let Some(object) = api.addresses.iter().find(|ip| ip.spec.ip == address.ip.to_string()) else {
            continue;
        };
        let bound = object.state().epoch;
        if bound != address.epoch {
            let what = format!(
                "epoch of {}: the API is at {bound}, the attachment at {}: the address was bound anew since the pod was attached",
                address.ip, address.epoch
            );
            findings.push(Finding::fault(
                "epoch",
                what,
                "delete the pod: its successor is attached with the epoch of now",
            ));
        }
    }
    findings
}

fn link(view: &View) -> Vec<Finding> {
    let Some(attachment) = committed(view) else { return Vec::new() };
    let what = match &attachment.link {
        None => format!("the node's end of its veth, {}, is gone", attachment.host_ifname),
        Some(link) if !link.up => {
            let what = format!("the node's end of its veth, {}, is down", attachment.host_ifname);
            return vec![Finding::fault("link", what, REPAIR)];
        }
        Some(_) => return Vec::new(),
    };
    vec![Finding::fault(
        "link",
        what,
        "delete the pod: a sandbox that lost its interface does not get it back",
    )]
}

fn programs(view: &View) -> Vec<Finding> {
    let Some(attachment) = committed(view).filter(|attachment| attachment.link.is_some()) else {
        return Vec::new();
    };
    let missing = attachment.programs_wanted.iter().filter(|program| !attachment.programs.contains(program));
    missing
        .map(|program| {
            let what = format!("the program {program} is not attached to {}", attachment.host_ifname);
            Finding::fault("programs", what, REPAIR)
        })
        .collect()
}

fn map_entry(view: &View) -> Vec<Finding> {
    let mut findings = Vec::new();
    for address in held(view) {
        let Some(wanted) = address.entry_wanted.as_ref() else { continue };
        let ip = address.ip;
        let what = match &address.entry {
            None => format!("the pod-IP-to-ENI map has no entry of {ip}"),
            Some(entry) if entry != wanted => {
                let differs = [
                    (
                        entry.ifindex != wanted.ifindex,
                        "interface",
                        entry.ifindex.to_string(),
                        wanted.ifindex.to_string(),
                    ),
                    (entry.mac != wanted.mac, "MAC", entry.mac.clone(), wanted.mac.clone()),
                    (entry.eni != wanted.eni, "ENI slot", entry.eni.to_string(), wanted.eni.to_string()),
                    (entry.epoch != wanted.epoch, "epoch", entry.epoch.to_string(), wanted.epoch.to_string()),
                ];
                let differs = differs.into_iter().filter(|(differs, ..)| *differs);
                let words: Vec<_> = differs
                    .map(|(_, field, is, should)| format!("{field} is {is} and should be {should}"))
                    .collect();
                format!("the entry of {ip} in the pod-IP-to-ENI map is wrong: {}", words.join(", "))
            }
            Some(_) => continue,
        };
        findings.push(Finding::fault("map-entry", what, REPAIR));
    }
    findings
}

fn host_route(view: &View) -> Vec<Finding> {
    let link = view.attachment().and_then(|attachment| attachment.link.as_ref());
    let mut findings = Vec::new();
    for address in held(view) {
        let Some(link) = link.filter(|link| address.route != Some(link.index)) else { continue };
        let what = match address.route {
            None => format!("the main table has no route of {} to {}", address.ip, link.name),
            Some(other) => {
                format!(
                    "the main table's route of {} leads to interface {other}, not to {}",
                    address.ip, link.name
                )
            }
        };
        findings.push(Finding::fault("host-route", what, REPAIR));
    }
    findings
}

fn eni(view: &View) -> Vec<Finding> {
    let mut findings = Vec::new();
    for address in held(view) {
        let eni = view.own_node().and_then(|node| node.enis.iter().find(|eni| eni.slot == address.eni_slot));
        match eni {
            Some(eni) => findings.extend(eni_wrong(eni).or_else(|| gateway_wrong(eni, address.ip))),
            None => {
                let what = format!("ENI {} of {} is not known to the agent", address.eni_id, address.ip);
                findings.push(Finding::fault("eni", what, "see NodeENIConfig, and the agent's log"));
            }
        }
    }
    findings
}

fn eni_wrong(eni: &EniView) -> Option<Finding> {
    let EniView { id, slot, mac, .. } = eni;
    let Some(link) = &eni.link else {
        let what = format!("ENI {id} has no device: none has the MAC {mac}");
        return Some(Finding::fault(
            "eni-device",
            what,
            "see that the cloud has attached it to this machine",
        ));
    };
    let name = &link.name;
    if !link.up {
        return Some(Finding::fault("eni-link", format!("device {name} of ENI {id} is down"), REPAIR));
    }
    let Some(entry) = &eni.entry else {
        return Some(Finding::fault(
            "eni-slot",
            format!("slot {slot} of the map ENIS is empty: ENI {id} is not there"),
            REPAIR,
        ));
    };
    if entry.ifindex != link.index {
        let what = format!(
            "slot {slot} of the map ENIS has interface {}, and ENI {id} is {}",
            entry.ifindex, link.index
        );
        return Some(Finding::fault("eni-slot", what, REPAIR));
    }
    if !eni.from_eni {
        let what = format!("the program from_eni is not attached to {name} of ENI {id}");
        return Some(Finding::fault("eni-program", what, REPAIR));
    }
    None
}

/// What is wrong with the next hop of an address's family.
fn gateway_wrong(eni: &EniView, ip: IpAddr) -> Option<Finding> {
    let (link, entry) = (eni.link.as_ref()?, eni.entry.as_ref()?);
    let (gateway, mac, asked) = match ip {
        IpAddr::V4(_) => (Some(eni.gateway), &entry.gateway_mac, "ARP"),
        IpAddr::V6(_) => (eni.gateway_v6, &entry.gateway_mac_v6, "neighbour solicitations"),
    };
    if mac.is_some() {
        return None;
    }
    let id = &eni.id;
    let Some(gateway) = gateway else {
        let what = format!("ENI {id} has no IPv6 gateway");
        return Some(Finding::fault(
            "eni-gateway",
            what,
            "see gatewayIPv6 in the NodeENIConfig, and the controller's log",
        ));
    };
    let what = format!("the MAC of the gateway {gateway} of ENI {id} is not known");
    let remedy = format!("see `ip neigh show dev {}`: the gateway must answer {asked}", link.name);
    Some(Finding::fault("eni-gateway", what, remedy))
}

fn rp_filter(view: &View) -> Vec<Finding> {
    let pod = committed(view).map(|attachment| (attachment.host_ifname.as_str(), attachment.rp_filter));
    let enis = view.own_node().map(|node| node.enis.as_slice()).unwrap_or_default();
    let enis = enis.iter().filter_map(|eni| Some((eni.link.as_ref()?.name.as_str(), eni.rp_filter)));
    let strict = enis.chain(pod).filter(|(_, filter)| *filter == Some(1));
    strict
        .map(|(name, _)| {
            let what = format!(
                "the reverse-path filter of {name} is strict: replies that come in by another ENI are dropped"
            );
            Finding::fault(
                "rp-filter",
                what,
                format!("sysctl -w net.ipv4.conf.{name}.rp_filter=2, and see what sets it to 1"),
            )
        })
        .collect()
}

fn forwarding(view: &View) -> Vec<Finding> {
    if view.own_node().and_then(|node| node.forwards) != Some(false) {
        return Vec::new();
    }
    vec![Finding::fault(
        "forwarding",
        "the host does not forward IPv4",
        "sysctl -w net.ipv4.ip_forward=1, and see what sets it to 0",
    )]
}

fn committed(view: &View) -> Option<&AttachmentView> {
    view.attachment().filter(|attachment| attachment.state == State::Committed)
}

fn addresses(view: &View) -> &[AddressView] {
    committed(view).map(|attachment| attachment.addresses.as_slice()).unwrap_or_default()
}

/// The addresses that this attachment has, not another one.
fn held(view: &View) -> impl Iterator<Item = &AddressView> {
    addresses(view).iter().filter(|address| address.others.iter().all(|(_, has_it)| !has_it))
}
