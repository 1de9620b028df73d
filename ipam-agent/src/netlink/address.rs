//! IPv4 addresses of devices.

use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST};
use netlink_packet_route::{
    RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags},
};
use rtnetlink::AddressMessageBuilder;
use rustix::io::Errno;

use super::{Netlink, NetlinkError, collect, failed};

impl Netlink {
    /// Every IPv4 address of this namespace, with the index of its device.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn ipv4_addresses(&self) -> Result<Vec<(u32, Ipv4Addr)>, NetlinkError> {
        let _alone = self.listing.lock().await;
        let messages = collect(self.handle.address().get().execute(), "addresses").await?;
        // `Local` is the device's own address; `Address` is the other end's on a point-to-point link.
        let local = messages.into_iter().filter_map(|message| {
            let index = message.header.index;
            message.attributes.into_iter().find_map(|attribute| match attribute {
                AddressAttribute::Local(IpAddr::V4(ip)) => Some((index, ip)),
                _ => None,
            })
        });
        Ok(local.collect())
    }

    /// Gives a device an address of its own (/32), without the route that a prefix would bring.
    ///
    /// # Errors
    /// When the kernel refuses; not when the device has it already.
    pub async fn add_host_address(&self, index: u32, ip: Ipv4Addr) -> Result<(), NetlinkError> {
        let mut message = AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(ip, 32).build();
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Noprefixroute));
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        let added = self.request(RouteNetlinkMessage::NewAddress(message), flags).await;
        match added.map_err(failed("add an address to", format!("link {index}: {ip}"))) {
            Err(error) if error.is(Errno::EXIST) => Ok(()),
            other => other,
        }
    }
}
