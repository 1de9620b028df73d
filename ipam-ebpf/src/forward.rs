//! Where a packet goes on.

use aya_ebpf::{
    bindings::TC_ACT_OK,
    helpers::{bpf_redirect, bpf_redirect_peer},
};
use ipam_common::{DropReason, Eni, Mac, PodRoute};

use crate::{
    Action,
    ether::is_zero,
    ip::Frame,
    maps::ENIS,
    packet::{MacPair, Packet},
};

/// Length in bytes of the shortest transport header of a packet that can be segmented (UDP).
const MIN_GSO_HEADER_LEN: u32 = 8;

/// Into the pod, past the veth's queue. The MACs stay: the packet type, which is what the pod's stack looks
/// at, was decided where the packet came in.
#[inline(always)]
pub fn to_pod(route: &PodRoute) -> Action {
    // SAFETY: a helper call without memory.
    unsafe { bpf_redirect_peer(route.ifindex, 0) as Action }
}

/// Out of the pod's ENI with the MACs of ENI and gateway; to the stack when it is too long for the ENI, so
/// that the pod gets the ICMP error "fragmentation needed" or "packet too big" (or the stack fragments it).
#[inline(always)]
pub fn to_eni<F: Frame>(packet: &Packet, route: &PodRoute, ip_header_len: u32) -> Result<Action, DropReason> {
    let eni = ENIS.get(u32::from(route.eni)).ok_or(DropReason::EniNotReady)?;
    let gateway_mac = F::gateway_mac(eni);
    if !is_ready(eni, gateway_mac) {
        return Err(DropReason::EniNotReady);
    }
    let longest = match packet.gso_size() {
        0 => packet.l3_len(),
        segment => segment + ip_header_len + MIN_GSO_HEADER_LEN,
    };
    if longest > eni.mtu {
        return Ok(TC_ACT_OK);
    }
    if !packet.set_macs(&MacPair { destination: gateway_mac, source: eni.mac }) {
        return Err(DropReason::Malformed);
    }
    packet.set_redirected();
    // SAFETY: a helper call without memory.
    Ok(unsafe { bpf_redirect(eni.ifindex, 0) as Action })
}

/// Whether the slot holds an ENI whose gateway is known.
#[inline(always)]
pub fn is_ready(eni: &Eni, gateway_mac: Mac) -> bool {
    eni.ifindex != 0 && !is_zero(gateway_mac)
}
