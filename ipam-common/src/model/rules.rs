//! The rules, one each.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    Arrival, Verdict,
    flow::Ports,
    frame::{Arp, Frame},
    ipv4::Ipv4,
    ipv6::{Extension, IPV6_LEN, Ipv6},
    upper::{Icmpv6, Piece, protocol},
};
use crate::{DropReason, Eni, Ipv4Octets, Mac, PodRoute};

/// What kind of destination an address is, by its number alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// An ordinary address.
    Unicast,
    /// It never leaves the node: link-local, multicast, reserved, broadcast.
    Node,
    /// No destination on a wire.
    Nowhere,
}

/// What kind of source an IPv6 address is, by its number alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// `::`, of one who has no address yet.
    Unspecified,
    /// Of one interface only.
    LinkLocal,
    /// A pod's, or nobody's.
    Ordinary,
}

/// The specification, rule by rule. The default of each method is the rule.
pub trait Rules {
    /// A pod may not send a VLAN tag: not one that the kernel has taken off the frame …
    fn tag_beside_is_refused(&self, arrival: &Arrival) -> bool {
        arrival.tag_beside
    }

    /// … and not one in the frame (802.1Q, 802.1ad). Nor may it send what is neither IPv4, IPv6 nor ARP.
    fn refused_ether_type(&self, ether_type: u16) -> DropReason {
        match ether_type {
            0x8100 | 0x88a8 => DropReason::VlanTagged,
            _ => DropReason::UnsupportedEtherType,
        }
    }

    /// An IPv4 header of a pod agrees with itself and with the packet, of which there are `room` bytes behind the
    /// Ethernet header. Padding behind the packet is allowed.
    fn ipv4_is_sound(&self, header: &Ipv4, room: usize) -> bool {
        let total_len = usize::from(header.total_len);
        header.version == 4 && header.ihl >= 5 && (header.header_len()..=room).contains(&total_len)
    }

    /// The same for IPv6.
    fn ipv6_is_sound(&self, header: &Ipv6, room: usize) -> bool {
        header.version == 6 && IPV6_LEN + usize::from(header.payload_len) <= room
    }

    /// Extension headers that are walked over: hop-by-hop options, routing, fragment, destination options.
    fn extension(&self, number: u8) -> Option<Extension> {
        match number {
            0 | 43 | 60 => Some(Extension::Options),
            44 => Some(Extension::Fragment),
            _ => None,
        }
    }

    /// How many of them are walked over. A longer chain hides what the packet carries.
    fn most_extensions(&self) -> usize {
        6
    }

    /// A fragment header makes a fragment, even one that is all of the packet (RFC 6946). Of its third and fourth
    /// octet the upper 13 bits are the offset.
    fn fragment_piece(&self, offset_and_flags: u16) -> Piece {
        if offset_and_flags < 8 { Piece::First } else { Piece::Later }
    }

    /// The source check: the address is a pod's, of the pod behind this interface, and the MAC is the pod's. What
    /// is wrong is said in this order.
    fn source_fault(&self, owner: Option<&PodRoute>, ifindex: u32, mac: Mac) -> Option<DropReason> {
        match owner {
            None => Some(DropReason::UnknownSource),
            Some(owner) if owner.ifindex != ifindex => Some(DropReason::WrongInterface),
            Some(owner) if owner.mac != mac => Some(DropReason::WrongSourceMac),
            Some(_) => None,
        }
    }

    /// No other ARP is understood.
    fn arp_is_of_ipv4_over_ethernet(&self, message: &Arp) -> bool {
        (message.hardware_type, message.protocol_type, message.hardware_len, message.protocol_len)
            == (1, 0x0800, 6, 4)
    }

    /// The address that a message claims for its sender: the sender's, and in the probe of duplicate address
    /// detection, whose sender is 0.0.0.0, the target (RFC 5227 §2.1.1).
    fn arp_claim(&self, message: &Arp) -> Ipv4Octets {
        if Ipv4Addr::from(message.sender).is_unspecified() { message.target } else { message.sender }
    }

    /// The sender's MAC in the message is the pod's too, which at this point is that of the frame.
    fn arp_names_frames_mac(&self, message: &Arp, frame: &Frame<'_>) -> bool {
        message.sender_mac == frame.source
    }

    /// Which sources of IPv6 need no pod of that address.
    fn source_kind(&self, source: Ipv6Addr) -> Source {
        if source.is_unspecified() {
            Source::Unspecified
        } else if source.is_unicast_link_local() {
            Source::LinkLocal
        } else {
            Source::Ordinary
        }
    }

    /// A link-local source speaks to its link only: to link-local addresses and to multicast.
    fn is_on_link(&self, destination: IpAddr) -> bool {
        match destination {
            IpAddr::V4(_) => false,
            IpAddr::V6(addr) => addr.is_unicast_link_local() || addr.is_multicast(),
        }
    }

