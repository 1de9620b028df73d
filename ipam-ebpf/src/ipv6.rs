//! IPv6 (RFC 8200).

pub mod extensions;
pub mod icmp;

use aya_ebpf::btf_maps::lpm_trie::Key;
use ipam_common::{DropReason, Eni, Ipv6Octets, Mac, PodRoute, PodStats};

use crate::{
    ether,
    ip::{self, Ends, Scope, Words},
    maps::{NODE_ADDRS_V6, POD_ROUTES_V6, POD_STATS_V6, STACK_CIDRS_V6},
    packet::Packet,
    transport::Transport,
};

/// Length in bytes of the header.
const HEADER_LEN: u32 = 40;

/// An Ethernet header and the IPv6 header behind it.
#[repr(C)]
pub struct Frame {
    /// The Ethernet header.
    pub ether: ether::Header,
    /// Version in the high half, the upper half of the traffic class in the low one.
    version_class: u8,
    class_flow_label: [u8; 3],
    payload_len: [u8; 2],
    next_header: u8,
    hop_limit: u8,
    /// Source address.
    pub source: Ipv6Octets,
    /// Destination address.
    pub destination: Ipv6Octets,
}

/// The first two octets of `fe80::/10`, from and to.
const LINK_LOCAL_FIRST: u16 = 0xfe80;
const LINK_LOCAL_LAST: u16 = 0xfebf;

/// What kind of source an address is, by its number alone.
pub enum Origin {
    /// `::`: a host that has no address yet.
    Unspecified,
    /// `fe80::/10`, which hosts give themselves.
    LinkLocal,
    /// Any other: a pod's, or spoofed.
    Address,
}

impl Frame {
    /// Reads the frame, and checks that version and length agree with the packet. A payload length of zero is that of an
    /// empty packet or of a jumbogram (RFC 2675, "BIG TCP"), and is sound with any length.
    #[inline(always)]
    pub fn read(packet: &Packet) -> Result<&Self, DropReason> {
        let frame: &Self = packet.front().ok_or(DropReason::Malformed)?;
        let payload_len = u32::from(u16::from_be_bytes(frame.payload_len));
        let sound = frame.version_class >> 4 == 6 && payload_len + HEADER_LEN <= packet.l3_len();
        if sound { Ok(frame) } else { Err(DropReason::Malformed) }
    }

    /// See [`Origin`].
    #[inline(always)]
    pub fn origin(&self) -> Origin {
        match first_octets(self.source) {
            0 if words(self.source) == [0; 2] => Origin::Unspecified,
            LINK_LOCAL_FIRST..=LINK_LOCAL_LAST => Origin::LinkLocal,
            _ => Origin::Address,
        }
    }
}

/// Whether the address is of `fe80::/10`.
#[inline(always)]
pub fn is_link_local(addr: Ipv6Octets) -> bool {
    matches!(first_octets(addr), LINK_LOCAL_FIRST..=LINK_LOCAL_LAST)
}

/// The first two octets as a number.
#[inline(always)]
fn first_octets(addr: Ipv6Octets) -> u16 {
    let [o0, o1, ..] = addr.octets;
    u16::from_be_bytes([o0, o1])
}

#[inline(always)]
fn words(addr: Ipv6Octets) -> Words {
    let [o0, o1, o2, o3, o4, o5, o6, o7, rest @ ..] = addr.octets;
    [u64::from_ne_bytes([o0, o1, o2, o3, o4, o5, o6, o7]), u64::from_ne_bytes(rest)]
}

/// Whether it is `::`, `::1` or of `::ffff:0:0/96`.
#[inline(always)]
fn is_invalid(addr: Ipv6Octets) -> bool {
    let [upper, lower] = words(addr).map(u64::from_be);
    upper == 0 && (lower <= 1 || lower >> 32 == 0xffff)
}

#[inline(always)]
fn scope(addr: Ipv6Octets) -> Scope {
    match first_octets(addr) {
        0 if is_invalid(addr) => Scope::Invalid,
        LINK_LOCAL_FIRST..=LINK_LOCAL_LAST | 0xff00.. => Scope::Local,
        _ => Scope::Unicast,
    }
}

#[inline(always)]
fn is_of_stack(addr: Ipv6Octets) -> bool {
    STACK_CIDRS_V6.get(&Key::new(128, addr)).is_some()
}

impl ip::Frame for Frame {
    type Addr = Ipv6Octets;

    const FAMILY: u8 = 6;
    const ICMP: u8 = 58;
    const DHCP_ANSWER: [u16; 2] = [547, 546];

    #[inline(always)]
    fn is_icmp_echo(icmp_type: u8) -> bool {
        matches!(icmp_type, 128 | 129)
    }

    #[inline(always)]
    fn is_icmp_error(icmp_type: u8) -> bool {
        // Destination unreachable, packet too big, time exceeded, parameter problem (RFC 4443).
        matches!(icmp_type, 1..=4)
    }

    #[inline(always)]
    fn ether(&self) -> &ether::Header {
        &self.ether
    }

    #[inline(always)]
    fn source(&self) -> &Ipv6Octets {
        &self.source
    }

    #[inline(always)]
    fn destination(&self) -> &Ipv6Octets {
        &self.destination
    }

    #[inline(always)]
    fn ends(&self) -> Ends {
        Ends { source: words(self.source), destination: words(self.destination) }
    }

    #[inline(always)]
    fn scope(&self) -> Scope {
        scope(self.destination)
    }

    #[inline(always)]
    fn transport(&self, packet: &Packet) -> Transport {
        extensions::transport(packet, self.next_header, ether::HEADER_LEN + HEADER_LEN)
    }

    #[inline(always)]
    fn quoted(packet: &Packet, offset: u32) -> Option<(Ends, Transport)> {
        let [first, s0, s1, d0, d1]: [u64; 5] = packet.load(offset)?;
        let [version_class, _, _, _, _, _, next_header, _] = first.to_ne_bytes();
        if version_class >> 4 != 6 {
            return None;
        }
        let transport = extensions::transport(packet, next_header, offset + HEADER_LEN);
        Some((Ends { source: [s0, s1], destination: [d0, d1] }, transport))
    }

    #[inline(always)]
    fn route(addr: &Ipv6Octets) -> Option<&'static PodRoute> {
        // SAFETY: as in `ipv4`.
        unsafe { POD_ROUTES_V6.get(addr) }
    }

    #[inline(always)]
    fn stats(addr: &Ipv6Octets) -> Option<*mut PodStats> {
        POD_STATS_V6.get_ptr_mut(addr)
    }

    #[inline(always)]
    fn node_slot(addr: &Ipv6Octets) -> Option<u32> {
        // SAFETY: as in `ipv4`.
        unsafe { NODE_ADDRS_V6.get(addr) }.copied()
    }

    #[inline(always)]
    fn is_to_stack(&self) -> bool {
        is_of_stack(self.destination)
    }

    #[inline(always)]
    fn is_answered_by_stack(&self) -> bool {
        scope(self.source) == Scope::Local || is_of_stack(self.source)
    }

    #[inline(always)]
    fn gateway_mac(eni: &Eni) -> Mac {
        eni.gateway_mac_v6
    }
}
