//! One route (/32, /128) per address of a pod in the main table, for what the host stack sends to pods.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_route::{
    AddressFamily,
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType},
};
use rtnetlink::RouteMessageBuilder;

use super::{Event, Netlink, NetlinkError, collect, failed};

/// Routing protocol number of our routes (`ip route show proto 69`), so that we delete none but our own. Numbers that
/// neither the kernel nor `/etc/iproute2/rt_protos` of iproute2 names are free for any use.
pub const ROUTE_PROTOCOL: u8 = 0x45;

/// A route of ours: a pod's address behind its veth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodHostRoute {
    /// The pod's address.
    pub ip: IpAddr,
    /// Index of the node's end of its veth.
    pub ifindex: u32,
}

impl PodHostRoute {
    fn message(self) -> RouteMessage {
        match self.ip {
            IpAddr::V4(ip) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(ip, 32)
                .output_interface(self.ifindex)
                .protocol(RouteProtocol::Other(ROUTE_PROTOCOL))
                .scope(RouteScope::Link)
                .build(),
            IpAddr::V6(ip) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(ip, 128)
                .output_interface(self.ifindex)
                .protocol(RouteProtocol::Other(ROUTE_PROTOCOL))
                .build(),
        }
    }

    fn parse(message: &RouteMessage) -> Option<Self> {
        let header = &message.header;
        let whole = match header.address_family {
            AddressFamily::Inet => 32,
            AddressFamily::Inet6 => 128,
            _ => return None,
        };
        let ours = header.protocol == RouteProtocol::Other(ROUTE_PROTOCOL)
            && header.table == RouteHeader::RT_TABLE_MAIN
            && header.kind == RouteType::Unicast
            && header.destination_prefix_length == whole;
        let mut ip = None;
        let mut ifindex = None;
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(address)) => ip = Some((*address).into()),
                RouteAttribute::Destination(RouteAddress::Inet6(address)) => ip = Some((*address).into()),
                RouteAttribute::Oif(index) => ifindex = Some(*index),
                // Not as it was made: another has changed it.
                RouteAttribute::Gateway(_) | RouteAttribute::Metrics(_) | RouteAttribute::PrefSource(_) => {
                    return None;
                }
                _ => {}
            }
        }
        Some(Self { ip: ip.filter(|_| ours)?, ifindex: ifindex? })
    }
}

/// What the coming or going of a route means, if anything.
pub(super) fn event(message: &RouteMessage, gone: bool) -> Option<Event> {
    let header = &message.header;
    if header.table != RouteHeader::RT_TABLE_MAIN {
        return None;
    }
    match (header.address_family, header.destination_prefix_length) {
        (AddressFamily::Inet | AddressFamily::Inet6, 0) => Some(Event::DefaultRoute),
        (AddressFamily::Inet, 32) | (AddressFamily::Inet6, 128) => {
            let mut ip = None;
            let mut ifindex = None;
            for attribute in &message.attributes {
                match attribute {
                    RouteAttribute::Destination(RouteAddress::Inet(address)) => ip = Some((*address).into()),
                    RouteAttribute::Destination(RouteAddress::Inet6(address)) => ip = Some((*address).into()),
                    RouteAttribute::Oif(index) => ifindex = Some(*index),
                    _ => {}
                }
            }
            let as_made = PodHostRoute::parse(message).is_some();
            let ours = if gone { header.protocol == RouteProtocol::Other(ROUTE_PROTOCOL) } else { as_made };
            Some(Event::Route { ip: ip?, ifindex, ours, gone })
        }
        _ => None,
    }
}

impl Netlink {
    /// Makes the route, in the place of one to another interface if there is one: the address is never without.
    ///
    /// # Errors
    /// When the interface is gone or down, or the kernel refuses.
    pub async fn set_pod_route(&self, route: PodHostRoute) -> Result<(), NetlinkError> {
        let added = self.handle.route().add(route.message()).replace().execute().await;
        added.map_err(failed("set the route of", route.ip.to_string()))
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

    /// Indices of the interfaces that a default route of the main table, of either family, leads to.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn default_route_interfaces(&self) -> Result<Vec<u32>, NetlinkError> {
        let routes = self.all_routes().await?;
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
        let routes = self.all_routes().await?;
        Ok(routes.iter().filter_map(PodHostRoute::parse).collect())
    }

    /// Every route of both families; a kernel without IPv6 has none of that.
    async fn all_routes(&self) -> Result<Vec<RouteMessage>, NetlinkError> {
        let _alone = self.listing.lock().await;
        let v4 = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let mut routes = collect(self.handle.route().get(v4).execute(), "routes").await?;
        let v6 = RouteMessageBuilder::<Ipv6Addr>::new().build();
        routes.extend(collect(self.handle.route().get(v6).execute(), "IPv6 routes").await?);
        Ok(routes)
    }
}
