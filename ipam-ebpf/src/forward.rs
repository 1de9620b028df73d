//! Where a packet goes on.

use aya_ebpf::{
    bindings::TC_ACT_OK,
    helpers::{bpf_redirect, bpf_redirect_peer},
};
use ipam_common::{DropReason, Eni, PodRoute};

use crate::{
    Action,
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
/// that the pod gets the ICMP error "fragmentation needed" (or the stack fragments it).
#[inline(always)]
pub fn to_eni(packet: &Packet, route: &PodRoute, ip_header_len: u32) -> Result<Action, DropReason> {
    let eni = ENIS.get(u32::from(route.eni)).filter(|eni| is_ready(eni)).ok_or(DropReason::EniNotReady)?;
    let longest = match packet.gso_size() {
        0 => packet.l3_len(),
        segment => segment + ip_header_len + MIN_GSO_HEADER_LEN,
    };
    if longest > eni.mtu {
        return Ok(TC_ACT_OK);
    }
    if !packet.set_macs(&MacPair { destination: eni.gateway_mac, source: eni.mac }) {
        return Err(DropReason::Malformed);
    }
    packet.set_redirected();
    // SAFETY: a helper call without memory.
    Ok(unsafe { bpf_redirect(eni.ifindex, 0) as Action })
}

/// Whether the slot holds an ENI whose gateway is known.
#[inline(always)]
pub fn is_ready(eni: &Eni) -> bool {
    let [o0, o1, o2, o3, o4, o5] = eni.gateway_mac.octets;
    eni.ifindex != 0 && (u32::from_ne_bytes([o0, o1, o2, o3]) != 0 || u16::from_ne_bytes([o4, o5]) != 0)
}
