//! A packet that leaves by an ENI.

use aya_ebpf::{bindings::TC_ACT_UNSPEC, helpers::bpf_redirect};
use ipam_common::{Eni, Ipv4Octets};

use crate::{
    Action,
    ether::ether_type,
    flow::{self, Pod},
    forward,
    ipv4::Frame,
    maps::{ENIS, NODE_ADDRS, POD_ROUTES_V4},
    packet::{MacPair, Packet},
};

/// Lets pass what `from_pod` sent and what is of no pod and no ENI. Of the stack's packets, marks the flow of those
/// of a pod, and sends those whose source belongs to another ENI out of that one: the stack's routes know nothing of
/// sources, and the VPC drops what comes by an ENI that does not own its source.
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
    let frame: &Frame = packet.front()?;
    if frame.ether.ether_type != ether_type::IPV4 {
        return None;
    }
    let eni = owner(packet, frame)?;
    if eni.ifindex == packet.ifindex() {
        return None;
    }
    if !packet.set_macs(&MacPair { destination: eni.gateway_mac, source: eni.mac }) {
        return None;
    }
    // The owner's `to_eni` shall not look at it again.
    packet.set_redirected();
    // SAFETY: a helper call without memory.
    Some(unsafe { bpf_redirect(eni.ifindex, 0) as Action })
}

/// The ENI that owns the source, if it is ready; marks the flow if a pod does.
#[inline(always)]
fn owner(packet: &Packet, frame: &Frame) -> Option<&'static Eni> {
    let slot = match pod_eni(frame.source) {
        Some(slot) => {
            flow::mark(packet, frame, Pod::Source);
            slot
        }
        // SAFETY: an aligned word that user space replaces as a whole.
        None => *unsafe { NODE_ADDRS.get(frame.source) }?,
    };
    ENIS.get(slot).filter(|eni| forward::is_ready(eni))
}

#[inline(always)]
fn pod_eni(source: Ipv4Octets) -> Option<u32> {
    // SAFETY: as in `source::check`.
    unsafe { POD_ROUTES_V4.get(source) }.map(|route| u32::from(route.eni))
}
