//! A packet that the VPC sends to this node.

use aya_ebpf::bindings::TC_ACT_OK;

use crate::{
    Action,
    ether::ether_type,
    flow::{self, Pod},
    forward,
    ipv4::Frame,
    maps::POD_ROUTES_V4,
    packet::Packet,
    stats,
};

/// To the pod that owns the destination unless the stack has touched the flow, else to the stack.
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
    let frame: &Frame = packet.front()?;
    if frame.ether.ether_type != ether_type::IPV4 {
        return None;
    }
    // SAFETY: as in `from_pod`.
    let route = unsafe { POD_ROUTES_V4.get(frame.destination) }?;
    if flow::is_on_stack(packet, frame, Pod::Destination) {
        return None;
    }
    stats::count_rx(packet, &frame.destination);
    Some(forward::to_pod(route))
}
