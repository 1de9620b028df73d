//! The source check: a pod sends by its own interface, from its own MAC and its own address.

use ipam_common::{DropReason, PodRoute};

use crate::{
    ether::{self, same_mac},
    ip::Frame,
    packet::Packet,
};

/// The route of the pod that owns `addr`, if it is the pod at this interface with the MAC of the header.
#[inline(always)]
pub fn check<F: Frame>(
    packet: &Packet,
    ether: &ether::Header,
    addr: &F::Addr,
) -> Result<&'static PodRoute, DropReason> {
    let route = F::route(addr).ok_or(DropReason::UnknownSource)?;
    if route.ifindex != packet.ifindex() {
        Err(DropReason::WrongInterface)
    } else if !same_mac(route.mac, ether.source) {
        Err(DropReason::WrongSourceMac)
    } else {
        Ok(route)
    }
}
