//! A packet that leaves by an ENI.

use aya_ebpf::{bindings::TC_ACT_UNSPEC, helpers::bpf_redirect};
use ipam_common::Eni;

use crate::{
    Action,
    ether::{self, ether_type},
    flow::{self, Pod},
    forward,
    ip::{Frame, Scope},
    ipv4, ipv6,
    maps::ENIS,
    packet::{MacPair, Packet},
    transport::Transport,
};

/// Lets pass what `from_pod` sent and what is of no pod and no ENI. Of the stack's packets, marks the flow of those
/// of a pod, and sends those whose source belongs to another ENI out of that one: the stack's routes know nothing of
/// sources, and the VPC drops what comes by an ENI that does not own its source.
///
/// Of IPv6, neighbour discovery and what comes from a link-local address or goes to one or to multicast stays where it is, and
/// marks nothing: it is about the link of this ENI.
#[inline(always)]
pub fn judge(packet: &Packet) -> Action {
    if packet.take_redirected() {
        return TC_ACT_UNSPEC;
    }
    to_owner(packet).unwrap_or(TC_ACT_UNSPEC)
}

/// `None`: the packet goes on where it is.
#[inline(always)]
fn to_owner(packet: &Packet) -> Option<Action> {
    let header: &ether::Header = packet.front()?;
    match header.ether_type {
        ether_type::IPV4 => send::<ipv4::Frame>(packet, |_, _| false),
        ether_type::IPV6 => send::<ipv6::Frame>(packet, |frame, transport| {
            frame.scope() == Scope::Local
                || ipv6::is_link_local(frame.source)
                || ipv6::icmp::is_neighbour_discovery(transport)
        }),
        _ => None,
    }
}

#[inline(always)]
fn send<F: Frame>(packet: &Packet, is_of_link: impl FnOnce(&F, &Transport) -> bool) -> Option<Action> {
    let frame: &F = packet.front()?;
    let pod = F::route(frame.source());
    let slot = match pod {
        Some(route) => u32::from(route.eni),
        None => F::node_slot(frame.source())?,
    };
    let transport = frame.transport(packet);
    if is_of_link(frame, &transport) {
        return None;
    }
    if pod.is_some() {
        flow::mark(frame, &transport, Pod::Source);
    }
    let eni: &Eni = ENIS.get(slot)?;
    let gateway_mac = F::gateway_mac(eni);
    if !forward::is_ready(eni, gateway_mac) || eni.ifindex == packet.ifindex() {
        return None;
    }
    if !packet.set_macs(&MacPair { destination: gateway_mac, source: eni.mac }) {
        return None;
    }
    // The owner's `to_eni` shall not look at it again.
    packet.set_redirected();
    // SAFETY: a helper call without memory.
    Some(unsafe { bpf_redirect(eni.ifindex, 0) as Action })
}
