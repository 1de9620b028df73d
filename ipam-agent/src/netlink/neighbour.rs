//! Neighbours: the MAC of an ENI's gateway.

use std::net::{IpAddr, Ipv4Addr};

use super::{Netlink, NetlinkError, collect, failed};
use ipam_common::Mac;
use netlink_packet_route::{
    AddressFamily,
    neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage,
        NeighbourState,
    },
};

/// An entry of the neighbour table whose MAC is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Index of the device.
    pub ifindex: u32,
    /// The neighbour's address.
    pub ip: Ipv4Addr,
    /// The neighbour's MAC.
    pub mac: Mac,
}

/// Device and address of an entry, and its MAC when it has a valid one.
pub(super) fn parse(message: &NeighbourMessage) -> Option<(u32, Ipv4Addr, Option<Mac>)> {
    let mut ip = None;
    let mut mac = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => ip = Some(*address),
            NeighbourAttribute::LinkLayerAddress(octets) => {
                mac = <[u8; 6]>::try_from(octets.as_slice()).ok().map(|octets| Mac { octets });
            }
            _ => {}
        }
    }
    let unknown = [NeighbourState::Failed, NeighbourState::Incomplete, NeighbourState::None];
    Some((message.header.ifindex, ip?, mac.filter(|_| !unknown.contains(&message.header.state))))
}

impl Netlink {
    /// Every IPv4 neighbour whose MAC is known.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn neighbours(&self) -> Result<Vec<Neighbour>, NetlinkError> {
        let request = self.handle.neighbours().get().set_address_family(AddressFamily::Inet);
        let _alone = self.listing.lock().await;
        let entries = collect(request.execute(), "neighbours").await?;
        let inet = entries.iter().filter(|entry| entry.header.family == AddressFamily::Inet);
        Ok(inet
            .filter_map(parse)
            .filter_map(|(ifindex, ip, mac)| Some(Neighbour { ifindex, ip, mac: mac? }))
            .collect())
    }

    /// Has the kernel find a neighbour's MAC and keep it fresh by itself (`NTF_EXT_MANAGED`, Linux 5.16), whether or
    /// not the host stack sends anything there.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn manage_neighbour(&self, ifindex: u32, ip: Ipv4Addr) -> Result<(), NetlinkError> {
        let mut request = self
            .handle
            .neighbours()
            .add(ifindex, IpAddr::V4(ip))
            .state(NeighbourState::None)
            .flags(NeighbourFlags::Use)
            .replace();
        request.message_mut().attributes.push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
        request.execute().await.map_err(failed("resolve neighbour", format!("{ip} on link {ifindex}")))
    }
}
