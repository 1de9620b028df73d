//! The pod's side: its network namespace and the interface in it.

use std::{
    fs::File,
    io,
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressMessage},
    link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkFlags, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
        RouteType,
    },
};
use rustix::{
    fs::fstat,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use crate::{
    env::NetnsPath,
    error::{CniError, code},
    netlink::{Change, Netlink, NetlinkError},
    protocol::PodInterface,
    result::host_prefix,
};

/// How long an IPv6 address may take to become usable before ADD goes on without it.
const USABLE_WAIT: Duration = Duration::from_secs(1);
/// Between two looks at that.
const USABLE_PAUSE: Duration = Duration::from_micros(200);

/// A pod's network namespace, opened and entered.
pub struct PodNetns {
    file: File,
    netlink: Netlink,
}

/// An interface as it is found in a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Whether it is administratively up.
    pub up: bool,
    /// MAC, lower case with colons.
    pub mac: String,
    /// MTU in bytes.
    pub mtu: u32,
    /// Addresses, with prefix lengths in bits.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Next hops of the default routes through it.
    pub default_routes: Vec<IpAddr>,
    /// Permanent neighbour entries: address and MAC.
    pub neighbours: Vec<(IpAddr, String)>,
}

impl PodNetns {
    /// Moves the calling thread into the namespace, for good: the plugin has one thread and lives for one call.
    ///
    /// Fails with [`code::UNKNOWN_CONTAINER`] when the path does not exist and with
    /// [`code::INVALID_ENVIRONMENT`] when it is no network namespace, or the plugin's own and that is not allowed.
    pub fn enter(netns: &NetnsPath) -> Result<Self, CniError> {
        let path = &netns.path;
        let wrong = |why: String| {
            CniError::new(code::INVALID_ENVIRONMENT, format!("CNI_NETNS is {path:?}")).details(why)
        };
        let file = File::open(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => CniError::new(
                code::UNKNOWN_CONTAINER,
                format!("the network namespace {path:?} does not exist"),
            )
            .details("CNI_NETNS must name the namespace of a container that lives"),
            _ => wrong(format!("it cannot be opened: {error}")),
        })?;
        if !netns.may_be_own
            && is_own(&file).map_err(|error| wrong(format!("it cannot be looked at: {error}")))?
        {
            return Err(wrong(
                "it is the namespace that the plugin was started in, the node's; \
                 it must be the container's, or CNI_NETNS_OVERRIDE be 1"
                    .into(),
            ));
        }
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).map_err(
            |error| match error {
                rustix::io::Errno::INVAL => wrong("it is no network namespace".into()),
                error => wrong(format!("it cannot be entered: {error}; the plugin needs CAP_SYS_ADMIN")),
            },
        )?;
        let netlink = Netlink::open().map_err(|error| {
            CniError::new(code::KERNEL, "cannot open a netlink socket in the pod").details(error.to_string())
        })?;
        Ok(Self { file, netlink })
    }

    /// The namespace's descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Whether there is an interface of that name.
    pub fn has_interface(&mut self, name: &str) -> Result<bool, CniError> {
        Ok(self.netlink.link(name)?.is_some())
    }

    /// Brings the interface, which exists and is down, into the state that the agent asks for.
    /// Undoes nothing on failure: the agent takes the interface away, and all that is on it goes with it.
    pub fn configure(&mut self, pod: &PodInterface) -> Result<(), CniError> {
        let gateway_mac = parse_mac(&pod.gateway_mac)
            .ok_or_else(|| internal(format!("the agent's gateway_mac is {:?}", pod.gateway_mac)))?;
        let link = self
            .netlink
            .link(&pod.ifname)?
            .ok_or_else(|| internal(format!("the agent made no interface {:?} in the pod", pod.ifname)))?;
        let found = describe_link(&link);
        if found.mac != pod.mac {
            let is = format!("{} has the MAC {} and not {}", pod.ifname, found.mac, pod.mac);
            return Err(internal(format!("the interface is not the one that the agent made: {is}")));
        }
        if pod.addresses.iter().any(IpAddr::is_ipv6) {
            allow_ipv6(&pod.ifname)?;
        }
        self.netlink.batch(changes(pod, link.header.index, &gateway_mac))?;
        self.wait_until_usable(pod)
    }

    /// Waits until the kernel takes packets to the pod's IPv6 addresses. Even without duplicate address detection it
    /// makes an address usable (writes its local route) from a work queue, behind whatever holds the lock of rtnetlink;
    /// what comes before is lost. One that takes very long does so with no help of ours.
    fn wait_until_usable(&mut self, pod: &PodInterface) -> Result<(), CniError> {
        let deadline = Instant::now() + USABLE_WAIT;
        let mut missing: Vec<IpAddr> = pod.addresses.iter().copied().filter(IpAddr::is_ipv6).collect();
        while !missing.is_empty() && Instant::now() < deadline {
            let request = RouteNetlinkMessage::GetRoute(RouteMessage::default());
            for message in self.netlink.dump("routes", request)? {
                if let RouteNetlinkMessage::NewRoute(route) = message {
                    missing.retain(|address| !is_local_route(&route, *address));
                }
            }
            if !missing.is_empty() {
                std::thread::sleep(USABLE_PAUSE);
            }
        }
        Ok(())
    }

    /// Looks at an interface; `None` when there is none of that name.
    pub fn observe(&mut self, name: &str) -> Result<Option<Observed>, CniError> {
        let Some(link) = self.netlink.link(name)? else { return Ok(None) };
        let index = link.header.index;
        let mut observed = describe_link(&link);
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        for message in self.netlink.dump("addresses", request)? {
            if let RouteNetlinkMessage::NewAddress(address) = message
                && address.header.index == index
            {
                observed.addresses.extend(describe_address(&address));
            }
        }
        let request = RouteNetlinkMessage::GetRoute(RouteMessage::default());
        for message in self.netlink.dump("routes", request)? {
            if let RouteNetlinkMessage::NewRoute(route) = message {
                observed.default_routes.extend(default_gateway(&route, index));
            }
        }
        let request = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
        for message in self.netlink.dump("neighbours", request)? {
            if let RouteNetlinkMessage::NewNeighbour(neighbour) = message
                && neighbour.header.ifindex == index
                && neighbour.header.state == NeighbourState::Permanent
            {
                observed.neighbours.extend(describe_neighbour(&neighbour));
            }
        }
        Ok(Some(observed))
    }
}

