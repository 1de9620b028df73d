//! What the programs ask of either family of IP, so that each rule is written once.

use ipam_common::{Eni, Mac, PodRoute, PodStats};

use crate::{ether, packet::Packet, transport::Transport};

/// What kind of destination an address is, by its number alone.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// An ordinary address: pods, VPC hosts, the world.
    Unicast,
    /// Link-local, multicast, reserved or broadcast: never leaves the node, the stack knows what to do.
    Local,
    /// Not a destination on a wire: unspecified, loopback, or an IPv4 address mapped into IPv6. Were it left to the stack,
    /// `route_localnet` would let a pod talk to the node's loopback.
    Invalid,
}

/// An address in the form of [`ipam_common::StackFlow`], as words.
pub type Words = [u64; 2];

/// Both ends of a packet.
pub struct Ends {
    /// Where it comes from.
    pub source: Words,
    /// Where it goes.
    pub destination: Words,
}

/// An Ethernet header and the IP header behind it, without options or extension headers.
pub trait Frame: Sized + 'static {
    /// An address.
    type Addr: Copy + 'static;

    /// `family` of [`ipam_common::StackFlow`].
    const FAMILY: u8;
    /// IP protocol number of the family's ICMP.
    const ICMP: u8;
    /// Source and destination port of what a DHCP server answers its clients.
    const DHCP_ANSWER: [u16; 2];

    /// Whether this ICMP type is that of an echo, request or reply, whose flow is its identifier.
    fn is_icmp_echo(icmp_type: u8) -> bool;
    /// Whether this ICMP type is that of an error, which quotes the packet that it is about.
    fn is_icmp_error(icmp_type: u8) -> bool;

    /// The Ethernet header.
    fn ether(&self) -> &ether::Header;
    /// Source address.
    fn source(&self) -> &Self::Addr;
    /// Destination address.
    fn destination(&self) -> &Self::Addr;
    /// Both addresses in the form of a flow.
    fn ends(&self) -> Ends;
    /// Where the destination may be.
    fn scope(&self) -> Scope;
    /// What the packet carries.
    fn transport(&self, packet: &Packet) -> Transport;
    /// Ends and transport of the packet that an ICMP error quotes, whose IP header stands at `offset` bytes of the frame;
    /// `None` if that is not a header of this family.
    fn quoted(packet: &Packet, offset: u32) -> Option<(Ends, Transport)>;

    /// The route of a pod of this node.
    fn route(addr: &Self::Addr) -> Option<&'static PodRoute>;
    /// This CPU's counters of a pod of this node.
    fn stats(addr: &Self::Addr) -> Option<*mut PodStats>;
    /// The slot of the ENI of one of the node's own addresses.
    fn node_slot(addr: &Self::Addr) -> Option<u32>;
    /// Whether the destination belongs to the stack by configuration.
    fn is_to_stack(&self) -> bool;
    /// Whether what a pod answers to the source goes to the stack, whatever the flow.
    fn is_answered_by_stack(&self) -> bool;
    /// MAC of the family's next hop behind an ENI; zero: not known.
    fn gateway_mac(eni: &Eni) -> Mac;
}
