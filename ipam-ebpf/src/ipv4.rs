//! The IPv4 header (RFC 791).

use ipam_common::{DropReason, Ipv4Octets};

use crate::{ether, packet::Packet};

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
    /// IP protocol number.
    pub protocol: u8,
    checksum: [u8; 2],
    /// Source address.
    pub source: Ipv4Octets,
    /// Destination address.
    pub destination: Ipv4Octets,
}

impl Frame {
    /// Whether this is a fragment, the first one too.
    #[inline(always)]
    pub fn is_fragment(&self) -> bool {
        // More fragments, or an offset (RFC 791); not the reserved bit and "don't fragment".
        u16::from_be_bytes(self.fragment) & 0x3fff != 0
    }

    /// Length of the IPv4 header with its options, in bytes.
    #[inline(always)]
    pub fn header_len(&self) -> u32 {
        u32::from(self.version_ihl & 0x0f) * 4
    }

    /// Reads the frame, and checks that version and lengths agree with each other and with the packet.
    #[inline(always)]
    pub fn read(packet: &Packet) -> Result<&Self, DropReason> {
        let frame: &Self = packet.front().ok_or(DropReason::Malformed)?;
        let header_len = frame.header_len();
        let total_len = u32::from(u16::from_be_bytes(frame.total_len));
        let sound = frame.version_ihl >> 4 == 4
            && header_len >= MIN_HEADER_LEN
            && total_len >= header_len
            && total_len <= packet.l3_len();
        if sound { Ok(frame) } else { Err(DropReason::Malformed) }
    }
}

/// What kind of destination an address is, by its number alone.
pub enum Scope {
    /// An ordinary address: pods, VPC hosts, the world.
    Unicast,
    /// Link-local, multicast, reserved or broadcast: never leaves the node, the stack knows what to do.
    Local,
    /// `0.0.0.0/8` and `127.0.0.0/8`: not a destination on a wire (RFC 1122 §3.2.1.3). Were it left to the
    /// stack, `route_localnet` would let a pod talk to the node's loopback.
    Invalid,
}

/// See [`Scope`].
#[inline(always)]
pub fn scope(addr: Ipv4Octets) -> Scope {
    match addr.octets {
        [0 | 127, ..] => Scope::Invalid,
        [169, 254, ..] | [224..=255, ..] => Scope::Local,
        _ => Scope::Unicast,
    }
}
