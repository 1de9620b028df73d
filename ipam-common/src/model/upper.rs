//! What an IP packet carries: where it starts, and the messages of ICMP in it.

use core::net::Ipv6Addr;

use super::frame::{mac, octets};
use crate::Mac;

/// Protocol numbers (IANA).
pub mod protocol {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// SCTP.
    pub const SCTP: u8 = 132;
}

/// Which part of a packet this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// All of it.
    Whole,
    /// The first fragment, with the header of the transport.
    First,
    /// Any other fragment.
    Later,
}

/// What an IP packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upper {
    /// The protocol's number; `None`: the headers before it hide it ("opaque").
    pub protocol: Option<u8>,
    /// Which part of the packet this is.
    pub piece: Piece,
    /// Offset in bytes from the start of the IP header. Behind the end of the packet if that is what headers say.
    pub at: usize,
}

impl Upper {
    /// The bytes of this protocol, if they start here.
    #[must_use]
    pub fn message<'a>(&self, protocol: u8, packet: &'a [u8]) -> Option<&'a [u8]> {
        let starts = self.protocol == Some(protocol) && self.piece != Piece::Later;
        packet.get(self.at..).filter(|_| starts)
    }
}

/// A message of ICMPv6, as far as it concerns neighbours (RFC 4861 §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Icmpv6 {
    /// Its type.
    pub kind: u8,
    /// The target of a neighbour solicitation or advertisement; `None`: cut short.
    pub target: Option<Ipv6Addr>,
    /// The target's link-layer address, if that is the first option.
    pub target_mac: Option<Mac>,
}

impl Icmpv6 {
    /// Of a message from its type on. `None`: there is no whole header of eight bytes.
    #[must_use]
    pub fn parse(message: &[u8]) -> Option<Self> {
        let [kind, ..] = octets::<8>(message, 0)?;
        let is_target_mac = octets::<8>(message, 24).is_some_and(|option| option[0] == 2);
        Some(Self {
            kind,
            target: octets::<16>(message, 8).map(Ipv6Addr::from),
            target_mac: mac(message, 26).filter(|_| is_target_mac),
        })
    }
}
