//! ARP from a pod (RFC 826).

use aya_ebpf::bindings::TC_ACT_OK;
use ipam_common::{DropReason, Ipv4Octets, Mac};

use crate::{
    Action,
    ether::{self, ether_type, same_mac},
    ipv4,
    packet::Packet,
    source,
};

/// An Ethernet header and an ARP message for IPv4 over Ethernet.
#[repr(C)]
struct Frame {
    ether: ether::Header,
    hardware_type: [u8; 2],
    protocol_type: [u8; 2],
    hardware_len: u8,
    protocol_len: u8,
    operation: [u8; 2],
    sender_mac: Mac,
    sender: Ipv4Octets,
    target_mac: Mac,
    target: Ipv4Octets,
}

/// `ARPHRD_ETHER`.
const ETHERNET: [u8; 2] = [0, 1];

/// Lets the pod speak for its own address only, and hands the message to the stack, which answers for
/// the pod's gateway.
///
/// The sender address must be the pod's. The probe of duplicate address detection (RFC 5227) has the
/// sender 0.0.0.0 and asks for the address its sender wants: there the target must be the pod's.
#[inline(always)]
pub fn judge(packet: &Packet) -> Result<Action, DropReason> {
    let frame: &Frame = packet.front().ok_or(DropReason::Malformed)?;
    if frame.hardware_type != ETHERNET
        || frame.protocol_type != ether_type::IPV4
        || frame.hardware_len != 6
        || frame.protocol_len != 4
    {
        return Err(DropReason::Malformed);
    }
    let is_probe = u32::from_ne_bytes(frame.sender.octets) == 0;
    let claimed = if is_probe { &frame.target } else { &frame.sender };
    match source::check::<ipv4::Frame>(packet, &frame.ether, claimed) {
        Ok(route) if same_mac(frame.sender_mac, route.mac) => Ok(TC_ACT_OK),
        _ => Err(DropReason::ArpSpoof),
    }
}
