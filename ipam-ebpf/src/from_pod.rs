//! A packet that a pod sends.

use aya_ebpf::{bindings::TC_ACT_OK, btf_maps::lpm_trie::Key};
use ipam_common::{DropReason, Ipv4Octets};

use crate::{
    Action, arp,
    ether::{self, ether_type},
    flow::{self, Pod},
    forward,
    ipv4::{self, Scope},
    maps::{POD_ROUTES_V4, STACK_CIDRS},
    packet::Packet,
    source, stats,
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
        ether_type::ARP => arp::judge(packet),
        ether_type::VLAN | ether_type::SERVICE_VLAN => Err(DropReason::VlanTagged),
        _ => Err(DropReason::UnsupportedEtherType),
    }
}

#[inline(always)]
fn judge_ipv4(packet: &Packet) -> Result<Action, DropReason> {
    let frame = ipv4::Frame::read(packet)?;
    let destination = frame.destination;
    let route = source::check(packet, &frame.ether.source, &frame.source)?;
    stats::count_tx(packet, &frame.source);
    match ipv4::scope(destination) {
        Scope::Invalid => return Err(DropReason::Malformed),
        Scope::Local => return Ok(TC_ACT_OK),
        Scope::Unicast => {}
    }
    if flow::is_on_stack(packet, frame, Pod::Source) {
        return Ok(TC_ACT_OK);
    }
    // SAFETY: as in `source::check`; a slot reused meanwhile sends one packet to a pod that has just come, which
    // drops it, since it is not the owner of the destination.
    if let Some(local) = unsafe { POD_ROUTES_V4.get(destination) } {
        stats::count_rx(packet, &destination);
        return Ok(forward::to_pod(local));
    }
    if is_stack_destination(destination) {
        return Ok(TC_ACT_OK);
    }
    forward::to_eni(packet, route, frame.header_len())
}

#[inline(always)]
fn is_stack_destination(destination: Ipv4Octets) -> bool {
    STACK_CIDRS.get(&Key::new(32, destination)).is_some()
}