impl From<NetlinkError> for CniError {
    fn from(error: NetlinkError) -> Self {
        Self::new(code::KERNEL, format!("in the pod: cannot {}", error.what)).details(
            match error.kernel.as_str() {
                "" => error.error.to_string(),
                kernel => format!("{}: {kernel}", error.error),
            },
        )
    }
}

/// Turns IPv6 on at the interface, whatever the namespace's default is, with no delay before its link-local address can
/// be used, and deaf to router advertisements: its next hop never sends one. Sysctls of the network are those of the
/// namespace that the thread is in.
fn allow_ipv6(ifname: &str) -> Result<(), CniError> {
    for (name, value) in [("accept_dad", "0"), ("accept_ra", "0"), ("disable_ipv6", "0")] {
        let path = format!("/proc/sys/net/ipv6/conf/{ifname}/{name}");
        std::fs::write(&path, value).map_err(|error| {
            CniError::new(code::KERNEL, format!("in the pod: cannot write {value} to {path}")).details(format!(
                "{error}; a pod with an IPv6 address needs a kernel with IPv6, and /proc/sys must be writable"
            ))
        })?;
    }
    Ok(())
}

/// Everything that an interface which has just been made still lacks, in the order in which the kernel takes
/// it: routes want the link up, and the default route wants its next hop reachable.
fn changes(pod: &PodInterface, index: u32, gateway_mac: &[u8]) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut push =
        |what: String, message, flags| changes.push(Change { what, message, flags, optional: false });
    for &address in &pod.addresses {
        let what = format!("add the address {address} to {}", pod.ifname);
        push(what, RouteNetlinkMessage::NewAddress(new_address(index, address)), NLM_F_CREATE | NLM_F_EXCL);
    }
    let up = RouteNetlinkMessage::SetLink(set_up(index));
    push(format!("set {} up", pod.ifname), up, 0);
    for &gateway in &pod.gateways {
        let neighbour = RouteNetlinkMessage::NewNeighbour(new_neighbour(index, gateway, gateway_mac));
        push(format!("add the neighbour {gateway}"), neighbour, NLM_F_CREATE | NLM_F_REPLACE);
        let to_gateway = RouteNetlinkMessage::NewRoute(new_route(index, gateway, true));
        push(format!("add the route to {gateway}"), to_gateway, NLM_F_CREATE | NLM_F_EXCL);
        let default = RouteNetlinkMessage::NewRoute(new_route(index, gateway, false));
        push(format!("add the default route via {gateway}"), default, NLM_F_CREATE | NLM_F_EXCL);
    }
    if !pod.addresses.iter().any(IpAddr::is_ipv6) {
        // Saves the pod a link-local address and what a kernel sends for one. A kernel without IPv6 refuses.
        let message = RouteNetlinkMessage::SetLink(no_link_local(index));
        let what = format!("turn IPv6 link-local addresses of {} off", pod.ifname);
        changes.insert(0, Change { what, message, flags: 0, optional: true });
    }
    changes
}

