//! The flow that a packet belongs to.

use core::net::IpAddr;

use super::{
    frame::octets,
    ipv4::Ipv4,
    ipv6::Ipv6,
    rules::Rules,
    upper::{Piece, Upper, protocol},
};
use crate::StackFlow;

/// Which end of a packet is the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pod {
    /// It sends the packet.
    Source,
    /// It receives the packet.
    Destination,
}

impl Pod {
    /// In a packet that goes the other way.
    #[must_use]
    pub fn reversed(self) -> Self {
        match self {
            Self::Source => Self::Destination,
            Self::Destination => Self::Source,
        }
    }
}

/// Both ends of a flow as one of its packets names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Where the packet comes from.
    pub source: IpAddr,
    /// Where it goes.
    pub destination: IpAddr,
    /// Source and destination port. For an echo its identifier and zero, whichever way it goes; none: of a fragment.
    pub ports: Ports,
    /// Protocol number; 0: not known.
    pub protocol: u8,
}

/// What tells the flows of a pair of addresses apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// Source and destination port.
    Both([u8; 2], [u8; 2]),
    /// The identifier of an echo.
    Echo([u8; 2]),
    /// Nothing: the packet is a fragment, or what it carries is hidden.
    None,
}

/// How a packet belongs to a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Belongs {
    /// To none.
    Nowhere,
    /// It is a packet of the flow.
    Of(Ends),
    /// It reports an error of a packet of this flow, whose ends are as that packet named them.
    Reports(Ends),
}

/// An IP packet: its header, what it carries and its bytes from the header on.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// What it carries.
    pub upper: Upper,
    /// From the IP header on.
    pub bytes: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Of an IPv4 header and all bytes from it on.
    #[must_use]
    pub fn v4(header: &Ipv4, bytes: &'a [u8]) -> Self {
        let (source, destination) = (header.source.into(), header.destination.into());
        Self { source, destination, upper: header.upper(), bytes }
    }

    /// Of an IPv6 header and all bytes from it on.
    #[must_use]
    pub fn v6(header: &Ipv6, rules: &dyn Rules, bytes: &'a [u8]) -> Self {
        let (source, destination) = (header.source.into(), header.destination.into());
        Self { source, destination, upper: header.upper(rules, bytes), bytes }
    }

    /// The flow of the packet.
    #[must_use]
    pub fn belongs(&self, rules: &dyn Rules) -> Belongs {
        match self.error(rules) {
            None => self.ends(rules).map_or(Belongs::Nowhere, Belongs::Of),
            Some(quoted) => {
                let ends = self.quoted(rules, quoted).and_then(|quoted| quoted.ends(rules));
                ends.map_or(Belongs::Nowhere, Belongs::Reports)
            }
        }
    }

    /// The bytes that an ICMP error quotes; `None`: not an error.
    pub(super) fn error(&self, rules: &dyn Rules) -> Option<&'a [u8]> {
        let number = if self.source.is_ipv4() { protocol::ICMP } else { protocol::ICMPV6 };
        let message = self.upper.message(number, self.bytes).filter(|_| self.upper.piece == Piece::Whole)?;
        let (header, quoted) = message.split_at_checked(8)?;
        rules.icmp_is_error(self.source.is_ipv6(), header[0]).then_some(quoted)
    }

    /// The packet that an error of this family quotes; `None`: its header cannot be read.
    fn quoted(&self, rules: &dyn Rules, bytes: &'a [u8]) -> Option<Self> {
        if self.source.is_ipv4() {
            let header = Ipv4::parse(bytes).filter(|header| header.version == 4 && header.ihl >= 5)?;
            Some(Self::v4(&header, bytes))
        } else {
            let header = Ipv6::parse(bytes).filter(|header| header.version == 6)?;
            Some(Self::v6(&header, rules, bytes))
        }
    }

    /// The ends of a packet that is no error.
    fn ends(&self, rules: &dyn Rules) -> Option<Ends> {
        let number = self.upper.protocol.unwrap_or(0);
        let ports = match (self.upper.protocol, self.upper.piece) {
            (None, _) => Ports::None,
            (Some(number), _) if !rules.has_flows(self.source.is_ipv6(), number) => return None,
            (Some(_), Piece::First | Piece::Later) => Ports::None,
            (Some(number), Piece::Whole) => {
                let start = octets(self.bytes, self.upper.at)?;
                rules.ports(self.source.is_ipv6(), number, start)?
            }
        };
        Some(Ends { source: self.source, destination: self.destination, ports, protocol: number })
    }
}

impl Ends {
    /// The flow as the pod's side sees it.
    #[must_use]
    pub fn flow(&self, pod: Pod) -> StackFlow {
        let (source_port, destination_port) = match self.ports {
            Ports::Both(source, destination) => (source, destination),
            Ports::Echo(_) | Ports::None => ([0; 2], [0; 2]),
        };
        let (pod, mut pod_port, peer, peer_port) = match pod {
            Pod::Source => (self.source, source_port, self.destination, destination_port),
            Pod::Destination => (self.destination, destination_port, self.source, source_port),
        };
        if let Ports::Echo(identifier) = self.ports {
            pod_port = identifier;
        }
        let family = if pod.is_ipv4() { 4 } else { 6 };
        let [pod, peer] = [pod, peer].map(wide);
        StackFlow { pod, peer, pod_port, peer_port, protocol: self.protocol, family, reserved: [0; 2] }
    }

    /// What the fragments of the flow belong to: its pair of addresses.
    #[must_use]
    pub fn pair(&self) -> Self {
        Self { ports: Ports::None, ..*self }
    }
}

/// An address as it stands in [`StackFlow`].
fn wide(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V4(addr) => {
            let [o0, o1, o2, o3] = addr.octets();
            [o0, o1, o2, o3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        }
        IpAddr::V6(addr) => addr.octets(),
    }
}
