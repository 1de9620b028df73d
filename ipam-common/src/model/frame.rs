//! A frame taken apart: what stands in it, without any opinion on it.

use super::{ipv4::Ipv4, ipv6::Ipv6};
use crate::addr::{Ipv4Octets, Mac};

/// Length in bytes of an Ethernet header.
pub const ETHERNET_LEN: usize = 14;

/// An Ethernet frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Where the frame says it comes from.
    pub source: Mac,
    /// The EtherType, or a length if below 0x0600.
    pub ether_type: u16,
    /// What it carries.
    pub payload: Payload,
    /// All that lies behind the Ethernet header, padding included.
    pub body: &'a [u8],
}

/// What a frame carries, by its EtherType. `None`: the frame ends before the header does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// IPv4 (0x0800).
    Ipv4(Option<Ipv4>),
    /// IPv6 (0x86dd).
    Ipv6(Option<Ipv6>),
    /// ARP (0x0806).
    Arp(Option<Arp>),
    /// Anything else.
    Other,
}

/// An ARP message as long as those for IPv4 over Ethernet are (RFC 826).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// `ar$hrd`.
    pub hardware_type: u16,
    /// `ar$pro`.
    pub protocol_type: u16,
    /// `ar$hln`, in bytes.
    pub hardware_len: u8,
    /// `ar$pln`, in bytes.
    pub protocol_len: u8,
    /// `ar$sha`.
    pub sender_mac: Mac,
    /// `ar$spa`.
    pub sender: Ipv4Octets,
    /// `ar$tpa`.
    pub target: Ipv4Octets,
}

impl<'a> Frame<'a> {
    /// `None`: shorter than an Ethernet header.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (header, body) = bytes.split_at_checked(ETHERNET_LEN)?;
        let ether_type = number(header, 12)?;
        let payload = match ether_type {
            0x0800 => Payload::Ipv4(Ipv4::parse(body)),
            0x86dd => Payload::Ipv6(Ipv6::parse(body)),
            0x0806 => Payload::Arp(Arp::parse(body)),
            _ => Payload::Other,
        };
        Some(Self { source: mac(header, 6)?, ether_type, payload, body })
    }
}

impl Arp {
    fn parse(body: &[u8]) -> Option<Self> {
        let target = Ipv4Octets { octets: octets(body, 24)? };
        let [hardware_len, protocol_len] = octets(body, 4)?;
        Some(Self {
            hardware_type: number(body, 0)?,
            protocol_type: number(body, 2)?,
            hardware_len,
            protocol_len,
            sender_mac: mac(body, 8)?,
            sender: Ipv4Octets { octets: octets(body, 14)? },
            target,
        })
    }
}

/// The `N` octets at an offset; `None`: they are not all there.
pub(super) fn octets<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// The big-endian number of two octets at an offset.
pub(super) fn number(bytes: &[u8], at: usize) -> Option<u16> {
    octets(bytes, at).map(u16::from_be_bytes)
}

/// The MAC at an offset.
pub(super) fn mac(bytes: &[u8], at: usize) -> Option<Mac> {
    octets(bytes, at).map(|octets| Mac { octets })
}
