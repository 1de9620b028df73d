//! Blocking rtnetlink: one request, one answer. The cloud server calls the fabric from blocking threads inside a
//! tokio runtime, where an async client would need a runtime of its own.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Mutex, PoisonError},
};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressHeaderFlags, AddressMessage},
    link::{LinkAttribute, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{RouteMessage, RouteScope, RouteType},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rtnetlink::{AddressMessageBuilder, LinkUnspec, RouteMessageBuilder};

/// A netlink socket. It stays in the namespace of the thread that made it, wherever it is used from.
#[derive(Debug)]
pub struct Rtnl(Mutex<Socket>);

impl Rtnl {
    /// A socket in the calling thread's namespace.
    pub(super) fn new() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self(Mutex::new(socket)))
    }

    /// Creates a link.
    ///
    /// # Errors
    /// What the kernel says; `AlreadyExists` for a name that is taken at either end of a pair.
    pub fn add_link(&self, link: LinkMessage) -> io::Result<()> {
        self.change(RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Changes a link that exists.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_link(&self, link: LinkMessage) -> io::Result<()> {
        self.change(RouteNetlinkMessage::SetLink(link), 0)
    }

    /// Brings a link up.
    ///
    /// # Errors
    /// There is no such link, or what the kernel says.
    pub fn up(&self, ifname: &str) -> io::Result<()> {
        self.set_link(LinkUnspec::new_with_name(ifname).up().build())
    }

    /// Removes a link; none is fine.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn del_link(&self, ifname: &str) -> io::Result<()> {
        let link = LinkUnspec::new_with_name(ifname).build();
        absent_is_fine(self.change(RouteNetlinkMessage::DelLink(link), 0))
    }

    /// All links with their attributes.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn links(&self) -> io::Result<Vec<LinkMessage>> {
        let answer = self.request(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP)?;
        let links = answer.into_iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewLink(link) => Some(link),
            _ => None,
        });
        Ok(links.collect())
    }

    /// The link of a name, or none.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn link(&self, ifname: &str) -> io::Result<Option<LinkMessage>> {
        let named = |link: &LinkMessage| {
            link.attributes.iter().any(|a| matches!(a, LinkAttribute::IfName(n) if n == ifname))
        };
        Ok(self.links()?.into_iter().find(named))
    }

    /// A link's index.
    ///
    /// # Errors
    /// `NotFound`, or what the kernel says.
    pub fn index(&self, ifname: &str) -> io::Result<u32> {
        let link = self.link(ifname)?;
        let absent = || io::Error::new(io::ErrorKind::NotFound, format!("no link {ifname}"));
        link.map(|l| l.header.index).ok_or_else(absent)
    }

    /// Gives a link an address; an IPv6 one can be used at once, without duplicate address detection.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn add_address(&self, ifindex: u32, ip: impl Into<IpAddr>, prefix_len: u8) -> io::Result<()> {
        let address: AddressMessage = match ip.into() {
            IpAddr::V4(ip) => {
                AddressMessageBuilder::<Ipv4Addr>::new().index(ifindex).address(ip, prefix_len).build()
            }
            IpAddr::V6(ip) => {
                let mut address =
                    AddressMessageBuilder::<Ipv6Addr>::new().index(ifindex).address(ip, prefix_len).build();
                address.header.flags |= AddressHeaderFlags::Nodad;
                address
            }
        };
        self.change(RouteNetlinkMessage::NewAddress(address), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Adds a route or replaces the one to the same destination, in one step.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn replace_route(&self, route: RouteMessage) -> io::Result<()> {
        self.change(RouteNetlinkMessage::NewRoute(route), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Removes a route; none is fine.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn del_route(&self, route: RouteMessage) -> io::Result<()> {
        absent_is_fine(self.change(RouteNetlinkMessage::DelRoute(route), 0))
    }

    /// Writes a permanent neighbour entry.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn replace_neighbour(&self, ifindex: u32, ip: impl Into<IpAddr>, mac: &[u8]) -> io::Result<()> {
        let mut entry = neighbour(ifindex, ip.into());
        entry.header.state = NeighbourState::Permanent;
        entry.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
        self.change(RouteNetlinkMessage::NewNeighbour(entry), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Removes a neighbour entry; none is fine.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn del_neighbour(&self, ifindex: u32, ip: impl Into<IpAddr>) -> io::Result<()> {
        absent_is_fine(self.change(RouteNetlinkMessage::DelNeighbour(neighbour(ifindex, ip.into())), 0))
    }

    fn change(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.request(message, flags | NLM_F_ACK).map(drop)
    }

    fn request(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);

        // Each answer is read to its end under the lock, so a poisoned lock still guards a usable socket.
        let socket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        socket.send(&bytes, 0)?;
        let mut messages = Vec::new();
        loop {
            let (datagram, _) = socket.recv_from_full()?;
            let mut rest = datagram.as_slice();
            while !rest.is_empty() {
                let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                    .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))?;
                // Messages are padded to four bytes.
                let length = (message.header.length as usize).next_multiple_of(4).min(rest.len());
                rest = &rest[length..];
                match message.payload {
                    NetlinkPayload::InnerMessage(inner) => messages.push(inner),
                    NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(messages),
                    _ => {}
                }
            }
        }
    }
}

