//! Addresses of devices.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST};
use netlink_packet_route::{
    RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressMessage},
};
use rtnetlink::AddressMessageBuilder;
use rustix::io::Errno;

use super::{Netlink, NetlinkError, collect, failed};

impl Netlink {
    /// Every address of this namespace, with the index of its device.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn addresses(&self) -> Result<Vec<(u32, IpAddr)>, NetlinkError> {
        let _alone = self.listing.lock().await;
        let messages = collect(self.handle.address().get().execute(), "addresses").await?;
        // `Local` is the device's own address; `Address` is the other end's on a point-to-point link, and the only one of
        // an IPv6 address without such.
        let own = messages.into_iter().filter_map(|message| {
            let local = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Local(ip) => Some(*ip),
                _ => None,
            });
            let any = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Address(ip @ IpAddr::V6(_)) => Some(*ip),
                _ => None,
            });
            Some((message.header.index, local.or(any)?))
        });
        Ok(own.collect())
    }

    /// Gives a device an address of its own (/32), without the route that a prefix would bring.
    ///
    /// # Errors
    /// When the kernel refuses; not when the device has it already.
    pub async fn add_host_address(&self, index: u32, ip: Ipv4Addr) -> Result<(), NetlinkError> {
        let mut message = AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(ip, 32).build();
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Noprefixroute));
        self.add_address(message, format!("link {index}: {ip}")).await
    }

    /// Gives a device a link-local address, usable at once: nobody else on its link can have it.
    ///
    /// # Errors
    /// When the kernel refuses; not when the device has it already.
    pub async fn add_link_local(&self, index: u32, ip: Ipv6Addr) -> Result<(), NetlinkError> {
        let mut message = AddressMessageBuilder::<Ipv6Addr>::new().index(index).address(ip, 64).build();
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        self.add_address(message, format!("link {index}: {ip}")).await
    }

    async fn add_address(&self, message: AddressMessage, what: String) -> Result<(), NetlinkError> {
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        let added = self.request(RouteNetlinkMessage::NewAddress(message), flags).await;
        match added.map_err(failed("add an address to", what)) {
            Err(error) if error.is(Errno::EXIST) => Ok(()),
            other => other,
        }
    }
}
