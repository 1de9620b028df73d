//! What an IP packet carries.

use crate::{ip::Frame, packet::Packet};

/// IP protocol numbers (IANA).
pub const TCP: u8 = 6;
/// User datagrams.
pub const UDP: u8 = 17;
/// Stream control transmission protocol.
pub const SCTP: u8 = 132;

/// How much of its packet a packet is.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All.
    Whole,
    /// The first fragment, with the transport header.
    First,
    /// Another fragment.
    Later,
    /// There is no telling: the way to the transport header is too long or broken (`ipv6::extensions`).
    Opaque,
}

/// The transport header, as far as it can be read.
pub struct Transport {
    /// IP protocol number; zero if opaque.
    pub protocol: u8,
    /// Whether it is a fragment.
    pub part: Part,
    /// Where the header begins, in bytes from the start of the frame.
    pub offset: u32,
    /// Whether flows of the protocol are known: ICMP, TCP, UDP and SCTP.
    pub has_flows: bool,
    /// The header's first eight bytes; zero if they are not readable.
    head: [u8; 8],
    /// False: the packet has fewer bytes, or is a later fragment or opaque, or the protocol is not one that these programs
    /// read.
    readable: bool,
}

impl Transport {
    /// Reads the header at `offset`, where it mostly stands right behind the `F` at the front.
    #[inline(always)]
    pub fn read<F: Frame>(packet: &Packet, protocol: u8, part: Part, offset: u32) -> Self {
        Self::read_by::<F>(protocol, part, offset, |word| packet.load_word::<F>(offset, word))
    }

    /// Reads the header at `offset`, somewhere else.
    #[inline(always)]
    pub fn read_far<F: Frame>(packet: &Packet, protocol: u8, part: Part, offset: u32) -> Self {
        Self::read_by::<F>(protocol, part, offset, |word| packet.load_far_word(offset, word))
    }

    #[inline(always)]
    fn read_by<F: Frame>(protocol: u8, part: Part, offset: u32, load: impl FnOnce(&mut u64) -> bool) -> Self {
        let has_flows = protocol == F::ICMP || matches!(protocol, TCP | UDP | SCTP);
        // Not an `Option`: LLVM would read its content before it asks whether there is one, and the verifier refuses to read
        // from the stack what was not written.
        let mut head = 0_u64;
        let readable = has_flows && part != Part::Later && load(&mut head);
        Self { protocol, part, offset, has_flows, head: head.to_ne_bytes(), readable }
    }

    /// A transport of which nothing is known.
    #[inline(always)]
    pub fn opaque(offset: u32) -> Self {
        Self { protocol: 0, part: Part::Opaque, offset, has_flows: false, head: [0; 8], readable: false }
    }

    /// The header's first eight bytes, if they can be read.
    #[inline(always)]
    pub fn head(&self) -> Option<[u8; 8]> {
        if self.readable { Some(self.head) } else { None }
    }

    /// Type of an ICMP message of the family of `F`.
    #[inline(always)]
    pub fn icmp_type<F: Frame>(&self) -> Option<u8> {
        if self.readable && self.protocol == F::ICMP { Some(self.head[0]) } else { None }
    }

    /// Length of the IP header with its options or extension headers, in bytes.
    #[inline(always)]
    pub fn ip_header_len(&self) -> u32 {
        self.offset - crate::ether::HEADER_LEN
    }
}
