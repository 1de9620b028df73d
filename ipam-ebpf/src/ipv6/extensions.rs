//! The chain of extension headers between the IPv6 header and the transport header (RFC 8200 §4).
//!
//! A chain is *opaque*, and the transport unknown, when it has more than [`MAX_HEADERS`] headers, when one of them does not
//! lie within the packet, or when a fragment header is followed by yet another extension header: a later fragment has only the
//! first, so that the fragments of one packet would not be treated alike. A fragment header always ends the walk, and makes
//! a fragment even of a packet that is whole (an "atomic fragment").

use aya_ebpf::{bindings::__sk_buff, programs::TcContext};

use crate::{
    ipv6::Frame,
    packet::Packet,
    transport::{Part, Transport},
};

/// Headers that are walked.
const MAX_HEADERS: u32 = 6;

/// Hop-by-hop options.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

#[inline(always)]
fn is_extension(header: u8) -> bool {
    matches!(header, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS)
}

/// Reads the transport of a packet whose first header after the IPv6 header is `next_header`, `offset` bytes from the start
/// of the frame.
#[inline(always)]
pub fn transport(packet: &Packet, next_header: u8, offset: u32) -> Transport {
    if !is_extension(next_header) {
        return Transport::read::<Frame>(packet, next_header, Part::Whole, offset);
    }
    let mut end = End { offset, header: next_header, part: Part::Opaque };
    walk(packet.as_raw(), &mut end);
    match end.part {
        Part::Opaque => Transport::opaque(end.offset),
        part => Transport::read_far::<Frame>(packet, end.header, part, end.offset),
    }
}

/// Where a walk begins, and then where it ends. In memory, where the verifier does not follow single octets: in a register,
/// it would tell every length of the chain from every other, and look at all that follows once for each.
#[repr(C)]
struct End {
    offset: u32,
    /// The header there.
    header: u8,
    part: Part,
}

/// A function of its own, for most packets do without, and LLVM would unroll it twice into each program.
#[inline(never)]
fn walk(skb: *mut __sk_buff, end: &mut End) {
    let packet = Packet::new(TcContext::new(skb));
    let (mut header, mut offset, mut part) = (end.header, end.offset, Part::Whole);
    for _ in 0..MAX_HEADERS {
        if part != Part::Whole || !is_extension(header) {
            break;
        }
        // Every extension header has at least eight bytes.
        let Some([next, len, o2, o3, ..]) = packet.load(offset).map(u64::to_ne_bytes) else { break };
        if header == FRAGMENT {
            part = if u16::from_be_bytes([o2, o3]) >> 3 == 0 { Part::First } else { Part::Later };
            offset += 8;
        } else {
            offset += (u32::from(len) + 1) * 8;
        }
        header = next;
    }
    if is_extension(header) || offset > packet.len() {
        part = Part::Opaque;
    }
    *end = End { offset, header, part };
}
