//! The source check: a pod sends by its own interface, from its own MAC and its own address.

use ipam_common::{DropReason, Ipv4Octets, Mac, PodRoute};

use crate::{ether::same_mac, maps::POD_ROUTES_V4, packet::Packet};

/// The route of the pod that owns `addr`, if it is the pod at this interface with this MAC.
#[inline(always)]
pub fn check(packet: &Packet, mac: &Mac, addr: &Ipv4Octets) -> Result<&'static PodRoute, DropReason> {
    // SAFETY: the agent replaces an entry as a whole, and a removed one stays readable until the program ends
    // (RCU); a slot reused meanwhile is that of another pod, whose interface then differs.
    let route = unsafe { POD_ROUTES_V4.get(addr) }.ok_or(DropReason::UnknownSource)?;
    if route.ifindex != packet.ifindex() {
        Err(DropReason::WrongInterface)
    } else if !same_mac(&route.mac, mac) {
        Err(DropReason::WrongSourceMac)
    } else {
        Ok(route)
    }
}
