//! A packet that the VPC sends to this node.

use aya_ebpf::bindings::TC_ACT_OK;

use crate::{
    Action,
    ether::{self, ether_type},
    flow::{self, Pod},
    forward,
    ip::Frame,
    ipv4, ipv6,
    packet::Packet,
    stats,
    transport::Transport,
};

/// To the pod that owns the destination unless the flow or its answers are the stack's, else to the stack. Neighbour discovery is
/// the stack's, of which gateways ask for the addresses of its pods.
#[inline(always)]
pub fn judge(packet: &Packet) -> Action {
    to_local_pod(packet).unwrap_or(TC_ACT_OK)
}

/// `None`: not a packet for a pod of this node, one of a flow of the stack, or not one that can be read; the stack may have it.
#[inline(always)]
fn to_local_pod(packet: &Packet) -> Option<Action> {
    if packet.has_vlan_tag() || !packet.is_to_host() {
        return None;
    }
    let header: &ether::Header = packet.front()?;
    match header.ether_type {
        ether_type::IPV4 => deliver::<ipv4::Frame>(packet, |_| false),
        ether_type::IPV6 => deliver::<ipv6::Frame>(packet, ipv6::icmp::is_neighbour_discovery),
        _ => None,
    }
}

#[inline(always)]
fn deliver<F: Frame>(packet: &Packet, is_of_stack: impl FnOnce(&Transport) -> bool) -> Option<Action> {
    let frame: &F = packet.front()?;
    let route = F::route(frame.destination())?;
    let transport = frame.transport(packet);
    // What the stack answers has to come by it: connection tracking takes an answer without a question for invalid, which
    // kube-proxy drops, and masquerading mistakes one for the start of a connection. Errors are answered by nobody.
    let is_question = frame.is_answered_by_stack() && !flow::is_error::<F>(&transport);
    if is_question
        || is_of_stack(&transport)
        || flow::is_on_stack(packet, frame, &transport, Pod::Destination)
    {
        return None;
    }
    stats::count_rx::<F>(packet, frame.destination());
    Some(forward::to_pod(route))
}
