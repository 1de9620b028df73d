//! The rules, one each.

use core::net::Ipv4Addr;

use super::{
    Arrival, Verdict,
    frame::{Arp, Frame, Ipv4},
};
use crate::{DropReason, Eni, Ipv4Octets, Mac, PodRoute};

/// What kind of destination an address is, by its number alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// An ordinary address.
    Unicast,
    /// It never leaves the node: link-local, multicast, reserved, broadcast.
    Node,
    /// No destination on a wire: `0.0.0.0/8` and `127.0.0.0/8` (RFC 1122 §3.2.1.3).
    Nowhere,
}

/// The specification, rule by rule. The default of each method is the rule.
pub trait Rules {
    /// A pod may not send a VLAN tag: not one that the kernel has taken off the frame …
    fn tag_beside_is_refused(&self, arrival: &Arrival) -> bool {
        arrival.tag_beside
    }

    /// … and not one in the frame (802.1Q, 802.1ad). Nor may it send what is neither IPv4 nor ARP.
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
    fn arp_names_frames_mac(&self, message: &Arp, frame: &Frame) -> bool {
        message.sender_mac == frame.source
    }

    /// Where a destination may be, by its number alone.
    fn scope(&self, destination: Ipv4Octets) -> Scope {
        let addr = Ipv4Addr::from(destination);
        if addr.is_loopback() || destination.octets[0] == 0 {
            Scope::Nowhere
        } else if addr.is_link_local() || addr >= Ipv4Addr::new(224, 0, 0, 0) {
            Scope::Node
        } else {
            Scope::Unicast
        }
    }

    /// A pod of this node is reached directly, even if a CIDR of the stack holds its address.
    fn prefers_pod_to_stack(&self) -> bool {
        true
    }

    /// An address lies in a CIDR of the stack.
    fn covers(&self, network: Ipv4Octets, prefix_len: u32, addr: Ipv4Octets) -> bool {
        let [network, addr] = [network, addr].map(|it| u64::from(u32::from_be_bytes(it.octets)));
        let host_bits = 32 - prefix_len;
        network >> host_bits == addr >> host_bits
    }

    /// The ENI of a pod's packets is that of its own route.
    fn eni_slot(&self, route: &PodRoute) -> u16 {
        route.eni
    }

    /// An ENI can send when it has an interface and its gateway's MAC is known.
    fn eni_is_ready(&self, eni: &Eni) -> bool {
        eni.ifindex > 0 && eni.gateway_mac != Mac::ZERO
    }

    /// Length in bytes, without the Ethernet header, of the longest packet on the wire: of the packet itself, or,
    /// if it will be cut, of a segment with the IPv4 header and the shortest transport header there is (8, UDP).
    fn longest_piece(&self, len: usize, gso_size: u32, ip_header_len: usize) -> usize {
        if gso_size > 0 { gso_size as usize + ip_header_len + 8 } else { len }
    }

    /// What does not fit the ENI's MTU is left to the stack, which answers or fragments.
    fn fits(&self, len: usize, mtu: u32) -> bool {
        len <= mtu as usize
    }

    /// Destination and source MAC of a frame that leaves by an ENI.
    fn macs_on_the_wire(&self, eni: &Eni) -> [Mac; 2] {
        [eni.gateway_mac, eni.mac]
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

    /// What passed the source check counts as sent, wherever it goes then.
    fn counts_sent(&self, _verdict: Verdict) -> bool {
        true
    }

    /// What is delivered to a pod counts as received.
    fn counts_received(&self) -> bool {
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
