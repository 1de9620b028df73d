//! What a pod may say in ICMPv6 (RFC 4443): neighbour discovery (RFC 4861) for its own addresses only, and nothing that is a
//! router's.
//!
//! Neighbour discovery is between a pod and this node, and between this node and its gateways: what passes goes to the stack,
//! whatever its destination, and no program carries it further. Messages with a hop limit other than 255 pass as the others
//! do: whoever receives one discards it (RFC 4861 §7.1).
//!
//! A message of fewer than eight bytes has no type here, since it is nothing to a receiver either. A solicitation for
//! duplicate address detection or an advertisement that ends within its target claims no address of the pod: a spoof.

use aya_ebpf::bindings::TC_ACT_OK;
use ipam_common::{DropReason, Ipv6Octets, Mac};

use crate::{
    Action,
    ether::same_mac,
    ip::{Frame as _, Scope},
    ipv6::{Frame, is_link_local},
    packet::Packet,
    transport::{Part, Transport},
};

/// Multicast listener query, report, done, and report of version 2 (RFC 2710, RFC 3810).
const LISTENER_REPORT: u8 = 131;
const LISTENER_DONE: u8 = 132;
const LISTENER_REPORT_V2: u8 = 143;

const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;

/// Where the target stands in a neighbour message, and where its options begin.
const TARGET: u32 = 8;
const OPTIONS: u32 = 24;

/// The option "target link-layer address".
const TARGET_MAC: u8 = 2;

/// Whether it is a message of neighbour discovery.
#[inline(always)]
pub fn is_neighbour_discovery(transport: &Transport) -> bool {
    matches!(transport.icmp_type::<Frame>(), Some(ROUTER_SOLICITATION..=REDIRECT))
}

/// A packet from `::`: duplicate address detection for a pod's own addresses, listener reports and router solicitations; all
/// for the stack.
#[inline(always)]
pub fn judge_unspecified(packet: &Packet, transport: &Transport) -> Result<Action, DropReason> {
    match transport.icmp_type::<Frame>() {
        Some(NEIGHBOUR_SOLICITATION) => check_target(packet, transport)?,
        Some(LISTENER_REPORT | LISTENER_DONE | LISTENER_REPORT_V2 | ROUTER_SOLICITATION) => {}
        _ => return Err(DropReason::UnknownSource),
    }
    Ok(TC_ACT_OK)
}

/// Refuses what a pod may not say. The transport of the packet is known unless it goes through a router: nothing may hide
/// neighbour discovery.
#[inline(always)]
pub fn check(packet: &Packet, frame: &Frame, transport: &Transport) -> Result<(), DropReason> {
    if transport.part == Part::Opaque && frame.scope() == Scope::Local {
        return Err(DropReason::Malformed);
    }
    match transport.icmp_type::<Frame>() {
        Some(ROUTER_ADVERTISEMENT | REDIRECT) => Err(DropReason::RouterAdvertisement),
        Some(NEIGHBOUR_ADVERTISEMENT) => check_target(packet, transport),
        _ => Ok(()),
    }
}

/// The target must be link-local or an address of a pod at this interface; a link-layer address for the latter, when it is the
/// first option, must be the pod's. A solicitation has none.
#[inline(always)]
fn check_target(packet: &Packet, transport: &Transport) -> Result<(), DropReason> {
    let target: Ipv6Octets = packet.load(transport.offset + TARGET).ok_or(DropReason::NdSpoof)?;
    if is_link_local(target) {
        return Ok(());
    }
    let route = Frame::route(&target).filter(|route| route.ifindex == packet.ifindex());
    let route = route.ok_or(DropReason::NdSpoof)?;
    match packet.load(transport.offset + OPTIONS).map(u64::to_ne_bytes) {
        Some([TARGET_MAC, _, mac @ ..]) if !same_mac(Mac { octets: mac }, route.mac) => {
            Err(DropReason::NdSpoof)
        }
        _ => Ok(()),
    }
}