    /// Who has no address yet may look for routers (133), and speak MLD (131, 132, 143) …
    fn may_be_sent_without_address(&self, kind: u8) -> bool {
        matches!(kind, 131 | 132 | 133 | 143)
    }

    /// … and ask whether an address is free (135).
    fn is_solicitation(&self, kind: u8) -> bool {
        kind == 135
    }

    /// A neighbour advertisement.
    fn is_advertisement(&self, kind: u8) -> bool {
        kind == 136
    }

    /// Only a router advertises one or redirects.
    fn is_of_router(&self, kind: u8) -> bool {
        matches!(kind, 134 | 137)
    }

    /// An address that a neighbour message may claim: a pod's at this interface, or a link-local one, for which every
    /// interface may speak. `owner` is the pod of this address.
    fn may_claim(&self, target: Ipv6Addr, owner: Option<&PodRoute>, ifindex: u32) -> bool {
        target.is_unicast_link_local() || owner.is_some_and(|owner| owner.ifindex == ifindex)
    }

    /// The MAC that a neighbour message claims for its target is that of the pod that owns the address. Of a link-local
    /// one no pod is known.
    fn may_claim_mac(&self, message: &Icmpv6, owner: Option<&PodRoute>) -> bool {
        let link_local = message.target.is_some_and(|target| target.is_unicast_link_local());
        let is_owners = owner.is_none_or(|owner| message.target_mac == Some(owner.mac));
        link_local || message.target_mac.is_none() || is_owners
    }

    /// What hides its protocol may hide a neighbour message: it may not go where those go.
    fn opaque_is_refused(&self, destination: IpAddr) -> bool {
        self.is_on_link(destination)
    }

    /// UDP from the port of a DHCP server to that of a client: 67 to 68, for IPv6 547 to 546.
    fn is_of_dhcp_server(&self, ipv6: bool, source_port: u16, destination_port: u16) -> bool {
        (source_port, destination_port) == if ipv6 { (547, 546) } else { (67, 68) }
    }

    /// Where a destination may be, by its number alone. Nowhere are 0.0.0.0/8, 127.0.0.0/8 (RFC 1122 §3.2.1.3), `::`,
    /// `::1` and `::ffff:0:0/96`.
    fn scope(&self, destination: IpAddr) -> Scope {
        let (nowhere, node) = match destination {
            IpAddr::V4(addr) => (
                addr.is_loopback() || addr.octets()[0] == 0,
                addr.is_link_local() || addr >= Ipv4Addr::new(224, 0, 0, 0),
            ),
            IpAddr::V6(addr) => (
                addr.is_unspecified() || addr.is_loopback() || addr.to_ipv4_mapped().is_some(),
                self.is_on_link(destination),
            ),
        };
        match (nowhere, node) {
            (true, _) => Scope::Nowhere,
            (_, true) => Scope::Node,
            _ => Scope::Unicast,
        }
    }

    /// Neighbour messages (133 to 137) are between a pod and this node, or between this node and its next hops: no
    /// program carries them anywhere.
    fn is_neighbour_discovery(&self, kind: u8) -> bool {
        (133..=137).contains(&kind)
    }

    /// The protocols that have flows: TCP, UDP, SCTP, ICMP of the packet's family.
    fn has_flows(&self, ipv6: bool, number: u8) -> bool {
        let icmp = if ipv6 { protocol::ICMPV6 } else { protocol::ICMP };
        [protocol::TCP, protocol::UDP, protocol::SCTP, icmp].contains(&number)
    }

    /// The ports of such a packet by its first eight bytes. Of ICMP only echoes have flows: types 8 and 0, of ICMPv6
    /// 128 and 129.
    fn ports(&self, ipv6: bool, number: u8, start: [u8; 8]) -> Option<Ports> {
        let [o0, o1, o2, o3, o4, o5, _, _] = start;
        match number {
            protocol::TCP | protocol::UDP | protocol::SCTP => Some(Ports::Both([o0, o1], [o2, o3])),
            _ if ipv6 => matches!(o0, 128 | 129).then_some(Ports::Echo([o4, o5])),
            _ => matches!(o0, 0 | 8).then_some(Ports::Echo([o4, o5])),
        }
    }

    /// Messages that report an error and quote its packet: unreachable, too big, time exceeded, parameter problem.
    fn icmp_is_error(&self, ipv6: bool, kind: u8) -> bool {
        if ipv6 { (1..=4).contains(&kind) } else { [3, 11, 12].contains(&kind) }
    }

    /// The error of a marked flow stays with the stack, as the flow does.
    fn errors_follow_flow(&self) -> bool {
        true
    }

