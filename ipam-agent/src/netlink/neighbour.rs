//! Neighbours: the MAC of an ENI's gateway.

mod upkeep;

use std::net::{IpAddr, Ipv6Addr};

use super::{Netlink, NetlinkError, collect, failed};
use ipam_common::Mac;
use netlink_packet_route::{
    AddressFamily,
    neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage,
        NeighbourState,
    },
};

/// An entry of the neighbour table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Index of the device.
    pub ifindex: u32,
    /// The neighbour's address.
    pub ip: IpAddr,
    /// The neighbour's MAC, if it is known.
    pub mac: Option<Mac>,
    /// Whether it is as [`Netlink::manage_neighbour`] asks for: the kernel's own, and kept fresh by it where the kernel can
    /// ([`Netlink::keeps_neighbours`]).
    pub managed: bool,
}

/// Device and address of an entry, and its MAC when it has a valid one.
pub(super) fn parse(message: &NeighbourMessage) -> Option<(u32, IpAddr, Option<Mac>)> {
    let mut ip = None;
    let mut mac = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => ip = Some((*address).into()),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => ip = Some((*address).into()),
            NeighbourAttribute::LinkLayerAddress(octets) => {
                mac = <[u8; 6]>::try_from(octets.as_slice()).ok().map(|octets| Mac { octets });
            }
            _ => {}
        }
    }
    let unknown = [NeighbourState::Failed, NeighbourState::Incomplete, NeighbourState::None];
    Some((message.header.ifindex, ip?, mac.filter(|_| !unknown.contains(&message.header.state))))
}

fn is_managed(message: &NeighbourMessage, kernel_can: bool) -> bool {
    let by_flag = message.attributes.iter().any(|attribute| match attribute {
        NeighbourAttribute::ExtFlags(flags) => flags.contains(NeighbourExtFlags::Managed),
        _ => false,
    });
    (by_flag || !kernel_can) && message.header.state != NeighbourState::Permanent
}

impl Netlink {
    /// Every neighbour of either family.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn neighbours(&self) -> Result<Vec<Neighbour>, NetlinkError> {
        let kernel_can = self.keeps_neighbours().await;
        let _alone = self.listing.lock().await;
        let entries = collect(self.handle.neighbours().get().execute(), "neighbours").await?;
        let families = [AddressFamily::Inet, AddressFamily::Inet6];
        Ok(entries
            .iter()
            .filter(|entry| families.contains(&entry.header.family))
            .filter_map(|entry| {
                let (ifindex, ip, mac) = parse(entry)?;
                Some(Neighbour { ifindex, ip, mac, managed: is_managed(entry, kernel_can) })
            })
            .collect())
    }

    /// Has the kernel find a neighbour's MAC and keep it fresh by itself (`NTF_EXT_MANAGED`, Linux 5.16), whether or
    /// not the host stack sends anything there.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn manage_neighbour(&self, ifindex: u32, ip: IpAddr) -> Result<(), NetlinkError> {
        let mut request = self
            .handle
            .neighbours()
            .add(ifindex, ip)
            .state(NeighbourState::None)
            .flags(NeighbourFlags::Use)
            .replace();
        request.message_mut().attributes.push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
        request.execute().await.map_err(failed("resolve neighbour", format!("{ip} on link {ifindex}")))
    }

    /// Writes a permanent entry.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn set_permanent_neighbour(
        &self,
        ifindex: u32,
        ip: Ipv6Addr,
        mac: Mac,
    ) -> Result<(), NetlinkError> {
        let request = self
            .handle
            .neighbours()
            .add(ifindex, IpAddr::V6(ip))
            .link_layer_address(&mac.octets)
            .state(NeighbourState::Permanent)
            .replace();
        request.execute().await.map_err(failed("write neighbour", format!("{ip} on link {ifindex}")))
    }
}
