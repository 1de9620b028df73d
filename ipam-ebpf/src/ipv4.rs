//! IPv4 (RFC 791) and its ICMP (RFC 792).

use aya_ebpf::btf_maps::lpm_trie::Key;
use ipam_common::{DropReason, Eni, Ipv4Octets, Mac, PodRoute, PodStats};

use crate::{
    ether,
    ip::{self, Ends, Scope, Words},
    maps::{NODE_ADDRS, POD_ROUTES_V4, POD_STATS, STACK_CIDRS},
    packet::Packet,
    transport::{Part, Transport},
};

/// Length in bytes of a header without options.
const MIN_HEADER_LEN: u32 = 20;

/// An Ethernet header and the IPv4 header behind it, without options.
#[repr(C)]
pub struct Frame {
    /// The Ethernet header.
    pub ether: ether::Header,
    /// Version in the high half, header length in units of four bytes in the low one.
    version_ihl: u8,
    tos: u8,
    total_len: [u8; 2],
    identification: [u8; 2],
    fragment: [u8; 2],
    ttl: u8,
    protocol: u8,
    checksum: [u8; 2],
    /// Source address.
    pub source: Ipv4Octets,
    /// Destination address.
    pub destination: Ipv4Octets,
}

impl Frame {
    /// Reads the frame, and checks that version and lengths agree with each other and with the packet.
    #[inline(always)]
    pub fn read(packet: &Packet) -> Result<&Self, DropReason> {
        let frame: &Self = packet.front().ok_or(DropReason::Malformed)?;
        let header_len = header_len(frame.version_ihl);
        let total_len = u32::from(u16::from_be_bytes(frame.total_len));
        let sound = frame.version_ihl >> 4 == 4
            && header_len >= MIN_HEADER_LEN
            && total_len >= header_len
            && total_len <= packet.l3_len();
        if sound { Ok(frame) } else { Err(DropReason::Malformed) }
    }
}

/// Length of the header with its options, in bytes.
#[inline(always)]
fn header_len(version_ihl: u8) -> u32 {
    u32::from(version_ihl & 0x0f) * 4
}

#[inline(always)]
fn part(fragment: [u8; 2]) -> Part {
    // More fragments, and an offset (RFC 791); not the reserved bit and "don't fragment".
    match u16::from_be_bytes(fragment) & 0x3fff {
        0 => Part::Whole,
        0x2000 => Part::First,
        _ => Part::Later,
    }
}

/// An address fills the first octets of that of a flow.
#[inline(always)]
fn words(addr: Ipv4Octets) -> Words {
    let [o0, o1, o2, o3] = addr.octets;
    [u64::from_ne_bytes([o0, o1, o2, o3, 0, 0, 0, 0]), 0]
}

/// `0.0.0.0/8` and `127.0.0.0/8` are not destinations on a wire: RFC 1122 §3.2.1.3.
#[inline(always)]
fn scope(addr: Ipv4Octets) -> Scope {
    match addr.octets {
        [0 | 127, ..] => Scope::Invalid,
        [169, 254, ..] | [224..=255, ..] => Scope::Local,
        _ => Scope::Unicast,
    }
}

#[inline(always)]
fn is_of_stack(addr: Ipv4Octets) -> bool {
    STACK_CIDRS.get(&Key::new(32, addr)).is_some()
}

impl ip::Frame for Frame {
    type Addr = Ipv4Octets;

    const FAMILY: u8 = 4;
    const ICMP: u8 = 1;
    const DHCP_ANSWER: [u16; 2] = [67, 68];

    #[inline(always)]
    fn is_icmp_echo(icmp_type: u8) -> bool {
        matches!(icmp_type, 0 | 8)
    }

    #[inline(always)]
    fn is_icmp_error(icmp_type: u8) -> bool {
        // Destination unreachable, time exceeded, parameter problem.
        matches!(icmp_type, 3 | 11 | 12)
    }

    #[inline(always)]
    fn ether(&self) -> &ether::Header {
        &self.ether
    }

    #[inline(always)]
    fn source(&self) -> &Ipv4Octets {
        &self.source
    }

    #[inline(always)]
    fn destination(&self) -> &Ipv4Octets {
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
        let offset = ether::HEADER_LEN + header_len(self.version_ihl);
        Transport::read::<Self>(packet, self.protocol, part(self.fragment), offset)
    }

    #[inline(always)]
    fn quoted(packet: &Packet, offset: u32) -> Option<(Ends, Transport)> {
        let [first, second, third, source, destination]: [u32; 5] = packet.load(offset)?;
        let [version_ihl, ..] = first.to_ne_bytes();
        let ([.., f0, f1], [_, protocol, ..]) = (second.to_ne_bytes(), third.to_ne_bytes());
        let header_len = header_len(version_ihl);
        if version_ihl >> 4 != 4 || header_len < MIN_HEADER_LEN {
            return None;
        }
        let [source, destination] =
            [source, destination].map(|addr| words(Ipv4Octets { octets: addr.to_ne_bytes() }));
        let transport = Transport::read::<Self>(packet, protocol, part([f0, f1]), offset + header_len);
        Some((Ends { source, destination }, transport))
    }

    #[inline(always)]
    fn route(addr: &Ipv4Octets) -> Option<&'static PodRoute> {
        // SAFETY: the agent replaces an entry as a whole, and a removed one stays readable until the program ends (RCU). A
        // slot reused meanwhile is that of another pod: as a sender's, its interface differs; as a receiver's, the packet
        // goes to a pod that has just come and drops it, since it is not the owner of the destination.
        unsafe { POD_ROUTES_V4.get(addr) }
    }

    #[inline(always)]
    fn stats(addr: &Ipv4Octets) -> Option<*mut PodStats> {
        POD_STATS.get_ptr_mut(addr)
    }

    #[inline(always)]
    fn node_slot(addr: &Ipv4Octets) -> Option<u32> {
        // SAFETY: an aligned word that user space replaces as a whole.
        unsafe { NODE_ADDRS.get(addr) }.copied()
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
        eni.gateway_mac
    }
}
