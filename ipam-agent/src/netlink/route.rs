//! One /32 route per pod in the main table, for what the host stack sends to pods.

use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_route::{
    AddressFamily,
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope},
};
use rtnetlink::RouteMessageBuilder;

use super::{Netlink, NetlinkError, collect, failed};

/// Routing protocol number of our routes (`ip route show proto 69`), so that we delete none but our own. Numbers that
/// neither the kernel nor `/etc/iproute2/rt_protos` of iproute2 names are free for any use.
pub const ROUTE_PROTOCOL: u8 = 0x45;

/// A route of ours: a pod's address behind its veth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodHostRoute {
    /// The pod's address.
    pub ip: Ipv4Addr,
    /// Index of the node's end of its veth.
    pub ifindex: u32,
}

impl PodHostRoute {
    fn message(self) -> RouteMessage {
        RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(self.ip, 32)
            .output_interface(self.ifindex)
            .protocol(RouteProtocol::Other(ROUTE_PROTOCOL))
            .scope(RouteScope::Link)
            .build()
    }

    fn parse(message: &RouteMessage) -> Option<Self> {
        let header = &message.header;
        let ours = header.address_family == AddressFamily::Inet
            && header.protocol == RouteProtocol::Other(ROUTE_PROTOCOL)
            && header.table == RouteHeader::RT_TABLE_MAIN
            && header.destination_prefix_length == 32;
        let mut ip = None;
        let mut ifindex = None;
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(address)) => ip = Some(*address),
                RouteAttribute::Oif(index) => ifindex = Some(*index),
                _ => {}
            }
        }
        Some(Self { ip: ip.filter(|_| ours)?, ifindex: ifindex? })
    }
}

impl Netlink {
    /// Makes the route, in the place of one to another interface if there is one: the address is never without.
    ///
    /// # Errors
    /// When the interface is gone or down, or the kernel refuses.
    pub async fn set_pod_route(&self, route: PodHostRoute) -> Result<(), NetlinkError> {
        let added = self.handle.route().add(route.message()).replace().execute().await;
        added.map_err(failed("set the route of", IpAddr::V4(route.ip).to_string()))
    }

    /// Removes the route if it is ours and leads to this interface; not an error when there is none.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn remove_pod_route(&self, route: PodHostRoute) -> Result<(), NetlinkError> {
        let removed = self.handle.route().del(route.message()).execute().await;
        match removed.map_err(failed("remove the route of", route.ip.to_string())) {
            Err(error) if error.is_absent() => Ok(()),
            other => other,
        }
    }

    /// Indices of the interfaces that an IPv4 default route of the main table leads to.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn default_route_interfaces(&self) -> Result<Vec<u32>, NetlinkError> {
        let all = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let _alone = self.listing.lock().await;
        let routes = collect(self.handle.route().get(all).execute(), "routes").await?;
        let is_default = |route: &&RouteMessage| {
            let header = &route.header;
            (header.table, header.destination_prefix_length) == (RouteHeader::RT_TABLE_MAIN, 0)
        };
        let attributes = routes.iter().filter(is_default).flat_map(|route| &route.attributes);
        let interfaces = attributes.flat_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => vec![*index],
            RouteAttribute::MultiPath(hops) => hops.iter().map(|hop| hop.interface_index).collect(),
            _ => Vec::new(),
        });
        Ok(interfaces.collect())
    }

    /// Every route of ours.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn pod_routes(&self) -> Result<Vec<PodHostRoute>, NetlinkError> {
        let all = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let _alone = self.listing.lock().await;
        let routes = collect(self.handle.route().get(all).execute(), "routes").await?;
        Ok(routes.iter().filter_map(PodHostRoute::parse).collect())
    }
}