/// A route to one address on a link, which needs no next hop.
pub fn host_route(ip: impl Into<IpAddr>, ifindex: u32) -> RouteMessage {
    let mut route = match ip.into() {
        IpAddr::V4(ip) => RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(ip, 32)
            .output_interface(ifindex)
            .build(),
        IpAddr::V6(ip) => RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(ip, 128)
            .output_interface(ifindex)
            .build(),
    };
    if route.header.address_family == AddressFamily::Inet {
        route.header.scope = RouteScope::Link;
    }
    route
}

/// The default route by a next hop.
pub fn default_route(gateway: Ipv4Addr) -> RouteMessage {
    RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).build()
}

/// The default route for IPv6 by a next hop of a link.
pub fn default_route_v6(gateway: Ipv6Addr, ifindex: u32) -> RouteMessage {
    RouteMessageBuilder::<Ipv6Addr>::new().gateway(gateway).output_interface(ifindex).build()
}

/// A default route that drops without a word.
pub fn blackhole_route() -> RouteMessage {
    RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(Ipv4Addr::UNSPECIFIED, 0)
        .kind(RouteType::BlackHole)
        .build()
}

/// Likewise for IPv6.
pub fn blackhole_route_v6() -> RouteMessage {
    RouteMessageBuilder::<Ipv6Addr>::new()
        .destination_prefix(Ipv6Addr::UNSPECIFIED, 0)
        .kind(RouteType::BlackHole)
        .build()
}

fn neighbour(ifindex: u32, ip: IpAddr) -> NeighbourMessage {
    let mut entry = NeighbourMessage::default();
    let (family, destination) = match ip {
        IpAddr::V4(ip) => (AddressFamily::Inet, NeighbourAddress::Inet(ip)),
        IpAddr::V6(ip) => (AddressFamily::Inet6, NeighbourAddress::Inet6(ip)),
    };
    entry.header.family = family;
    entry.header.ifindex = ifindex;
    entry.header.kind = RouteType::Unicast;
    entry.attributes.push(NeighbourAttribute::Destination(destination));
    entry
}

/// What the kernel answers for a link (`ENODEV`), route (`ESRCH`) or neighbour (`ENOENT`) that is not there.
fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    use rustix::io::Errno;
    let absent = [Errno::NODEV, Errno::SRCH, Errno::NOENT].map(Errno::raw_os_error);
    match result {
        Err(e) if e.raw_os_error().is_some_and(|code| absent.contains(&code)) => Ok(()),
        other => other,
    }
}
