//! The IPv6 header and those behind it.

use core::net::Ipv6Addr;

use super::{
    frame::{number, octets},
    rules::Rules,
    upper::{Piece, Upper},
};

/// Length in bytes of the header.
pub const IPV6_LEN: usize = 40;

/// An IPv6 header (RFC 8200 §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6 {
    /// Version.
    pub version: u8,
    /// Length in bytes of all that lies behind the header.
    pub payload_len: u16,
    /// Number of the first header behind this one.
    pub next_header: u8,
    /// Routers that the packet may still pass.
    pub hop_limit: u8,
    /// Source address.
    pub source: Ipv6Addr,
    /// Destination address.
    pub destination: Ipv6Addr,
}

impl Ipv6 {
    /// `None`: fewer than 40 bytes.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let destination = octets::<16>(bytes, 24)?.into();
        let [first] = octets(bytes, 0)?;
        let [next_header, hop_limit] = octets(bytes, 6)?;
        Some(Self {
            version: first / 16,
            payload_len: number(bytes, 4)?,
            next_header,
            hop_limit,
            source: octets::<16>(bytes, 8)?.into(),
            destination,
        })
    }

    /// What the packet carries behind its extension headers (RFC 8200 §4), of which `bytes` are all that are there,
    /// from this header on.
    ///
    /// A fragment header ends the walk: later fragments have no header behind it, and all fragments of a packet shall be
    /// treated alike. If there is an extension header where the walk ends, or the packet ends within the last one, what
    /// the packet carries is hidden.
    #[must_use]
    pub fn upper(&self, rules: &dyn Rules, bytes: &[u8]) -> Upper {
        let (mut number, mut piece, mut at) = (self.next_header, Piece::Whole, IPV6_LEN);
        for _ in 0..rules.most_extensions() {
            // The shortest extension header is of eight bytes.
            let (Some(kind), Some(header)) = (rules.extension(number), octets::<8>(bytes, at)) else { break };
            number = header[0];
            if kind == Extension::Fragment {
                piece = rules.fragment_piece(u16::from_be_bytes([header[2], header[3]]));
                at += 8;
                break;
            }
            at += (usize::from(header[1]) + 1) * 8;
        }
        let hidden = rules.extension(number).is_some() || at > bytes.len();
        Upper { protocol: (!hidden).then_some(number), piece, at }
    }
}

/// What an extension header looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// The second octet is its length in units of eight bytes, the first eight not counted.
    Options,
    /// A fragment header, of eight bytes.
    Fragment,
}