    /// A flow that the stack has touched stays with the stack, even to a pod of this node.
    fn prefers_flow_to_pod(&self) -> bool {
        true
    }

    /// What a pod answers by the stack comes by the stack: connection tracking sees both directions or none.
    fn stack_hears_questions(&self) -> bool {
        true
    }

    /// A pod of this node is reached directly, even if a CIDR of the stack holds its address.
    fn prefers_pod_to_stack(&self) -> bool {
        true
    }

    /// An address lies in a CIDR of the stack.
    fn covers(&self, network: IpAddr, prefix_len: u32, addr: IpAddr) -> bool {
        let (network, addr, len) = match (network, addr) {
            (IpAddr::V4(network), IpAddr::V4(addr)) => (network.to_bits().into(), addr.to_bits().into(), 32),
            (IpAddr::V6(network), IpAddr::V6(addr)) => (network.to_bits(), addr.to_bits(), 128),
            _ => return false,
        };
        (network ^ addr).checked_shr(len - prefix_len).unwrap_or(0) == 0
    }

    /// The ENI of a pod's packets is that of its own route.
    fn eni_slot(&self, route: &PodRoute) -> u16 {
        route.eni
    }

    /// The next hop of a family.
    fn gateway(&self, eni: &Eni, ipv6: bool) -> Mac {
        if ipv6 { eni.gateway_mac_v6 } else { eni.gateway_mac }
    }

    /// An ENI can send when it has an interface and the next hop's MAC is known.
    fn eni_is_ready(&self, eni: &Eni, gateway: Mac) -> bool {
        eni.ifindex > 0 && gateway != Mac::ZERO
    }

    /// Length in bytes, without the Ethernet header, of the longest packet on the wire: of the packet itself, or,
    /// if it will be cut, of a segment with the IP headers and the shortest transport header there is (8, UDP).
    fn longest_piece(&self, len: usize, gso_size: u32, ip_headers_len: usize) -> usize {
        if gso_size > 0 { gso_size as usize + ip_headers_len + 8 } else { len }
    }

    /// What does not fit the ENI's MTU is left to the stack, which answers or fragments.
    fn fits(&self, len: usize, mtu: u32) -> bool {
        len <= mtu as usize
    }

    /// Destination and source MAC of a frame that leaves by an ENI.
    fn macs_on_the_wire(&self, eni: &Eni, gateway: Mac) -> [Mac; 2] {
        [gateway, eni.mac]
    }

    /// The interface by which a frame leaves.
    fn exit_ifindex(&self, eni: &Eni) -> u32 {
        eni.ifindex
    }

    /// Of what an ENI receives, only what was sent to its own MAC, and without a tag, may go to a pod.
    fn eni_may_deliver(&self, arrival: &Arrival) -> bool {
        arrival.to_host && !arrival.tag_beside
    }

    /// The interface behind whose peer the pod is.
    fn delivery_ifindex(&self, route: &PodRoute) -> u32 {
        route.ifindex
    }

    /// What the node itself sends to a pod marks nothing: the answers go to the node anyhow.
    fn nodes_own_marks_nothing(&self) -> bool {
        true
    }

    /// What the stack delivers from a pod of this node is a flow of that pod too.
    fn marks_local_sender(&self) -> bool {
        true
    }

    /// Beside each flow its pair of addresses is marked, which is what its fragments belong to.
    fn marks_pair(&self) -> bool {
        true
    }

    /// What another of the programs sent to an ENI is where it belongs.
    fn lets_redirected_pass(&self, arrival: &Arrival) -> bool {
        arrival.redirected
    }

    /// What is link-local belongs to the interface it leaves by: whatever comes from a link-local address, or goes to one
    /// or to multicast.
    fn is_of_the_link(&self, source: IpAddr, destination: IpAddr) -> bool {
        matches!(source, IpAddr::V6(source) if source.is_unicast_link_local()) || self.is_on_link(destination)
    }

    /// What the stack sends with a pod's address marks its flow.
    fn sending_marks(&self) -> bool {
        true
    }

    /// What already leaves by its owner stays as it is.
    fn stays(&self, owner: &Eni, ifindex: u32) -> bool {
        owner.ifindex == ifindex
    }

    /// What passed the source check counts as sent, wherever it goes then.
    fn counts_sent(&self, _verdict: Verdict) -> bool {
        true
    }

    /// What is delivered to a pod counts as received …
    fn counts_received(&self) -> bool {
        true
    }

    /// … also if it is the stack that delivers it.
    fn counts_delivered_by_stack(&self) -> bool {
        true
    }

    /// The bytes counted are those of the whole frame.
    fn counted_bytes(&self, len: usize) -> u64 {
        len as u64
    }
}

/// The specification.
#[derive(Clone, Copy, Debug, Default)]
pub struct Specified;

impl Rules for Specified {}
