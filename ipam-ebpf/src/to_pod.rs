//! A packet that the stack delivers to a pod.

use crate::{
    ether::ether_type,
    flow::{self, Pod},
    ipv4::Frame,
    maps::{NODE_ADDRS, POD_ROUTES_V4},
    packet::Packet,
};

/// Marks the packet's flow, so that the pod's answers take the way back through the stack.
#[inline(always)]
pub fn observe(packet: &Packet) {
    let Some(frame) = packet.front::<Frame>() else { return };
    if frame.ether.ether_type != ether_type::IPV4 {
        return;
    }
    // What pods send to the node itself is the stack's anyhow. Were its flows marked, probes would crowd out others.
    if NODE_ADDRS.get_ptr(frame.source).is_some() {
        return;
    }
    flow::mark(packet, frame, Pod::Destination);
    // From a pod of this node: a later connection between the same two ports without a service must not take the
    // stack in one direction only.
    if POD_ROUTES_V4.get_ptr(frame.source).is_some() {
        flow::mark(packet, frame, Pod::Source);
    }
}