fn new_address(index: u32, address: IpAddr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address);
    message.header.prefix_len = host_prefix(address);
    message.header.index = index;
    // Nobody else can hold it, so duplicate detection would only delay the pod.
    let flags = AddressFlags::Nodad | AddressFlags::Noprefixroute;
    message.attributes = vec![
        AddressAttribute::Local(address),
        AddressAttribute::Address(address),
        AddressAttribute::Flags(flags),
    ];
    message
}

fn set_up(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message
}

fn no_link_local(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    let inet6 = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
    message.attributes.push(LinkAttribute::AfSpecUnspec(vec![inet6]));
    message
}

fn new_neighbour(index: u32, address: IpAddr, mac: &[u8]) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    let destination = match address {
        IpAddr::V4(address) => NeighbourAddress::Inet(address),
        IpAddr::V6(address) => NeighbourAddress::Inet6(address),
    };
    message.attributes = vec![
        NeighbourAttribute::Destination(destination),
        NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
    ];
    message
}

/// The route to the gateway itself, or the default route through it.
fn new_route(index: u32, gateway: IpAddr, to_gateway: bool) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(gateway);
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Boot;
    message.header.kind = RouteType::Unicast;
    message.attributes.push(RouteAttribute::Oif(index));
    if to_gateway {
        message.header.scope = RouteScope::Link;
        message.header.destination_prefix_length = host_prefix(gateway);
        message.attributes.push(RouteAttribute::Destination(gateway.into()));
    } else {
        message.header.flags = RouteFlags::Onlink;
        message.attributes.push(RouteAttribute::Gateway(gateway.into()));
    }
    message
}

fn describe_link(link: &LinkMessage) -> Observed {
    let mut observed = Observed { up: link.header.flags.contains(LinkFlags::Up), ..Observed::default() };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Address(mac) => observed.mac = format_mac(mac),
            LinkAttribute::Mtu(mtu) => observed.mtu = *mtu,
            _ => {}
        }
    }
    observed
}

/// The interface's own address: `Local`, or for IPv6, which knows no peer there, `Address`.
fn describe_address(message: &AddressMessage) -> Option<(IpAddr, u8)> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let any = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    });
    Some((local.or(any)?, message.header.prefix_len))
}

fn is_local_route(route: &RouteMessage, address: IpAddr) -> bool {
    route.header.kind == RouteType::Local
        && route.attributes.contains(&RouteAttribute::Destination(address.into()))
}

fn default_gateway(route: &RouteMessage, index: u32) -> Option<IpAddr> {
    let header = &route.header;
    if header.destination_prefix_length != 0
        || header.table != RouteHeader::RT_TABLE_MAIN
        || header.kind != RouteType::Unicast
        || !route.attributes.contains(&RouteAttribute::Oif(index))
    {
        return None;
    }
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(gateway)) => Some((*gateway).into()),
        RouteAttribute::Gateway(RouteAddress::Inet6(gateway)) => Some((*gateway).into()),
        _ => None,
    })
}

fn describe_neighbour(message: &NeighbourMessage) -> Option<(IpAddr, String)> {
    let mut address = None;
    let mut mac = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => address = Some(IpAddr::V4(*v4)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => address = Some(IpAddr::V6(*v6)),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = Some(format_mac(bytes)),
            _ => {}
        }
    }
    Some((address?, mac?))
}

fn is_own(netns: &File) -> io::Result<bool> {
    let own = fstat(File::open("/proc/thread-self/ns/net")?)?;
    let other = fstat(netns)?;
    Ok((own.st_dev, own.st_ino) == (other.st_dev, other.st_ino))
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn format_mac(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

fn parse_mac(text: &str) -> Option<Vec<u8>> {
    let byte = |part: &str| {
        let hex = part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
        hex.then(|| u8::from_str_radix(part, 16).ok()).flatten()
    };
    let bytes: Vec<u8> = text.split(':').map(byte).collect::<Option<_>>()?;
    (bytes.len() == 6).then_some(bytes)
}

fn internal(msg: String) -> CniError {
    CniError::new(code::INTERNAL, msg)
        .details("plugin and agent do not understand each other: are they of the same version?")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macs() {
        let mac = parse_mac("02:00:0a:ff:00:01").unwrap();
        assert_eq!(format_mac(&mac), "02:00:0a:ff:00:01");
        for bad in [
            "",
            "02:00:0a:ff:00",
            "02:00:0a:ff:00:1",
            "02:00:0a:ff:00:zz",
            "02:00:0a:ff:00:+1",
            "02-00-0a-ff-00-01",
        ] {
            assert_eq!(parse_mac(bad), None, "{bad}");
        }
    }
}
