//! The IPv4 header.

use core::net::Ipv4Addr;

use super::{
    frame::{number, octets},
    upper::{Piece, Upper},
};

/// An IPv4 header without its options (RFC 791 §3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4 {
    /// Version.
    pub version: u8,
    /// Length of the header in units of four bytes.
    pub ihl: u8,
    /// Length in bytes of header and payload.
    pub total_len: u16,
    /// Flags in the upper three bits, offset of the fragment in units of eight bytes in the others.
    pub fragment: u16,
    /// Protocol number of what it carries.
    pub protocol: u8,
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
}

impl Ipv4 {
    /// `None`: fewer than 20 bytes.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let destination = octets::<4>(bytes, 16)?.into();
        let [first] = octets(bytes, 0)?;
        let [protocol] = octets(bytes, 9)?;
        Some(Self {
            version: first / 16,
            ihl: first % 16,
            total_len: number(bytes, 2)?,
            fragment: number(bytes, 6)?,
            protocol,
            source: octets::<4>(bytes, 12)?.into(),
            destination,
        })
    }

    /// Length of the header in bytes, options included, as the header says.
    #[must_use]
    pub fn header_len(&self) -> usize {
        usize::from(self.ihl) << 2
    }

    /// What the packet carries. "Don't fragment" and the reserved bit make no fragment.
    #[must_use]
    pub fn upper(&self) -> Upper {
        let (more, offset) = (self.fragment & 0x2000 > 0, self.fragment % 0x2000);
        let piece = match (more, offset) {
            (false, 0) => Piece::Whole,
            (true, 0) => Piece::First,
            _ => Piece::Later,
        };
        Upper { protocol: Some(self.protocol), piece, at: self.header_len() }
    }
}
