//! A packet that the stack delivers to a pod.

use crate::{
    ether::{self, ether_type},
    flow::{self, Pod},
    ip::Frame,
    ipv4, ipv6,
    packet::Packet,
    stats,
};

/// Counts the packet, and marks its flow, so that the pod's answers take the way back through the stack.
#[inline(always)]
pub fn observe(packet: &Packet) {
    let Some(header) = packet.front::<ether::Header>() else { return };
    match header.ether_type {
        ether_type::IPV4 => observe_ip::<ipv4::Frame>(packet),
        ether_type::IPV6 => observe_ip::<ipv6::Frame>(packet),
        _ => {}
    }
}

#[inline(always)]
fn observe_ip<F: Frame>(packet: &Packet) {
    let Some(frame) = packet.front::<F>() else { return };
    stats::count_rx::<F>(packet, frame.destination());
    // What pods send to the node itself is the stack's anyhow. Were its flows marked, probes would crowd out others.
    if F::node_slot(frame.source()).is_some() {
        return;
    }
    let transport = frame.transport(packet);
    flow::mark(frame, &transport, Pod::Destination);
    // From a pod of this node: a later connection between the same two ports without a service must not take the
    // stack in one direction only.
    if F::route(frame.source()).is_some() {
        flow::mark(frame, &transport, Pod::Source);
    }
}
