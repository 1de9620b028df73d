//! A packet that a pod sends.
//!
//! The order of the questions, of which the first that refuses names the drop: the headers, the source, what the packet says
//! (neighbour discovery, DHCP), the destination, the ENI. What has passed the question for its source counts as sent.

use aya_ebpf::bindings::TC_ACT_OK;
use ipam_common::{DropReason, PodRoute};

use crate::{
    Action, arp, dhcp,
    ether::{self, ether_type},
    flow::{self, Pod},
    forward,
    ip::{Frame, Scope},
    ipv4,
    ipv6::{self, Origin},
    packet::Packet,
    source, stats,
    transport::Transport,
};

/// Decides what becomes of the packet: a `TC_ACT_*`, or the reason to drop it.
#[inline(always)]
pub fn judge(packet: &Packet) -> Result<Action, DropReason> {
    if packet.has_vlan_tag() {
        return Err(DropReason::VlanTagged);
    }
    let header: &ether::Header = packet.front().ok_or(DropReason::Malformed)?;
    match header.ether_type {
        ether_type::IPV4 => judge_ipv4(packet),
        ether_type::IPV6 => judge_ipv6(packet),
        ether_type::ARP => arp::judge(packet),
        ether_type::VLAN | ether_type::SERVICE_VLAN => Err(DropReason::VlanTagged),
        _ => Err(DropReason::UnsupportedEtherType),
    }
}

#[inline(always)]
fn judge_ipv4(packet: &Packet) -> Result<Action, DropReason> {
    let frame = ipv4::Frame::read(packet)?;
    let route = sender(packet, frame)?;
    let transport = frame.transport(packet);
    dhcp::check::<ipv4::Frame>(&transport)?;
    forward(packet, frame, &transport, route)
}

#[inline(always)]
fn judge_ipv6(packet: &Packet) -> Result<Action, DropReason> {
    let frame = ipv6::Frame::read(packet)?;
    match frame.origin() {
        Origin::Unspecified => ipv6::icmp::judge_unspecified(packet, &frame.transport(packet)),
        Origin::LinkLocal if frame.scope() != Scope::Local => Err(DropReason::UnknownSource),
        Origin::LinkLocal => {
            check_ipv6(packet, frame, &frame.transport(packet))?;
            Ok(TC_ACT_OK)
        }
        Origin::Address => {
            let route = sender(packet, frame)?;
            let transport = frame.transport(packet);
            check_ipv6(packet, frame, &transport)?;
            if ipv6::icmp::is_neighbour_discovery(&transport) && frame.scope() != Scope::Invalid {
                return Ok(TC_ACT_OK);
            }
            forward(packet, frame, &transport, route)
        }
    }
}

/// Refuses what no pod may say.
#[inline(always)]
fn check_ipv6(packet: &Packet, frame: &ipv6::Frame, transport: &Transport) -> Result<(), DropReason> {
    ipv6::icmp::check(packet, frame, transport)?;
    dhcp::check::<ipv6::Frame>(transport)
}

/// The route of the pod that sends the packet; counts the packet.
#[inline(always)]
fn sender<F: Frame>(packet: &Packet, frame: &F) -> Result<&'static PodRoute, DropReason> {
    let route = source::check::<F>(packet, frame.ether(), frame.source())?;
    stats::count_tx::<F>(packet, frame.source());
    Ok(route)
}

/// Where an honest packet goes.
#[inline(always)]
fn forward<F: Frame>(
    packet: &Packet,
    frame: &F,
    transport: &Transport,
    route: &PodRoute,
) -> Result<Action, DropReason> {
    match frame.scope() {
        Scope::Invalid => return Err(DropReason::InvalidDestination),
        Scope::Local => return Ok(TC_ACT_OK),
        Scope::Unicast => {}
    }
    if flow::is_on_stack(packet, frame, transport, Pod::Source) {
        return Ok(TC_ACT_OK);
    }
    if let Some(local) = F::route(frame.destination()) {
        stats::count_rx::<F>(packet, frame.destination());
        return Ok(forward::to_pod(local));
    }
    if frame.is_to_stack() {
        return Ok(TC_ACT_OK);
    }
    forward::to_eni::<F>(packet, route, transport.ip_header_len())
}
